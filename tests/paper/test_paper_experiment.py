import json
from pathlib import Path

import pytest

from diffmem.errors import UserError
from diffmem.paper.experiment import SCALES, Translation, experiment_names, load_experiment, load_scale
from diffmem.paper.reproduce import plan
from diffmem.runs.recipe import StudyRecipe

SHARED = Path(__file__).parents[3] / "shared"
NAMES = experiment_names()
EXPECTED = {
    "fig1_ab", "fig1_c", "fig1_d", "fig2_dim", "fig2_inter", "fig2_intra", "fig3_width", "fig3_depth", "fig3_embedding",
    "fig4_ddpmpp", "fig4_ncsnpp", "table1", "table2", "table3", "fig5_labels", "fig5_classes", "fig5_unique", "fig5_edm",
}  # fmt: skip


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """A working directory without any data set."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def full(tmp_path, monkeypatch):
    """A working directory in which both data sets seem to be there; nothing is read when an experiment is planned."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "datasets/cifar10").mkdir(parents=True)
    (tmp_path / "datasets/cifar10/cifar-10-python.tar.gz").touch()
    (tmp_path / "datasets/imagenet").mkdir()
    return tmp_path


def planned(name, scale, folder, **arguments):
    return plan(load_experiment(name), scale, folder / "out", **arguments)


def only(reproduction):
    assert len(reproduction.levels) == 1
    return reproduction.levels[0].recipe


def test_every_figure_and_table_of_the_paper_has_its_experiment():
    assert set(NAMES) == EXPECTED


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", NAMES)
def test_every_level_of_every_experiment_is_a_valid_study_at_every_scale(name, scale, full):
    found = planned(name, scale, full, all_levels=True)
    assert found.levels
    assert len({level.name for level in found.levels}) == len(found.levels)
    for level in found.levels:
        assert level.recipe.sizes == tuple(sorted(set(level.recipe.sizes)))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_is_one_recipe_whose_levels_are_its_levels(name, scale, full):
    found = planned(name, scale, full, all_levels=True)
    recipe = StudyRecipe.model_validate(json.loads(json.dumps(found.recipe.model_dump(mode="json"))))
    assert (recipe.plan, list(recipe.levels)) == ("grid", [level.name for level in found.levels])
    for level in found.levels:
        named = level.recipe.model_copy(update={"title": f"{recipe.title}: {level.name}"})
        assert recipe.level(level.name) == named


@pytest.mark.parametrize("name", NAMES)
def test_claims_and_published_numbers_speak_of_levels_that_exist(name):
    experiment = load_experiment(name)
    levels = {experiment.label_of(level) for level in experiment.levels}
    named = set(experiment.published)
    for claim in experiment.claims:
        named |= {*(claim.rising or ()), *(claim.same or ()), *(claim.at_least or {})}
    assert named <= levels
    assert experiment.claims


def test_the_paper_scale_is_the_basic_setup_of_the_study(full):
    recipe = only(planned("fig5_labels", "paper", full, settings=["size=2000"]))
    assert (recipe.sizes, recipe.seeds) == ((2000,), (1024,))
    assert (recipe.model.architecture, recipe.model.preconditioning) == ("ddpmpp", "vp")
    assert (recipe.model.blocks, recipe.model.channels, recipe.model.dropout) == (2, 128, 0.13)
    training = recipe.training
    assert (training.epochs, training.batch_size, training.learning_rate) == (40_000, 512, 2e-4)
    assert (training.optimizer, training.ema.mode, training.order) == ("adam", "mode2", "cyclic")
    assert recipe.measure.samples == 10_000
    assert recipe.data.heldout_split == "test"


SCRIPTS = [
    (
        "fig1_d",
        ["size=10000", "duration=200"],
        {"training.epochs": 4000, "model.blocks": 4, "sizes": (10_000,)},
    ),
    (
        "fig2_dim",
        ["size=5000", "resolution=16", "attention=8"],
        {"data.resolution": 16, "model.attention": (8,)},
    ),
    ("fig2_inter", ["size=2000", "classes=5"], {"data.classes": (0, 1, 2, 3, 4)}),
    ("fig2_intra", ["size=2000", "alpha=0.8"], {"data.mixture.share": 0.8, "data.classes": ("dog",)}),
    (
        "fig3_width",
        ["size=1000", "blocks=4", "channels=128", "embedding=fourier"],
        {"model.blocks": 4, "model.embedding": "fourier", "model.preconditioning": "vp"},
    ),
    (
        "fig4_ncsnpp",
        ["size=1000", "precond=ve", "arch=ncsnpp", "embedding=fourier", "mask=0,1,1,1,1,1,1,1,1"],
        {
            "model.architecture": "ncsnpp",
            "model.preconditioning": "ve",
            "model.skip_mask": (False, *[True] * 8),
        },
    ),
    (
        "table1",
        ["size=2000", "batch=256", "rate=1e-4", "decay=0.0"],
        {"training.batch_size": 256, "training.learning_rate": 1e-4},
    ),
    ("table3", ["size=2000", "ema=0.999"], {"training.ema.mode": "mode4", "training.ema.final": 0.999}),
    ("fig5_labels", ["size=2000", "labels=true"], {"data.labels": "true"}),
    (
        "fig5_classes",
        ["labels=random", "classes=50"],
        {"data.labels": "random", "data.label_classes": 50},
    ),
    ("fig5_unique", ["size=2000"], {"data.labels": "unique", "sizes": (2000,)}),
    ("fig5_edm", [], {"sizes": (50_000,), "training.epochs": 12_000, "data.labels": "unique"}),
]


@pytest.mark.parametrize(("name", "settings", "expected"), SCRIPTS)
def test_the_arguments_of_the_papers_scripts_mean_what_they_meant(name, settings, expected, full):
    found = only(planned(name, "paper", full, settings=settings))
    for key, value in expected.items():
        place = found
        for part in key.split("."):
            place = getattr(place, part)
        assert place == value, key


@pytest.mark.parametrize("scale", ["cpu", "smoke"])
@pytest.mark.parametrize(("name", "settings"), [row[:2] for row in SCRIPTS])
def test_the_arguments_of_the_papers_scripts_are_understood_at_every_scale(name, settings, scale, full):
    assert only(planned(name, scale, full, settings=settings)).sizes


def test_a_number_with_an_exponent_is_a_number(full):
    # YAML 1.1 reads 1e-4 as text.
    paper, cpu = (
        only(planned("table1", scale, full, settings=["rate=1e-4"])).training.learning_rate
        for scale in ("paper", "cpu")
    )
    assert cpu == pytest.approx(40 * paper)


def test_the_cpu_scale_translates_sizes_and_networks(full):
    recipe = only(planned("fig3_width", "cpu", full, settings=["size=2000", "channels=256", "blocks=4"]))
    scale = load_experiment("fig3_width").scale("cpu")
    assert recipe.sizes == (round(2000 / scale.size_ratio),)
    assert (recipe.model.channels, recipe.model.blocks) == (32, 2)


def test_a_duration_of_the_papers_scripts_is_named_in_epochs_here_and_there(full):
    (level,) = planned("fig1_c", "cpu", full).levels
    assert (level.name, level.paper_name) == ("500 epochs", "4000 epochs")


def test_sizes_at_the_cpu_scale_can_be_balanced_over_ten_classes(full):
    for size in (1000, 1234, 2000, 3333, 50_000, 1):
        assert only(planned("fig5_labels", "cpu", full, settings=[f"size={size}"])).sizes[0] % 10 == 0


def test_keys_of_the_recipe_are_taken_as_they_are(full):
    recipe = only(planned("fig5_labels", "cpu", full, settings=["model.channels=20", "seeds=[7]"]))
    assert (recipe.model.channels, recipe.seeds) == (20, (7,))


def test_a_parameter_that_the_label_does_not_name_is_added_to_it(full):
    level = planned("fig3_width", "paper", full, settings=["blocks=4"]).levels[0]
    assert level.name == level.paper_name == "channels = 128, blocks 4"


def test_all_masks_are_full_or_within_one_resolution():
    masks = [str(level["mask"]).split(",") for level in load_experiment("fig4_ddpmpp").levels]
    assert len({tuple(mask) for mask in masks}) == 22
    for mask in masks[1:]:
        kept = {i // 3 for i, one in enumerate(mask) if one == "1"}
        assert len(mask) == 9
        assert len(kept) == 1


def test_the_paper_scale_without_data_says_how_to_fetch_them(empty):
    with pytest.raises(UserError, match="diffmem data fetch cifar10"):
        planned("fig5_labels", "paper", empty)
    assert not list(empty.iterdir())


def test_the_mixture_at_the_paper_scale_needs_imagenet(full):
    (full / "datasets/imagenet").rmdir()
    with pytest.raises(UserError, match="official layout"):
        planned("fig2_intra", "paper", full)


@pytest.mark.parametrize("scale", ["cpu", "smoke"])
@pytest.mark.parametrize("name", NAMES)
def test_smaller_scales_without_data_run_on_digits_and_say_so_in_the_first_line(name, scale, empty):
    found = planned(name, scale, empty, all_levels=True)
    assert {level.recipe.data.source for level in found.levels} == {"digits"}
    assert "digits of scikit-learn stand in" in found.first_line


# trap 3: the original's mixture took no path to its second source, and its folder name came out empty
def test_without_imagenet_the_mixture_takes_another_class_and_says_so(full):
    (full / "datasets/imagenet").rmdir()
    found = planned("fig2_intra", "cpu", full)
    mixture = only(found).data.mixture
    assert mixture.source.endswith("cifar-10-python.tar.gz")
    assert mixture.classes == ("cat",)
    assert mixture.synsets is None
    assert "ImageNet is not at datasets/imagenet" in found.first_line


def test_with_data_there_is_no_stand_in(full):
    found = planned("fig2_intra", "cpu", full, all_levels=True)
    assert "stand" not in found.first_line
    assert only(planned("fig5_labels", "cpu", full)).data.source.endswith("cifar-10-python.tar.gz")


def test_a_data_set_of_ones_own_needs_no_stand_in(empty):
    found = planned("fig5_labels", "cpu", empty, settings=["data.source=mine.zip"])
    assert only(found).data.source == "mine.zip"
    assert "stand" not in found.first_line


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["size=many"], "whole number"),
        (["size=0"], "whole number"),
        (["size=["], "whole number"),
        (["sizes=[]"], "whole number"),
        (["size=1000", "size="], "whole number"),
        (["resolution=24"], "choose one of 32, 16, 8"),
        (["resolutoin=32"], "resolutoin"),
        (["model.chanels=3"], "Did you mean"),
        (["size"], "key=value"),
    ],
)
def test_a_wrong_setting_is_named(settings, words, empty):
    with pytest.raises(UserError, match=words):
        planned("fig2_dim", "cpu", empty, settings=settings)


def test_an_unknown_experiment_suggests_the_nearest():
    with pytest.raises(UserError, match="fig2_dim"):
        load_experiment("fig2_dims")


def test_a_translation_keeps_whole_numbers_whole():
    assert Translation(divide=8)("channels", 192) == 24
    assert Translation(divide=32)("batch", 128) == 4
    assert Translation(divide=100)("blocks", 2) == 1
    assert Translation(multiply=20)("rate", 1e-4) == pytest.approx(2e-3)
    assert Translation(divide=2)("blocks", 0) == 0
    with pytest.raises(UserError, match="must be a number"):
        Translation(divide=8)("channels", "wide")


def test_every_scale_has_a_base():
    for scale in SCALES:
        assert load_scale(scale).recipe["data"]["source"] == "datasets/cifar10/cifar-10-python.tar.gz"


@pytest.mark.skipif(not (SHARED / "digitised.json").exists(), reason="needs ../shared/digitised.json")
def test_published_numbers_are_those_that_were_read_off_the_plots():
    read = json.loads((SHARED / "digitised.json").read_text())

    def points(name, level):
        found = load_experiment(name).published[level]
        return {str(int(size)): percent for size, percent in found.items() if percent is not None}

    for level, known in read["data_dim_uncond_ddpmpp_vp"].items():
        assert points("fig2_dim", level) == known
    names = {"uncond": "none", "cond_true": "true", "cond_random10": "random (C = 10)"}
    for key, known in read["cond_vs_size"].items():
        assert points("fig5_labels", names[key]) == known
    for size, row in read["random_label_classes"].items():
        for classes, percent in row.items():
            assert points("fig5_classes", f"random (C = {classes})")[size] == percent
    for index, percent in read["skip_single_index"].items():
        mask = ",".join("1" if i + 1 == int(index) else "0" for i in range(9))
        assert points("fig4_ddpmpp", mask) == {"1000": percent}

import json

import numpy as np
import pytest
from cli_builders import caller
from PIL import Image

from diffmem.data import DOGS, ImageSet, open_images, read_synsets, write_images
from diffmem.paper import experiment
from diffmem.paper.experiment import experiment_names, load_experiment


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DIFFMEM_SCALE", raising=False)
    return caller(capsys)


def words(called):
    return " ".join(called.out.split())


def test_the_list_shows_every_experiment_with_factor_and_finding(run):
    called = run("reproduce", "--list")
    assert called.code == 0
    for name in experiment_names():
        assert name in called.out
    assert load_experiment("fig2_dim").factor in called.out


@pytest.mark.usefixtures("undrawn")  # drawn for the page of all
def test_one_level_leaves_report_numbers_figure_and_recipe(run, tmp_path):
    arguments = ["fig5_unique", "--scale", "smoke", "--set", "size=1000", "--out", "here", "--workers", "1"]
    called = run("reproduce", *arguments)
    assert called.code == 0, called.err
    assert called.out.startswith("Figure 5: a label for each image, smoke scale, on digits.")
    assert "digits of scikit-learn stand in" in words(called)
    for name in ("report.html", "figure.png", "result.json", "recipes/unique.yaml"):
        assert (tmp_path / "here" / name).stat().st_size
    result = json.loads((tmp_path / "here/result.json").read_text())
    assert [level["name"] for level in result["levels"]] == ["unique"]
    assert result["scale"] == "smoke"
    assert any("stand in" in note for note in result["notes"])
    evaluation = result["levels"][0]["runs"][0]["evaluations"][0]
    assert set(evaluation["at_thresholds"]) == {"0.2", "0.25", "0.333", "0.4", "0.5"}
    page = (tmp_path / "here/report.html").read_text()
    assert "stand in" in page

    again = run("reproduce", *arguments)
    assert again.code == 0
    repeated = json.loads((tmp_path / "here/result.json").read_text())
    # Nothing was trained or generated again: the times of the runs are the same too.
    assert repeated["levels"][0]["runs"] == result["levels"][0]["runs"]


@pytest.mark.usefixtures("undrawn")
def test_the_recipe_that_an_experiment_leaves_is_a_study(run, tmp_path):
    assert (
        run("reproduce", "fig5_unique", "--scale", "smoke", "--set", "size=1000", "--workers", "1").code == 0
    )
    called = run("study", "reproduce/fig5_unique/recipes/unique.yaml", "--out", "study", "--workers", "1")
    assert called.code == 0, called.err
    runs = {path.name for path in (tmp_path / "study/runs").iterdir()}
    assert runs == {path.name for path in (tmp_path / "reproduce/fig5_unique/runs").iterdir()}
    told = run("study", "status", "reproduce/fig5_unique")
    assert told.code == 0, told.err
    assert "1 of 1 runs are finished" in words(told)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "reproduce").rglob("*.safetensors")}
    called = run("study", "reproduce/fig5_unique/recipe.yaml", "--out", "reproduce/fig5_unique")
    assert called.code == 0, called.err
    assert before == {
        path: path.stat().st_mtime_ns for path in (tmp_path / "reproduce").rglob("*.safetensors")
    }


@pytest.mark.usefixtures("undrawn")
def test_the_optimum_copies_always(run, tmp_path):
    called = run("reproduce", "fig1_ab", "--scale", "smoke", "--all-levels", "--workers", "1")
    assert called.code == 0, called.err
    result = json.loads((tmp_path / "reproduce/fig1_ab/result.json").read_text())
    optimum = result["levels"][0]["runs"][0]
    assert result["levels"][0]["name"] == "optimum"
    assert optimum["evaluations"][0]["memorized"]["value"] == 1.0
    assert "the optimum copies always: The smoke scale shows this" in words(called)


@pytest.mark.usefixtures("undrawn")
def test_the_mixture_takes_dogs_of_an_imagenet_folder(run, tmp_path):
    rng = np.random.default_rng(0)
    pets = rng.integers(0, 256, (260, 3, 8, 8), dtype=np.uint8)
    labels = np.arange(260) % 2
    write_images(ImageSet(pets, labels, tuple(map(str, range(260))), ("cat", "dog")), tmp_path / "pets.npz")
    for synset in read_synsets(DOGS):
        folder = tmp_path / "imagenet/train" / synset
        folder.mkdir(parents=True)
        for number in range(3):
            pixels = rng.integers(0, 256, (8, 10, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{synset}_{number}.JPEG")
    called = run(
        "reproduce", "fig2_intra", "--scale", "smoke", "--workers", "1", "--set", "alpha=0.5", "--set", "data.source=pets.npz",
        "--set", "data.mixture.source=imagenet", "--set", "data.heldout_split=train", "--set", "data.heldout=60",
    )  # fmt: skip
    assert called.code == 0, called.err
    assert "stand in" not in words(called)
    (path,) = (tmp_path / "reproduce/fig2_intra/data").glob("train-*.npz")
    ours = {image.tobytes() for image in pets[labels == 1]}
    of_dogs = [image.tobytes() in ours for image in open_images(path).images]
    assert (len(of_dogs), sum(of_dogs)) == (10, 5)


def test_the_page_of_all_experiments_has_each_with_its_figure(run, tmp_path, monkeypatch):
    names = ["fig5_unique", "fig1_ab", "fig1_c"]
    stale = tmp_path / "docs/results/fig1_ab_onset.png"  # of an earlier page
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"")
    monkeypatch.setattr(experiment, "experiment_names", lambda: names)
    called = run(
        "reproduce",
        "--all",
        "--scale",
        "smoke",
        "--workers",
        "1",
        "--page",
        "docs/results.md",
        "--note",
        "Mine.",
    )
    assert called.code == 0, called.err
    page = (tmp_path / "docs/results.md").read_text()
    assert "diffmem reproduce --all --scale smoke --page docs/results.md --note Mine." in page
    for name in names:
        assert f"](results/{name}.png)" in page
        drawn = (tmp_path / f"docs/results/{name}.png").read_bytes()
        assert drawn == (tmp_path / f"reproduce/{name}/figure.png").read_bytes()
    assert "](results/fig1_c_onset.png)" in page
    assert (tmp_path / "docs/results/fig1_c_onset.png").is_file()
    assert not stale.exists()
    assert len(list((tmp_path / "reproduce/runs").iterdir())) == 5  # in one store: two experiments share one


@pytest.mark.usefixtures("undrawn")
def test_experiments_can_share_runs_and_carry_a_note(run, tmp_path):
    arguments = ["--scale", "smoke", "--workers", "1", "--store", "store", "--note", "Made on a Tuesday."]
    assert run("reproduce", "fig5_unique", "--set", "labels=none", *arguments).code == 0
    before = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "store/runs").rglob("*") if path.is_file()
    }
    called = run("reproduce", "fig5_labels", *arguments)
    assert called.code == 0, called.err
    assert "Made on a Tuesday." in words(called)
    assert "Made on a Tuesday." in (tmp_path / "reproduce/fig5_labels/report.html").read_text()
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "store/runs").rglob("*") if path.is_file()}
    assert after == before


def test_the_scale_comes_from_the_environment(run, monkeypatch):
    monkeypatch.setenv("DIFFMEM_SCALE", "paper")
    called = run("reproduce", "fig5_labels")
    assert called.code == 2
    assert "diffmem data fetch cifar10" in called.err
    monkeypatch.setenv("DIFFMEM_SCALE", "huge")
    called = run("reproduce", "fig5_labels")
    assert called.code == 2
    assert "DIFFMEM_SCALE='huge'" in called.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Name one experiment"),
        (["fig5_labels", "--all"], "Name one experiment"),
        (["fig5_lables"], "fig5_labels"),
        (["fig5_labels", "--page", "x.md"], "--all"),
        (["fig5_labels", "--scale", "tiny"], "tiny"),
        (["fig2_dim", "--scale", "smoke", "--set", "resolution=31"], "resolution=31"),
        (["fig5_labels", "--scale", "smoke", "--set", "classes=x"], "label_classes"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(run, tmp_path, arguments, message):
    called = run("reproduce", *arguments)
    assert called.code == 2
    assert message in called.err
    assert not list(tmp_path.iterdir())

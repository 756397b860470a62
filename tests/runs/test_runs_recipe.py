import datetime
from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from diffmem.errors import UserError
from diffmem.runs.recipe import StudyRecipe, TrainRecipe
from diffmem.sampling import SamplerConfig
from diffmem.settings import config_hash, load_recipe, override, read_recipe, settings_table, validated
from diffmem.studies.search.recipe import load_study

SMALLEST = {"data": {"source": "digits"}, "sizes": [16, 32]}
RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").rglob("*.yaml"))


def written(folder, content, name="study.yaml"):
    path = folder / name
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def recipe_with(**values):
    return StudyRecipe.model_validate({**SMALLEST, **values})


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_recipe_of_the_repository_loads(path):
    if "sizes" in read_recipe(path):
        load_study(path)
    else:
        load_recipe(TrainRecipe, path)


def test_a_recipe_survives_a_round_trip_through_yaml(tmp_path):
    recipe = recipe_with(
        seeds=[1, 2], data={"source": "digits", "classes": [0, "7"]}, measure={"samples": 5}, title="A: b"
    )
    path = written(tmp_path, yaml.safe_dump(recipe.model_dump(mode="json")))
    assert load_recipe(StudyRecipe, path) == recipe


def test_a_grid_can_have_levels_and_what_levels_may_not_change_is_told(tmp_path):
    levels = {"8": {"model.channels": 8}, 12: {"model.channels": 12, "training.epochs": 9}}
    content = {**SMALLEST, "plan": "grid", "levels": levels, "executor": "inline", "title": "T"}
    recipe = load_study(written(tmp_path, content))
    assert type(recipe) is StudyRecipe
    found = {name: recipe.level(name) for name in recipe.levels}
    assert [(one.title, one.model.channels, one.sizes) for one in found.values()] == [
        ("T: 8", 8, (16, 32)),
        ("T: 12", 12, (16, 32)),
    ]
    assert {one.executor.kind for one in found.values()} == {"inline"}
    assert found["12"].training.epochs == 9
    assert load_study(written(tmp_path, recipe.model_dump(mode="json"))) == recipe
    for changes, words in [
        ({"levels": {"a": {"seeds": [1]}}}, "may change data, model, training and sampling, not 'seeds'"),
        ({"published": {"16": 1.0}}, "names the level '16'"),
        ({"search": {}}, "search is of plan: search"),
        ({"plan": "both"}, "plan = 'both'"),
    ]:
        with pytest.raises(UserError, match=words):
            load_study(written(tmp_path, {**content, **changes}))


def test_a_recipe_without_levels_is_its_own_only_level():
    recipe = recipe_with(title="T", executor="inline")
    assert recipe.level("base") == recipe


def test_a_plan_that_the_recipe_is_not_of_is_refused():
    with pytest.raises(ValidationError, match="another plan"):
        recipe_with(plan="search")


def test_the_defaults_are_the_basic_setup():
    recipe = load_recipe(TrainRecipe, None)
    assert (recipe.model.architecture, recipe.model.preconditioning, recipe.model.channels) == (
        "ddpmpp",
        "vp",
        128,
    )
    assert (recipe.training.epochs, recipe.training.batch_size) == (40_000, 512)
    study = recipe_with()
    assert (study.measure.samples, study.measure.epsilon, study.sampling.steps) == (10_000, 0.1, 18)
    assert study.measure.threshold == 1 / 3


@pytest.mark.parametrize(
    ("group", "key", "meant"),
    [
        ("", "sizez", "sizes"),
        ("data", "sorce", "source"),
        ("model", "chanels", "channels"),
        ("training", "epoch", "epochs"),
        ("training.ema", "halflife", "half_life"),
        ("training.evaluations", "cout", "count"),
        ("sampling", "stps", "steps"),
        ("measure", "treshold", "threshold"),
    ],
)
def test_an_unknown_key_names_the_file_and_the_nearest_key_at_every_level(tmp_path, group, key, meant):
    full = f"{group}.{key}" if group else key
    path = written(tmp_path, override(SMALLEST, [f"{full}=1"]))
    with pytest.raises(UserError) as caught:
        load_recipe(StudyRecipe, path)
    assert str(caught.value) == f"{path}: unknown key {full!r}. Did you mean {meant!r}?"


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("model.channels=wide", "model.channels = 'wide': input should be a valid integer"),
        ("training.epochs=-3", "training.epochs = -3: input should be greater than 0"),
        ("data.selection=best", "data.selection = 'best': input should be 'balanced', 'first' or 'random'"),
        ("sizes=many", "sizes = 'many': input should be a list, such as [1, 2]"),
        (
            "seeds=[99999999999999999999]",
            "seeds has 99999999999999999999, which is not from -2^63 to 2^64 - 1",
        ),
        ("sizes=[]", "sizes = []: give 1 or more, not 0"),
        ("training.betas=[0.9, 1.0]", "training.betas.1 = 1.0: input should be less than 1"),
        ("training.betas=[1, 2, 3]", "training.betas = [1, 2, 3]: give 2 at most, not 3"),
        ("model=3", "model = 3: input should be a group of keys"),
        ("levels=[1]", "levels = [1]: input should be a group of keys"),
        ("sizes=[4, x]", "sizes.1 = 'x': input should be a valid integer"),
        ("sizes=[]", "sizes = []: "),
        ("model=null", "model = None: "),
        ("title=2026-01-31", f"title = {datetime.date(2026, 1, 31)!r}: input should be a valid string"),
    ],
)
def test_a_wrong_value_names_its_key_and_itself(tmp_path, setting, words):
    path = written(tmp_path, override(SMALLEST, [setting]))
    with pytest.raises(UserError) as caught:
        load_recipe(StudyRecipe, path)
    assert str(caught.value).startswith(f"{path}: {words}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "setting", ["training.p_mean=.nan", "training.learning_rate=.inf", "training.epochs=inf"]
)
def test_numbers_that_are_not_finite_are_refused(tmp_path, setting):
    with pytest.raises(UserError, match=r"training\.\w+ = (nan|inf)"):
        load_recipe(StudyRecipe, written(tmp_path, SMALLEST), [setting])


def test_a_missing_key_is_named(tmp_path):
    with pytest.raises(UserError, match=r"study\.yaml: the key 'data\.source' is missing"):
        load_recipe(StudyRecipe, written(tmp_path, {"sizes": [4], "data": {}}))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"sizes": [1, 8]}, "a size of 1 cannot be measured"),
        ({"sizes": [0]}, "a size of 0 cannot be measured"),
        ({"sizes": [8, 4, 8]}, r"sizes repeats a value: \[8, 4, 8\]"),
        ({"seeds": [3, 3]}, r"seeds repeats a value: \[3, 3\]"),
        ({"seeds": []}, "seeds"),
    ],
)
def test_sizes_and_seeds_that_make_no_study_are_refused(values, words):
    with pytest.raises(UserError, match=words):
        validated(StudyRecipe, {**SMALLEST, **values}, "settings")


@pytest.mark.parametrize(
    ("content", "words"),
    [("a: [", "not valid YAML"), ("- 1\n- 2\n", "must hold keys and values, not list"), ("", "not NoneType")],
)
def test_a_file_that_is_no_recipe_is_told_in_one_line(tmp_path, content, words):
    with pytest.raises(UserError, match=words) as caught:
        load_recipe(StudyRecipe, written(tmp_path, content))
    assert "\n" not in str(caught.value)


def test_a_binary_file_and_a_missing_file_and_a_folder_are_refused(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(UserError, match="not valid YAML"):
        load_recipe(StudyRecipe, tmp_path / "binary.yaml")
    with pytest.raises(UserError, match=r"Cannot read .*missing\.yaml: No such file"):
        load_recipe(StudyRecipe, tmp_path / "missing.yaml")
    with pytest.raises(UserError, match=r"Cannot read .*: Is a directory"):
        load_recipe(StudyRecipe, tmp_path)


def test_yaml_cannot_make_objects(tmp_path):
    path = written(tmp_path, "title: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(UserError, match="not valid YAML"):
        load_recipe(StudyRecipe, path)


def test_bases_are_merged_key_by_key_and_found_relative_to_their_file(tmp_path):
    (tmp_path / "shared").mkdir()
    written(
        tmp_path, {**SMALLEST, "model": {"channels": 8, "blocks": 1}, "title": "root"}, "shared/root.yaml"
    )
    written(
        tmp_path, {"base": "root.yaml", "model": {"channels": 16}, "title": "middle"}, "shared/middle.yaml"
    )
    leaf = written(tmp_path, {"base": "shared/middle.yaml", "sizes": [4, 8]}, "leaf.yaml")
    recipe = load_recipe(StudyRecipe, leaf)
    assert (recipe.model.channels, recipe.model.blocks) == (16, 1)
    assert recipe.title == "middle"
    assert recipe.sizes == (4, 8)  # lists are replaced, not joined
    assert recipe.data.source == "digits"


@pytest.mark.parametrize("chain", [["a.yaml", "a.yaml"], ["a.yaml", "b.yaml", "a.yaml"]])
def test_bases_that_go_in_a_circle_are_refused(tmp_path, chain):
    for name, base in pairwise(chain):
        written(tmp_path, {**SMALLEST, "base": base}, name)
    with pytest.raises(UserError, match="comes back to"):
        load_recipe(StudyRecipe, tmp_path / "a.yaml")


def test_a_missing_base_is_named(tmp_path):
    with pytest.raises(UserError, match=r"Cannot read .*nowhere\.yaml"):
        load_recipe(StudyRecipe, written(tmp_path, {**SMALLEST, "base": "nowhere.yaml"}))


def test_settings_win_over_the_file_are_read_as_yaml_and_null_unsets(tmp_path):
    path = written(tmp_path, override(SMALLEST, ["data.heldout=20", "model.channels=8"]))
    settings = [
        "data.heldout=null",
        "sizes=[4, 8]",
        "training.ema.half_life=2.5",
        "title='7'",
        "model.channels=12",
    ]
    recipe = load_recipe(StudyRecipe, path, settings)
    assert recipe.data.heldout is None
    assert recipe.sizes == (4, 8)
    assert recipe.training.ema.half_life == 2.5
    assert recipe.title == "7"
    assert recipe.model.channels == 12


def test_overriding_leaves_the_given_values_as_they_were():
    values = {"model": {"channels": 8}}
    assert override(values, ["model.channels=16"]) == {"model": {"channels": 16}}
    assert values == {"model": {"channels": 8}}


def test_a_wrong_setting_tells_that_settings_were_given(tmp_path):
    with pytest.raises(UserError, match=r"study\.yaml with settings: unknown key 'model\.chanels'"):
        load_recipe(StudyRecipe, written(tmp_path, SMALLEST), ["model.chanels=8"])
    with pytest.raises(UserError, match=r"^settings: unknown key 'model.chanels'"):
        load_recipe(TrainRecipe, None, ["model.chanels=8"])


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("training.epochs", "must read key=value"),
        ("=5", "must read key=value"),
        ("title.x=5", "'title' is not a group of keys"),
        ("sizes=[4", "not valid YAML"),
    ],
)
def test_a_setting_that_cannot_be_read_is_quoted(setting, words):
    with pytest.raises(UserError, match=words) as caught:
        override({"title": "a"}, [setting])
    assert repr(setting) in str(caught.value)


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.none(), max_size=6))
def test_the_hash_does_not_depend_on_the_order_of_the_keys(content):
    assert config_hash(dict(reversed(content.items()))) == config_hash(content)
    assert len(config_hash(content)) == 16


def leaves(kind: type[BaseModel], path=()):
    for name, field in kind.model_fields.items():
        kinds = [field.annotation, *get_args(field.annotation)]  # a group may be left out
        groups = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if groups:
            yield from leaves(groups[0], (*path, name))
        else:
            yield (*path, name)


@pytest.mark.parametrize("leaf", [".".join(path) for path in leaves(StudyRecipe)])
def test_the_hash_changes_with_every_setting(leaf):
    content = recipe_with().model_dump(mode="json")
    changed = override(content, [f"{leaf}=another value"])
    assert config_hash(changed) != config_hash(content)


@pytest.mark.parametrize("kind", [TrainRecipe, StudyRecipe, SamplerConfig])
def test_the_table_lists_every_setting_with_its_default_and_meaning(kind):
    rows = settings_table(kind)
    assert [key for key, _, _ in rows] == [".".join(path) for path in leaves(kind)]
    assert all(meaning for _, _, meaning in rows)
    defaults = {key: default for key, default, _ in rows}
    assert defaults.get("sizes", "required") == "required"
    assert defaults.get("model.channels", "128") == "128"


def test_the_table_has_the_values_of_a_choice_once():
    meanings = {key: meaning for key, _, meaning in settings_table(StudyRecipe)}
    assert meanings["model.preconditioning"] == "Preconditioning and training noise. One of vp, ve, edm."
    assert "One of" not in meanings["training.order"]
    assert "One of" not in meanings["executor.group"]


@pytest.mark.parametrize("key", ["training.epochs", "model.channels", "model.dropout", "training.ema.mode"])
def test_every_listed_default_is_a_valid_setting(key):
    defaults = {key: default for key, default, _ in settings_table(TrainRecipe)}
    assert load_recipe(TrainRecipe, None, [f"{key}={defaults[key]}"]) == TrainRecipe()


def test_levels_of_one_name_are_refused():
    with pytest.raises(UserError, match="two levels are named '8'"):
        validated(StudyRecipe, {**SMALLEST, "levels": {8: {}, "8": {}}}, "here")


def test_a_group_in_a_level_changes_what_it_lists_and_nothing_else():
    values = {**SMALLEST, "model": {"preconditioning": "edm", "channels": 8, "multipliers": [1, 2]}}
    values["training"] = {"ema": {"mode": "mode1", "half_life": 5}}
    grouped = {"a": {"model": {"channels": 4}, "training.ema": {"half_life": 7}}}
    recipe = validated(StudyRecipe, {**values, "levels": grouped}, "here")
    dotted = {"a": {"model.channels": 4, "training.ema.half_life": 7}}
    assert recipe == validated(StudyRecipe, {**values, "levels": dotted}, "here")
    found = recipe.level("a")
    assert (found.model.preconditioning, found.model.channels) == ("edm", 4)
    assert (found.training.ema.mode, found.training.ema.half_life) == ("mode1", 7)


def test_the_source_of_a_level_that_is_given_in_a_group_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.npz").touch()
    values = {**SMALLEST, "levels": {"a": {"data": {"source": "mine.npz"}}}}
    recipe = validated(StudyRecipe, values, "here").with_whole_paths()
    assert recipe.level("a").data.source == str(tmp_path / "mine.npz")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("training.momentum=0.5", "training.momentum = 0.5 has no effect: training.optimizer is adam."),
        ("training.p_mean=0", "training.p_mean = 0.0 has no effect: model.preconditioning is vp."),
        ("training.ema.final=0.5", "training.ema.final = 0.5 has no effect: training.ema.mode is mode2."),
        ("training.evaluations.start=5", "has no effect: training.evaluations.schedule is log."),
        ("sampling.S_noise=1.007", "sampling.S_noise = 1.007 has no effect: sampling.S_churn is 0."),
    ],
)
def test_a_setting_without_effect_is_told_and_one_with_an_effect_is_not(setting, words):
    assert validated(StudyRecipe, SMALLEST, "here").remarks() == []
    (found,) = validated(StudyRecipe, override(SMALLEST, [setting]), "here").remarks()
    assert found.endswith(words)
    effects = [
        "training.optimizer=sgd", "model.preconditioning=edm", "training.ema.mode=mode4", "training.evaluations.schedule=doubling",
        "sampling.S_churn=10",
    ]  # fmt: skip
    assert validated(StudyRecipe, override(SMALLEST, [setting, *effects]), "here").remarks() == []


def test_a_setting_without_effect_in_one_level_names_it_and_levels_that_are_the_same_are_told():
    levels = {"a": {"training.momentum": 0.5}, "b": {"model": {"channels": 128}}, "c": {}}
    recipe = validated(StudyRecipe, {**SMALLEST, "levels": levels}, "here")
    assert recipe.remarks() == [
        "Level a: training.momentum = 0.5 has no effect: training.optimizer is adam.",
        "The levels b, c have the same settings: their numbers are of the same trainings, and no comparison.",
    ]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_no_recipe_of_the_repository_has_a_setting_without_effect(path):
    assert load_study(path).remarks() == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["training.ema.mode=mode3"], "EMA mode3, cyclic"),
        (
            ["training.ema.mode=mode4", "training.ema.final=0.5"],
            "EMA mode4 (half-life 10 epochs, final decay 0.5)",
        ),
        (["training.optimizer=sgd"], "SGD (momentum 0.9) at"),
        (["training.betas=[0.5, 0.9]"], "Adam (betas 0.5, 0.9) at"),
    ],
)
def test_a_procedure_is_described_by_what_has_an_effect(settings, words):
    assert words in validated(TrainRecipe, override({}, settings), "here").training.describe()


def test_the_word_digits_is_no_path_where_a_folder_is_called_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()  # as by: diffmem study recipes/digits.yaml --out digits
    assert validated(StudyRecipe, SMALLEST, "here").with_whole_paths().data.source == "digits"

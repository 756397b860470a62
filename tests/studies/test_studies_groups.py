"""Which runs of a study share a group, and that a study in groups is the study that it is without, killed or not."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from parameters import these
from studies_builders import carried_out, evaluation_files, forbid, snapshots, tiny_recipe

from diffmem.executors import processes
from diffmem.executors.config import ExecutorConfig
from diffmem.models import ModelConfig
from diffmem.models.weights import read_tensors
from diffmem.runs.store.workers import read_status
from diffmem.studies import emm
from diffmem.studies import groups as planning
from diffmem.studies.groups import Member, planned_groups
from diffmem.studies.study import Study
from diffmem.training import TrainingConfig

MODEL = ModelConfig(channels=8, multipliers=(1,), blocks=1, attention=(), preconditioning="edm")
TRAINING = TrainingConfig(epochs=100, batch_size=8)


def member(name, length, *, model=MODEL, side=8, seed=0, **training):
    run = SimpleNamespace(
        run_id=name,
        points=[length],
        model=model,
        training=TRAINING.model_copy(update=training),
        training_set=SimpleNamespace(shape=(1, side, side), num_classes=0),
        seed=seed,
    )
    return Member(run, length * 1.5)


EIGHT = [member(f"{length}-{seed}", length, seed=seed) for length in (10, 40) for seed in range(4)]
SINGLE = [[one.run.run_id] for one in EIGHT]


def groups(folder, members, device="cpu", **executor):
    config = ExecutorConfig(**{"kind": "local", "processes": 2, **executor})
    return [list(group) for group in planned_groups(members, config, device, folder).groups]


@pytest.mark.parametrize(
    ("executor", "wanted"),
    [
        ({"processes": 1}, [["40-0", "40-1", "40-2", "40-3", "10-0", "10-1", "10-2", "10-3"]]),
        ({"processes": 2}, [["40-0", "40-2", "10-0", "10-2"], ["40-1", "40-3", "10-1", "10-3"]]),
        ({"processes": 16}, [["40-0"], ["40-1"], ["40-2"], ["40-3"], ["10-0"], ["10-1"], ["10-2"], ["10-3"]]),
        ({"group": 3}, [["40-0", "40-1", "40-2"], ["40-3", "10-0", "10-1"], ["10-2", "10-3"]]),
    ],
)
def test_groups_are_as_large_as_leaves_no_process_idle_or_as_is_asked_for(tmp_path, executor, wanted):
    assert groups(tmp_path, EIGHT, **executor) == wanted


def test_short_trainings_share_a_process_beside_a_long_one(tmp_path):
    members = [member(str(size), 1000 * size) for size in (16, 32, 64, 96, 224)]
    assert groups(tmp_path, members) == [["224"], ["96", "64", "32", "16"]]


def test_the_order_in_which_runs_are_named_does_not_matter(tmp_path):
    assert groups(tmp_path / "a", EIGHT) == groups(tmp_path / "b", EIGHT[::-1])


@pytest.mark.parametrize(
    "changes",
    [
        {"weight_decay": 0.1},
        {"batch_size": 16},
        {"side": 4},
        {"model": MODEL.model_copy(update={"channels": 12})},
    ],
)
def test_what_a_group_cannot_share_parts_the_runs(tmp_path, changes):
    members = [member("a", 8), member("b", 8, seed=1), member("c", 8, **changes)]
    found = groups(tmp_path, members, processes=1)
    assert sorted(map(sorted, found)) == [["a", "b"], ["c"]]


def test_runs_that_differ_in_length_learning_rate_or_average_share_a_group(tmp_path):
    average = TRAINING.ema.model_copy(update={"mode": "mode3"})
    members = [member("a", 8), member("b", 4, epochs=50), member("c", 8, learning_rate=0.1, ema=average)]
    assert groups(tmp_path, members, processes=1) == [["a", "c", "b"]]


@pytest.mark.parametrize(
    ("members", "executor", "device"),
    [
        (EIGHT, {"group": 1}, "cpu"),
        (EIGHT, {"processes_per_run": 2}, "cpu"),
        (EIGHT, {}, "cuda"),
        ([member(one.run.run_id, 8, compile=True) for one in EIGHT], {"processes": 1}, "cpu"),
        ([member(one.run.run_id, 8, side=64, batch_size=512) for one in EIGHT], {"processes": 1}, "cpu"),
        ([member(one.run.run_id, 8, model=ModelConfig(architecture="optimum")) for one in EIGHT], {}, "cpu"),
    ],
    ids=["off", "several processes", "GPU", "compiled", "large", "optimum"],
)
def test_what_gains_nothing_or_cannot_share_trains_by_itself(tmp_path, members, executor, device):
    assert sorted(groups(tmp_path, members, device, **executor)) == SINGLE


def test_a_plan_that_was_begun_is_kept_and_new_runs_get_groups_of_their_own(tmp_path):
    begun = groups(tmp_path, EIGHT)
    assert groups(tmp_path, EIGHT[:3]) == begun
    found = groups(tmp_path, [*EIGHT, member("new", 99), member("newer", 99, seed=1)], processes=1)
    assert found == [*begun, ["new", "newer"]]


def test_another_setting_is_planned_anew_and_a_damaged_plan_too(tmp_path):
    begun = groups(tmp_path, EIGHT)
    assert sorted(groups(tmp_path, EIGHT, group=1)) == SINGLE
    (tmp_path / "groups.json").write_text("{")
    assert groups(tmp_path, EIGHT) == begun


def test_threads_stay_those_of_the_beginning_on_a_machine_of_as_many_cores(tmp_path, monkeypatch):
    def threads(cores, processes):
        monkeypatch.setattr(planning, "available_cores", lambda: cores)
        config = ExecutorConfig(kind="local", processes=processes)
        return planned_groups(EIGHT, config, "cpu", tmp_path).threads

    assert [threads(8, 2), threads(8, 1), threads(16, 2)] == [4, 4, 8]


GROUPED = ("seeds=[0, 1]", "executor={kind: inline, group: 4}")


@pytest.fixture(scope="module", autouse=True)
def fewer_replicates():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(emm, "_REPLICATES", 50)
        yield


def left(folder):
    """All that a study leaves which counts: weights and the numbers of evaluations."""
    found = {}
    for path in snapshots(folder):
        for name, tensor in read_tensors(path)[0].items():
            found[path.relative_to(folder), name] = tensor.numpy()
    for path in evaluation_files(folder):
        with np.load(path) as held:
            found |= {(path.relative_to(folder), name): held[name] for name in ("distances", "indices")}
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grouped")
    carried_out(Study(tiny_recipe(*GROUPED), folder))
    return left(folder)


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values, err_msg=str(name))


def test_a_study_in_groups_is_the_study_without_up_to_rounding(undisturbed, tmp_path):
    carried_out(Study(tiny_recipe("seeds=[0, 1]"), tmp_path))
    alone = left(tmp_path)
    assert alone.keys() == undisturbed.keys()
    distances = [name for name in alone if name[1] == "distances"]
    assert len(distances) == 12
    for name in distances:
        # In the units of bytes: a rounding can move a value of an image by one.
        np.testing.assert_allclose(undisturbed[name], alone[name], atol=8.0)
    assert any(
        not np.array_equal(undisturbed[name], alone[name]) for name in alone
    )  # it was another computation


class PowerCutError(BaseException):
    pass


@pytest.mark.parametrize("cut", these(range(5, 110, 5), 40, 105))  # 105 is among the last files of two
def test_a_study_in_groups_that_is_killed_goes_on_to_the_same_numbers(
    undisturbed, tmp_path, monkeypatch, cut
):
    replace, calls = Path.replace, []

    def count(self, target):
        if self.parent.name != tmp_path.name:
            calls.append(target)
            if len(calls) == cut:
                raise PowerCutError
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", count)
        with pytest.raises(PowerCutError):
            carried_out(Study(tiny_recipe(*GROUPED), tmp_path))
    carried_out(Study(tiny_recipe(*GROUPED), tmp_path), warn=pytest.fail)
    assert_same(left(tmp_path), undisturbed)


def test_every_member_says_in_its_folder_how_far_it_is_until_it_has_ended(tmp_path):
    study, seen = Study(tiny_recipe(*GROUPED), tmp_path), []

    def look(done, total, note=""):
        seen.append([read_status(run.folder) is not None for run in study.runs()])

    carried_out(study, progress=look)
    assert [True] * 4 in seen
    assert [read_status(run.folder) is not None for run in study.runs()] == [False] * 4
    assert any(
        one[:2] == [False, False] and one[2:] == [True, True] for one in seen
    )  # the short ones end first


def test_a_member_that_is_finished_elsewhere_is_no_member(undisturbed, tmp_path, monkeypatch):
    recipe = tiny_recipe(*GROUPED)
    carried_out(Study(tiny_recipe("executor={kind: inline, group: 1}"), tmp_path / "first", store=tmp_path))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/snapshots/*")}
    carried_out(Study(recipe, tmp_path / "second", store=tmp_path), warn=pytest.fail)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert left(tmp_path).keys() == undisturbed.keys()
    forbid(monkeypatch, "training", "sampling")
    carried_out(Study(recipe, tmp_path / "second", store=tmp_path), warn=pytest.fail)


@pytest.mark.slow
def test_a_worker_process_trains_in_groups_and_tells_how_far_all_are(tmp_path, undisturbed, monkeypatch):
    monkeypatch.setattr(processes, "_SECONDS_BETWEEN_PROGRESS", 0.0)
    told = []
    executor = "executor={kind: local, processes: 1, group: 2}"
    study = Study(tiny_recipe("seeds=[0, 1]", executor), tmp_path)
    carried_out(study, progress=lambda done, total, note="": told.append((done, total, note)))
    assert left(tmp_path).keys() == undisturbed.keys()
    assert told[-1][0] == told[-1][1] == sum(study.work(run).units for run in study.runs())
    assert any("and 1 other" in note and "2 trainings together" in note for *_, note in told)
    assert len(json.loads((tmp_path / "groups.json").read_text())["groups"]) == 2

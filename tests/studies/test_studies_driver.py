"""The driver with plans of small tasks; what they do is in `executors_work`."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import studies_builders
import torch
from executors_work import is_running, number_in
from parameters import few
from studies_builders import result_of, tiny_recipe

from diffmem.errors import DiffmemError, UserError
from diffmem.executors import open as pools
from diffmem.executors import processes
from diffmem.executors.config import ExecutorConfig
from diffmem.runs.recipe import BudgetConfig
from diffmem.runs.store.index import RunIndex
from diffmem.studies import study as studies
from diffmem.studies.driver import Reached, Work, drive, seconds_spent, timed
from diffmem.studies.study import Grid, Study


class Tasks:
    """A plan of tasks that write files: name -> (function, units, content)."""

    def __init__(self, folder, executor, **tasks):
        self.folder = self.store = folder
        self.files = folder / "files"
        self.files.mkdir(exist_ok=True)
        self.budget = None
        self.executor, self.most = ExecutorConfig.model_validate(executor), len(tasks)
        self.works = [
            self.work(name, function, units, more)
            for name, (function, units, more) in sorted(tasks.items(), key=lambda one: -one[1][1])
        ]

    def work(self, name, function, units, more):
        file = self.files / name
        content = {"file": str(file), **more}
        return Work(
            name=name,
            run=SimpleNamespace(run_id=name, folder=self.folder / "runs" / name),
            function=f"executors_work:{function}",
            content=lambda device: {**content, "device": device},
            is_done=file.exists,
            units=units,
        )

    def waiting(self, busy):
        return [work for work in self.works if work not in busy and not work.is_done()]

    def spent(self, shares):
        return self.done(shares)[0]

    def done(self, shares):
        finished = [work for work in self.works if work.is_done() and work not in shares]
        done = sum(work.units for work in finished) + sum(work.units * shares[work] for work in shares)
        return done, sum(work.units for work in self.works)


@pytest.fixture(scope="module", autouse=True)
def tasks_are_found():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(studies_builders.__file__).parent), prepend=os.pathsep)
        yield


def stand_in(patch):
    """Have two devices that do not exist: what a task sees of them is in CUDA_VISIBLE_DEVICES."""
    patch.setattr(torch.cuda, "device_count", lambda: 2)
    patch.setenv("CUDA_VISIBLE_DEVICES", "GPU-ab,GPU-cd")


def writing(**units):
    return {name: ("write", cost, {}) for name, cost in units.items()}


@pytest.mark.parametrize("executor", few(["inline", {"kind": "local", "processes": 2}], 1))
def test_all_that_is_waited_for_is_done_and_the_progress_sums_to_the_units(tmp_path, executor):
    told, warnings = [], []
    before = dict(os.environ)
    plan = Tasks(tmp_path, executor, **writing(a=1.0, b=5.0, c=2.0, d=4.0, e=3.0))
    drive(plan, progress=lambda *each: told.append(each), warn=warnings.append)
    assert sorted(warnings) == [f"{name}: wrote {name}" for name in "abcde"]
    assert told[-1][:2] == (15.0, 15.0)
    assert dict(os.environ) == before
    pids = {json.loads((tmp_path / "files" / name).read_text())["pid"] for name in "abcde"}
    assert (pids == {os.getpid()}) == (executor == "inline")
    assert len(pids) <= 2


def test_what_is_waited_for_is_done_in_the_plan_s_order(tmp_path):
    order = []
    plan = Tasks(tmp_path, "inline", **writing(small=1.0, large=3.0, middle=2.0))
    drive(plan, warn=order.append)
    assert order == [f"{name}: wrote {name}" for name in ("large", "middle", "small")]


def test_without_anything_to_do_no_pool_is_opened(tmp_path, monkeypatch):
    monkeypatch.setattr("diffmem.studies.driver.open_pool", None)
    told = []
    drive(Tasks(tmp_path, "inline"), progress=lambda *each: told.append(each))
    assert told == []


def fails_beside_another(folder, function, **first):
    """A plan on two workers, of which one begins a long work, whereupon another fails."""
    begun = {"begun": str(folder / "begun"), "saved": str(folder / "files" / "sleeper")}
    return Tasks(
        folder,
        {"kind": "local", "processes": 2},
        **first,
        sleeper=("save_when_stopped", 2.0, begun),
        bad=(function, 1.0, {"value": 7, "after": begun["begun"]}),
    )


def assert_the_other_was_stopped(folder):
    assert not is_running(number_in(folder / "begun"))
    assert (folder / "files" / "sleeper").exists()  # which it writes only when it is cut off


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    """The folder of a study on two GPUs in which work fails, and its error."""
    folder = tmp_path_factory.mktemp("failed")
    both = {name: ("write", 3.0, {"companions": 2}) for name in ("a", "b")}  # at the same time
    with pytest.MonkeyPatch.context() as patch:
        stand_in(patch)
        with pytest.raises(DiffmemError) as caught:
            drive(fails_beside_another(folder, "refuse", **both), device="cuda")
    return folder, caught.value


def test_work_that_fails_ends_the_study_with_its_error_and_the_others_are_stopped(failed):
    folder, error = failed
    assert isinstance(error, UserError)
    assert "value 7 is bad" in str(error)
    assert_the_other_was_stopped(folder)


@pytest.mark.slow
def test_a_mistake_of_this_package_ends_the_study_too_and_is_shown_where_it_lies(tmp_path, capfd):
    with pytest.raises(DiffmemError, match="ended unexpectedly: ValueError: nobody thought of this"):
        drive(fails_beside_another(tmp_path, "stumble"))
    assert_the_other_was_stopped(tmp_path)
    assert capfd.readouterr().err.count("in stumble") == 1


def test_a_failure_in_this_process_is_the_work_s_own(tmp_path):
    with pytest.raises(UserError, match="value 7 is bad"):
        drive(Tasks(tmp_path, "inline", bad=("refuse", 1.0, {"value": 7})))


@pytest.mark.slow
def test_work_whose_process_dies_is_done_again_until_it_comes_no_further(tmp_path):
    warnings, two = [], {"kind": "local", "processes": 2}
    drive(Tasks(tmp_path, two, mortal=("die", 1.0, {})), warn=warnings.append)
    assert len(warnings) == 1
    assert "exit code -9" in warnings[0]
    with pytest.raises(DiffmemError, match=r"goner died 5 times .*exit code 9"):
        drive(Tasks(tmp_path, two, goner=("leave", 1.0, {"code": 9})))


def test_no_more_processes_are_started_than_there_is_work_and_they_share_the_cores(tmp_path, monkeypatch):
    for module in (pools, processes):
        monkeypatch.setattr(module, "available_cores", lambda: 8)

    def opened(most, executor="local", device="cpu"):
        config = ExecutorConfig.model_validate(executor)
        pool = pools.open_pool(config, device=device, folder=tmp_path, most=most)
        return pool.slots, pool._threads

    assert [opened(most) for most in (1, 4, 6, 20)] == [(1, 8), (4, 2), (6, 1), (8, 1)]
    assert opened(2, {"kind": "local", "processes": 4}) == (2, 4)
    assert ExecutorConfig.of_workers(1).kind == "inline"
    assert ExecutorConfig.of_workers(3).processes == 3


def test_how_far_a_training_is_is_told_in_images_with_the_pace_and_the_time_left(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("diffmem.progress.time", SimpleNamespace(monotonic=lambda: now[0]))
    reached = Reached()
    reached.take(5000, 20_000, "epoch 10")  # resumed: what was done before says nothing of the pace
    assert (reached.share, reached.per_second) == (0.25, 0)
    now[0] = 10
    reached.take(10_000, 20_000, "epoch 20")
    assert str(reached) == "10,000 of 20,000 images, 500 a second, 20 s left, epoch 20"


def test_results_that_a_network_file_system_shows_late_are_waited_for(tmp_path):
    """A file that was looked for is said not to be there for a while, though a worker has written it."""
    plan, looks = Tasks(tmp_path, "inline", a=("write", 1.0, {})), []
    (work,) = plan.works

    def shown_late():
        looks.append(work.is_done())
        return looks.count(True) > 1

    plan.works = [replace(work, is_done=shown_late)]
    drive(plan)
    assert looks.count(False) == looks.index(True)
    assert looks.count(True) > 1


def test_the_progress_says_how_far_the_trainings_are_and_where_work_waits(tmp_path):
    told = []
    plan = Tasks(tmp_path, "inline", a=("write", 1.0, {}))
    drive(plan, progress=lambda done, total, note="": told.append(note))
    assert any(note.startswith("a: 1 of 2 images") and note.endswith("half way") for note in told)


def test_a_training_that_another_study_has_is_said_to_be_waited_for(tmp_path, monkeypatch):
    told, plan = [], Tasks(tmp_path, "inline", a=("write", 1.0, {}))
    with RunIndex(tmp_path) as other:
        assert other.claim("a", "other")

        def wait(seconds):
            if any("waiting for 1 training of other studies" in note for note in told):
                other.release("a")

        monkeypatch.setattr(
            "diffmem.studies.driver.time", SimpleNamespace(monotonic=time.monotonic, sleep=wait)
        )
        drive(plan, progress=lambda done, total, note="": told.append(note))
    assert (tmp_path / "files" / "a").exists()


@pytest.fixture
def stand_ins(monkeypatch):
    stand_in(monkeypatch)


def seen(folder, names):
    return sorted(json.loads((folder / "files" / name).read_text())["CUDA_VISIBLE_DEVICES"] for name in names)


def test_each_worker_has_a_gpu_of_its_own(failed):
    folder, _ = failed
    assert seen(folder, "ab") == ["GPU-ab", "GPU-cd"]


@pytest.mark.slow
@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize(
    ("device", "executor", "expected"),
    [
        ("cuda:1", "local", ["GPU-cd"] * 2),
        ("cuda", {"kind": "local", "gpus": [0]}, ["GPU-ab"] * 2),
        ("cuda", {"kind": "local", "processes": 1}, ["GPU-ab"] * 2),
    ],
)
def test_the_gpus_that_are_named_are_used(tmp_path, device, executor, expected):
    drive(Tasks(tmp_path, executor, **writing(a=1.0, b=1.0)), device=device)
    assert seen(tmp_path, "ab") == expected


@pytest.mark.slow
@pytest.mark.usefixtures("stand_ins")
def test_the_runs_of_a_grid_are_divided_among_the_gpus(tmp_path, monkeypatch):
    monkeypatch.setattr(studies, "WORK", "studies_builders:run_on_a_stand_in")
    told = []
    study = Study(tiny_recipe("executor=local"), tmp_path)
    Grid([study], tmp_path).execute(device="cuda", warn=told.append)
    assert [run.size for run in result_of(study).runs] == [4, 8]
    assert sorted(text.partition(": ")[2] for text in told) == ["on GPU-ab as cuda", "on GPU-cd as cuda"]


def test_studies_that_differ_in_their_epochs_alone_are_each_done_to_their_ends(tmp_path):
    """Their runs are the same, with other evaluation points."""
    recipes = [tiny_recipe("sizes=[4]", f"training.epochs={epochs}") for epochs in (10, 20)]
    pair = [Study(recipe, tmp_path) for recipe in recipes]
    Grid(pair, tmp_path).execute()
    ends = [result_of(study).runs[0].evaluations[-1].epoch for study in pair]
    assert ends == [10, 20]
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_the_time_of_a_study_is_the_sum_of_its_sessions(tmp_path):
    assert seconds_spent(tmp_path) == 0
    begin = time.monotonic()
    for _ in range(2):
        note = timed(tmp_path)
        time.sleep(0.05)
        note()
    assert 0.1 <= seconds_spent(tmp_path) <= time.monotonic() - begin


def test_when_the_budget_is_spent_no_work_begins_and_a_larger_one_goes_on(tmp_path):
    told = []
    plan = Tasks(tmp_path, "inline", **writing(small=1.0, large=3.0, middle=2.0))
    plan.budget = BudgetConfig(images=2.5)
    drive(plan, warn=told.append)
    assert told[0] == "large: wrote large"
    assert told[1].startswith("The budget is spent (3 of 2 images): no further training begins")
    assert len(told) == 2
    plan.budget = BudgetConfig(images=4.0)
    drive(plan, warn=told.append)
    assert told[2] == "middle: wrote middle"
    assert "5 of 4 images" in told[3]


def test_work_that_runs_when_the_budget_ends_is_finished(tmp_path, monkeypatch):
    monkeypatch.setattr(pools.InlinePool, "slots", 2)  # a second is begun before the first has ended
    told = []
    plan = Tasks(tmp_path, "inline", **writing(a=2.0, b=2.0, c=1.0))
    plan.budget = BudgetConfig(images=2.0)
    drive(plan, warn=told.append)
    assert {path.name for path in plan.files.iterdir()} == {"a", "b"}
    assert sum("budget" in text for text in told) == 1


def test_hours_that_were_worked_are_spent(tmp_path, monkeypatch):
    (tmp_path / "seconds.json").write_text('{"seconds": 7200}')
    monkeypatch.setattr("diffmem.studies.driver.open_pool", None)
    told = []
    plan = Tasks(tmp_path, "inline", **writing(a=1.0))
    plan.budget = BudgetConfig(hours=2)
    drive(plan, warn=told.append)
    assert "2 of 2 hours" in told[0]

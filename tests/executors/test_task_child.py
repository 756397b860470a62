import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from executors_work import OddError, ends, files, is_running, number_in, task, wait_for

from diffmem.errors import DiffmemError, UserError
from diffmem.executors import child as child_module
from diffmem.executors.child import EventFile, run_child
from diffmem.executors.open import InlinePool
from diffmem.executors.pool import BugError, Event, LostTaskError, event_from_json, event_to_json
from diffmem.executors.processes import LocalPool


def run(each, **more):
    """Run a task in a process of its own; return its end and what it told."""
    told = []
    return run_child(each, told.append, **more), told


def when(condition):
    """Ask to stop once a condition holds."""
    return {"asked": lambda: bool(condition())}


def test_a_line_that_a_full_disk_cut_short_costs_its_own_event_alone(tmp_path):
    file = EventFile(tmp_path / "events-0.jsonl")
    lines = [
        json.dumps(event_to_json(Event("a", "progress", text, 1, 2))).encode() for text in ("1", "2", "3")
    ]
    (tmp_path / "events-0.jsonl").write_bytes(
        lines[0] + b"\n" + lines[1][:20] + lines[1] + b"\n" + lines[2] + b"\n"
    )
    assert [event.text for event in file.new()] == ["1", "3"]


def test_a_process_of_its_own_tells_progress_warnings_and_its_end(tmp_path):
    file = tmp_path / "one"
    end, told = run(task("one", "write", file=str(file)), environment={"CUDA_VISIBLE_DEVICES": "7"})
    assert end == Event("one", "finished")
    assert [(event.kind, event.text) for event in told] == [
        ("progress", "half way"),
        ("warning", "wrote one"),
    ]
    found = json.loads(file.read_text())
    assert found["pid"] != os.getpid()
    assert found["CUDA_VISIBLE_DEVICES"] == "7"


def test_an_error_comes_back_with_its_kind_and_words():
    end, _ = run(task("one", "refuse", value=7))
    assert end.kind == "failed"
    assert type(end.error) is UserError
    assert str(end.error) == "The value 7 is bad; choose another."


def test_a_bug_comes_back_with_its_traceback():
    end, _ = run(task("one", "stumble"))
    assert end.kind == "failed"
    assert isinstance(end.error, BugError)
    assert "ValueError: nobody thought of this. This is a bug" in str(end.error)
    assert "in stumble" in end.text
    assert end.error.trace == end.text


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [("die", {"file": "died"}, "exit code -9"), ("leave", {"code": 9}, "exit code 9")],
)
def test_a_process_that_dies_loses_its_task(tmp_path, monkeypatch, name, content, words):
    monkeypatch.chdir(tmp_path)
    end, _ = run(task("one", name, content))
    assert end.kind == "lost"
    assert words in end.text


def test_a_process_that_cannot_start_is_a_failure_since_it_would_fail_again(tmp_path, monkeypatch):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho 'No module named diffmem' >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    end, _ = run(task("one", "write"))
    assert end.kind == "failed"
    assert type(end.error) is DiffmemError
    assert "cannot start (exit code 1): No module named diffmem" in str(end.error)


def test_a_process_that_is_asked_to_stop_saves(tmp_path):
    content = files(tmp_path)
    end, _ = run(task("one", "save_when_stopped", content), **when(Path(content["begun"]).exists))
    assert end.kind == "stopped"
    assert Path(content["saved"]).exists()


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_process_that_is_asked_before_it_has_begun_can_be_started_again(tmp_path, processes):
    end, _ = run(task("one", "write", processes=processes, file=str(tmp_path / "one")), **when(lambda: True))
    assert end.kind == "stopped"
    assert not (tmp_path / "one").exists()


def test_a_process_that_does_not_hear_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(child_module, "SECONDS_TO_STOP", 0.5)
    begun = tmp_path / "begun"
    end, _ = run(task("one", "be_deaf", begun=str(begun)), **when(begun.exists))
    assert end.kind == "lost"
    assert not is_running(number_in(begun))


@pytest.mark.parametrize(
    "event",
    [
        Event("k", "progress", "note", 1.5, 3.0),
        Event("k", "failed", "words", error=UserError("words")),
        Event("k", "failed", "the trace", error=BugError.of("the trace")),
        Event("k", "failed", "words", error=LostTaskError("words")),
    ],
)
def test_an_event_is_the_same_after_its_journey(event):
    found = event_from_json(json.loads(json.dumps(event_to_json(event))))
    assert event_to_json(found) == event_to_json(event)
    assert type(found.error) is type(event.error)


def test_an_error_of_a_class_that_others_do_not_have_arrives_as_its_nearest_relative():
    found = event_from_json(event_to_json(Event("k", "failed", error=OddError(7, "choose another"))))
    assert type(found.error) is UserError
    assert str(found.error) == "The value 7 is bad; choose another."


@pytest.mark.slow
def test_torchrun_does_one_task_in_two_processes_and_the_first_speaks(tmp_path):
    file = tmp_path / "one"
    with InlinePool() as pool:
        pool.submit(task("one", "write", processes=2, file=str(file)))
        told = pool.poll(0)
    assert [event.kind for event in told] == ["warning", "progress", "finished"], told
    assert json.loads(file.read_text())["processes"] == 2


@pytest.mark.slow
def test_the_process_of_torchrun_that_failed_first_gives_the_reason(tmp_path):
    end, _ = run(task("one", "fail_at", processes=2, rank=1))
    assert end.kind == "failed"
    assert str(end.error) == "The disk of this machine burns."


@pytest.mark.slow
def test_a_killed_process_of_torchrun_loses_the_task(tmp_path):
    end, _ = run(task("one", "die_at", processes=2, rank=1))
    assert end.kind in ("lost", "stopped"), end  # torchrun may ask the other to stop before it sees the loss


@pytest.mark.slow
def test_the_processes_of_torchrun_save_when_asked(tmp_path):
    content = files(tmp_path)
    end, _ = run(
        task("one", "save_when_stopped", content, processes=2), **when(Path(content["begun"]).exists)
    )
    assert end.kind == "stopped"
    assert Path(content["saved"]).exists()


@pytest.mark.slow
def test_the_processes_of_torchrun_stop_together_as_training_does(tmp_path):
    content = files(tmp_path)
    end, _ = run(
        task("one", "train_until_stopped", content, processes=2), **when(Path(content["begun"]).exists)
    )
    assert end.kind == "stopped"
    steps = [Path(content["saved"]).with_suffix(f".{rank}").read_text() for rank in (0, 1)]
    assert steps[0] == steps[1]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_of_torchrun_runs_on_when_its_worker_is_gone(tmp_path, number):
    content = files(tmp_path)
    with LocalPool(1, threads=1, processes=2) as pool:
        pool.submit(task("one", "save_when_stopped", content, processes=2))
        rank = number_in(content["begun"])
        os.kill(pool._workers[0].process.pid, number)
        found, _ = ends(pool, 1)
        assert found["one"].kind == ("lost" if number == signal.SIGKILL else "stopped")
        wait_for(lambda: not is_running(rank))
        wait_for(Path(content["saved"]).exists)


@pytest.mark.slow
def test_progress_of_torchrun_is_told_while_it_runs(tmp_path):
    content, begin = files(tmp_path), time.monotonic()
    with LocalPool(1, threads=1, processes=2) as pool:
        pool.submit(task("one", "save_when_stopped", content, processes=2))
        told = []
        while len(told) < 2:
            told += pool.poll(1)
            assert time.monotonic() - begin < 120
    assert {event.kind for event in told} == {"progress"}

import json
import os
import time

import pytest
from executors_work import ends, task

from diffmem.errors import DiffmemError, UserError
from diffmem.executors.open import InlinePool


def interrupt(content, progress, warn):
    raise KeyboardInterrupt


def test_tasks_run_in_this_process_one_for_each_poll(tmp_path):
    with InlinePool() as pool:
        for name in ("first", "second"):
            pool.submit(task(name, "write", file=str(tmp_path / name)))
        told = pool.poll(0)
        assert [(event.key, event.kind, event.text) for event in told] == [
            ("first", "warning", "wrote first"),
            ("first", "progress", "half way"),
            ("first", "finished", ""),
        ]
        assert (told[1].done, told[1].total) == (1, 2)
        assert not (tmp_path / "second").exists()
        assert [event.kind for event in pool.poll(0)][-1] == "finished"
        assert json.loads((tmp_path / "second").read_text())["pid"] == os.getpid()


def test_progress_can_be_told_at_once(tmp_path):
    live = []
    with InlinePool(live.append) as pool:
        pool.submit(task("one", "write", file=str(tmp_path / "one")))
        assert [event.kind for event in pool.poll(0)] == ["finished"]
    assert [event.kind for event in live] == ["progress", "warning"]


def test_errors_are_told_and_the_next_task_is_done(tmp_path):
    with InlinePool() as pool:
        pool.submit(task("bad", "refuse", value=7))
        pool.submit(task("bug", "stumble"))
        pool.submit(task("good", "write", file=str(tmp_path / "good")))
        found, _ = ends(pool, 3)
    assert {key: event.kind for key, event in found.items()} == {
        "bad": "failed",
        "bug": "failed",
        "good": "finished",
    }
    assert isinstance(found["bad"].error, UserError)
    assert str(found["bad"].error) == "The value 7 is bad; choose another."
    bug = found["bug"]
    assert type(bug.error) is not UserError
    assert isinstance(bug.error, DiffmemError)
    assert "ValueError: nobody thought of this. This is a bug" in str(bug.error)
    assert "Traceback" in bug.text
    assert "in stumble" in bug.text


def test_an_interrupt_leaves_the_poll():
    with InlinePool() as pool:
        pool.submit(task("one", "nothing"))
        pool.submit(
            type(task("x", "y"))("two", f"{__name__}:interrupt", {}),
        )
        assert pool.poll(0)[-1].kind == "failed"  # there is no such function
        with pytest.raises(KeyboardInterrupt):
            pool.poll(0)


def test_a_poll_without_tasks_waits():
    begin = time.monotonic()
    with InlinePool() as pool:
        assert pool.poll(0.3) == []
    assert time.monotonic() - begin >= 0.3

import json
import os
import threading
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from executors_work import files, number_in, task

from diffmem.executors import remote
from diffmem.executors.pool import event_from_json
from diffmem.executors.remote import CONTROL, ENDS, GOES_ON, Assignment, progress_file, run_remotely


@pytest.fixture
def shared(tmp_path):
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / CONTROL).write_text(GOES_ON)
    return folder


def work(shared, each, **place):
    """Do a task as a worker does; return its end and the warnings."""
    found = run_remotely(
        asdict(each), asdict(Assignment(str(shared), 1, **{"seconds_to_save": 60.0, **place}))
    )
    assert json.loads(json.dumps(found)) == found
    return event_from_json(found["end"]), found["warnings"]


def test_a_worker_returns_the_warnings_and_the_end_and_writes_the_progress(shared, tmp_path):
    end, warnings = work(shared, task("one", "write", file=str(tmp_path / "one")))
    assert end.kind == "finished"
    assert warnings == ["wrote one"]
    lines = [json.loads(line) for line in progress_file(shared, 1).read_text().splitlines()]
    assert [(line["kind"], line["done"], line["total"], line["text"]) for line in lines] == [
        ("progress", 1, 2, "half way")
    ]


def test_a_worker_that_does_not_see_the_study_s_folder_says_so(tmp_path):
    end, _ = work(tmp_path / "elsewhere", task("one", "write", file="never"))
    assert end.kind == "failed"
    assert "need a common disk" in str(end.error)
    assert str(tmp_path / "elsewhere") in str(end.error)


def test_work_is_cut_off_in_time_to_save_before_the_job_ends(shared, tmp_path, monkeypatch):
    content = files(tmp_path)

    def clock():
        return 1040.0 if Path(content["begun"]).exists() else 1039.0

    monkeypatch.setattr(remote, "time", SimpleNamespace(time=clock, monotonic=time.monotonic))
    monkeypatch.setenv(ENDS, "1100")
    end, _ = work(shared, task("one", "save_when_stopped", content), seconds_to_save=60.0)
    assert end.kind == "stopped"
    assert Path(content["saved"]).exists()


def test_a_task_that_comes_too_late_is_given_back_without_work_and_without_haste(
    shared, tmp_path, monkeypatch
):
    monkeypatch.setattr(remote, "_SECONDS_OF_A_REFUSAL", 0.5)
    monkeypatch.setenv(ENDS, str(time.time() + 59))
    begin = time.monotonic()
    end, _ = work(shared, task("one", "write", file=str(tmp_path / "one")))
    assert end.kind == "stopped"
    assert "time limit" in end.text
    assert time.monotonic() - begin >= 0.5
    assert not (tmp_path / "one").exists()


@pytest.mark.parametrize("how", ["told", "gone"])
def test_work_saves_when_the_study_stops_or_is_gone(shared, tmp_path, how):
    content = files(tmp_path)

    def stop():
        number_in(content["begun"])
        (shared / CONTROL).write_text("stop") if how == "told" else (shared / CONTROL).unlink()

    study = threading.Thread(target=stop)
    study.start()
    end, _ = work(shared, task("one", "save_when_stopped", content))
    study.join()
    assert end.kind == "stopped"
    assert Path(content["saved"]).exists()


def test_work_saves_when_the_study_touches_its_file_no_more(shared, tmp_path, monkeypatch):
    content, now, touched = files(tmp_path), [0.0], []

    def clock():
        """The time of a check, two seconds after the last: until the work has gone on for half a minute, the study touches its file."""
        now[0] += 2.0
        if len(touched) < 15:
            os.utime(shared / CONTROL, (now[0], now[0]))
            touched.extend([now[0]] if Path(content["begun"]).exists() else [])
        return now[0]

    monkeypatch.setattr(remote, "time", SimpleNamespace(time=time.time, monotonic=clock))
    end, _ = work(shared, task("one", "save_when_stopped", content))
    assert len(touched) == 15  # it was not stopped while it heard of the study
    assert now[0] == touched[-1] + 12.0  # but by the first check more than ten seconds later
    assert end.kind == "stopped"
    assert Path(content["saved"]).exists()


def test_a_task_that_waited_for_a_worker_until_the_study_stopped_is_not_begun(shared, tmp_path):
    (shared / CONTROL).write_text("stop")
    end, _ = work(shared, task("one", "write", file=str(tmp_path / "one")))
    assert end.kind == "stopped"
    assert not (tmp_path / "one").exists()


@pytest.mark.parametrize(
    ("rank", "gpus", "processes", "named", "expected"),
    [
        ("3", 2, 1, None, "1"),
        ("1", 4, 2, None, "2,3"),
        ("1", 2, 1, "5,7", "7"),
        ("1", None, 1, "5,7", None),
    ],
)
def test_a_task_gets_its_worker_s_share_of_the_gpus(monkeypatch, rank, gpus, processes, named, expected):
    monkeypatch.setenv("PARSL_WORKER_RANK", rank)
    if named is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    values = remote._environment(task("one", "write", processes=processes), Assignment("", 1, 60.0, gpus))
    assert values.get("CUDA_VISIBLE_DEVICES") == expected


def test_a_task_gets_its_worker_s_share_of_the_cores(monkeypatch):
    monkeypatch.setenv("PARSL_WORKER_COUNT", "4")
    monkeypatch.setenv("PARSL_CORES", "32")
    place = Assignment("", 1, 60.0)
    assert "OMP_NUM_THREADS" not in remote._environment(task("one", "write"), place)  # set by the user
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert remote._environment(task("one", "write"), place) == {"OMP_NUM_THREADS": "8"}
    assert remote._environment(task("one", "write", processes=2), place) == {"OMP_NUM_THREADS": "4"}
    monkeypatch.setenv("PARSL_WORKER_COUNT", "64")
    assert remote._environment(task("one", "write"), place) == {"OMP_NUM_THREADS": "1"}
    assert os.environ.get("OMP_NUM_THREADS") is None

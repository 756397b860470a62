import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from executors_work import ends, files, is_running, number_in, task, wait_for

from diffmem.errors import UserError
from diffmem.executors import processes
from diffmem.executors.pool import BugError
from diffmem.executors.processes import LocalPool, share_of_gpus, visible_gpus


def check_that_tasks_are_done(pool, folder):
    """Have four small tasks done, and return by which processes they were."""
    names = ["a", "b", "c", "d"]
    for name in names:
        pool.submit(task(name, "write", file=str(folder / name)))
    found, others = ends(pool, 4)
    assert {event.kind for event in found.values()} == {"finished"}
    assert sorted(event.text for event in others if event.kind == "warning") == [f"wrote {x}" for x in names]
    progress = [event for event in others if event.kind == "progress"]
    assert {(event.done, event.total, event.text) for event in progress} == {(1, 2, "half way")}
    assert {event.key for event in progress} == set(names)
    return {json.loads((folder / name).read_text())["pid"] for name in names}


def test_tasks_run_in_processes_that_are_used_again_and_one_that_is_killed_loses_its_task_alone(
    tmp_path, capfd
):
    other = files(tmp_path)
    with LocalPool(2, threads=1) as pool:
        pids = check_that_tasks_are_done(pool, tmp_path)
        assert os.getpid() not in pids
        assert 1 <= len(pids) <= 2
        pool.submit(task("sleeper", "save_when_stopped", other))
        mortal = task("mortal", "die", file=str(tmp_path / "died"))
        pool.submit(mortal)
        found, _ = ends(pool, 1)
        assert found["mortal"].kind == "lost"
        assert "exit code -9" in found["mortal"].text
        pool.submit(mortal)
        found, _ = ends(pool, 1)
        assert found["mortal"].kind == "finished"
        pool.submit(task("bad", "refuse_oddly", value=7))
        pool.submit(task("bug", "stumble"))
        pool.submit(task("good", "write", file=str(tmp_path / "good")))
        found, _ = ends(pool, 3)
        assert is_running(number_in(other["begun"]))  # through all of this
    assert not any(is_running(pid) for pid in pids)
    assert type(found["bad"].error) is UserError
    assert str(found["bad"].error) == "The value 7 is bad; choose another."
    assert isinstance(found["bug"].error, BugError)
    assert "nobody thought of this" in str(found["bug"].error)
    assert "in stumble" in found["bug"].text
    assert found["good"].kind == "finished"
    assert Path(other["saved"]).exists()  # the end of the pool stopped it
    assert "did not stop" not in capfd.readouterr().err


@pytest.mark.slow
def test_a_worker_that_is_asked_to_stop_saves_and_its_task_can_be_done_again(tmp_path):
    content = files(tmp_path)
    with LocalPool(1, threads=1) as pool:
        pool.submit(task("one", "save_when_stopped", content))
        os.kill(number_in(content["begun"]), signal.SIGTERM)
        found, _ = ends(pool, 1)
        assert found["one"].kind == "stopped"
        assert Path(content["saved"]).exists()
        pool.submit(task("one", "save_when_stopped", content))
        found, _ = ends(pool, 1)
        assert found["one"].kind == "finished"


def test_a_poll_waits_no_longer_than_asked_and_stop_ends_what_does_not_hear_and_can_be_called_again(
    tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(processes, "SECONDS_TO_STOP", 0.5)
    begun = tmp_path / "begun"
    pool = LocalPool(1, threads=1)
    begin = time.monotonic()
    assert pool.poll(0.2) == []
    assert time.monotonic() - begin >= 0.2
    pool.submit(task("deaf", "be_deaf", begun=str(begun)))
    pool.submit(task("waiting", "write", file=str(tmp_path / "never")))
    pid = number_in(begun)
    begin = time.monotonic()
    assert pool.poll(0.2) == []
    assert 0.2 <= time.monotonic() - begin < 60  # and not until the task ends
    pool.stop()
    assert not is_running(pid)
    assert "did not stop and was ended" in capfd.readouterr().err
    pool.stop()
    assert pool.poll(0) == []
    assert not (tmp_path / "never").exists()


@pytest.mark.slow
def test_a_worker_that_nobody_listens_to_saves_when_the_pool_stops(tmp_path, capfd):
    content = files(tmp_path)
    with LocalPool(1, threads=1) as pool:
        pool.submit(task("one", "talk", content))
        number_in(content["begun"])
        time.sleep(0.5)  # the pipe is full
        (connection,) = (worker.connection for worker in pool._workers)
        os.read(connection.fileno(), 7)  # as an interrupt in the middle of a message leaves it
    assert int(Path(content["saved"]).read_text()) >= 1
    assert "did not stop" not in capfd.readouterr().err


DRIVER = """
import signal, sys, time
from executors_work import task, files
from pathlib import Path
from diffmem.executors.processes import LocalPool
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with Ctrl-C ignored
    pool = LocalPool(2, threads=1)
    for name, processes in zip(sys.argv[2::2], sys.argv[3::2]):
        pool.submit(task(name, "save_when_stopped", files(Path(sys.argv[1]), name), int(processes)))
    while True:
        pool.poll(1)
"""


@pytest.mark.slow
def test_workers_save_and_end_when_the_study_is_killed(tmp_path):
    (tmp_path / "driver.py").write_text(DRIVER)
    words = [sys.executable, str(tmp_path / "driver.py"), str(tmp_path), "busy", "1", "child", "1"]
    driver = subprocess.Popen(words)
    pids = [number_in(tmp_path / f"{name}.begun") for name in ("busy", "child")]
    driver.kill()
    driver.wait()
    wait_for(lambda: not any(map(is_running, pids)))
    assert (tmp_path / "busy.saved").exists()
    assert (tmp_path / "child.saved").exists()


def test_ctrl_c_in_a_terminal_is_the_study_s_affair_and_the_workers_save(tmp_path):
    # The terminal sends it to the whole group, also to a worker that has only just been started.
    (tmp_path / "driver.py").write_text(
        DRIVER.replace("    while True", "    print('started', flush=True)\n    while True")
    )
    words = [sys.executable, str(tmp_path / "driver.py"), str(tmp_path), "busy", "1"]
    driver = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert driver.stdout.readline() == "started\n"
    os.killpg(driver.pid, signal.SIGINT)
    _, err = driver.communicate(timeout=60)
    assert err.count("Traceback") == 1  # the driver's own
    assert "SpawnProcess" not in err


@pytest.mark.parametrize(
    ("named", "count", "expected"),
    [(None, 2, ["0", "1"]), ("3,5, 7", 3, ["3", "5", "7"]), ("GPU-ab,GPU-cd", 1, ["GPU-ab"]), ("", 0, [])],
)
def test_gpus_have_the_names_that_the_scheduler_gave_them(named, count, expected):
    environment = {} if named is None else {"CUDA_VISIBLE_DEVICES": named}
    assert visible_gpus(count, environment) == expected


def test_gpus_are_divided_among_workers_and_shared_if_there_are_more_workers():
    names = ["0", "1", "2", "3"]
    assert [share_of_gpus(names, i, 1) for i in range(6)] == ["0", "1", "2", "3", "0", "1"]
    assert [share_of_gpus(names, i, 2) for i in range(3)] == ["0,1", "2,3", "0,1"]
    assert share_of_gpus(names[:3], 1, 2) == "0,1"  # the third GPU is too few for a task


@pytest.mark.slow
def test_each_worker_sees_its_gpu_and_its_threads(tmp_path):
    before = dict(os.environ)
    names = ["a", "b", "c"]
    with LocalPool(3, threads=3, gpus=["4", "5"]) as pool:
        for name in names:
            pool.submit(task(name, "write", file=str(tmp_path / name), companions=3))
        ends(pool, 3)
    found = [json.loads((tmp_path / name).read_text()) for name in names]
    assert sorted(each["CUDA_VISIBLE_DEVICES"] for each in found) == ["4", "4", "5"]
    assert {each["OMP_NUM_THREADS"] for each in found} == {"3"}
    assert dict(os.environ) == before

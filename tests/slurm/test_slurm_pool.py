"""What the pool makes of a real SLURM: of a queue that is full, jobs that end, a study that is killed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from executors_work import files, number_in, task, wait_for

from conftest import within
from diffmem.executors import parsl_jobs
from diffmem.executors.config import ExecutorConfig
from diffmem.executors.jobs import waiting_for_jobs
from diffmem.executors.open import open_pool
from diffmem.folder_lock import BusyFolderError

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(240)]


def config(**settings):
    given = {"kind": "slurm", "partition": "debug", "walltime": "00:20:00", "cores_per_node": 1}
    return ExecutorConfig.model_validate({**given, "address": "127.0.0.1", "memory_gb": 1, **settings})


def until(pool, seconds, *kinds):
    """Poll until an event of these kinds; return it, and all before it."""
    end, seen = time.monotonic() + seconds, []
    while True:
        assert time.monotonic() < end, f"waited {seconds} s; {seen}; {pool.waiting}"
        for event in pool.poll(0.5):
            seen.append(event)
            if event.kind in kinds:
                return event, seen


def polled(pool, seconds, condition):
    """Poll until a condition holds, and return it."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"waited {seconds} s; {pool.waiting}"
        pool.poll(0.5)
    return found


def test_a_job_with_more_places_than_runs_waits_in_a_full_queue_and_is_told_in_15_s(slurm, tmp_path):
    slurm.drain()
    study = tmp_path / "width"
    with open_pool(config(cores_per_node=2), device="cpu", folder=study) as pool:
        pool.submit(task("one", "write", file=str(tmp_path / "one")))
        (job,) = polled(pool, 10, slurm.jobs)
        told = polled(pool, 15, lambda: "DRAINED" in pool.waiting and pool.waiting)
        assert told.startswith("1 job pending: ")
        assert f"; job {job}, " in told
        assert waiting_for_jobs(study).startswith("1 job pending: ")
        end = time.monotonic() + 25
        while time.monotonic() < end:
            pool.poll(1)
            assert set(slurm.jobs()) == {job}
        slurm.resume()
        until(pool, 60, "finished")
    assert not waiting_for_jobs(study)
    assert not (study / "executor/jobs.json").exists()


def test_a_job_asks_for_its_time_and_memory_and_holds_the_name_of_the_study(slurm, tmp_path):
    slurm.drain()
    for walltime, minutes in (("00:01:59", "2:00"), ("00:00:59", "1:00")):
        study = tmp_path / f"my.study-{minutes[0]}"
        with open_pool(config(walltime=walltime, minutes_to_save=0.2), device="cpu", folder=study) as pool:
            pool.submit(task("one", "write", file=str(tmp_path / "one")))
            ((_, name),) = polled(pool, 10, slurm.jobs).items()
            assert slurm.run("squeue", "-h", "-o", "%l %m") == f"{minutes} 1G"
            assert name.startswith(f"my-study-{minutes[0]}.")
        within(10, lambda: not slurm.jobs())


def test_a_lost_job_is_replaced_in_30_s_also_when_slurm_has_forgotten_it(slurm, tmp_path):
    slurm.forgets(2)
    try:
        content = files(tmp_path)
        with open_pool(config(), device="cpu", folder=tmp_path / "study") as pool:
            pool.submit(task("one", "save_when_stopped", content))
            (job,) = polled(pool, 30, lambda: slurm.jobs("RUNNING"))
            polled(pool, 40, Path(content["begun"]).exists)
            slurm.run("scancel", job)
            begin = time.monotonic()
            polled(pool, 30, lambda: set(slurm.jobs("RUNNING", "PENDING")) - {job})
            print(f"replaced after {time.monotonic() - begin:.0f} s")
            event, _ = until(pool, 60, "lost", "stopped")
            print(f"{event.kind} told after {time.monotonic() - begin:.0f} s")
            pool.submit(task("one", "save_when_stopped", content))
            until(pool, 60, "finished")
    finally:
        slurm.forgets(300)


def test_both_runs_of_a_cancelled_job_are_told_and_go_on_in_the_next(slurm, tmp_path):
    contents = {name: files(tmp_path, name) for name in ("one", "two")}
    with open_pool(config(cores_per_node=2), device="cpu", folder=tmp_path / "study") as pool:
        for name, content in contents.items():
            pool.submit(task(name, "save_when_stopped", content))
        polled(pool, 60, lambda: all(Path(each["begun"]).exists() for each in contents.values()))
        (job,) = slurm.jobs()  # one job for both
        slurm.run("scancel", job)
        ends = {until(pool, 60, "lost", "stopped")[0].key for _ in contents}
        assert ends == set(contents)
        for name, content in contents.items():
            pool.submit(task(name, "save_when_stopped", content))
        assert {until(pool, 60, "finished")[0].key for _ in contents} == set(contents)


def test_a_job_that_fails_at_once_shows_what_it_wrote_and_three_end_the_study(slurm, tmp_path):
    broken = config(worker_init="module load nonexistent\nexit 1")
    with open_pool(broken, device="cpu", folder=tmp_path / "study") as pool:
        pool.submit(task("one", "write", file=str(tmp_path / "one")))
        polled(pool, 10, lambda: "pending" in pool.waiting or slurm.jobs())
        begin = time.monotonic()
        warning, _ = until(pool, 20, "warning")
        print(f"told after {time.monotonic() - begin:.0f} s")
        assert "module: command not found" in warning.text
        failed, seen = until(pool, 90, "failed")
    text = str(failed.error)
    assert text.startswith("3 jobs in a row could not start a worker: ")
    assert text.count("command not found") == 1
    assert len([event for event in seen if event.kind == "warning"]) == 0  # the same is not told again
    assert not slurm.jobs()


def test_a_partition_that_is_not_there_is_told_in_the_words_of_slurm_once(slurm, tmp_path):
    with open_pool(config(partition="gpu"), device="cpu", folder=tmp_path / "study") as pool:
        pool.submit(task("one", "write", file=str(tmp_path / "one")))
        failed, _ = until(pool, 60, "failed")
    assert str(failed.error).count("invalid partition specified: gpu") == 1


DRIVER = """
import sys
from pathlib import Path
from executors_work import files, task
from diffmem.executors.config import ExecutorConfig
from diffmem.executors.open import open_pool
here = Path(sys.argv[1])
pool = open_pool(ExecutorConfig.model_validate_json(sys.argv[2]), device="cpu", folder=here / "study")
pool.submit(task("one", "save_when_stopped", files(here)))
while True:
    pool.poll(1)
"""


def driver(folder, settings):
    text = settings.model_dump_json(exclude_unset=True)
    return subprocess.Popen([sys.executable, "-c", DRIVER, str(folder), text])


def test_the_jobs_that_a_killed_study_left_in_the_queue_are_cancelled_by_the_next(slurm, tmp_path):
    slurm.drain()
    first = driver(tmp_path, config())
    (left,) = within(30, slurm.jobs)
    within(30, (tmp_path / "study/executor/jobs.json").exists)
    with pytest.raises(BusyFolderError, match="stop that study first"):
        open_pool(config(), device="cpu", folder=tmp_path / "study")
    first.kill()
    first.wait()
    (old,) = (tmp_path / "study/executor").glob("tasks-*")
    assert set(slurm.jobs()) == {left}
    with open_pool(config(), device="cpu", folder=tmp_path / "study") as pool:
        assert not old.exists()
        pool.submit(task("one", "write", file=str(tmp_path / "one")))
        warning, _ = until(pool, 5, "warning")
        assert left in warning.text
        polled(pool, 20, lambda: slurm.jobs() and left not in slurm.jobs())
        assert len(slurm.jobs()) == 1
    assert not slurm.jobs("PENDING")


def test_the_running_job_of_a_killed_study_saves_and_ends(slurm, tmp_path):
    content = files(tmp_path)
    first = driver(tmp_path, config())
    pid = number_in(content["begun"])
    first.kill()
    first.wait()
    begin = time.monotonic()
    within(60, lambda: not slurm.jobs())
    print(f"gone after {time.monotonic() - begin:.0f} s")
    assert Path(content["saved"]).exists()
    assert not Path(f"/proc/{pid}").exists()
    with open_pool(config(), device="cpu", folder=tmp_path / "study") as pool:
        pool.submit(task("one", "save_when_stopped", content))
        until(pool, 60, "finished")


def test_a_study_started_again_at_once_takes_the_work_over_from_the_killed_one(slurm, tmp_path):
    content = files(tmp_path)
    first = driver(tmp_path, config())
    number_in(content["begun"])
    (left,) = slurm.jobs()
    first.kill()
    first.wait()
    with open_pool(config(), device="cpu", folder=tmp_path / "study") as pool:
        within(30, lambda: left not in slurm.jobs())
        wait_for(Path(content["saved"]).exists)
        pool.submit(task("one", "save_when_stopped", content))
        until(pool, 60, "finished")


def test_a_run_saves_before_the_time_limit_of_its_job_and_goes_on_in_the_next(slurm, tmp_path):
    content = files(tmp_path)
    with open_pool(
        config(walltime="00:01:00", minutes_to_save=0.4), device="cpu", folder=tmp_path / "study"
    ) as pool:
        pool.submit(task("one", "save_when_stopped", content))
        until(pool, 100, "stopped")
        assert Path(content["saved"]).exists()
        pool.submit(task("one", "save_when_stopped", content))
        while until(pool, 100, "stopped", "finished")[0].kind == "stopped":
            pool.submit(task("one", "save_when_stopped", content))


def test_a_job_that_nothing_needs_is_given_back_and_others_go_on(slurm, tmp_path, monkeypatch):
    monkeypatch.setattr(parsl_jobs, "_SECONDS_IDLE", 5.0)
    content = files(tmp_path)
    with open_pool(config(most_blocks=2), device="cpu", folder=tmp_path / "study") as pool:
        pool.submit(task("long", "save_when_stopped", content))
        pool.submit(task("short", "write", file=str(tmp_path / "short")))
        until(pool, 60, "finished")
        polled(pool, 30, lambda: len(slurm.jobs("RUNNING")) == 1)
        pid = number_in(content["begun"])
        assert Path(f"/proc/{pid}").exists()
    begin = time.monotonic()
    within(10, lambda: not slurm.jobs("RUNNING", "PENDING"))
    print(f"no job {time.monotonic() - begin:.0f} s after the end")
    assert Path(content["saved"]).exists()


def test_a_scheduler_that_does_not_answer_is_told_and_the_jobs_are_kept(slurm, tmp_path, monkeypatch):
    slurm.drain()
    with open_pool(config(), device="cpu", folder=tmp_path / "study") as pool:
        pool.submit(task("one", "write", file=str(tmp_path / "one")))
        jobs = polled(pool, 20, slurm.jobs)
        away = tmp_path / "bin"
        away.mkdir()
        (away / "squeue").write_text("#!/bin/sh\necho the controller is away >&2\nexit 1\n")
        (away / "squeue").chmod(0o755)
        path = os.environ["PATH"]
        monkeypatch.setenv("PATH", f"{away}:{path}")
        polled(pool, 20, lambda: "the controller is away" in pool.waiting)
        monkeypatch.setenv("PATH", path)
        polled(pool, 20, lambda: pool.waiting.startswith("1 job pending"))
        assert slurm.jobs() == jobs

import os
import signal
import time

import pytest
from parameters import few, slow

from diffmem.errors import DiffmemError, UserError
from diffmem.executors.processes import default_workers, run_jobs


def write_name(job, progress, warn):
    progress(1, 2, job.name)
    job.write_text(f"{os.getpid()} {os.environ.get('OMP_NUM_THREADS')}")
    warn(f"wrote {job.name}")


def misbehave(job, progress, warn):
    """Sleep if the job is the sleeper; else wait until it sleeps and end as the job's suffix says."""
    sleeper = job.parent / "sleeper"
    if job.name == "sleeper":
        job.write_text(str(os.getpid()))
        time.sleep(120)
    while not (sleeper.exists() and sleeper.read_text()):
        time.sleep(0.05)
    if job.suffix == ".error":
        raise UserError("The job has a bad value 7; choose another.")
    if job.suffix == ".bug":
        raise ValueError("a bug")
    if job.suffix == ".exit":
        os._exit(9)
    os.kill(os.getpid(), signal.SIGKILL)


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def jobs_in(folder, count):
    return [folder / f"job{number}" for number in range(count)]


@pytest.mark.parametrize("workers", few([1, 2], 1))
def test_every_job_is_done_and_the_progress_sums_to_the_costs(tmp_path, workers):
    jobs, told, warnings = jobs_in(tmp_path, 5), [], []
    costs = [1.0, 5.0, 2.0, 4.0, 3.0]
    before = os.environ.get("OMP_NUM_THREADS")
    run_jobs(
        jobs,
        write_name,
        costs,
        workers=workers,
        progress=lambda *each: told.append(each),
        warn=warnings.append,
    )
    assert all(job.exists() for job in jobs)
    assert sorted(warnings) == [f"wrote job{number}" for number in range(5)]
    assert told[-1][:2] == (15.0, 15.0)
    done = [each[0] for each in told]
    assert done == sorted(done)
    assert {each[1] for each in told} == {15.0}
    assert os.environ.get("OMP_NUM_THREADS") == before
    processes = {int(job.read_text().split()[0]) for job in jobs}
    assert (processes == {os.getpid()}) == (workers == 1)
    assert len(processes) <= workers


def test_the_most_expensive_job_is_done_first(tmp_path):
    order = []
    run_jobs(
        ["small", "large", "middle"],
        lambda job, progress, warn: order.append(job),
        [1.0, 3.0, 2.0],
        workers=1,
    )
    assert order == ["large", "middle", "small"]


def test_no_jobs_are_no_work():
    run_jobs([], write_name, [], workers=1)


@pytest.mark.parametrize(
    ("ending", "kind", "words"),
    [
        (".error", UserError, "bad value 7"),
        slow((".bug", DiffmemError, "ended unexpectedly: ValueError: a bug")),
        slow((".exit", DiffmemError, "ended unexpectedly .exit code 9")),
        slow((".kill", DiffmemError, "ended unexpectedly .exit code -9")),
    ],
)
def test_a_job_that_fails_or_dies_is_told_and_the_others_are_stopped(tmp_path, capfd, ending, kind, words):
    sleeper, bad = tmp_path / "sleeper", tmp_path / f"bad{ending}"
    begin = time.monotonic()
    with pytest.raises(kind, match=words):
        run_jobs([bad, sleeper], misbehave, [1.0, 2.0], workers=2)
    assert time.monotonic() - begin < 40  # the sleeper was not waited for
    assert not is_running(int(sleeper.read_text()))
    assert ("a bug" in capfd.readouterr().err) == (ending == ".bug")


def test_a_failure_in_this_process_is_the_job_s_own(tmp_path):
    (tmp_path / "sleeper").write_text("1")
    with pytest.raises(UserError, match="bad value 7"):
        run_jobs([tmp_path / "bad.error"], misbehave, [1.0], workers=1)


def test_there_is_a_worker_for_each_core_but_no_more_than_jobs(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)), raising=False)
    assert [default_workers(jobs, "cpu") for jobs in (0, 1, 4, 6, 20)] == [1, 1, 4, 6, 6]
    assert default_workers(20, "cuda:1") == 1

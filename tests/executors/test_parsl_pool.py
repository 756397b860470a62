import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from executors_work import ends, files, is_running, number_in, task, wait_for

from diffmem.errors import DiffmemError, UserError
from diffmem.executors.config import ExecutorConfig
from diffmem.executors.open import open_pool
from diffmem.executors.pool import SECONDS_TO_STOP, BugError

CLUSTER = """
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider

config = Config(
    executors=[
        HighThroughputExecutor(
            label="here",
            address="127.0.0.1",
            max_workers_per_node={workers},
            cores_per_worker=0.1,
            heartbeat_period=1,
            heartbeat_threshold=5,
            drain_period={drain},
            encrypted=False,
            provider=LocalProvider(init_blocks=1, max_blocks=1, worker_init="{init}"),
        )
    ],
    strategy_period=0.5,
    initialize_logging=False,
)
"""


def cluster(folder, workers=2, drain=None, init="", minutes=5.0):
    path = folder / "cluster.py"
    path.write_text(CLUSTER.format(workers=workers, drain=drain, init=init))
    return ExecutorConfig(kind="parsl", path=str(path), minutes_to_save=minutes)


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def children_of(pid):
    """Return the processes that a process started, with their command lines."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if parent_of(place.name) == pid:
                found.append(
                    (int(place.name), (place / "comm").read_text() + (place / "cmdline").read_text())
                )
        except OSError:
            continue
    return found


def leftovers(folder):
    """Return the processes of Parsl that have to do with a folder."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(folder) in words and "process_worker_pool" in words:
            found.append(place.name)
    return found


@pytest.mark.slow  # the preset of SLURM has its own, which does the same in a job
def test_parsl_workers_do_tasks_and_what_dies_loses_its_task_alone(tmp_path):
    before, threads = os.environ["PATH"], set(threading.enumerate())
    other, victim = files(tmp_path, "other"), files(tmp_path, "victim")
    study = tmp_path / "study"
    with open_pool(cluster(tmp_path), device="cpu", folder=study) as pool:
        assert pool.slots == 2
        pool.submit(task("other", "save_when_stopped", other))  # goes on through all of this
        pool.submit(task("good", "write", file=str(tmp_path / "good")))
        pool.submit(task("bad", "refuse", value=7))
        pool.submit(task("bug", "stumble"))
        pool.submit(task("mortal", "die", file=str(tmp_path / "died")))
        found, others = ends(pool, 4)
        assert {key: event.kind for key, event in found.items()} == {
            "good": "finished",
            "bad": "failed",
            "bug": "failed",
            "mortal": "lost",
        }
        assert type(found["bad"].error) is UserError
        assert str(found["bad"].error) == "The value 7 is bad; choose another."
        assert isinstance(found["bug"].error, BugError)
        assert "in stumble" in found["bug"].text
        assert [event.text for event in others if event.kind == "warning"] == ["wrote good"]

        pool.submit(task("victim", "save_when_stopped", victim))
        worker = parent_of(number_in(victim["begun"]))
        os.kill(worker, signal.SIGKILL)
        found, _ = ends(pool, 1)
        assert found["victim"].kind == "lost"
        assert "worker of the task is gone" in found["victim"].text
        wait_for(Path(victim["saved"]).exists)  # what it did was not left alone
        told = pool.poll(20)
        assert [(event.key, event.kind, event.done, event.total) for event in told] == [
            ("other", "progress", 1, 2)
        ]
        pool.submit(task("victim", "save_when_stopped", victim))
        assert ends(pool, 1)[0]["victim"].kind == "finished"
        assert is_running(number_in(other["begun"]))
    assert Path(other["saved"]).exists()
    pool.stop()
    assert pool.poll(0) == []
    wait_for(lambda: not leftovers(study))
    assert os.environ["PATH"] == before
    assert not list((study / "executor").glob("tasks-*"))
    assert "WorkerLost" in (study / "executor/parsl.log").read_text()
    wait_for(lambda: set(threading.enumerate()) <= threads)


@pytest.mark.slow
def test_a_task_saves_before_its_job_ends_and_goes_on_in_the_next_job(tmp_path):
    # The job has 30 seconds, of which tasks get 22; it takes no more after 20, and ends when they have saved.
    config = cluster(
        tmp_path, workers=1, drain=20, init="export DIFFMEM_ENDS=$(( $(date +%s) + 30 ))", minutes=8 / 60
    )
    content = files(tmp_path)
    with open_pool(config, device="cpu", folder=tmp_path / "study") as pool:
        pool.submit(task("long", "save_when_stopped", content))
        assert ends(pool, 1)[0]["long"].kind == "stopped"
        assert Path(content["saved"]).exists()
        again, tries = "stopped", 0
        while again == "stopped":
            pool.submit(task("long", "save_when_stopped", content))
            again, tries = ends(pool, 1)[0]["long"].kind, tries + 1
        assert again == "finished"
        assert tries <= 2
    scripts = list((tmp_path / "study").glob("executor/parsl/000/submit_scripts/*.sh"))
    assert len(scripts) == 2


DRIVER = """
import signal, sys
from pathlib import Path
from executors_work import task, files
from diffmem.executors.config import ExecutorConfig
from diffmem.executors.open import open_pool
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with Ctrl-C ignored
here = Path(sys.argv[1])
pool = open_pool(ExecutorConfig(kind="parsl", path=str(here / "cluster.py")), device="cpu", folder=here / "study")
pool.submit(task("one", "save_when_stopped", files(here)))
while True:
    pool.poll(1)
"""


@pytest.mark.slow
def test_workers_of_parsl_save_and_end_when_the_study_is_killed(tmp_path):
    cluster(tmp_path)
    content = files(tmp_path)
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path)])
    pid = number_in(content["begun"])
    driver.kill()
    driver.wait()
    wait_for(lambda: not is_running(pid))
    assert Path(content["saved"]).exists()
    wait_for(lambda: not leftovers(tmp_path))


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_does_not_cut_the_study_off_from_its_workers(tmp_path):
    cluster(tmp_path)
    content = files(tmp_path)
    loop = "    while True:\n        pool.poll(1)\n"
    text = DRIVER.replace(
        "while True:\n    pool.poll(1)\n", f"try:\n{loop}except KeyboardInterrupt:\n    pool.stop()\n"
    )
    driver = subprocess.Popen([sys.executable, "-c", text, str(tmp_path)], start_new_session=True)
    number_in(content["begun"])
    begin = time.monotonic()
    os.killpg(driver.pid, signal.SIGINT)
    assert driver.wait(90) == 0
    assert time.monotonic() - begin < SECONDS_TO_STOP  # the workers said that they had saved
    assert Path(content["saved"]).exists()
    wait_for(lambda: not leftovers(tmp_path))


@pytest.mark.slow
def test_the_end_of_the_process_between_study_and_workers_is_a_failure(tmp_path):
    cluster(tmp_path)
    content = files(tmp_path)
    loop = (
        "for event in iter(lambda: pool.poll(60)[-1], None):\n    if event.kind == 'failed':\n        break\n"
    )
    text = DRIVER.replace("while True:\n    pool.poll(1)\n", f"{loop}print(event.error)\npool.stop()\n")
    driver = subprocess.Popen([sys.executable, "-c", text, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    number_in(content["begun"])
    (between,) = (child for child in children_of(driver.pid) if "interchange" in child[1])
    os.kill(between[0], signal.SIGKILL)
    out, _ = driver.communicate(timeout=90)
    assert driver.returncode == 0
    assert "exit code -9" in out
    wait_for(Path(content["saved"]).exists)  # the worker missed it, too
    wait_for(lambda: not leftovers(tmp_path))


@pytest.mark.slow
def test_jobs_that_cannot_start_are_a_failure_that_says_why(tmp_path):
    config = cluster(tmp_path, init="echo no such module >&2; exit 3")
    with open_pool(config, device="cpu", folder=tmp_path / "study") as pool:
        pool.submit(task("one", "write", file=str(tmp_path / "never")))
        found, _ = ends(pool, 1)
    assert found["one"].kind == "failed"
    assert isinstance(found["one"].error, DiffmemError)
    assert "no such module" in str(found["one"].error)

import json
import re
import threading
import time

import pytest

from diffmem.errors import UserError
from diffmem.executors import jobs
from diffmem.executors.jobs import (
    FOLDER,
    JobBook,
    QueueError,
    SlurmJob,
    cancel_left_jobs,
    job_name,
    slurm_queue,
    waiting_for_jobs,
)


def program(folder, name, text):
    """Put a program at the head of the path that does what a shell script says."""
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def bin_folder(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def test_jobs_are_named_after_the_folder_of_the_study_in_letters_that_schedulers_take(tmp_path):
    assert job_name(tmp_path / "width") == "width"
    assert job_name(tmp_path / "Größe, 2nd try") == "Gr-e-2nd-try"
    assert job_name(tmp_path / "§") == "diffmem"
    assert len(job_name(tmp_path / ("x" * 100))) == 60


def test_the_queue_of_slurm_is_read_and_a_job_that_it_has_forgotten_is_not_in_it(bin_folder):
    program(bin_folder, "squeue", "echo '4711|PENDING|Resources|width.1'; echo '4712|RUNNING|None|a|b'")
    assert slurm_queue(["4711", "4712", "4713"]) == {
        "4711": SlurmJob("PENDING", "Resources", "width.1"),
        "4712": SlurmJob("RUNNING", "None", "a|b"),
    }
    program(bin_folder, "squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert slurm_queue(["4711"]) == {}
    assert slurm_queue([]) == {}
    program(bin_folder, "squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(QueueError, match="Unable to contact slurm controller"):
        slurm_queue(["4711"])


def test_what_waits_is_told_with_its_reasons_and_how_long_the_first_has_waited(tmp_path, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(jobs.time, "time", lambda: clock[0])
    folder = tmp_path / FOLDER
    folder.mkdir()
    book = JobBook(folder, "slurm", "width")
    assert book.waiting == ""
    book.add("4711")
    clock[0] += 5
    book.add("4712")
    assert book.waiting == "2 jobs pending; job 4711, 5 s"
    clock[0] += 180
    book.look({"4711": ("pending", "Resources"), "4712": ("pending", "Resources")}, set())
    assert book.waiting == "2 jobs pending: Resources; job 4711, 3 min 05 s"
    assert waiting_for_jobs(tmp_path) == book.waiting
    book.look({"4711": ("running", ""), "4712": ("pending", "Priority")}, set())
    clock[0] += 7
    assert book.waiting == (
        "1 job pending: Priority; job 4712, 3 min 07 s; 1 job running, no word from its workers yet; job 4711, 7 s"
    )
    book.look({"4711": ("running", "")}, {"4711"})
    book.remove(["4712"])
    assert book.waiting == ""
    book.remove(["4711"])
    assert not list(folder.iterdir())


def test_what_waits_is_told_while_another_thread_submits(tmp_path):
    book = JobBook(tmp_path, "slurm", "width")
    book.add("1")

    class Submitting(jobs._Job):
        def __getattribute__(self, name):
            if name == "state" and "2" not in book.ids:
                other = threading.Thread(target=book.add, args=("2",))
                other.start()
                other.join()
            return super().__getattribute__(name)

    book._jobs["1"] = Submitting("1", "pending", time.time())
    assert re.fullmatch(r"[12] jobs? pending; job 1, 0 s", book.waiting)


def test_what_a_study_that_is_gone_waited_for_is_not_told(tmp_path, monkeypatch):
    (tmp_path / FOLDER).mkdir()
    JobBook(tmp_path / FOLDER, "slurm", "width").add("4711")
    assert waiting_for_jobs(tmp_path).startswith("1 job pending; job 4711")
    now = time.time()
    monkeypatch.setattr(jobs.time, "time", lambda: now + 61)
    assert waiting_for_jobs(tmp_path) == ""
    assert waiting_for_jobs(tmp_path / "elsewhere") == ""


def test_of_the_jobs_of_a_killed_study_those_that_still_are_its_own_are_cancelled(tmp_path, bin_folder):
    book = JobBook(tmp_path, "slurm", "width")
    for number in ("1", "2", "3"):
        book.add(number)
    # The second has ended and is forgotten; the third's number belongs to another job by now.
    program(bin_folder, "squeue", "echo '1|PENDING|Priority|width.17.3'; echo '3|RUNNING|None|widths.17.3'")
    program(bin_folder, "scancel", f"echo $@ >> {tmp_path}/cancelled")
    assert cancel_left_jobs(tmp_path, "slurm") == ["1"]
    assert (tmp_path / "cancelled").read_text() == "1\n"
    assert cancel_left_jobs(tmp_path, "slurm") == []


def test_jobs_of_pbs_are_cancelled_by_its_own_command(tmp_path, bin_folder):
    JobBook(tmp_path, "pbs", "width").add("12.server")
    program(bin_folder, "qdel", f"echo $@ >> {tmp_path}/cancelled; exit 1")
    assert cancel_left_jobs(tmp_path, "pbs") == ["12.server"]
    assert (tmp_path / "cancelled").read_text() == "12.server\n"


def test_jobs_that_another_scheduler_has_are_not_forgotten(tmp_path):
    JobBook(tmp_path, "pbs", "width").add("12.server")
    with pytest.raises(UserError, match=r"executor\.kind = pbs: 12\.server"):
        cancel_left_jobs(tmp_path, "slurm")
    assert json.loads((tmp_path / "jobs.json").read_text())["jobs"][0]["id"] == "12.server"


def test_jobs_are_kept_while_slurm_does_not_answer(tmp_path, bin_folder):
    JobBook(tmp_path, "slurm", "width").add("1")
    program(bin_folder, "squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(QueueError):
        cancel_left_jobs(tmp_path, "slurm")
    assert (tmp_path / "jobs.json").exists()

"""One job at a time in the folder of a report."""

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from store_builders import child, until, wait_for_ever

import diffmem
from diffmem import distributed
from diffmem.errors import DiffmemError, UserError
from diffmem.executors.pool import Event, event_from_json, event_to_json
from diffmem.folder_lock import BusyFolderError, locked_folder

HOLD = """
import sys, time
from pathlib import Path
from diffmem.folder_lock import locked_folder
with locked_folder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(connection, folder):
    with locked_folder(folder):
        connection.send("held")
        wait_for_ever(connection)


def hold_with_a_child(connection, folder):
    with locked_folder(folder):
        if not os.fork():
            connection.send(os.getpid())  # what a fork does to locks is done
            time.sleep(60)
            os._exit(0)
        wait_for_ever(connection)


def take_and_say(connection, folder):
    try:
        with locked_folder(folder):
            connection.send("taken")
    except BusyFolderError:
        connection.send("busy")


def is_free(folder):
    with child(take_and_say, folder) as other:
        return other.told() == "taken"


@pytest.fixture
def holder(tmp_path):
    """A process that holds the folder `out`."""
    environment = {**os.environ, "PYTHONPATH": str(Path(diffmem.__file__).parents[1])}
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "out"], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "held\n"
    yield child
    child.kill()
    child.communicate()


def test_a_second_job_is_refused_and_told_who_holds_the_folder(tmp_path, holder):
    for _ in range(2):  # the first refusal does not lose the name
        with pytest.raises(UserError, match=rf"out is in use by process {holder.pid} on .*--out"):
            locked_folder(tmp_path / "out").__enter__()


@pytest.mark.parametrize(
    "content", ["", '{"pid": 1', "[]", '{"pid": null, "host": "h"}', '{"pid": 1e999, "host": 1}']
)
def test_a_holder_that_was_interrupted_while_it_wrote_its_name_is_another_process(tmp_path, holder, content):
    (tmp_path / "out" / ".lock").write_text(content)
    with pytest.raises(BusyFolderError, match="in use by another process"):
        locked_folder(tmp_path / "out").__enter__()


def test_a_job_that_was_killed_holds_nothing(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "out" / ".lock").exists()
    with locked_folder(tmp_path / "out"):
        assert json.loads((tmp_path / "out" / ".lock").read_text())["pid"] == os.getpid()
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_the_lock_is_gone_at_the_end_and_the_files_stay(tmp_path):
    with locked_folder(tmp_path / "a" / "out"):
        (tmp_path / "a" / "out" / "report.html").write_text("words")
    assert [path.name for path in (tmp_path / "a" / "out").iterdir()] == ["report.html"]


def test_a_job_that_fails_leaves_no_empty_folder_and_keeps_one_that_was_there(tmp_path):
    (tmp_path / "there").mkdir()
    for name in ("there", "new/out"):
        with pytest.raises(UserError), locked_folder(tmp_path / name):
            raise UserError("a mistake")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_the_lock_of_another_job_stays_where_the_folder_was_made_anew(tmp_path):
    first, second = locked_folder(tmp_path / "out"), locked_folder(tmp_path / "out")
    first.__enter__()
    shutil.rmtree(tmp_path / "out")
    second.__enter__()
    first.__exit__(None, None, None)
    with pytest.raises(UserError, match="in use"):
        locked_folder(tmp_path / "out").__enter__()
    second.__exit__(None, None, None)
    assert not (tmp_path / "out").exists()


def test_no_folder_is_nothing_to_lock():
    with locked_folder(None):
        pass


def test_a_file_in_place_of_the_folder_is_the_user_s_mistake(tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("file", "file/out"):
        with pytest.raises(UserError, match="is no folder"):
            locked_folder(tmp_path / name).__enter__()


def test_a_lock_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(DiffmemError, match="Cannot lock"):
        locked_folder(tmp_path).__enter__()


def test_the_error_survives_the_way_from_a_worker():
    error = event_from_json(event_to_json(Event("k", "failed", error=BusyFolderError("text")))).error
    assert (type(error), str(error)) == (BusyFolderError, "text")


def test_a_forked_child_does_not_keep_the_lock_of_a_killed_parent(tmp_path):
    with child(hold_with_a_child, tmp_path) as holder:
        grandchild = holder.told()
        try:
            assert not is_free(tmp_path)
            holder.kill()
            assert is_free(tmp_path)
        finally:
            os.kill(grandchild, 9)


def test_a_started_program_does_not_get_the_lock(tmp_path):
    with locked_folder(tmp_path):
        other = subprocess.Popen(
            [sys.executable, "-c", "print(1, flush=True); input()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            close_fds=False,
        )
        assert other.stdout.readline()
    try:
        assert other.poll() is None
        assert is_free(tmp_path)
    finally:
        other.communicate(b"\n")


def test_who_waits_gets_the_lock_when_it_is_free(tmp_path):
    with child(hold, tmp_path) as holder:
        holder.told()
        holder.connection.close()  # it ends on that
        with locked_folder(tmp_path, seconds=30):
            until(lambda: not holder.process.is_alive())
            assert not is_free(tmp_path)


def test_who_waits_in_vain_is_told_what_to_do(tmp_path):
    with child(hold, tmp_path) as holder:
        holder.told()
        with pytest.raises(
            BusyFolderError, match=rf"in use by process {holder.process.pid} on .*, or end it"
        ):
            locked_folder(tmp_path, "end it", seconds=0.2).__enter__()


def test_a_lock_whose_file_was_removed_is_taken_on_the_file_that_is_there(tmp_path, monkeypatch):
    flock = fcntl.flock

    def removed_meanwhile(handle, how):
        monkeypatch.setattr(fcntl, "flock", flock)
        (tmp_path / ".lock").unlink()
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", removed_meanwhile)
    with locked_folder(tmp_path, seconds=5):
        assert not is_free(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, number):
    def fail(handle, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(DiffmemError, match=rf"Cannot lock .*\.lock: {os.strerror(number)}"):
        locked_folder(tmp_path).__enter__()


def test_among_the_processes_of_torchrun_the_first_holds_the_lock_for_all(tmp_path, monkeypatch):
    second = distributed.World(1, 2)
    monkeypatch.setattr(distributed.World, "broadcast", lambda world, value: value)
    with locked_folder(tmp_path):
        monkeypatch.setattr(distributed, "_current", second)
        with locked_folder(tmp_path):
            pass
        monkeypatch.setattr(distributed, "_current", distributed.World(0, 2))
        assert not is_free(tmp_path)


def test_a_refusal_of_the_first_process_ends_the_others_too(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "_current", distributed.World(1, 2))
    monkeypatch.setattr(distributed.World, "broadcast", lambda world, value: BusyFolderError("in use"))
    with pytest.raises(BusyFolderError, match="in use"):
        locked_folder(tmp_path).__enter__()

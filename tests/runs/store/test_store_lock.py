import json
import os
import pickle
import subprocess
import sys
import time

import pytest
from store_builders import child, until, wait_for_ever

from diffmem import distributed
from diffmem.errors import DiffmemError
from diffmem.runs.store import lock
from diffmem.runs.store.lock import BusyRunError, RunLock, locked


def hold(connection, folder):
    with RunLock(folder):
        connection.send("held")
        wait_for_ever(connection)


def hold_with_a_child(connection, folder):
    with RunLock(folder):
        number = os.fork()
        if not number:
            time.sleep(60)
            os._exit(0)
        connection.send(number)
        wait_for_ever(connection)


def take_and_say(connection, folder):
    try:
        with RunLock(folder, seconds_to_wait=0):
            connection.send("taken")
    except BusyRunError:
        connection.send("busy")


def is_free(folder):
    with child(take_and_say, folder) as other:
        return other.told() == "taken"


def test_a_folder_is_locked_within_the_block_alone(tmp_path):
    folder = tmp_path / "runs" / "a"
    with RunLock(folder):
        assert folder.is_dir()
        assert not is_free(folder)
        assert is_free(tmp_path / "runs" / "b")
    assert is_free(folder)


def test_an_error_in_the_block_frees_the_folder(tmp_path):
    with pytest.raises(ValueError), RunLock(tmp_path):
        raise ValueError
    assert is_free(tmp_path)


def test_the_error_names_the_holder(tmp_path):
    with child(hold, tmp_path) as holder:
        assert holder.told() == "held"
        with pytest.raises(BusyRunError, match=f"in use by process {holder.process.pid} on ") as raised:
            RunLock(tmp_path, seconds_to_wait=0).__enter__()
        assert raised.value.pid == holder.process.pid
        assert raised.value.host


def test_the_error_survives_the_way_from_a_worker():
    error = pickle.loads(pickle.dumps(BusyRunError("text", 3, "host")))
    assert (type(error), str(error), error.pid, error.host) == (BusyRunError, "text", 3, "host")


@pytest.mark.parametrize("content", ["", '{"pid": 1', "[]", '{"pid": null, "host": "h"}'])
def test_a_holder_that_was_interrupted_while_it_wrote_its_name_is_another_process(tmp_path, content):
    with RunLock(tmp_path):
        (tmp_path / ".lock").write_text(content)
        with pytest.raises(BusyRunError, match="in use by another process"):
            RunLock(tmp_path, seconds_to_wait=0).__enter__()


def test_a_lock_is_freed_when_its_process_is_killed(tmp_path):
    with child(hold, tmp_path) as holder:
        holder.told()
        assert not is_free(tmp_path)
        holder.kill()
        with RunLock(tmp_path, seconds_to_wait=0):
            assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


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
    with RunLock(tmp_path):
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
        with RunLock(tmp_path, seconds_to_wait=30):
            until(lambda: not holder.process.is_alive())


def test_a_lock_whose_file_was_removed_is_taken_on_the_file_that_is_there(tmp_path, monkeypatch):
    flock = lock.fcntl.flock

    def removed_meanwhile(handle, how):
        monkeypatch.setattr(lock.fcntl, "flock", flock)
        (tmp_path / ".lock").unlink()
        flock(handle, how)

    monkeypatch.setattr(lock.fcntl, "flock", removed_meanwhile)
    with RunLock(tmp_path):
        assert not is_free(tmp_path)


def test_among_the_processes_of_torchrun_the_first_holds_the_lock_for_all(tmp_path, monkeypatch):
    with RunLock(tmp_path):
        monkeypatch.setattr(distributed, "_current", distributed.World(1, 2))
        with RunLock(tmp_path, seconds_to_wait=0):
            pass
        monkeypatch.undo()
        assert not is_free(tmp_path)


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch):
    def fail(handle, how):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(lock.fcntl, "flock", fail)
    with pytest.raises(DiffmemError, match=r"Cannot lock .*\.lock: Function not implemented"):
        RunLock(tmp_path).__enter__()


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiffmemError, match="Cannot write"):
        RunLock(tmp_path / "file" / "run").__enter__()


def test_a_short_piece_of_work_waits_and_then_gives_up(tmp_path):
    path = tmp_path / "a.lock"
    with locked(path), pytest.raises(DiffmemError, match=r"locked by another process for more than 0\.2 s"):
        locked(path, 0.2).__enter__()
    with locked(path, 0):
        pass

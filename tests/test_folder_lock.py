"""One job at a time in the folder of a report."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import diffmem
from diffmem.errors import DiffmemError, UserError
from diffmem.folder_lock import locked_folder

HOLD = """
import sys, time
from pathlib import Path
from diffmem.folder_lock import locked_folder
with locked_folder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


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


def test_a_note_that_cannot_be_read_refuses_all_the_same(tmp_path, holder):
    (tmp_path / "out" / ".lock").write_text("half")
    with pytest.raises(UserError, match="in use by another process"):
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

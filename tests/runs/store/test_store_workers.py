import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from store_builders import until

from diffmem.runs.store import workers
from diffmem.runs.store.workers import is_gone, this_process

needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="no /proc here")


@pytest.fixture
def sleeper():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield child
    child.kill()
    child.wait()
    child.stdin.close()


def of(child):
    return replace(
        this_process(), pid=child.pid, start=(workers._state_and_start(child.pid) or (None, None))[1]
    )


def test_a_process_is_not_gone_while_it_runs(sleeper):
    assert not is_gone(this_process())
    assert not is_gone(of(sleeper))


def test_a_process_that_ended_is_gone(sleeper):
    known = of(sleeper)
    sleeper.kill()
    sleeper.wait()
    assert is_gone(known)


@needs_proc
def test_a_process_is_gone_when_it_was_killed_even_if_its_parent_did_not_look_yet(sleeper):
    known = of(sleeper)
    sleeper.kill()  # and not waited for: a zombie
    until(lambda: is_gone(known))
    assert os.path.exists(f"/proc/{sleeper.pid}")


@needs_proc
def test_a_number_that_another_process_has_now_does_not_count_as_alive(sleeper):
    known = of(sleeper)
    assert is_gone(replace(known, start=known.start - 1))


def test_of_processes_on_other_machines_nothing_is_known(sleeper):
    known = of(sleeper)
    sleeper.kill()
    sleeper.wait()
    assert not is_gone(replace(known, machine="elsewhere"))
    assert not is_gone(replace(known, pid=0))


@needs_proc
def test_a_machine_is_a_host_a_boot_and_a_namespace_of_numbers(monkeypatch, tmp_path):
    here = this_process().machine
    (tmp_path / "boot").write_text("another boot\n")
    monkeypatch.setattr(workers, "_BOOT", tmp_path / "boot")
    assert this_process().machine != here
    monkeypatch.undo()
    assert this_process().machine == here
    (tmp_path / "pid").symlink_to("pid:[1]")
    monkeypatch.setattr(workers, "_NAMESPACE", tmp_path / "pid")
    assert this_process().machine != here


def test_where_the_system_tells_no_starts_a_running_process_counts_as_the_same(
    monkeypatch, sleeper, tmp_path
):
    monkeypatch.setattr(workers, "_BOOT", tmp_path / "missing")
    monkeypatch.setattr(workers, "_state_and_start", lambda pid: None)
    known = of(sleeper)
    assert known.machine == known.host
    assert known.start is None
    assert not is_gone(known)
    sleeper.kill()
    sleeper.wait()
    assert is_gone(known)


@needs_proc
def test_a_program_may_have_any_name(tmp_path):
    program = tmp_path / "a) R 1 (b"
    program.symlink_to("/bin/sleep")
    child = subprocess.Popen([program, "60"])
    try:
        until(lambda: "a) R" in Path(f"/proc/{child.pid}/stat").read_text())
        state, start = workers._state_and_start(child.pid)
        assert state in "SRD"
        assert start >= this_process().start
    finally:
        child.kill()
        child.wait()

import json
import os
import socket
import time

import pytest
from store_builders import child, wait_for_ever

from diffmem import distributed
from diffmem.errors import DiffmemError
from diffmem.runs.store import workers
from diffmem.runs.store.workers import read_status, reported_status


def tell_and_wait(connection, folder):
    with reported_status(folder) as report:
        report(3, 4, "N=4")
        connection.send("told")
        wait_for_ever(connection)


def change(folder, **values):
    path = folder / "status.json"
    content = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def test_what_a_process_tells_is_read(tmp_path):
    before = time.time()
    assert read_status(tmp_path) is None
    with reported_status(tmp_path) as report:
        report(30, 100, "N=4, epoch 7")
        found = read_status(tmp_path)
    assert (found.done, found.total, found.note) == (30, 100, "N=4, epoch 7")
    assert (found.pid, found.host) == (os.getpid(), socket.gethostname())
    assert before <= found.started <= found.updated <= time.time()
    assert found.seconds_left is None
    assert read_status(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_the_time_left_follows_from_what_was_done_since_the_start(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(workers.time, "monotonic", lambda: now[0])
    with reported_status(tmp_path) as report:
        now[0] = 150.0  # reading data, which says nothing about the pace
        report(50, 100)
        now[0] = 160.0
        report(70, 100)  # two a second
        assert read_status(tmp_path).seconds_left == pytest.approx(15)


def test_writes_are_no_closer_than_asked_for(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(workers.time, "monotonic", lambda: now[0])
    seen = []
    with reported_status(tmp_path, every=1.0) as report:
        for now[0] in (0.0, 0.5, 0.99, 1.0, 1.5, 2.25):
            report(now[0], 10)
            seen.append(read_status(tmp_path).done)
    assert seen == [0.0, 0.0, 0.0, 1.0, 1.0, 2.25]


def test_the_status_of_a_killed_process_is_none(tmp_path):
    with child(tell_and_wait, tmp_path) as other:
        other.told()
        assert read_status(tmp_path).pid == other.process.pid
        other.kill()
        assert (tmp_path / "status.json").exists()
        assert read_status(tmp_path) is None


@pytest.fixture
def left(tmp_path):
    """A folder with the status of this process."""
    with reported_status(tmp_path) as report:
        report(1, 2)
        yield tmp_path


def test_a_status_of_a_reused_number_is_none(left):
    process = json.loads((left / "status.json").read_text())["process"]
    if process["start"] is None:
        pytest.skip("the system does not tell when processes started")
    change(left, process={**process, "start": process["start"] - 1})
    assert read_status(left) is None


@pytest.mark.parametrize(("age", "there"), [(100, True), (130, False)])
def test_a_process_of_another_machine_counts_as_working_for_two_minutes(left, age, there):
    place = {"place": "elsewhere", "start": 1}
    change(left, host="elsewhere", pid=2**22 + 1, updated=time.time() - age, process=place)
    assert (read_status(left) is not None) is there


@pytest.mark.parametrize(
    "wrong",
    [
        {"done": "many"},
        {"done": ...},
        {"process": ...},
        {"process": {"place": "x", "start": "y"}},
        {"total": 1e999},
        {"seconds_left": []},
        {"pid": 1e999},
        {"pid": 2**80},
    ],
)
def test_a_damaged_status_is_none(left, wrong):
    assert read_status(left) is not None
    change(left, **wrong)
    assert read_status(left) is None


@pytest.mark.parametrize("torn", [b"", b'{"done": 1', b"[1]", b"\xff"])
def test_a_torn_status_is_none(tmp_path, torn):
    (tmp_path / "status.json").write_bytes(torn)
    assert read_status(tmp_path) is None


def test_a_status_that_cannot_be_written_ends_no_training(tmp_path, monkeypatch):
    def full(path, content):
        raise DiffmemError("Cannot write: No space left on device.")

    monkeypatch.setattr(workers, "write_json", full)
    with reported_status(tmp_path) as report:
        report(1, 2)
        assert read_status(tmp_path) is None


def test_among_the_processes_of_torchrun_the_first_writes_and_removes(tmp_path, monkeypatch):
    with reported_status(tmp_path) as first:
        first(1, 2, "first")
        monkeypatch.setattr(distributed, "_current", distributed.World(1, 2))
        with reported_status(tmp_path) as second:
            second(2, 2, "second")
        assert read_status(tmp_path).note == "first"
        monkeypatch.undo()

import pytest
from store_builders import child

from diffmem import distributed
from diffmem.runs.store.repairs import incidents, note_incident

LOST = "incidents.json was found damaged: earlier incidents of this run are not known."


def note_ten(connection, folder, name):
    for i in range(10):
        note_incident(folder, f"{name} {i}")
    connection.send("done")


def test_incidents_come_back_in_order(tmp_path):
    folder = tmp_path / "runs" / "a"
    assert incidents(folder) == []
    for text in ("The first.", "The second: »ü«.", "The second: »ü«."):
        note_incident(folder, text)
    assert incidents(folder) == ["The first.", "The second: »ü«.", "The second: »ü«."]


@pytest.mark.parametrize("torn", [b"", b'[\n "The fir', b"\x00" * 20, b"\xff\xfe", b'{"a": 1}', b"[1]"])
def test_a_torn_write_is_an_incident_itself_and_later_ones_are_kept(tmp_path, torn):
    note_incident(tmp_path, "The first.")
    (tmp_path / "incidents.json").write_bytes(torn)
    assert incidents(tmp_path) == [LOST]
    note_incident(tmp_path, "The second.")
    assert incidents(tmp_path) == [LOST, "The second."]
    note_incident(tmp_path, "The third.")
    assert incidents(tmp_path) == [LOST, "The second.", "The third."]


def test_processes_that_note_at_the_same_time_lose_nothing(tmp_path):
    with child(note_ten, tmp_path, "a") as a, child(note_ten, tmp_path, "b") as b:
        assert (a.told(), b.told()) == ("done", "done")
    found = incidents(tmp_path)
    assert sorted(found) == sorted(f"{name} {i}" for name in "ab" for i in range(10))


def test_among_the_processes_of_torchrun_the_first_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "_current", distributed.World(1, 2))
    note_incident(tmp_path, "Of the second process.")
    assert incidents(tmp_path) == []
    monkeypatch.setattr(distributed, "_current", distributed.World(0, 2))
    note_incident(tmp_path, "Of the first process.")
    assert incidents(tmp_path) == ["Of the first process."]

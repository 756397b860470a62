import pytest

from diffmem import distributed
from diffmem.runs.store.repairs import note_repair, repairs

LOST = "incidents.json was found damaged: earlier incidents of this run are not known."


def test_repairs_come_back_in_order(tmp_path):
    folder = tmp_path / "runs" / "a"
    assert repairs(folder) == []
    for text in ("The first.", "The second: »ü«.", "The second: »ü«."):
        note_repair(folder, text)
    assert repairs(folder) == ["The first.", "The second: »ü«.", "The second: »ü«."]


@pytest.mark.parametrize("torn", [b"", b'[\n "The fir', b"\x00" * 20, b"\xff\xfe", b'{"a": 1}', b"[1]"])
def test_a_torn_write_is_a_repair_itself_and_later_ones_are_kept(tmp_path, torn):
    note_repair(tmp_path, "The first.")
    (tmp_path / "incidents.json").write_bytes(torn)
    assert repairs(tmp_path) == [LOST]
    note_repair(tmp_path, "The second.")
    assert repairs(tmp_path) == [LOST, "The second."]
    note_repair(tmp_path, "The third.")
    assert repairs(tmp_path) == [LOST, "The second.", "The third."]


def test_among_the_processes_of_torchrun_the_first_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "_current", distributed.World(1, 2))
    note_repair(tmp_path, "Of the second process.")
    assert repairs(tmp_path) == []
    monkeypatch.setattr(distributed, "_current", distributed.World(0, 2))
    note_repair(tmp_path, "Of the first process.")
    assert repairs(tmp_path) == ["Of the first process."]

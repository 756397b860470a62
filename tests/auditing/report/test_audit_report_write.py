"""The folder of an audit."""

from __future__ import annotations

import csv
import errno
import os
from pathlib import Path

import pytest
from audit_builders import make_match, make_matches
from audit_examples import copies_found, none_found, private_found
from audit_pages import make_images

from diffmem.auditing.records import AuditResult
from diffmem.auditing.report.write import COLUMNS, matches_csv, write_audit
from diffmem.errors import DiffmemError


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.usefixtures("undrawn")
def test_the_folder_holds_page_record_matches_and_pictures(tmp_path):
    result = copies_found()
    page = write_audit(result, make_images(result), make_matches(60), tmp_path / "new")
    assert set(contents(tmp_path / "new")) == {
        "audit.html", "audit.json", "matches.csv", "audit_distances.png", "audit_power.png", "audit_copied.png", "audit_worst.png",
        "audit_near.png",
    }  # fmt: skip
    assert page == tmp_path / "new" / "audit.html"
    assert AuditResult.model_validate_json(page.with_name("audit.json").read_bytes()) == result


def test_the_same_audit_gives_the_same_bytes(tmp_path):
    result, matches = copies_found(12), make_matches(12)
    write_audit(result, make_images(result), matches, tmp_path / "a")
    write_audit(result, make_images(result), matches[::-1], tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_the_matches_read_back_from_their_csv_nearest_first(tmp_path):
    hostile = 'a,"b"\nc=1;é'
    matches = [*make_matches(60), make_match(60, sample_name=hostile, ratio=1 / 3)]
    path = tmp_path / "matches.csv"
    path.write_text(matches_csv(matches[::-1], private=False), "utf-8")
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 61
    for row, match in zip(rows, matches, strict=True):
        assert int(row["sample"]) == match.sample
        assert row["sample_name"] == match.sample_name
        assert int(row["training"]) == match.training
        assert row["training_hash"] == match.training_hash
        assert float(row["rms"]) == match.rms
        assert float(row["ratio"]) == match.ratio
        assert row["criteria"].split("+") == match.criteria
        assert row["variant"] == match.variant


@pytest.mark.usefixtures("undrawn")
def test_without_a_match_the_csv_is_its_header(tmp_path):
    write_audit(none_found(), {}, [], tmp_path)
    assert (tmp_path / "matches.csv").read_text() == ",".join(COLUMNS) + "\n"


@pytest.mark.usefixtures("undrawn")
def test_a_private_audit_leaves_nothing_of_an_earlier_one_behind(tmp_path):
    result = copies_found()
    write_audit(result, make_images(result), make_matches(60), tmp_path)
    (tmp_path / "own.txt").write_text("kept")
    write_audit(private_found(), {}, make_matches(60, private=True), tmp_path)
    left = contents(tmp_path)
    assert set(left) == {
        "audit.html", "audit.json", "matches.csv", "audit_distances.png", "audit_power.png", "audit_copied.png", "own.txt"
    }  # fmt: skip
    for content in left.values():
        for name in (b"secret", b"made-", b"person-"):
            assert name not in content
    assert b"_name" not in left["matches.csv"]


@pytest.mark.parametrize("leak", ["image", "match", "record"])
def test_a_private_audit_with_an_image_or_a_name_is_refused_and_nothing_is_written(tmp_path, leak):
    result = private_found()
    if leak == "record":
        result = result.model_copy(update={"model": result.model.model_copy(update={"source": "secret.pkl"})})
    images = make_images(result) if leak == "image" else {}
    with pytest.raises(DiffmemError, match="private"):
        write_audit(result, images, make_matches(60, private=leak != "match"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("undrawn")
def test_an_audit_that_cannot_be_written_leaves_the_earlier_one_whole(tmp_path):
    result = none_found()
    write_audit(result, {}, [], tmp_path)
    before = contents(tmp_path)
    nan = result.model_copy(update={"target": float("nan")})
    with pytest.raises(DiffmemError, match="NaN"):
        write_audit(nan, {}, [], tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.usefixtures("undrawn")
def test_a_disk_that_fills_up_at_any_file_leaves_the_earlier_audit_whole(tmp_path, monkeypatch):
    result = copies_found()
    write_audit(result, make_images(result), make_matches(60), tmp_path)
    before, write, room = contents(tmp_path), Path.write_bytes, [0]

    def full(path, content):
        if room[0] == 0:
            write(path, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        room[0] -= 1
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    for left in range(3):
        room[0] = left
        with pytest.raises(
            DiffmemError, match=r"No space left on device\. The folder is as it was\. Free some"
        ):
            write_audit(none_found(), {}, [], tmp_path)
        assert contents(tmp_path) == before


@pytest.mark.usefixtures("undrawn")
def test_a_private_audit_removes_what_a_killed_one_left_unfinished(tmp_path):
    (tmp_path / ".audit_worst.png.abc.tmp").write_bytes(b"secret")
    (tmp_path / ".audit.json.abc.tmp.before").write_bytes(b"secret")
    write_audit(private_found(), {}, make_matches(60, private=True), tmp_path)
    assert not [name for name in contents(tmp_path) if name.startswith(".")]


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@cmd", "\t=1"])
def test_a_name_that_a_spreadsheet_would_run_gets_an_apostrophe(name):
    match = make_matches(1)[0].model_copy(update={"sample_name": name})
    (row,) = csv.DictReader(matches_csv([match], private=False).splitlines(keepends=True))
    assert row["sample_name"] == f"'{name}"

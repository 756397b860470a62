import errno
import hashlib
import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_builders import child

from diffmem.errors import DiffmemError
from diffmem.files import (
    atomic_path,
    is_whole,
    locked_file,
    read_json,
    sha256_file,
    write_bytes,
    write_folder,
    write_json,
    write_text,
)


def interrupted_write(path, error):
    path.write_text("half")
    raise error


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole_with_its_folders(tmp_path):
    target = tmp_path / "a" / "b" / "c.bin"
    write_bytes(target, b"\x00\xff")
    assert target.read_bytes() == b"\x00\xff"
    assert names(target.parent) == ["c.bin"]


def test_the_target_is_untouched_until_the_block_ends(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with atomic_path(target) as temporary:
        temporary.write_text("half")
        assert target.read_text() == "old"
        assert temporary.parent == target.parent
    assert target.read_text() == "half"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, error):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(type(error)), atomic_path(target) as temporary:
        interrupted_write(temporary, error)
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_full_disk_is_told_with_the_path_and_leaves_nothing(tmp_path):
    target = tmp_path / "a.txt"
    with (
        pytest.raises(DiffmemError, match=r"Cannot write .*a\.txt: No space left on device"),
        atomic_path(target),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_told_with_the_path(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiffmemError, match=r"Cannot write .*file/a\.txt: "):
        write_text(tmp_path / "file" / "a.txt", "text")


def test_a_folder_is_not_replaced_by_a_file(tmp_path):
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(DiffmemError, match=r"Cannot write .*folder: "):
        write_text(tmp_path / "folder", "text")
    assert names(tmp_path) == ["folder"]


def test_a_written_file_has_the_permissions_of_any_new_file(tmp_path):
    write_text(tmp_path / "ours", "text")
    (tmp_path / "theirs").write_text("text")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ours", "theirs")]
    assert modes[0] == modes[1]


def test_a_file_that_another_thread_makes_meanwhile_has_its_usual_permissions(tmp_path, monkeypatch):
    umask, usual = os.umask, tmp_path / "usual"

    def paused(mask):
        before = umask(mask)
        (
            tmp_path / f"theirs-{mask}"
        ).touch()  # as if by another thread, which may be at work between any two calls
        return before

    usual.touch()
    monkeypatch.setattr(os, "umask", paused)
    write_text(tmp_path / "ours", "text")
    write_folder(tmp_path, {"record.json": b"{}"})
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {
        usual.stat().st_mode & 0o777
    }


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(content=json_values)
def test_json_reads_back_as_it_was_written(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("json") / "a.json"
    write_json(path, content)
    assert read_json(path) == content


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_json_has_no_nan_and_no_infinity(tmp_path, number):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"rate": number})
    assert names(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"nonsense"])
def test_a_file_that_is_no_json_is_named(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DiffmemError, match=r"Cannot read .*a\.json"):
        read_json(path)


def test_a_missing_json_file_is_named(tmp_path):
    with pytest.raises(DiffmemError, match=r"Cannot read .*missing\.json"):
        read_json(tmp_path / "missing.json")


def test_text_is_written_as_utf_8(tmp_path):
    write_text(tmp_path / "a.txt", "ε ≥ 0\n")
    assert (tmp_path / "a.txt").read_bytes() == "ε ≥ 0\n".encode()


@given(content=st.binary(max_size=100))
def test_the_checksum_is_that_of_the_bytes(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("sum") / "a.bin"
    path.write_bytes(content)
    assert sha256_file(path) == hashlib.sha256(content).hexdigest()


def held(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


OLD = {"page.html": b"old page", "old.png": b"old picture", "record.json": b"old record"}
NEW = {"page.html": b"new page", "new.png": b"new picture", "record.json": b"new record"}


@pytest.fixture
def report(tmp_path):
    """A folder with an earlier report and a file of the user's."""
    write_folder(tmp_path / "r", OLD)
    (tmp_path / "r" / "mine.txt").write_bytes(b"mine")
    return tmp_path / "r"


def test_the_files_of_a_folder_are_written_and_other_ones_left_alone(report):
    paths = write_folder(report, NEW, ["old.png", "never.png", "new.png"])
    assert held(report) == {**NEW, "mine.txt": b"mine"}
    assert [path.name for path in paths] == list(NEW)


@pytest.mark.parametrize("number", range(3))
def test_a_disk_that_fills_up_leaves_the_earlier_report_whole(report, monkeypatch, number):
    write, calls = Path.write_bytes, []

    def full(path, content):
        calls.append(path)
        if len(calls) > number:
            write(path, content[:2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, content)

    before = held(report)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(
        DiffmemError, match=rf"{list(NEW)[number]}: No space .*The folder is as it was\. Free some"
    ):
        write_folder(report, NEW, ["old.png"])
    assert held(report) == before


def test_a_new_folder_is_gone_again_if_its_report_cannot_be_written(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DiffmemError, match="Nothing was written"):
        write_folder(tmp_path / "a" / "b", NEW)
    assert names(tmp_path) == []


def refuse_to_rename(monkeypatch, *targets):
    replace = Path.replace

    def stubborn(path, target):
        if Path(target).name in targets:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", stubborn)


def test_a_file_that_cannot_be_replaced_first_leaves_the_folder_as_it_was(report, monkeypatch):
    before = held(report)
    refuse_to_rename(monkeypatch, "page.html")
    with pytest.raises(DiffmemError, match=r"page\.html: Permission denied\. The folder is as it was"):
        write_folder(report, NEW, ["old.png"])
    assert held(report) == before


def test_a_report_that_is_half_in_place_has_no_record_and_the_message_says_what_is_missing(
    report, monkeypatch
):
    refuse_to_rename(monkeypatch, "new.png")
    with pytest.raises(DiffmemError) as caught:
        write_folder(report, NEW, ["old.png"])
    told = str(caught.value)
    assert "it has no record.json now" in told
    assert "Not written: new.png, record.json." in told
    assert "Of an earlier report there is still: old.png." in told
    assert held(report) == {"page.html": b"new page", "old.png": b"old picture", "mine.txt": b"mine"}


def test_the_record_stands_only_after_all_the_rest(report, monkeypatch):
    replace, seen = Path.replace, []

    def watched(path, target):
        seen.append((Path(target).name, set(held(report)) & {"record.json", "old.png"}))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", watched)
    write_folder(report, NEW, ["old.png"])
    assert [name for name, _ in seen[1:]] == ["page.html", "new.png", "record.json"]
    assert [left for _, left in seen[1:]] == [{"old.png"}, {"old.png"}, set()]


def test_a_folder_in_place_of_a_file_is_noticed_before_anything_is_changed(report):
    (report / "new.png").mkdir()
    before = {path.name for path in report.iterdir()}
    with pytest.raises(DiffmemError, match=r"new\.png: Is a directory\. The folder is as it was"):
        write_folder(report, NEW)
    assert {path.name for path in report.iterdir()} == before
    assert (report / "record.json").read_bytes() == b"old record"


def test_of_four_that_wait_for_one_lock_one_is_in_it_at_a_time_although_the_file_is_removed(tmp_path):
    counter = tmp_path / "count"
    counter.write_text("0")

    def count(times):
        for _ in range(times):
            with locked_file(tmp_path / "count.lock"):
                seen = int(counter.read_text())
                time.sleep(0.0005)
                counter.write_text(str(seen + 1))

    with ThreadPoolExecutor(4) as workers:
        list(workers.map(count, [10] * 4))
    assert counter.read_text() == "40"
    assert [path.name for path in tmp_path.iterdir()] == ["count"]


def test_files_of_a_folder_have_the_rights_of_other_files(report, tmp_path):
    (tmp_path / "plain").write_text("")
    for name in OLD:
        assert stat.S_IMODE((report / name).stat().st_mode) == stat.S_IMODE(
            (tmp_path / "plain").stat().st_mode
        )


def write_and_say(connection, folder, contents):
    connection.send("begins")
    write_folder(folder, contents)
    connection.send("written")


@pytest.mark.parametrize("slow", list(NEW))
def test_of_two_reports_that_are_written_at_once_the_later_is_there_whole(report, monkeypatch, slow):
    other = dict.fromkeys(("page.html", "new.png", "more.png", "record.json"), b"of another process")
    replace, others = Path.replace, ExitStack()

    def paused(path, target):
        if Path(target).name == slow and path.suffix == ".tmp":
            monkeypatch.undo()
            writer = others.enter_context(child(write_and_say, report, other))
            others.callback(lambda: writer.told())
            assert writer.told() == "begins"
            writer.connection.poll(0.3)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", paused)
    with others:
        write_folder(report, NEW, ["old.png"])
    assert held(report) == {**other, "mine.txt": b"mine"}


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ENOSPC, "Free some space"), (errno.EACCES, "Choose another")]
)
def test_the_remedy_fits_the_cause(tmp_path, number, words):
    with pytest.raises(DiffmemError, match=words), atomic_path(tmp_path / "a.txt"):
        raise OSError(number, os.strerror(number))


def test_the_message_says_whether_an_earlier_file_is_kept(tmp_path):
    for words in ("No file was made", "The file that was there is kept"):
        with pytest.raises(DiffmemError, match=words), atomic_path(tmp_path / "a.txt"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        (tmp_path / "a.txt").write_text("old")


def test_a_file_is_whole_if_it_is_there_and_can_be_read_and_damage_is_reported(tmp_path):
    path, warnings = tmp_path / "a.json", []

    def whole():
        return is_whole(path, lambda: read_json(path), warnings.append)

    assert not whole()
    assert warnings == []
    path.write_text("[1")
    assert not whole()
    assert "a.json" in warnings[0]
    assert warnings[0].endswith("It is regenerated.")
    path.write_text("[1]")
    assert whole()
    assert len(warnings) == 1

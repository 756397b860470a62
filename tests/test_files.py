import errno
import hashlib
import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffmem.errors import DiffmemError
from diffmem.files import atomic_path, read_json, sha256_file, write_bytes, write_json, write_text


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

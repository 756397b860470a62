import io
import json
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffmem.data.formats.json_lists import read_object
from diffmem.data.formats.zip_directory import open_directory
from diffmem.errors import UserError


def written(path, members, before=b"", comment=b"", compression=zipfile.ZIP_DEFLATED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.comment = comment
        for name, content in members:
            archive.writestr(name, content)
    path.write_bytes(before + stream.getvalue())
    return path


@pytest.mark.parametrize("before", [b"", b"a program that unpacks itself"])
@pytest.mark.parametrize("comment", [b"", b"words" * 1000])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_are_those_that_zipfile_finds(tmp_path, before, comment, compression):
    members = [("b/ü.png", b"one" * 999), ("b/", b""), ("a.txt", b""), ("ä" * 40, b"x")]
    path = written(tmp_path / "x.zip", members, before, comment, compression)
    with open_directory(path) as archive, zipfile.ZipFile(path) as other:
        assert list(archive.names) == [name for name in other.namelist() if not name.endswith("/")]
        for place, name in enumerate(archive.names):
            assert archive.read(place) == other.read(name)
            assert archive.head(place, 5) == other.read(name)[:5]
        assert archive.names.take(archive.order()) == ("a.txt", "b/ü.png", "ä" * 40)


def test_a_name_that_differs_at_the_member_is_refused(tmp_path):
    path = written(tmp_path / "x.zip", [("one.png", b"1"), ("two.png", b"2")])
    content = path.read_bytes().replace(b"one.png", b"uno.png", 1)
    path.write_bytes(content)
    with open_directory(path) as archive, pytest.raises(UserError, match=r"one\.png: another member"):
        archive.read(0)


def test_a_directory_that_claims_more_members_than_it_has_is_refused(tmp_path):
    path = written(tmp_path / "x.zip", [("one.png", b"1")])
    content = bytearray(path.read_bytes())
    content[-12:-10] = b"\x07\0"
    path.write_bytes(content)
    with pytest.raises(UserError, match="cut short"), open_directory(path):
        pass


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["labels", "names", "x"]), inner),
    max_leaves=8,
)


@given(VALUES, st.sampled_from([None, 1, "\t"]))
def test_json_with_lists_handed_on_is_what_json_reads(value, indent):
    text = json.dumps(value, indent=indent)
    assert read_object(text, {"labels": list, "names": list}) == json.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        '{"labels": [1, ]}',
        '{"labels": [1 2]}',
        '{"labels": [1',
        '{"labels"',
        "{",
        '{"a": 1,}',
        "{} x",
        "",
        '{"labels": [1]',
    ],
)
def test_what_json_refuses_is_refused(text):
    with pytest.raises(ValueError, match=r"\S"):
        json.loads(text)
    with pytest.raises(ValueError, match=r"\S"):
        read_object(text, {"labels": list})

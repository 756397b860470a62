import io
import zipfile

import pytest

from diffmem.data.formats import zip_writer
from diffmem.data.formats.zip_directory import open_directory
from diffmem.data.formats.zip_writer import StoredZip


def by_zipfile(members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members:
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.external_attr, info.create_system = 0o644 << 16, 3
            archive.writestr(info, content)
    return stream.getvalue()


def by_us(members):
    stream = io.BytesIO()
    archive = StoredZip(stream)
    for name, content in members:
        archive.add(name, content)
    archive.finish()
    return stream.getvalue()


@pytest.mark.parametrize("count", [1, 3, 65_536])
def test_the_bytes_are_those_of_zipfile(count):
    members = [(f"{index:05d}/é.png" if index % 2 else f"{index}", b"content") for index in range(count)]
    assert by_us(members) == by_zipfile(members)


def test_members_beyond_two_gibibytes_are_found_as_zipfile_finds_them(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    monkeypatch.setattr(zip_writer, "_LIMIT", 100)
    members = [(f"{index}", b"content" * 5) for index in range(9)]
    content = by_us(members)
    assert content == by_zipfile(members)
    (tmp_path / "x.zip").write_bytes(content)
    with open_directory(tmp_path / "x.zip") as archive:
        assert [(name, archive.read(place)) for place, name in enumerate(archive.names)] == members

import json
import struct
import zipfile

import numpy as np
import pytest
from data_builders import damaged, encoded, image_set, opens_or_explains, write_zip
from hypothesis import given, settings
from parameters import amount

from diffmem.data import open_images, write_images
from diffmem.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
FILES = {f"00000/img{index:08d}.png": encoded(pixels) for index, pixels in enumerate(PIXELS)}


def test_images_are_ordered_by_name_whatever_their_place_in_the_zip(tmp_path):
    path = write_zip(tmp_path / "z.zip", dict(reversed(FILES.items())))
    images = open_images(path)
    np.testing.assert_array_equal(images.images, PIXELS.transpose(0, 3, 1, 2))
    assert images.names == tuple(FILES)
    assert images.labels is None
    assert images.history == ("zip z.zip: 3 images",)


def test_labels_are_found_by_name(tmp_path):
    pairs = [[name, 5 - index] for index, name in enumerate(FILES)]
    assert open_images(write_zip(tmp_path / "z.zip", FILES, pairs[::-1])).labels.tolist() == [5, 4, 3]
    assert open_images(write_zip(tmp_path / "z.zip", FILES, dict(pairs))).labels.tolist() == [5, 4, 3]


def test_null_labels_mean_none(tmp_path):
    assert open_images(write_zip(tmp_path / "z.zip", FILES, None)).labels is None


def test_deflated_members_and_jpegs_are_read(tmp_path):
    path = write_zip(
        tmp_path / "z.zip", {"a/b/c.JPG": encoded(PIXELS[0], "JPEG")}, method=zipfile.ZIP_DEFLATED
    )
    assert open_images(path).shape == (3, 4, 4)


def test_other_files_are_passed_over_and_told(tmp_path):
    path = write_zip(tmp_path / "z.zip", {**FILES, "readme.txt": b"x", "__MACOSX/._a.png": b"x", "dir/": b""})
    images = open_images(path)
    assert len(images) == 3
    assert images.history == ("zip z.zip: 3 images", "1 other file skipped (readme.txt)")


NAMES = list(FILES)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ([[name, 0] for name in NAMES[:2]], "no label for 1 images, the first is '00000/img00000002"),
        (
            [[name, 0] for name in [*NAMES, "ghost.png"]],
            "labels 1 images that the zip lacks, the first is 'ghost.png",
        ),
        ([[name, [0, 1]] for name in NAMES], "one-hot"),
        ([[name, 0.5] for name in NAMES], "class numbers"),
        ([[name, True] for name in NAMES], "class numbers"),
        ([[name, -1] for name in NAMES], "-1"),
        ([0, 1, 2], "pairs"),
        ("text", "pairs"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path, labels, told):
    with pytest.raises(UserError, match=rf"dataset\.json.*{told}"):
        open_images(write_zip(tmp_path / "z.zip", FILES, labels))


@pytest.mark.parametrize("content", [b"{", b"[" * 100_000, b"[]", b"\xff", b'{"labels": null, "names": 3}'])
def test_a_broken_label_file_is_told(tmp_path, content):
    with pytest.raises(UserError, match=r"dataset\.json"):
        open_images(write_zip(tmp_path / "z.zip", {**FILES, "dataset.json": content}))


def test_edited_labels_are_accepted_and_the_change_is_told(tmp_path):
    images = image_set(3, (1, 2, 2))
    path = tmp_path / "z.zip"
    write_images(images, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    described = json.loads(members.pop("dataset.json"))
    described["labels"] = [[name, 2] for name, _ in described["labels"]]
    read = open_images(write_zip(path, {**members, "dataset.json": json.dumps(described)}))
    assert read.labels.tolist() == [2, 2, 2]
    assert "another fingerprint" in read.history[-1]


def test_a_name_list_of_the_wrong_length_is_refused(tmp_path):
    content = json.dumps({"labels": None, "names": ["a"]})
    with pytest.raises(UserError, match="1 names for 3 images"):
        open_images(write_zip(tmp_path / "z.zip", {**FILES, "dataset.json": content}))


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "a/../../b.png", "C:/a.png", "..\\a.png"])
def test_members_that_point_outside_are_refused(tmp_path, name):
    with pytest.raises(UserError, match="points outside"):
        open_images(write_zip(tmp_path / "z.zip", {**FILES, name: b""}))


def test_a_member_without_a_name_is_refused(tmp_path):
    path = write_zip(tmp_path / "z.zip", {"nameless": b""})
    path.write_bytes(path.read_bytes().replace(b"nameless", bytes(8)))
    with pytest.raises(UserError, match="no name"):
        open_images(path)


def test_links_in_a_zip_are_refused(tmp_path):
    path = write_zip(tmp_path / "z.zip", FILES)
    link = zipfile.ZipInfo("link.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(UserError, match="link"):
        open_images(path)


def test_a_name_that_is_there_twice_is_refused(tmp_path):
    path = write_zip(tmp_path / "z.zip", FILES)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr(NAMES[0], b"other")
    with pytest.raises(UserError, match="twice"):
        open_images(path)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = write_zip(tmp_path / "z.zip", {"a.png": bytes(40 * 2**20)}, method=zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="decompression bomb"):
        open_images(path)


def test_a_member_that_unpacks_to_more_than_it_declares_is_refused(tmp_path):
    path = write_zip(
        tmp_path / "z.zip", {"a.png": FILES[NAMES[0]] + bytes(5000)}, method=zipfile.ZIP_DEFLATED
    )
    size = struct.pack("<I", len(FILES[NAMES[0]]) + 5000)
    path.write_bytes(path.read_bytes().replace(size, struct.pack("<I", 60)))
    with pytest.raises(UserError, match=r"a\.png"):
        open_images(path)


def test_members_that_overlap_are_refused(tmp_path):
    path = write_zip(tmp_path / "z.zip", {"a.png": bytes(3000), "b.png": b"x"})
    with zipfile.ZipFile(path) as archive:
        end = archive.start_dir
    content = path.read_bytes()
    first = content[end:].index(b"PK\x01\x02", 4)
    # Three entries of the directory that all share the bytes of a.png.
    entry = content[end : end + first]
    copies = b"".join(entry.replace(b"a.png", name) for name in (b"a.png", b"b.png", b"c.png"))
    tail = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 3, 3, len(copies), end, 0)
    path.write_bytes(content[:end] + copies + tail)
    with pytest.raises(UserError, match="overlap"):
        open_images(path)


def test_a_wrong_crc_is_told_with_the_member(tmp_path):
    path = write_zip(tmp_path / "z.zip", FILES)
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 6] ^= 4
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"img00000000\.png.*CRC"):
        open_images(path)


def test_a_zip_that_was_cut_short_is_told(tmp_path):
    path = write_zip(tmp_path / "z.zip", FILES)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"Cannot read .*z\.zip"):
        open_images(path)


def test_a_zip_without_images_is_told(tmp_path):
    with pytest.raises(UserError, match="no images"):
        open_images(write_zip(tmp_path / "z.zip", {"a.txt": b"x"}))


@pytest.mark.thorough
def test_damage_gives_a_user_error_or_a_valid_set(tmp_path_factory):
    path = tmp_path_factory.mktemp("damaged") / "z.zip"
    labels = [[name, 1] for name in NAMES[:2]]
    content = write_zip(path, dict(list(FILES.items())[:2]), labels, zipfile.ZIP_DEFLATED).read_bytes()

    @settings(max_examples=amount(40, 200), database=None)
    @given(damaged(content))
    def check(bad):
        path.write_bytes(bad)
        opens_or_explains(path)

    check()

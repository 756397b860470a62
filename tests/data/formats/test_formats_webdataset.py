import gzip
import io
import json
import tarfile

import numpy as np
import pytest
import webdataset
from data_builders import encoded

from diffmem.data import Reading, open_images
from diffmem.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 3), dtype=np.uint8)
PLANES = PIXELS.transpose(0, 3, 1, 2)


def write_tar(path, members, kind=tarfile.USTAR_FORMAT, mode="w"):
    """Write a tar of members {name: bytes}."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode, format=kind) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def png(index):
    return encoded(PIXELS[index])


def write_shards(folder, count=3, each=4, split="train"):
    """Write shards as webdataset itself does, with a class and a caption for each image."""
    folder.mkdir(exist_ok=True)
    for shard in range(count):
        with webdataset.TarWriter(str(folder / f"{split}-{shard:03d}.tar")) as sink:
            for index in range(shard * each, shard * each + each):
                sink.write(
                    {
                        "__key__": f"{index:06d}",
                        "png": PIXELS[index],
                        "cls": index % 3,
                        "txt": f"number {index}",
                    }
                )
    return folder


@pytest.mark.parametrize("place", ["{folder}", "{folder}/train-{{000..002}}.tar"])
def test_shards_that_webdataset_wrote_are_read_with_labels_and_captions(tmp_path, place):
    source = place.format(folder=write_shards(tmp_path / "shards"))
    images = open_images(source)
    np.testing.assert_array_equal(images.images, PLANES)
    assert images.labels.tolist() == [index % 3 for index in range(12)]
    assert images.captions == tuple(f"number {index}" for index in range(12))
    assert images.names[4] == "train-001.tar/000004.png"
    assert images.history[0].startswith("3 tar shards")
    assert images.history[0].endswith("12 images, with captions")


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_read_in_the_order_of_the_tar_whatever_its_format(tmp_path, kind, mode):
    long = "folder/" + "x" * 90 + "/ü.png"
    path = write_tar(tmp_path / "a.tar", {"b.png": png(0), long: png(1), "./a.png": png(2)}, kind, mode)
    images = open_images(path)
    np.testing.assert_array_equal(images.images, PLANES[:3])
    assert images.names == ("b.png", long, "a.png")
    assert images.labels is images.captions is None


def test_json_members_give_labels_and_captions(tmp_path):
    said = [{"caption": "one", "class": 1, "width": 4}, {"caption": "two", "class": 0}]
    members = {}
    for index, content in enumerate(said):
        members |= {f"{index}.json": json.dumps(content).encode(), f"{index}.png": png(index)}
    images = open_images(write_tar(tmp_path / "a.tar", members))
    assert images.labels.tolist() == [1, 0]
    assert images.captions == ("one", "two")


def test_an_image_without_a_caption_has_none(tmp_path):
    images = open_images(write_tar(tmp_path / "a.tar", {"0.png": png(0), "1.png": png(1), "1.txt": b"one"}))
    assert images.captions == (None, "one")
    assert images.history == ("tar a.tar: 2 images, 1 of them with captions",)


def test_a_text_beside_images_that_have_none_is_no_caption(tmp_path):
    images = open_images(write_tar(tmp_path / "a.tar", {"README.txt": b"read me", "0.png": png(0)}))
    assert images.captions is None
    assert images.history[1] == "1 other file skipped (README.txt)"


def test_splits_in_a_tar_are_chosen_and_have_their_folders_as_classes(tmp_path):
    names = ["set/train/cat/0.png", "set/train/dog/1.png", "set/val/cat/2.png"]
    path = write_tar(tmp_path / "a.tgz", {name: png(index) for index, name in enumerate(names)}, mode="w:gz")
    with pytest.raises(UserError, match=r"train \(2 images\), val \(1 image\).*--split train"):
        open_images(path)
    images = open_images(path, split="train")
    assert (images.labels.tolist(), images.class_names) == ([0, 1], ("cat", "dog"))
    np.testing.assert_array_equal(open_images(path, split="val").images, PLANES[2:3])


def test_shards_of_several_splits_are_not_read_together(tmp_path):
    folder = write_shards(tmp_path / "shards", 2)
    write_shards(folder, 1, split="val")
    with pytest.raises(UserError, match=r"train \(2 shards\), val \(1 shard\).*--split train"):
        open_images(folder)
    images = open_images(folder, split="train")
    assert len(images) == 8
    assert images.history[1] == "split train: 2 of 3 shard files (not read: val 1)"


def _refused(source, words, **options):
    with pytest.raises(UserError, match=words) as caught:
        open_images(source, **options)
    assert "\n" not in str(caught.value)


def test_a_missing_shard_is_named(tmp_path):
    folder = write_shards(tmp_path / "shards")
    (folder / "train-001.tar").unlink()
    _refused(f"{folder}/train-{{000..002}}.tar", "1 of 3 shards are missing; the first is .*train-001.tar")
    _refused(folder, "of its shards 0 to 2, 1 is missing")


def test_a_last_shard_that_is_missing_is_noticed_where_names_tell_their_number(tmp_path):
    for name in ("a-00000-of-00003.tar", "a-00001-of-00003.tar"):
        write_tar(tmp_path / "set" / name, {"0.png": png(0)})
    _refused(tmp_path / "set", "of its shards 0 to 2, 2 is missing")


@pytest.mark.parametrize("packed", [False, True])
def test_a_tar_that_was_cut_short_anywhere_is_never_taken_for_whole(tmp_path, packed):
    whole = write_tar(tmp_path / "a.tar", {"0.png": png(0), "1.png": png(1)}).read_bytes()
    end = whole.rindex(b"IEND") + 512
    places = range(10, end // 512 * 512, 512) if not packed else range(30, 300, 40)
    whole = gzip.compress(whole) if packed else whole
    for place in [*places, *([] if packed else [1024, 2048])]:
        (tmp_path / "cut.tar").write_bytes(whole[:place])
        with pytest.raises(UserError, match=r"cut\.tar"):
            open_images(tmp_path / "cut.tar")


def test_a_gzip_whose_checksum_is_wrong_is_refused(tmp_path):
    content = bytearray(write_tar(tmp_path / "a.tar.gz", {"0.png": png(0)}, mode="w:gz").read_bytes())
    content[-8] ^= 1
    (tmp_path / "a.tar.gz").write_bytes(content)
    _refused(tmp_path / "a.tar.gz", r"a\.tar\.gz: CRC")


def test_two_images_of_one_key_are_refused_by_name(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"x/0.png": png(0), "x/0.jpg": png(1)})
    _refused(path, r"x/0\.png and x/0\.jpg are two images of the one key x/0")


def test_a_label_without_an_image_and_an_image_without_a_label_are_refused(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"0.png": png(0), "0.cls": b"1", "1.cls": b"2"})
    _refused(path, r"1\.cls describes no image")
    path = write_tar(tmp_path / "b.tar", {"0.png": png(0), "0.cls": b"1", "1.png": png(1)})
    _refused(path, r"1 image of 2 have no label where others have one; the first is 1\.png")


def test_labels_that_are_names_in_one_shard_and_numbers_in_another_are_refused(tmp_path):
    write_tar(tmp_path / "s" / "a-0.tar", {"0.png": png(0), "0.cls": b"3"})
    write_tar(tmp_path / "s" / "a-1.tar", {"1.png": png(1), "1.cls": b"cat"})
    _refused(
        tmp_path / "s",
        r"some labels are names \(a-1\.tar/1\.png: cat\), others numbers \(a-0\.tar/0\.png: 3\)",
    )


def test_two_labels_of_one_key_are_refused(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"0.png": png(0), "0.cls": b"1", "0.json": b'{"label": 2}'})
    _refused(path, "0 has two labels, 1 and 2")


def test_a_member_that_is_no_image_is_named_with_its_shard(tmp_path):
    write_tar(tmp_path / "s" / "a-0.tar", {"0.png": png(0)})
    write_tar(tmp_path / "s" / "a-1.tar", {"1.png": b"<html>"})
    _refused(tmp_path / "s", r"s: a-1\.tar/1\.png: it is an HTML page")


@pytest.mark.parametrize("name", ["../0.png", "/0.png", "a/../../0.png", "C:/0.png"])
def test_a_member_whose_name_leaves_the_archive_is_refused(tmp_path, name):
    _refused(write_tar(tmp_path / "a.tar", {name: png(0)}), "points outside of the archive")


@pytest.mark.parametrize(("kind", "words"), [(tarfile.SYMTYPE, "a link"), (tarfile.CHRTYPE, "of the kind")])
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind, words):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("0.png")
        info.type, info.linkname = kind, "elsewhere"
        archive.addfile(info)
    _refused(tmp_path / "a.tar", f"member '0.png' is {words}")


def test_a_gzip_that_unpacks_to_far_more_is_refused(tmp_path):
    path = write_tar(tmp_path / "a.tar.gz", {"0.png": bytes(40 * 2**20)}, mode="w:gz")
    _refused(path, "decompression bomb")


def test_readings_apply_to_members_of_a_tar(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"0.png": encoded(PIXELS[0, :, :2]), "1.png": png(1)})
    _refused(path, r"0\.png is 2 x 4 but 1\.png is 4 x 4")
    assert open_images(path, reading=Reading(fit="crop", resolution=2)).shape == (3, 2, 2)


def test_a_member_that_claims_too_many_bytes_is_named_with_its_shard(tmp_path):
    info = tarfile.TarInfo("a.png")
    info.size = 300 * 2**20
    path = tmp_path / "shard.tar"
    with path.open("wb") as stream:
        stream.write(info.tobuf(tarfile.USTAR_FORMAT))
        stream.truncate(2 * 512 + info.size + 1024)
    _refused(path, r"shard\.tar: a\.png is refused: it has 314,572,800 bytes")

import json

import numpy as np
import pytest
from data_builders import encoded, image_set, process_seconds

from diffmem.data import open_images, write_images
from diffmem.data.formats.listing import read_listing
from diffmem.data.formats.sidecars import read_sidecars
from diffmem.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)


def put(folder, images, texts):
    """Put images, and texts as bytes or text, into a folder."""
    for name, pixels in zip(images, PIXELS, strict=False):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(pixels))
    for name, text in texts.items():
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def test_kohyas_folders_give_captions_and_repeats_and_no_classes(tmp_path):
    folder = put(
        tmp_path / "set",
        ["10_sks dog/a.png", "10_sks dog/b.png", "2_dog/c.png"],
        {"10_sks dog/a.txt": "sks dog, grass\n", "2_dog/c.caption": "a dog"},
    )
    images = open_images(folder)
    assert images.labels is None
    assert images.repeats.tolist() == [10, 10, 2]
    # An image without a text is trained on with the rest of its folder's name.
    assert images.captions == ("sks dog, grass", "sks dog", "a dog")
    assert images.history[1:] == (
        "captions of the texts beside the images; folders N_name are repeats, not classes",
        "1 image of 3 without a caption, which is the rest of the folder's name",
    )


def test_a_folder_above_kohyas_folders_changes_nothing_and_folders_beside_them_are_told(tmp_path):
    put(tmp_path / "a", ["img/5_cat/a.png", "img/2_dog/b.png"], {"img/5_cat/a.txt": "cat"})
    (tmp_path / "a" / "log").mkdir()
    images = open_images(tmp_path / "a")
    assert (images.labels, images.captions) == (None, ("dog", "cat"))
    assert images.repeats.tolist() == [2, 5]
    for name, folders in {"b": ("5_cat", "dog"), "c": ("img/5_cat", "reg/1_cat")}.items():
        folder = put(tmp_path / name, [f"{one}/a.png" for one in folders], {f"{folders[0]}/a.txt": "cat"})
        mixed = open_images(folder)
        assert (mixed.repeats, mixed.class_names) == (None, tuple(one.partition("/")[0] for one in folders))
        assert any("not all folders are N_name" in line for line in mixed.history)


def test_texts_beside_images_are_captions_in_any_folder(tmp_path):
    images = open_images(
        put(tmp_path / "set", ["a.png", "b.png"], {"a.txt": "one\ntwo", "readme.txt": "of all"})
    )
    assert (images.captions, images.repeats, images.labels) == (("one", None), None, None)
    assert images.history[1:] == (
        "1 other file skipped (readme.txt)",
        "captions of the texts beside the images",
        "1 image of 2 without a caption, which is none",
        "1 text of several lines, of which the first is the caption",
    )


def test_folders_with_a_number_stay_classes_without_texts_and_with_a_zero(tmp_path):
    plain = open_images(put(tmp_path / "a", ["1_cat/a.png", "2_dog/b.png"], {}))
    assert (plain.class_names, plain.captions, plain.repeats) == (("1_cat", "2_dog"), None, None)
    zero = open_images(put(tmp_path / "b", ["0_cat/a.png", "1_dog/b.png"], {"0_cat/a.txt": "cat"}))
    assert (zero.class_names, zero.captions, zero.repeats) == (("0_cat", "1_dog"), ("cat", None), None)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_caption_is_utf8_or_utf16_with_its_mark(tmp_path, encoding):
    folder = put(tmp_path / "set", ["a.png"], {"a.txt": "café, 犬".encode(encoding)})
    assert open_images(folder).captions == ("café, 犬",)


def test_only_the_ends_that_other_programs_know_end_a_line(tmp_path):
    folder = put(tmp_path / "set", ["a.png", "b.png"], {"a.txt": "a\u2028hat\x0c!\u0085", "b.txt": "b\rc"})
    assert open_images(folder).captions == ("a\u2028hat\x0c!", "b")


def test_an_empty_caption_is_counted_and_kept(tmp_path):
    images = open_images(
        put(tmp_path / "set", ["1_a/a.png", "1_a/b.png"], {"1_a/a.txt": " \n", "1_a/b.txt": "b"})
    )
    assert images.captions == ("", "b")
    assert "1 caption empty" in images.history


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"1_a/a.txt": "x", "1_a/c.txt": "y"}, r"1 caption of no image \(1_a/c.txt\)"),
        ({"1_a/a.txt": "x", "1_a/a.caption": "y"}, "an image has two captions"),
        ({"1_a/a.txt": "é".encode("latin-1")}, "1_a/a.txt is no text in UTF-8 or UTF-16"),
        ({"1_a/a.txt": "abc".encode("utf-16-le")}, "1_a/a.txt holds zero bytes"),
        ({"1_a/a.txt": "x" * (2**20 + 1)}, "1_a/a.txt is refused: it has 1,048,577 bytes"),
    ],
)
def test_texts_that_cannot_be_right_are_refused(tmp_path, texts, message):
    with pytest.raises(UserError, match=message):
        open_images(put(tmp_path / "set", ["1_a/a.png", "1_a/b.png"], texts))


def test_the_same_caption_in_two_files_is_one_and_two_images_may_share_a_text(tmp_path):
    folder = put(tmp_path / "set", ["1_a/a.png", "1_a/a.bmp"], {"1_a/a.txt": "x", "1_a/a.caption": "x\n"})
    assert open_images(folder).captions == ("x", "x")


def test_metadata_comes_before_texts(tmp_path):
    folder = put(tmp_path / "set", ["1_a/a.png"], {"1_a/a.txt": "beside"})
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "1_a/a.png", "text": "listed"}))
    images = open_images(folder)
    assert (images.captions, images.repeats) == (("listed",), None)
    assert "1 other file skipped (1_a/a.txt)" in images.history


def test_an_image_that_is_called_a_text_is_an_image(tmp_path):
    folder = put(tmp_path / "set", ["a.png", "b.txt"], {"a.txt": "a"})
    images = open_images(folder)
    assert (images.names, images.captions) == (("a.png", "b.txt"), ("a", None))


def test_a_link_to_a_text_outside_is_not_followed(tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    folder = put(tmp_path / "set", ["a.png"], {})
    (folder / "a.txt").symlink_to(tmp_path / "secret.txt")
    assert open_images(folder).captions is None


def test_metadata_in_utf16_is_read(tmp_path):
    folder = put(tmp_path / "set", ["a.png"], {})
    (folder / "metadata.csv").write_text("file_name,text\na.png,café\n", encoding="utf-16")
    assert open_images(folder).captions == ("café",)
    (folder / "list.csv").write_text("file_name,text\na.png,café\n", encoding="utf-16")
    assert open_images(folder / "list.csv").captions == ("café",)


@pytest.mark.parametrize("repeats", ["0", "x", "1.5"])
def test_repeats_in_metadata_are_whole_numbers_from_1_on(tmp_path, repeats):
    folder = put(tmp_path / "set", ["a.png"], {"metadata.csv": f"file_name,repeats\na.png,{repeats}\n"})
    with pytest.raises(UserError, match="not a whole number from 1 on"):
        open_images(folder)


def captioned():
    from dataclasses import replace

    return replace(
        image_set(4, (3, 4, 5), 0), captions=("a", "b\nc", "", "ü"), repeats=np.array([1, 5, 5, 2])
    )


@pytest.mark.parametrize("name", ["a.zip", "a.npz", "a.npy", "folder"])
def test_captions_and_repeats_are_read_as_they_were_written(tmp_path, name):
    write_images(captioned(), tmp_path / name, form="imagefolder" if name == "folder" else None)
    read = open_images(tmp_path / name)
    assert (read.captions, read.repeats.tolist()) == (captioned().captions, [1, 5, 5, 2])
    assert read.fingerprint == captioned().fingerprint


def test_a_set_with_repeats_is_written_as_kohyas_folders(tmp_path):
    write_images(captioned(), tmp_path / "set")
    files = {str(path.relative_to(tmp_path / "set")) for path in (tmp_path / "set").rglob("*.txt")}
    assert files == {f"{n}_images/img0000000{at}.txt" for at, n in enumerate([1, 5, 5, 2])}
    read = open_images(tmp_path / "set")
    assert read.captions == ("a", "ü", "b c", "")  # in the order of the folders; the first line alone counts
    assert read.repeats.tolist() == [1, 2, 5, 5]
    assert read.history[0] == "made by a test"
    np.testing.assert_array_equal(read.images, captioned().images[[0, 3, 1, 2]])


def test_kohyas_folders_need_a_caption_for_each_image_and_a_folder(tmp_path):
    with pytest.raises(UserError, match="all of 12 have none"):
        write_images(image_set(), tmp_path / "set", form="kohya")
    assert not (tmp_path / "set").exists()
    with pytest.raises(UserError, match="the form kohya is for a folder"):
        write_images(captioned(), tmp_path / "a.zip", form="kohya")


def test_a_hundred_thousand_captions_of_a_list_take_little_longer_than_their_json(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text(
        "".join(f'{{"file_name": "{n}.png", "text": "a photo of {n}"}}\n' for n in range(100_000))
    )
    seconds, found = process_seconds(lambda: read_listing(path))
    plain, _ = process_seconds(lambda: [json.loads(line) for line in path.read_text().splitlines()])
    assert len(found.captions) == 100_000
    assert seconds < 5 * plain  # it is 2.4; 0.4 s, and five times would be 0.8 s


def test_ten_thousand_texts_take_little_longer_than_their_files(tmp_path):
    names = [f"{n}.png" for n in range(10_000)]
    for name in names:
        (tmp_path / f"{name[:-4]}.txt").write_text(f"a photo of {name}")
    texts = [f"{name[:-4]}.txt" for name in names]
    seconds, found = process_seconds(lambda: read_sidecars(tmp_path, names, names, texts, []))
    plain, _ = process_seconds(lambda: [(tmp_path / text).read_text() for text in texts])
    assert found.captions[7] == "a photo of 7.png"
    assert seconds < 5 * plain  # it is 1; 0.14 s

import csv
import json

import datasets
import numpy as np
import pytest
from data_builders import encoded

from diffmem.data import Reading, open_images
from diffmem.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
PLANES = PIXELS.transpose(0, 3, 1, 2)


def put(folder, *names):
    for name, pixels in zip(names, PIXELS, strict=False):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(pixels))
    return folder


def described(folder, rows, kind="jsonl"):
    """Describe the images of a folder as Hugging Face's imagefolder has it."""
    path = folder / f"metadata.{kind}"
    if kind == "jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    else:
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return folder


ROWS = [
    {"file_name": "b.png", "text": "a cat,\nasleep", "label": 1},
    {"file_name": "in/a.png", "text": "a dog", "label": 0},
]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_metadata_gives_captions_and_labels_as_datasets_reads_them(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = described(put(tmp_path / "set", "b.png", "in/a.png"), ROWS, kind)
    images = open_images(folder)
    assert images.names == ("b.png", "in/a.png")
    assert images.captions == ("a cat,\nasleep", "a dog")
    assert images.labels.tolist() == [1, 0]
    theirs = datasets.load_dataset(
        "imagefolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "c")
    )
    found = {row["text"]: (np.asarray(row["image"]).tolist(), row["label"]) for row in theirs}
    for caption, label, planes in zip(images.captions, images.labels, images.images, strict=True):
        assert found[caption] == (planes.transpose(1, 2, 0).tolist(), label)


def test_sub_folders_are_no_classes_where_metadata_describes_the_images(tmp_path):
    rows = [{"file_name": f"images/{index}.png", "caption": str(index), "width": 4} for index in range(2)]
    images = open_images(described(put(tmp_path / "set", "images/0.png", "images/1.png"), rows))
    assert images.labels is None
    assert images.history == (
        "folder set: 2 images, with captions",
        "labels and captions of metadata.jsonl, not of sub-folders",
        "1 column of metadata.jsonl not read (width)",
    )


def test_each_split_has_its_metadata(tmp_path):
    folder = put(tmp_path / "set", "train/0.png", "test/0.png")
    for split in ("train", "test"):
        described(folder / split, [{"file_name": "0.png", "text": f"of {split}"}])
    assert open_images(folder, split="test").captions == ("of test",)
    # One file for both, above them.
    for split in ("train", "test"):
        (folder / split / "metadata.jsonl").unlink()
    described(folder, [{"file_name": f"{split}/0.png", "text": f"in {split}"} for split in ("train", "test")])
    assert open_images(folder, split="train").captions == ("in train",)


def _refused(source, words, **options):
    with pytest.raises(UserError, match=words) as caught:
        open_images(source, **options)
    assert "\n" not in str(caught.value)


def test_an_entry_without_an_image_and_an_image_without_an_entry_are_refused(tmp_path):
    folder = described(put(tmp_path / "set", "b.png"), ROWS)
    _refused(folder, r"metadata\.jsonl describes in/a\.png, which is not there")
    described(put(folder, "b.png", "in/a.png", "in/c.png"), ROWS)
    _refused(folder, r"1 image of 3 have no entry in metadata\.jsonl; the first is in/c\.png")


def test_an_image_that_is_described_twice_is_refused(tmp_path):
    folder = described(put(tmp_path / "set", "b.png"), [ROWS[0], ROWS[0]])
    _refused(folder, r"b\.png is described twice")


@pytest.mark.parametrize(
    "text", ["{", "[]", '"a"', "{}", '{"file_name": 3}', '{"file_name": "b.png", "text": 3}']
)
def test_metadata_that_is_damaged_is_refused_in_one_line(tmp_path, text):
    put(tmp_path / "set", "b.png")
    (tmp_path / "set" / "metadata.jsonl").write_text(f"\n{text}\n")
    _refused(tmp_path / "set", r"metadata\.jsonl")


def test_labels_that_are_names_in_some_rows_and_numbers_in_others_are_refused(tmp_path):
    rows = [ROWS[0], ROWS[1] | {"label": "dog"}]
    _refused(described(put(tmp_path / "set", "b.png", "in/a.png"), rows), "some labels are names")


def lines(path, *rows):
    path.write_text("".join(f"{row}\n" for row in rows))
    return path


def test_a_csv_of_path_and_label_is_read_in_its_order(tmp_path):
    put(tmp_path, "x/0.png", "y/1.png")
    for text in (
        ["path,label", "y/1.png,dog", "x/0.png,cat"],
        ["y/1.png;dog", "x/0.png;cat"],
        ["\ufefffile\tclass", "./y/1.png\tdog", "x\\0.png\tcat"],
    ):
        images = open_images(lines(tmp_path / "list.csv", *text))
        np.testing.assert_array_equal(images.images, PLANES[[1, 0]])
        assert (images.labels.tolist(), images.class_names) == ([1, 0], ("cat", "dog"))
    assert images.names == ("y/1.png", "x/0.png")
    assert images.history == ("list list.csv: 2 images in 2 classes",)


def test_a_file_that_is_listed_twice_is_read_twice(tmp_path):
    put(tmp_path, "0.png")
    images = open_images(lines(tmp_path / "a.csv", "path,label", "0.png,3", "0.png,3"))
    assert images.labels.tolist() == [3, 3]
    np.testing.assert_array_equal(images.images[0], images.images[1])


def test_json_lines_are_a_source_too(tmp_path):
    described(put(tmp_path, "b.png", "in/a.png"), ROWS[::-1])
    assert open_images(tmp_path / "metadata.jsonl").captions == ("a dog", "a cat,\nasleep")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["path,label", "../0.png,1"], "leaves the folder"),
        (["path,label", "/etc/passwd,1"], "leaves the folder"),
        (["path,label", "https://x.org/0.png,1"], "is a URL"),
        (["path,label", "2.png,1"], r"lists 2\.png, which is not there"),
        (["path,label", "0.png"], "1 cells but the first has 2"),
        (["path,label", "0.png,1.5"], "the label 1.5 is neither"),
        (["path,label", "0.png,1", "1.png,"], r"have no label where others have one; the first is 1\.png"),
        (["path,label"], "lists no images"),
        (["a,b,c", "0.png,1,2"], "no column of image paths: its first line is a,b,c"),
        (["path,path", "0.png,1"], "two of its columns have one name"),
    ],
)
def test_a_csv_that_lists_something_else_is_refused(tmp_path, rows, words):
    _refused(lines(put(tmp_path, "0.png", "1.png") / "a.csv", *rows), words)


def test_links_out_of_the_folder_are_followed_only_if_asked_for_and_said(tmp_path):
    put(tmp_path, "else/0.png", "set/x/1.png", "set/x/2.png")
    (tmp_path / "set" / "x" / "0.png").symlink_to(tmp_path / "else" / "0.png")
    (tmp_path / "set" / "y").symlink_to(tmp_path / "else")
    (tmp_path / "set" / "x" / "3.png").symlink_to("1.png")  # inside: read anyway
    _refused(tmp_path / "set", "--follow-links")
    images = open_images(tmp_path / "set", reading=Reading(follow_links=True))
    np.testing.assert_array_equal(images.images, PLANES[[0, 1, 2, 1, 0]])
    assert images.class_names == ("x", "y")
    assert images.history[1] == "2 links to folders, or out of set, followed"
    _refused(lines(tmp_path / "set" / "a.csv", "path", "x/0.png"), "leads out of .*--follow-links")
    images = open_images(tmp_path / "set" / "a.csv", reading=Reading(follow_links=True))
    assert images.history[1] == "1 link out of set followed"


@pytest.mark.parametrize("target", [".", "..", "../..", "../../set/x"])
def test_links_in_a_circle_are_refused(tmp_path, target):
    put(tmp_path, "set/x/0.png")
    (tmp_path / "set" / "x" / "again").symlink_to(target)
    _refused(tmp_path / "set", "leads in a circle", reading=Reading(follow_links=True))


def test_a_link_to_itself_is_refused(tmp_path):
    put(tmp_path, "set/0.png")
    (tmp_path / "set" / "1.png").symlink_to("1.png")
    for follow in (False, True):
        _refused(tmp_path / "set", r"1\.png", reading=Reading(follow_links=follow))

import json

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_builders import encoded
from PIL import Image

from diffmem.data import Reading, open_images
from diffmem.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 3), dtype=np.uint8)
PLANES = PIXELS.transpose(0, 3, 1, 2)
FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=["cat", "dog"]),
        "text": datasets.Value("string"),
    }
)


PATH_ONLY = pa.array(
    [{"bytes": None, "path": "/data/0.png"}], pa.struct({"bytes": pa.binary(), "path": pa.string()})
)


@pytest.fixture(autouse=True)
def _quiet():
    datasets.disable_progress_bars()


def of_datasets(places=range(8), features=FEATURES, **columns):
    """Return a set as the library datasets has it: images, two classes and captions."""
    rows = {
        "image": [Image.fromarray(PIXELS[place]) for place in places],
        "label": [place % 2 for place in places],
        "text": [f"number {place}" for place in places],
    }
    rows = {key: value for key, value in (rows | columns).items() if key in features}
    return datasets.Dataset.from_dict(rows, features=features)


def plain(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def pngs(count=2):
    return [encoded(PIXELS[index]) for index in range(count)]


def check_whole(images):
    np.testing.assert_array_equal(images.images, PLANES)
    assert images.labels.tolist() == [place % 2 for place in range(8)]
    assert images.class_names == ("cat", "dog")
    assert images.captions == tuple(f"number {place}" for place in range(8))


def test_a_parquet_that_datasets_wrote_is_read_with_classes_and_captions(tmp_path):
    of_datasets().to_parquet(tmp_path / "a.parquet")
    images = open_images(tmp_path / "a.parquet")
    check_whole(images)
    assert images.names[3] == "a.parquet[3]"
    assert images.history == ("parquet a.parquet: 8 images in 2 classes, with captions",)


def test_shards_of_parquet_as_the_hub_has_them_are_read_by_split(tmp_path):
    for number in range(2):
        of_datasets(range(4 * number, 4 * number + 4)).to_parquet(
            tmp_path / f"data/train-0000{number}-of-00002.parquet"
        )
    check_whole(open_images(tmp_path))
    check_whole(open_images(f"{tmp_path}/data/train-{{00000..00001}}-of-00002.parquet"))
    of_datasets([7]).to_parquet(tmp_path / "data/test-00000-of-00001.parquet")
    _refused(tmp_path, r"test \(1 shard\), train \(2 shards\)")
    check_whole(open_images(tmp_path, split="train"))
    assert len(open_images(tmp_path, split="test")) == 1
    (tmp_path / "data/train-00001-of-00002.parquet").unlink()
    _refused(tmp_path, "of its shards 0 to 1, 1 is missing", split="train")


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_a_column_of_plain_bytes_is_read(tmp_path, compression):
    table = pa.table({"jpg": pngs(), "cls": ["b", "a"], "caption": ["x", None], "key": ["0", "1"]})
    pq.write_table(table, tmp_path / "a.parquet", compression=compression, row_group_size=1)
    images = open_images(tmp_path / "a.parquet")
    np.testing.assert_array_equal(images.images, PLANES[:2])
    assert (images.labels.tolist(), images.class_names) == ([1, 0], ("a", "b"))
    assert images.captions == ("x", None)
    assert images.history[1] == "1 other column not read (key)"


def test_paths_of_images_are_in_their_names(tmp_path):
    rows = [{"bytes": content, "path": f"{index}.png"} for index, content in enumerate(pngs())]
    assert open_images(plain(tmp_path / "a.parquet", image=rows)).names == (
        "a.parquet[0] 0.png",
        "a.parquet[1] 1.png",
    )


def _refused(source, words, **options):
    with pytest.raises(UserError, match=words) as caught:
        open_images(source, **options)
    assert "\n" not in str(caught.value)


def test_a_table_of_urls_is_refused_in_one_line(tmp_path):
    path = plain(tmp_path / "a.parquet", url=["https://x.org/0.jpg"], caption=["x"])
    _refused(path, r"holds no images but their URLs \(column 'url'\)")


def test_several_columns_of_images_or_of_classes_are_chosen_by_key(tmp_path):
    one, two = pngs()
    path = plain(tmp_path / "a.parquet", front=[one], back=[two])
    _refused(path, r"several columns of images: back, front.*--key images=front")
    images = open_images(path, reading=Reading(images_key="back"))
    np.testing.assert_array_equal(images.images, PLANES[1:2])
    classes = datasets.ClassLabel(names=["a", "b"])
    features = datasets.Features({"image": datasets.Image(), "fine": classes, "coarse": classes})
    of_datasets([0], features, fine=[1], coarse=[0]).to_parquet(tmp_path / "b.parquet")
    _refused(tmp_path / "b.parquet", r"several columns of classes: coarse, fine.*--key labels=fine")
    assert open_images(tmp_path / "b.parquet", reading=Reading(labels_key="coarse")).labels.tolist() == [0]
    assert open_images(tmp_path / "b.parquet", reading=Reading(labels_key="none")).labels is None
    for key in ("images_key", "labels_key"):
        _refused(tmp_path / "b.parquet", "no column", reading=Reading(**{key: "other"}))


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"x": [1, 2]}, "no column of images"),
        ({"image": [None, b""]}, "row 0 has no bytes of an image"),
        ({"image": PATH_ONLY}, "row 0 has no bytes of an image in 'image', at most the path"),
        ({"image": [b"<html>"]}, r"a\.parquet\[0\]: it is an HTML page"),
        ({"image": pngs(), "label": [1.5, 2.0]}, "the label 1.5 is neither"),
        ({"image": pngs(), "label": [1, None]}, r"1 image of 2 have no label where others have one; the first is a\.parquet\[1\]"),
    ],
)  # fmt: skip
def test_a_table_that_holds_something_else_is_refused(tmp_path, columns, words):
    _refused(plain(tmp_path / "a.parquet", **columns), words)


def test_tables_of_unequal_columns_are_no_one_set(tmp_path):
    plain(tmp_path / "a-0.parquet", image=pngs(1), label=[0])
    plain(tmp_path / "a-1.parquet", image=pngs(1), label=["cat"])
    _refused(tmp_path, r"some labels are names \(a-1\.parquet\[0\]: cat\), others numbers")
    plain(tmp_path / "a-1.parquet", image=pngs(1))
    _refused(tmp_path, r"a-1\.parquet has other columns, types or classes than a-0\.parquet")


def test_a_parquet_that_was_cut_short_is_refused(tmp_path):
    content = plain(tmp_path / "a.parquet", image=pngs()).read_bytes()
    for end in (8, len(content) // 2, len(content) - 1):
        (tmp_path / "cut.parquet").write_bytes(content[:end])
        _refused(tmp_path / "cut.parquet", r"cut\.parquet")


def test_a_set_that_datasets_saved_is_read(tmp_path):
    of_datasets().save_to_disk(tmp_path / "saved", num_shards=2)
    images = open_images(tmp_path / "saved")
    check_whole(images)
    assert images.history == ("datasets saved: 8 images in 2 classes, with captions",)
    assert images.names[7] == "data-00001-of-00002.arrow[3]"


def test_a_choice_of_a_saved_set_is_read_as_it_was_chosen(tmp_path):
    of_datasets().select([5, 2]).save_to_disk(tmp_path / "saved")
    np.testing.assert_array_equal(open_images(tmp_path / "saved").images, PLANES[[5, 2]])


def test_saved_splits_are_chosen(tmp_path):
    splits = {"train": of_datasets(), "test": of_datasets([1, 2]), "mine": of_datasets([3])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    _refused(tmp_path / "saved", "--split train")
    images = open_images(tmp_path / "saved", split="train")
    check_whole(images)
    assert images.history[1] == "split train (not read: test, mine)"
    assert len(open_images(tmp_path / "saved", split="mine")) == 1
    assert len(open_images(tmp_path / "saved" / "test")) == 2


def test_the_cache_of_datasets_is_read(tmp_path):
    source = tmp_path / "source" / "a.parquet"
    of_datasets().to_parquet(source)
    datasets.load_dataset("parquet", data_files=str(source), cache_dir=str(tmp_path / "cache"))
    check_whole(open_images(tmp_path / "cache"))
    (arrow,) = (tmp_path / "cache").rglob("*.arrow")
    check_whole(open_images(arrow.parent))
    info = json.loads((arrow.parent / "dataset_info.json").read_text())
    info["splits"]["train"]["num_examples"] = 9
    (arrow.parent / "dataset_info.json").write_text(json.dumps(info))
    _refused(arrow.parent, "hold 8 rows, and dataset_info.json tells of 9")


def test_a_saved_set_that_was_cut_short_is_refused(tmp_path):
    of_datasets().save_to_disk(tmp_path / "saved")
    (arrow,) = (tmp_path / "saved").glob("*.arrow")
    content = arrow.read_bytes()
    for end in (8, len(content) // 2, len(content) - 8, len(content) - 1):
        arrow.write_bytes(content[:end])
        _refused(tmp_path / "saved", r"\.arrow")
    arrow.unlink()
    _refused(tmp_path / "saved", "is missing")


@pytest.mark.parametrize("name", ["../x.arrow", "/x.arrow", "", 3])
def test_a_saved_set_whose_files_lie_elsewhere_is_refused(tmp_path, name):
    of_datasets().save_to_disk(tmp_path / "saved")
    state = json.loads((tmp_path / "saved" / "state.json").read_text())
    state["_data_files"] = [{"filename": name}]
    (tmp_path / "saved" / "state.json").write_text(json.dumps(state))
    _refused(tmp_path / "saved", "is no name of a file beside it")


def test_without_pyarrow_a_table_says_how_it_is_read(tmp_path, monkeypatch):
    path = plain(tmp_path / "a.parquet", image=pngs())
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    _refused(path, r"pip install 'diffmem\[parquet\]'")

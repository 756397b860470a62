"""Each row of the table in docs/how-to/read-my-data.md is run: the set is written as it says, and read with what it says."""

import csv
import json
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from data_builders import encoded, write_zip

from diffmem.data import Reading, open_images, write_images

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "read-my-data.md"
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 4, 4, 3), dtype=np.uint8)
PLANES = PIXELS.transpose(0, 3, 1, 2)
LABELS, CAPTIONS = [0, 1, 0, 1], ("a", "b", "c", "d")


def folder(place, names):
    for name, pixels in zip(names, PIXELS, strict=True):
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(pixels))
    return place


def plain(place):
    return folder(place / "photos", ["0.png", "1.png", "2.png", "3.png"])


def classes(place):
    return folder(place / "photos", ["cat/0.png", "cat/1.png", "dog/2.png", "dog/3.png"])


def rows():
    return [{"file_name": f"{k}.png", "label": LABELS[k], "text": CAPTIONS[k]} for k in range(4)]


def metadata(place):
    (plain(place) / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows()))
    return place / "photos"


def texts(place):
    for k, caption in enumerate(CAPTIONS):
        (plain(place) / f"{k}.txt").write_text(f"{caption}\n")
    return place / "photos"


def kohya(place):
    names = ["10_sks dog/0.png", "10_sks dog/1.png", "1_dog/2.png", "1_dog/3.png"]
    made = folder(place / "photos", names)
    for name, caption in zip(names, CAPTIONS, strict=True):
        (made / name).with_suffix(".caption").write_text(caption)
    # Folders are read in sorted order.
    (made / "1_dog").rename(made / "20_dog")
    return made


def listed(place):
    with (plain(place) / "list.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["file_name", "label", "text"])
        writer.writeheader()
        writer.writerows(rows())
    return place / "photos" / "list.csv"


def zipped(place):
    labels = [[f"{k}.png", LABELS[k]] for k in range(4)]
    return write_zip(place / "photos.zip", {f"{k}.png": encoded(PIXELS[k]) for k in range(4)}, labels)


def tarred(place):
    with tarfile.open(place / "photos.tar.gz", "w:gz") as archive:
        for file in sorted(plain(place).iterdir()):
            archive.add(file, file.name)
    return place / "photos.tar.gz"


def shards(place):
    (place / "shards").mkdir()
    for shard in range(2):
        with webdataset.TarWriter(str(place / "shards" / f"train-{shard:03d}.tar")) as sink:
            for k in (2 * shard, 2 * shard + 1):
                sink.write({"__key__": str(k), "png": PIXELS[k], "cls": LABELS[k], "txt": CAPTIONS[k]})
    return place / "shards"


def of_datasets(places=range(4)):
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(2), "text": datasets.Value("string")}
    )
    columns = {"image": [PIXELS[k] for k in places], "label": [LABELS[k] for k in places]}
    return datasets.Dataset.from_dict(columns | {"text": [CAPTIONS[k] for k in places]}, features=features)


def parquet(place):
    columns = {"image": [encoded(pixels) for pixels in PIXELS], "label": LABELS, "caption": CAPTIONS}
    pq.write_table(pa.table(columns), place / "train.parquet")
    return place / "train.parquet"


def of_the_hub(place):
    for shard in range(2):
        part = of_datasets([2 * shard, 2 * shard + 1])
        part.to_parquet(place / "hub" / "data" / f"train-{shard:05d}-of-00002.parquet")
    return place / "hub"


def saved(place):
    of_datasets().save_to_disk(place / "saved")
    return place / "saved"


def cached(place):
    source = of_the_hub(place) / "data"
    datasets.load_dataset("parquet", data_files=f"{source}/*.parquet", cache_dir=str(place / "cache"))
    return place / "cache"


ROWS = {
    "`photos/` a folder of images": (plain, None, None),
    "`photos/cat/…`, `photos/dog/…`": (classes, [0, 0, 1, 1], None),
    "`photos/metadata.jsonl` or `.csv` (imagefolder)": (metadata, LABELS, CAPTIONS),
    "`photos/0.png` with `0.txt` or `0.caption`": (texts, None, CAPTIONS),
    "`photos/10_sks dog/0.png` with `0.txt` or `0.caption` (kohya)": (kohya, None, CAPTIONS),
    "`list.csv`, `list.jsonl` of paths and labels": (listed, LABELS, CAPTIONS),
    "`photos.zip`": (zipped, LABELS, None),
    "`photos.tar`, `photos.tar.gz`": (tarred, None, None),
    "`train-{000..012}.tar` (WebDataset)": (lambda place: f"{shards(place)}/train-{{000..001}}.tar", LABELS, CAPTIONS),
    "`shards/` a folder of tars": (shards, LABELS, CAPTIONS),
    "`train.parquet`": (parquet, LABELS, CAPTIONS),
    "`data/train-00000-of-00002.parquet` (the Hub's)": (of_the_hub, LABELS, CAPTIONS),
    "`saved/` by `save_to_disk` of `datasets`": (saved, LABELS, CAPTIONS),
    "the cache of `datasets`, `<set>/<config>/<version>/<hash>/`": (cached, LABELS, CAPTIONS),
}  # fmt: skip


def test_the_table_has_the_rows_that_are_run():
    page = PAGE.read_text()
    lines = page[page.index("| on disk |") :].split("\n\n", 1)[0].splitlines()[2:]
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines] == list(ROWS)


@pytest.mark.parametrize("row", ROWS)
def test_a_row_of_the_table_is_read_as_it_says(tmp_path, row):
    datasets.disable_progress_bars()
    make, labels, captions = ROWS[row]
    source = make(tmp_path)
    images = open_images(source)
    np.testing.assert_array_equal(images.images, PLANES)
    assert (None if images.labels is None else images.labels.tolist()) == labels
    assert images.captions == captions
    for ending in ("zip", "npz", "npy"):
        write_images(images, tmp_path / f"built.{ending}")
        built = open_images(tmp_path / f"built.{ending}")
        assert (built.fingerprint, built.captions) == (images.fingerprint, captions)
    small = open_images(source, reading=Reading(fit="crop", resolution=2))
    assert small.shape == (3, 2, 2)

"""What the tests of `data` build their inputs with."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from diffmem.data import ImageSet, open_images
from diffmem.errors import UserError

WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


def image_set(count=12, shape=(3, 4, 5), classes=3, seed=0, named=True):
    """Return a set of random images whose labels cycle through the classes; no labels for 0 classes."""
    images = np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)
    labels = np.arange(count) % classes if classes else None
    class_names = tuple(f"class {k}" for k in range(classes)) if classes and named else None
    return ImageSet(
        images, labels, tuple(f"image {i}" for i in range(count)), class_names, ("made by a test",)
    )


@st.composite
def image_sets(draw):
    """Any small set: grey or RGB, with or without labels, any names."""
    count = draw(st.integers(1, 6))
    shape = (draw(st.sampled_from([1, 3])), draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    size = count * shape[0] * shape[1] * shape[2]
    pixels = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), np.uint8).reshape(count, *shape)
    labels, class_names = None, None
    if draw(st.booleans()):
        dtype = draw(st.sampled_from([np.int64, np.int32, np.uint8]))
        labels = np.array(draw(st.lists(st.integers(0, 6), min_size=count, max_size=count)), dtype)
        class_names = draw(st.none() | st.lists(WORDS, min_size=7, max_size=8).map(tuple))
    names = tuple(draw(st.lists(WORDS, min_size=count, max_size=count)))
    captions = draw(st.none() | st.lists(st.none() | WORDS, min_size=count, max_size=count).map(tuple))
    history = tuple(draw(st.lists(WORDS, max_size=2)))
    return ImageSet(pixels, labels, names, class_names, history, captions=captions)


def encoded(pixels, kind="PNG", **options):
    """Return the bytes of an image file. `pixels` is an array (H, W) or (H, W, C), or a Pillow image."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def write_zip(path, members, labels=..., method=zipfile.ZIP_STORED):
    """Write a zip of members {name: bytes}, with `dataset.json` if labels are given."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        if labels is not ...:
            archive.writestr("dataset.json", json.dumps({"labels": labels}))
    return path


def idx_bytes(array):
    """Return an array of unsigned bytes in the IDX format."""
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + np.ascontiguousarray(array, np.uint8).tobytes()


CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def cifar_parts(per_batch=4, seed=0):
    """Return the dictionaries of a synthetic CIFAR-10, by file name."""
    rng = np.random.default_rng(seed)
    parts = {}
    for name in [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]:
        labels = rng.integers(0, 10, per_batch).tolist()
        parts[name] = {
            b"batch_label": name.encode(),
            b"labels": labels,
            b"data": rng.integers(0, 256, (per_batch, 3072), dtype=np.uint8),
            b"filenames": [f"{CLASSES[label]}_{name}_{row}.png".encode() for row, label in enumerate(labels)],
        }
    parts["batches.meta"] = {b"label_names": [name.encode() for name in CLASSES], b"num_vis": 3072}
    return parts


def write_tar(path, members, mode="w:gz"):
    """Write a tar of members {name: bytes or TarInfo}."""
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_cifar(path, parts, mode="w:gz", dump=None):
    """Write an archive of the official layout from dictionaries (or bytes that stand for pickles)."""
    dump = dump or (lambda content: pickle.dumps(content, protocol=2))
    members = {
        f"cifar-10-batches-py/{name}": part if isinstance(part, bytes) else dump(part)
        for name, part in parts.items()
    }
    return write_tar(path, members, mode)


def python2_pickle(content):
    """Return what Python 2 with NumPy 1 pickles by protocol 2: byte strings as strings, numpy.core names."""
    if isinstance(content, dict):
        inside = b"".join(python2_pickle(key) + python2_pickle(value) for key, value in content.items())
        return b"}(" + inside + b"u"
    if isinstance(content, list):
        return b"](" + b"".join(map(python2_pickle, content)) + b"e"
    if isinstance(content, bytes):
        return (
            b"U" + bytes([len(content)]) + content
            if len(content) < 256
            else b"T" + struct.pack("<i", len(content)) + content
        )
    if isinstance(content, int):
        return b"J" + struct.pack("<i", content)
    assert isinstance(content, np.ndarray)
    shape = b"".join(map(python2_pickle, content.shape))
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    start = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    return start + b"(K\x01(" + shape + b"t" + dtype + b"\x89" + python2_pickle(content.tobytes()) + b"tb"


def opens_or_explains(path):
    """Open the file; a `UserError` that names it is fine, any other exception is not."""
    told = None
    try:
        images = open_images(Path(path))
    except UserError as error:
        told = str(error)
    if told is None:
        assert images.images.dtype == np.uint8
    else:
        assert path.name in told
        assert "\n" not in told


def damaged(content):
    """Random damage to a file: bytes cut off at the end, or some bits flipped."""
    cut = st.integers(0, len(content) - 1).map(lambda length: content[:length])

    def flip(places):
        changed = bytearray(content)
        for place in places:
            changed[place // 8] ^= 1 << place % 8
        return bytes(changed)

    flips = st.lists(st.integers(0, 8 * len(content) - 1), min_size=1, max_size=4).map(flip)
    return st.one_of(cut, flips)


CIFAR100_CLASSES = {"fine": [f"fine {k}" for k in range(100)], "coarse": [f"coarse {k}" for k in range(20)]}


def cifar100_parts(count=6, seed=0):
    """Return the dictionaries of a synthetic CIFAR-100, by file name; as it is published, label k of fine is k // 5 of coarse here."""
    rng = np.random.default_rng(seed)
    parts = {}
    for name in ("train", "test"):
        fine = rng.integers(0, 100, count).tolist()
        parts[name] = {
            b"filenames": [f"{name}_{row}.png".encode() for row in range(count)],
            b"batch_label": f"{name} batch 1 of 1".encode(),
            b"fine_labels": fine,
            b"coarse_labels": [label // 5 for label in fine],
            b"data": rng.integers(0, 256, (count, 3072), dtype=np.uint8),
        }
    parts["meta"] = {
        f"{kind}_label_names".encode(): [name.encode() for name in names]
        for kind, names in CIFAR100_CLASSES.items()
    }
    return parts


def write_cifar100(path, parts, mode="w:gz"):
    """Write an archive of the official layout, its folder first, from dictionaries."""
    folder = tarfile.TarInfo("cifar-100-python")
    folder.type = tarfile.DIRTYPE
    members = {f"cifar-100-python/{name}": pickle.dumps(part, 2) for name, part in parts.items()}
    return write_tar(path, {"cifar-100-python": folder, **members}, mode)


STL10_CLASSES = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]


def stl10_files(images, labels, split="train"):
    """Return the files of STL-10 for images (N, 3, 96, 96) and labels 0 to 9, by the layout of its page: column-major planes."""
    return {
        f"{split}_X.bin": np.ascontiguousarray(images.transpose(0, 1, 3, 2)).tobytes(),
        f"{split}_y.bin": (np.asarray(labels) + 1).astype(np.uint8).tobytes(),
        "class_names.txt": "".join(f"{name}\n" for name in STL10_CLASSES).encode(),
    }


def process_seconds(work):
    """The seconds that this process computes at something, and what it returns; machines differ, so compare with other work."""
    before = time.process_time()
    found = work()
    return time.process_time() - before, found

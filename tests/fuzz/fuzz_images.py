"""What is fuzzed of the readers of images and of networks of EDM: a good file of every kind; see `fuzz_harness`."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from data_builders import (
    cifar100_parts,
    cifar_parts,
    encoded,
    idx_bytes,
    python2_pickle,
    stl10_files,
    write_cifar,
    write_tar,
)
from fuzz_harness import Harness, in_file, in_folder
from PIL import Image
from scipy.io import savemat

from diffmem.data import Reading, open_images
from diffmem.data.formats.cifar10 import load_dictionary
from diffmem.data.formats.guards import in_one_line

__all__ = ["COLOUR", "GREY", "IMAGES"]

SMALLEST: dict[str, Any] = {"channels": 4, "multipliers": (1,), "blocks": 1, "attention": ()}
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 4), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (5, 4, 3), dtype=np.uint8)


def _in_zip(member: str, name: str, others: dict[str, bytes]) -> Callable[[bytes, Path], Path]:
    def place(content: bytes, folder: Path) -> Path:
        with zipfile.ZipFile(folder / name, "w") as archive:
            for other, good in others.items():
                archive.writestr(other, good)
            archive.writestr(member, content)
        return folder / name

    return place


def _beside(content: bytes, folder: Path) -> Path:
    path = folder / "images.npy"
    path.write_bytes(NPY[0])
    _in_zip("names_ends.npy", "images.meta.npz", META)(content, folder)
    return path


def right_crcs(content: bytes) -> bytes:
    """Return a PNG with the CRC of each chunk set right, as far as its lengths lead."""
    whole, place = bytearray(content), 8
    while place + 12 <= len(whole):
        end = place + 8 + struct.unpack_from(">I", whole, place)[0]
        if end + 4 > len(whole):
            break
        struct.pack_into(">I", whole, end, zlib.crc32(bytes(whole[place + 4 : end])))
        place = end + 4
    return bytes(whole)


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=False)
    return stream.getvalue()


def _npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def _zip(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("_", "."), content)
    return stream.getvalue()


def _animated(kind: str) -> bytes:
    frames = [Image.fromarray(COLOUR), Image.fromarray(COLOUR[::-1].copy())]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


def _tar() -> bytes:
    path = Path(_SCRATCH.name) / "cifar.tar"
    write_cifar(path, {name: {b"label_names": [b"a"]} for name in ("batches.meta", "data_batch_1")}, "w:")
    return path.read_bytes()


def _batch_folder(content: bytes, folder: Path) -> Path:
    inside = folder / "cifar-10-batches-py"
    inside.mkdir(exist_ok=True)
    for name, part in CIFAR.items():
        (inside / name).write_bytes(pickle.dumps(part, 2))
    (inside / "test_batch").write_bytes(content)
    return inside


def _open_test(path: Path) -> object:
    return open_images(path, "test")


def _open_otherwise(path: Path) -> object:
    reading = Reading(alpha="black", exif="apply", white=4095, pages="all", fit="pad", resolution=4)
    return open_images(path, reading=reading)


def _open_floats(path: Path) -> object:
    return open_images(
        path, reading=Reading(images_key="pixels", labels_key="target", range="0..1", layout="hwc")
    )


def _open_float_npy(path: Path) -> object:
    return open_images(path, reading=Reading(range="0..1"))


def _mat(**options: bool) -> bytes:
    stream = io.BytesIO()
    savemat(stream, {"X": COLOUR[..., None], "y": np.array([[10]], np.uint8)}, **options)
    return stream.getvalue()


def _stl10_tar() -> bytes:
    path = Path(_SCRATCH.name) / "stl10.tar"
    return write_tar(
        path, {f"stl10_binary/{name}": content for name, content in STL10.items()}, "w:"
    ).read_bytes()


def _in_set(folder_name: str, name: str, others: dict[str, bytes]) -> Callable[[bytes, Path], Path]:
    def place(content: bytes, folder: Path) -> Path:
        inside = folder / folder_name
        inside.mkdir(exist_ok=True)
        for other, good in (others | {name: content}).items():
            (inside / other).write_bytes(good)
        return inside

    return place


def _load_dictionary(path: Path) -> object:
    with in_one_line():
        return load_dictionary(path.read_bytes(), path.name)


def _open_edm_pickle(path: Path) -> object:
    from diffmem.models.pretrained.edm_pickle import open_edm_pickle

    return open_edm_pickle(path)


def _load_denoiser(path: Path) -> object:
    from diffmem.models import load_denoiser

    return load_denoiser(path)


def _snapshot() -> bytes:
    from models_tools import tiny

    from diffmem.models import ModelConfig, save_denoiser

    path = Path(_SCRATCH.name) / "net.safetensors"
    save_denoiser(tiny(size=4, **SMALLEST), ModelConfig(**SMALLEST), path)
    return path.read_bytes()


def right_digest(content: bytes) -> bytes:
    """Return a snapshot whose header records the digest of its tensors, where it can be read at all."""
    from safetensors import safe_open

    from diffmem.models.weights import _digest

    path = Path(_SCRATCH.name) / "changed.safetensors"
    path.write_bytes(content)
    try:
        with safe_open(path, framework="pt") as file:
            recorded = dict(file.metadata() or {})["sha256"]
            digest = _digest({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 - not a mapping
    except Exception:  # then the reader must say so
        return content
    return content.replace(recorded.encode(), digest.encode())


def _edm2() -> tuple[bytes, ...]:
    from edm2_builder import ARGUMENTS, snapshot2, state_of
    from edm_pickle_builder import pickled, saved

    arguments = ARGUMENTS | {"channel_mult": [1], "img_resolution": 4, "attn_resolutions": []}
    whole = snapshot2(state_of(arguments), arguments)
    return pickled(whole, 4), pickled(whole, 2), saved(whole, True)


def _edm() -> tuple[bytes, ...]:
    from edm_pickle_builder import pickled, saved, snapshot
    from models_tools import tiny

    config = {
        "class_name": "VPPrecond", "model_type": "SongUNet", "model_channels": 4, "img_resolution": 4, "img_channels": 3,
        "label_dim": 0, "channel_mult": [1], "num_blocks": 1, "attn_resolutions": [],
    }  # fmt: skip
    whole = snapshot(tiny(size=4, **SMALLEST).state_dict(), config)
    return pickled(whole, 4), pickled(whole, 2), saved(whole, True), saved(whole, False)


_SCRATCH = tempfile.TemporaryDirectory(prefix="diffmem-fuzz-")
CIFAR = cifar_parts(2)
NPY = tuple(_npy(array) for array in (COLOUR[None].transpose(0, 3, 1, 2).copy(), GREY[None], COLOUR[None]))
META = {
    "names_utf8.npy": _npy(np.frombuffer(b"name", np.uint8)),
    "labels.npy": _npy(np.array([1])),
    "class_names.npy": _npy(np.array(["a", "b"])),
}
ENDS = _npy(np.array([4], np.int64))
LISTED = json.dumps(
    {"labels": [["a.png", 1]], "class_names": ["x", "y"], "names": ["one"], "history": ["made"]}
)
CIFAR100 = {name: pickle.dumps(part, 2) for name, part in cifar100_parts(2).items()}
STL10 = stl10_files(RNG.integers(0, 256, (1, 3, 96, 96), dtype=np.uint8), [3])
FLOATS = COLOUR[None] / np.float32(255)
PNGS = (
    encoded(GREY),
    encoded(COLOUR),
    encoded(Image.fromarray(COLOUR).quantize(4), transparency=1),
    encoded(np.dstack([COLOUR, GREY]), dpi=(72, 72), icc_profile=b"profile" * 9),
    encoded(GREY.astype(np.uint16) * 257),
    _animated("PNG"),
)
IMAGES: dict[str, Harness] = {
    "npz": Harness((_npz(images=COLOUR[None], labels=np.array([1])),), in_file("x.npz"), open_images),
    "npz-images": Harness(NPY, _in_zip("images.npy", "x.npz", {"labels.npy": META["labels.npy"]}), open_images),
    "npz-names": Harness(
        (_npy(np.array(["a name"])),), _in_zip("names.npy", "x.npz", {"images.npy": NPY[0]}), open_images
    ),
    "npy": Harness(NPY, in_file("images.npy"), open_images),
    "npy-meta": Harness((ENDS,), _beside, open_images),
    "idx": Harness((idx_bytes(GREY[None]),), in_file("train-images-idx3-ubyte"), open_images),
    "idx-gz": Harness(
        (gzip.compress(idx_bytes(GREY[None]), mtime=0),), in_file("train-images-idx3-ubyte.gz"), open_images
    ),
    "zip": Harness(
        (_zip(a_png=PNGS[1], dataset_json=LISTED.encode()), _zip(a_jpg=encoded(COLOUR, "JPEG"))), in_file("x.zip"), open_images
    ),
    "zip-json": Harness((LISTED.encode(),), _in_zip("dataset.json", "x.zip", {"a.png": PNGS[1]}), open_images),
    "png": Harness(PNGS, in_folder("x.png", right_crcs), open_images),
    "jpeg": Harness(
        (
            encoded(COLOUR, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0", comment=b"words"),
            encoded(COLOUR, "JPEG", progressive=True, icc_profile=b"profile" * 9),
            encoded(Image.fromarray(COLOUR).convert("CMYK"), "JPEG"),
        ),
        in_folder("x.jpg"),
        open_images,
    ),
    "gif": Harness((_animated("GIF"), encoded(GREY, "GIF", comment=b"words")), in_folder("x.gif"), open_images),
    "bmp": Harness(
        (encoded(GREY, "BMP"), encoded(COLOUR, "BMP"), encoded(np.dstack([COLOUR, GREY]), "BMP")),
        in_folder("x.bmp"),
        open_images,
    ),
    "tiff": Harness(
        (
            *(encoded(COLOUR, "TIFF", compression=kind) for kind in (None, "tiff_lzw", "tiff_deflate", "jpeg")),
            encoded(GREY.astype(np.uint16) * 257, "TIFF"),
        ),
        in_folder("x.tif"),
        open_images,
    ),
    "webp": Harness(
        (encoded(COLOUR, "WEBP"), encoded(COLOUR, "WEBP", lossless=True), _animated("WEBP")), in_folder("x.webp"), open_images
    ),
    "avif": Harness(
        (encoded(COLOUR, "AVIF"), _animated("AVIF"), encoded(np.dstack([COLOUR, GREY]), "AVIF", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0")),
        in_folder("x.avif"),
        open_images,
    ),
    "pnm": Harness(
        (
            encoded(COLOUR, "PPM"),
            encoded(GREY, "PPM"),
            b"P3\n1 2\n255\n1 2 3 4 5 6\n",
            b"P5\n5 4\n4095\n" + GREY.astype(">u2").tobytes(),
        ),
        in_folder("x.ppm"),
        open_images,
    ),
    "pages": Harness(
        (
            *(_animated(kind) for kind in ("TIFF", "GIF", "PNG", "WEBP", "AVIF")),
            encoded(COLOUR, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0"),
        ),
        in_folder("x.tif"),
        _open_otherwise,
    ),
    "nameless": Harness((encoded(COLOUR), encoded(COLOUR, "JPEG"), encoded(COLOUR, "BMP")), in_folder("x"), open_images),
    "npz-labels": Harness(
        (_npy(np.array([["a name"]])), _npy(np.eye(3)[:1]), _npy(np.array([b"name"])), _npy(np.array([[2]]))),
        _in_zip("labels.npy", "x.npz", {"images.npy": NPY[0]}),
        open_images,
        200,
    ),
    "npz-floats": Harness((_npz(pixels=FLOATS, target=np.array([1])),), in_file("x.npz"), _open_floats, 200),
    "npy-floats": Harness((_npy(FLOATS), _npy(FLOATS.astype(">f8"))), in_file("images.npy"), _open_float_npy, 200),
    "npz-splits": Harness(
        (_npy(GREY[None]), _npy(COLOUR[None])), _in_zip("test_images.npy", "x.npz", {"train_images.npy": NPY[1]}), open_images, 200
    ),
    "mat": Harness((_mat(), _mat(do_compression=True)), in_file("train_32x32.mat"), open_images, 200),
    "cifar100": Harness((CIFAR100["train"],), _in_set("cifar-100-python", "train", CIFAR100), open_images, 200),
    "cifar100-meta": Harness((CIFAR100["meta"],), _in_set("cifar-100-python", "meta", CIFAR100), open_images, 200),
    "stl10": Harness((STL10["train_X.bin"],), _in_set("stl10_binary", "train_X.bin", STL10), open_images, 200),
    "stl10-labels": Harness((STL10["train_y.bin"],), _in_set("stl10_binary", "train_y.bin", STL10), open_images, 200),
    "stl10-names": Harness((STL10["class_names.txt"],), _in_set("stl10_binary", "class_names.txt", STL10), open_images, 200),
    "stl10-tar": Harness((_stl10_tar(),), in_file("stl10_binary.tar"), open_images, 200),
    "tar": Harness((_tar(),), in_file("cifar-10-python.tar"), open_images),
    "batch": Harness(
        (pickle.dumps(CIFAR["test_batch"], 2), b"\x80\x02" + python2_pickle(CIFAR["test_batch"]) + b"."),
        _batch_folder,
        _open_test,
    ),
    "pickle-machine": Harness(
        tuple(pickle.dumps({"data": [np.zeros((2, 3), np.uint8), 1, "text", b"bytes", (None, True)]}, protocol) for protocol in (2, 4)),
        in_file("batch"),
        _load_dictionary,
    ),
    "snapshot": Harness((_snapshot(),), in_file("net.safetensors", right_digest), _load_denoiser),
    "edm-pickle": Harness(_edm(), in_file("network-snapshot-000000.pkl"), _open_edm_pickle),
    "edm2-pickle": Harness(_edm2(), in_file("network-snapshot-0000000-0.050.pkl"), _open_edm_pickle),
}  # fmt: skip
"""By kind."""

"""What is fuzzed of the readers of encoded members: tars, tables and lists; see `fuzz_harness`."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from data_builders import encoded
from fuzz_harness import Harness, in_file, in_folder
from fuzz_images import COLOUR, GREY

from diffmem.data import open_images

__all__ = ["MEMBERS"]

PNGS = (encoded(COLOUR), encoded(COLOUR[::-1].copy()))


def _tar(kind: int, **members: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=kind) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name.replace("_", "."))
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()[: -(-(stream.tell()) // 512) * 512]


def right_checksums(content: bytes) -> bytes:
    """Return a tar with the checksum of each block that may be a header set right."""
    whole = bytearray(content)
    for place in range(0, len(whole) - 511, 512):
        block = whole[place : place + 512]
        if block[257:262] == b"ustar":
            block[148:156] = b" " * 8
            whole[place + 148 : place + 156] = b"%06o\0 " % sum(block)
    return bytes(whole)


_TEXTS = {"a_cls": b"1", "a_txt": b"words", "a_json": b'{"label": 1, "caption": "words"}'}
_LONG = {"x" * 120 + "_png": PNGS[0]}
_TARS = (
    _tar(tarfile.USTAR_FORMAT, a_png=PNGS[0], **_TEXTS),
    _tar(tarfile.GNU_FORMAT, **_LONG),
    _tar(tarfile.PAX_FORMAT, **_LONG),
)

_TABLE = pa.table(
    {
        "image": pa.array([{"bytes": png, "path": "a.png"} for png in PNGS]),
        "label": [0, 1],
        "text": ["words", None],
    }
).replace_schema_metadata(
    {
        "huggingface": '{"info": {"features": {"image": {"_type": "Image"}, "label": {"names": ["a", "b"], "_type": "ClassLabel"}}}}'
    }
)


def _parquet(table: pa.Table, **options: object) -> bytes:
    stream = io.BytesIO()
    pq.write_table(table, stream, **options)
    return stream.getvalue()


def _arrow() -> bytes:
    stream = io.BytesIO()
    with pa.ipc.new_stream(stream, _TABLE.schema) as writer:
        writer.write_table(_TABLE)
    return stream.getvalue()


def _saved(name: str, others: dict[str, bytes]) -> Callable[[bytes, Path], Path]:
    def place(content: bytes, folder: Path) -> Path:
        inside = folder / "saved by datasets"
        inside.mkdir(exist_ok=True)
        for other, good in (others | {name: content}).items():
            (inside / other).write_bytes(good)
        return inside

    return place


def _with_images(name: str) -> Callable[[bytes, Path], Path]:
    def place(content: bytes, folder: Path) -> Path:
        for file in ("a.png", "b.png"):
            inside = in_folder(file)(PNGS[0], folder)
        (inside / name).write_bytes(content)
        return inside if name.startswith("metadata") else inside / name

    return place


_STATE = b'{"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": "train"}'
_INFO = b"{}"
_ARROW = _arrow()
_SAVED = {"data-00000-of-00001.arrow": _ARROW, "state.json": _STATE, "dataset_info.json": _INFO}
MEMBERS: dict[str, Harness] = {
    "tar-members": Harness(_TARS, in_file("x.tar", right_checksums), open_images),
    "tar-gz": Harness((gzip.compress(_TARS[0], mtime=0),), in_file("x.tar.gz"), open_images),
    "parquet": Harness(
        (
            _parquet(_TABLE),
            _parquet(_TABLE, compression="zstd", row_group_size=1),
            _parquet(pa.table({"jpg": [encoded(GREY, "JPEG")], "cls": ["a"]}), use_dictionary=False),
        ),
        in_file("x.parquet"),
        open_images,
    ),
    "arrow": Harness((_ARROW,), _saved("data-00000-of-00001.arrow", _SAVED), open_images),
    "state": Harness((_STATE,), _saved("state.json", _SAVED), open_images),
    "metadata": Harness(
        (
            b'{"file_name": "a.png", "label": 1, "text": "x"}\n{"file_name": "b.png", "label": 2, "text": "y"}\n',
        ),
        _with_images("metadata.jsonl"),
        open_images,
    ),
    "csv": Harness(
        (b"path,label,caption\na.png,cat,x\nb.png,dog,y\n",), _with_images("list.csv"), open_images
    ),
}

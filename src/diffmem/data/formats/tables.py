"""Tables with a column of encoded images: Parquet, and the Arrow files of Hugging Face datasets; both through pyarrow.

Formats: Apache Parquet; Arrow IPC, "Streaming Format". A column of images is {bytes, path}, as Hugging Face datasets writes its
feature Image, or plain bytes. The entry `huggingface` of the schema's metadata tells the features: which columns are
images, and the names of classes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from diffmem.data.conversions import Conversion
from diffmem.data.formats.decoding import identity_of
from diffmem.data.formats.encoded import CAPTION_KEYS, LABEL_KEYS, Encoded, first_key, label_of
from diffmem.data.formats.files import named
from diffmem.data.formats.guards import MAX_FILE_BYTES, MAX_IMAGES, check_ratio
from diffmem.data.formats.guards import reading as as_text
from diffmem.data.reading import NO_LABELS, OPTIONS, Reading
from diffmem.errors import UserError
from diffmem.progress import Progress
from diffmem.text import count_text

__all__ = ["PARQUET_MAGIC", "encoded_rows"]

PARQUET_MAGIC = b"PAR1"
_ARROW_END = b"\xff\xff\xff\xff\0\0\0\0"
_PART_BYTES = 2**24  # of encoded images that are held at once
_MOST_ROWS = 1_000  # of a part
_MAX_TEXT = 64 * 2**20


class _Column(NamedTuple):
    """Where the images are.

    Attributes:
        name: Of the column.
        nested: Whether it is {bytes, path}.
        has_path: Whether the path is there.
    """

    name: str
    nested: bool
    has_path: bool


class _Parquet:
    """A Parquet file."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self.path = path
        self._file = pq.ParquetFile(path, pre_buffer=False)
        self.schema = self._file.schema_arrow
        metadata = self._file.metadata
        self.rows: int = metadata.num_rows
        size = path.stat().st_size
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        self._bytes = sum(max(0, group.total_byte_size) for group in groups)
        check_ratio(self._bytes, size, str(path))
        if not 0 <= self.rows <= size:
            raise UserError(f"{path} is refused: {size:,} bytes cannot hold {self.rows:,} images.")

    def batches(self, columns: Sequence[str], heavy: bool) -> Iterator[Any]:
        rows = _MOST_ROWS
        if heavy:
            rows = max(1, min(rows, _PART_BYTES * self.rows // max(1, self._bytes)))
        yield from self._file.iter_batches(batch_size=rows, columns=list(columns), use_threads=False)

    def close(self) -> None:
        self._file.close()


class _Arrow:
    """An Arrow file of the streaming format, as Hugging Face datasets writes them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - len(_ARROW_END)))
            if stream.read() != _ARROW_END:
                raise EOFError("its end is missing")
        reader = self._reader()
        self.schema = reader.schema
        self.rows = sum(batch.num_rows for batch in reader)

    def _reader(self) -> Any:
        import pyarrow as pa

        return pa.ipc.open_stream(pa.memory_map(str(self.path)))

    def batches(self, columns: Sequence[str], heavy: bool) -> Iterator[Any]:
        names = list(dict.fromkeys(name.partition(".")[0] for name in columns))
        for whole in self._reader():
            batch = whole.select(names)
            batch.validate(full=True)  # its offsets may point anywhere
            rows = (
                max(1, min(_MOST_ROWS, _PART_BYTES * batch.num_rows // max(1, batch.nbytes)))
                if heavy
                else _MOST_ROWS
            )
            for start in range(0, batch.num_rows, rows):
                yield batch.slice(start, rows)

    def close(self) -> None:
        """Nothing is kept open."""


class _Rows:
    """The images of some tables, read forwards."""

    def __init__(self, files: Sequence[Path], arrow: bool) -> None:
        self.files, self._kind = files, _Arrow if arrow else _Parquet
        self.counts: list[int] = []
        self.column = _Column("", False, False)
        self._next = 0
        self._rows: Iterator[bytes] | None = None

    def open(self, file: Path) -> _Parquet | _Arrow:
        _needs_pyarrow(file)
        return self._kind(file)

    def read(self, index: int) -> bytes:
        """Return the bytes of an image; ascending indices go through the tables once."""
        if self._rows is None or index < self._next:
            self._rows, self._next = self._contents(), 0
        while True:
            content = next(self._rows)
            self._next += 1
            if self._next > index:
                return content

    def _contents(self) -> Iterator[bytes]:
        for file, count in zip(self.files, self.counts, strict=True):
            done = 0
            with as_text(str(file)):
                table = self.open(file)
                try:
                    for batch in table.batches([_bytes_name(self.column)], heavy=True):
                        for content in _of_column(batch, self.column, "bytes"):
                            if not isinstance(content, bytes):
                                raise UserError(
                                    f"{file}: row {done} has no bytes of an image in {self.column.name!r}, at most the path of one."
                                    " Save the set with its images (datasets: save_to_disk), or name the folder that they are in."
                                )
                            if len(content) > MAX_FILE_BYTES:
                                raise UserError(
                                    f"{file}: row {done} is refused: it has {len(content):,} bytes; the limit is {MAX_FILE_BYTES:,}."
                                )
                            done += 1
                            yield content
                finally:
                    table.close()
                if done != count:
                    raise EOFError(f"{done:,} of {count:,} rows are there")


def encoded_rows(
    files: Sequence[Path],
    what: str,
    reading: Reading,
    progress: Progress,
    arrow: bool = False,
    conversions: tuple[Conversion, ...] = (),
) -> Encoded:
    """Return the images of tables of one schema, with labels and captions.

    The labels are the column that `labels_key` of the reading names, else the only one of classes (the feature ClassLabel), else
    `label`, `labels`, `class`, `cls` or `target`; captions are `text` or `caption`. No more than some 16 MiB of encoded images
    are held at a time, or one row group's pages.

    Args:
        files: The tables, in order.
        what: What they are together, for errors.
        reading: Names the columns where that has to be chosen.
        progress: Called now and then.
        arrow: Whether they are Arrow files, else Parquet.
        conversions: What was chosen among the files.

    Raises:
        UserError: pyarrow is not installed, a table is damaged or cut short, there is no column of images or several, or a
            column is of another type than its name says.
    """
    rows = _Rows(files, arrow)
    labels: list[int | str | None] = []
    captions: list[str | None] = []
    names: list[str] = []
    chosen: _Chosen | None = None
    held = 0
    for number, file in enumerate(files):
        with as_text(str(file)):
            table = rows.open(file)
            try:
                found = _choose(table, what if len(files) == 1 else str(file), reading)
                if chosen is not None and found != chosen:
                    raise UserError(
                        f"{file} has other columns, types or classes than {files[0].name}; they are no one set."
                    )
                chosen = found
                if sum(rows.counts) + table.rows > MAX_IMAGES:
                    raise UserError(f"{what} is refused: it has more than {MAX_IMAGES:,} images.")
                _describe(table, found, names, labels, captions)
                rows.counts.append(table.rows)
                held += file.stat().st_size
            finally:
                table.close()
        progress(number + 1, len(files), "looking through tables")
    assert chosen is not None
    rows.column = chosen.image
    if chosen.others:
        others = len(chosen.others)
        text = f"{count_text(others, 'other column')} not read ({named(list(chosen.others))})"
        conversions = (*conversions, Conversion("passed-over", "none", others, others + 1, text, False))
    return Encoded(
        names,
        rows.read,
        held,
        identity=identity_of(files),
        labels=labels if chosen.label is not None else None,
        captions=captions if chosen.caption is not None else None,
        class_names=chosen.class_names,
        conversions=conversions,
    )


class _Chosen(NamedTuple):
    """The columns that are read."""

    image: _Column
    label: str | None
    class_names: tuple[str, ...] | None
    caption: str | None
    others: tuple[str, ...]


def _choose(table: _Parquet | _Arrow, what: str, reading: Reading) -> _Chosen:
    schema = table.schema
    features = _features(schema)
    image = _image_column(table, features, what, reading)
    label, class_names = _label_column(schema, features, image.name, what, reading)
    texts = [field.name for field in schema if _is_text(field.type)]
    caption = first_key(CAPTION_KEYS, [name for name in texts if name not in (label, image.name)])
    others = tuple(name for name in schema.names if name not in (image.name, label, caption))
    return _Chosen(image, label, class_names, caption, others)


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """Return the features that Hugging Face datasets notes, by column; nothing where there are none."""
    noted = (schema.metadata or {}).get(b"huggingface")
    if noted is None or len(noted) > _MAX_TEXT:
        return {}
    said = json.loads(noted)
    for key in ("info", "features"):
        said = said.get(key) if isinstance(said, dict) else None
    if not isinstance(said, dict):
        return {}
    return {name: feature for name, feature in said.items() if isinstance(feature, dict)}


def _image_column(
    table: _Parquet | _Arrow, features: dict[str, dict[str, Any]], what: str, reading: Reading
) -> _Column:
    import pyarrow.types as types

    columns: dict[str, _Column] = {}
    for field in table.schema:
        if types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            if _is_bytes(field.type.field("bytes").type):
                path = field.type.get_field_index("path")
                has_path = path >= 0 and _is_text(field.type.field("path").type)
                columns[field.name] = _Column(field.name, True, has_path)
        elif _is_bytes(field.type):
            columns[field.name] = _Column(field.name, False, False)
    meant = [name for name in columns if features.get(name, {}).get("_type") == "Image"] or list(columns)
    if reading.images_key is not None:
        if reading.images_key not in columns:
            raise UserError(
                f"{what} has no column of images {reading.images_key!r}; columns of images are {named(list(columns)) or 'none'}."
            )
        return columns[reading.images_key]
    if len(meant) == 1:
        return columns[meant[0]]
    if meant:
        raise UserError(
            f"{what} has several columns of images: {named(meant)}. Choose one: --key images={meant[0]} ({OPTIONS})."
        )
    urls = _url_column(table)
    if urls is not None:
        raise UserError(
            f"{what} holds no images but their URLs (column {urls!r}). Download them first, for example with img2dataset, and name"
            " what it makes."
        )
    raise UserError(
        f"{what} has no column of images: of encoded images as bytes, or {{bytes, path}}; it has {named(list(table.schema.names))}."
    )


def _url_column(table: _Parquet | _Arrow) -> str | None:
    texts = [field.name for field in table.schema if _is_text(field.type)]
    for batch in table.batches(texts, heavy=False) if texts else ():
        for name in texts:
            first = next((value for value in batch.column(name).to_pylist() if value), "")
            if first.startswith(("http://", "https://")):
                return str(name)
        break
    return None


def _label_column(
    schema: Any, features: dict[str, dict[str, Any]], image: str, what: str, reading: Reading
) -> tuple[str | None, tuple[str, ...] | None]:
    if reading.labels_key == NO_LABELS:
        return None, None
    classes = [name for name in schema.names if features.get(name, {}).get("_type") == "ClassLabel"]
    label = reading.labels_key
    if label is not None and label not in schema.names:
        raise UserError(f"{what} has no column {label!r} of labels; it has {named(list(schema.names))}.")
    if label is None and len(classes) > 1:
        raise UserError(
            f"{what} has several columns of classes: {named(classes)}. Choose one: --key labels={classes[0]} ({OPTIONS}); or none:"
            " labels=none."
        )
    if label is None:
        label = (
            classes[0] if classes else first_key(LABEL_KEYS, [name for name in schema.names if name != image])
        )
    names = features.get(label or "", {}).get("names")
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        return label, tuple(names)
    return label, None


def _describe(
    table: _Parquet | _Arrow,
    chosen: _Chosen,
    names: list[str],
    labels: list[int | str | None],
    captions: list[str | None],
) -> None:
    """Read all but the images."""
    image, row = chosen.image, 0
    columns = [name for name in (chosen.label, chosen.caption) if name is not None]
    columns += [f"{image.name}.path"] if image.has_path else []
    file = table.path.name
    if not columns:
        names += [f"{file}[{number}]" for number in range(table.rows)]
        return
    for batch in table.batches(columns, heavy=False):
        count = batch.num_rows
        paths: Sequence[str | None] = (
            list(_of_column(batch, image, "path")) if image.has_path else [None] * count
        )
        names += [f"{file}[{row + place}]" + (f" {path}" if path else "") for place, path in enumerate(paths)]
        if chosen.label is not None:
            values = batch.column(chosen.label).to_pylist()
            where = f"{table.path}: column {chosen.label!r}"
            labels += [value if type(value) is int else label_of(value, where) for value in values]
        if chosen.caption is not None:
            captions += batch.column(chosen.caption).to_pylist()
        row += count
    if row != table.rows:
        raise EOFError(f"{row:,} of {table.rows:,} rows are there")


def _of_column(batch: Any, column: _Column, part: str) -> list[Any]:
    """Return the values of a part of the images' column."""
    import pyarrow.compute as pc

    values = batch.column(column.name)
    return list((pc.struct_field(values, part) if column.nested else values).to_pylist())


def _bytes_name(column: _Column) -> str:
    return f"{column.name}.bytes" if column.nested else column.name


def _is_bytes(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _is_text(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_string(kind) or types.is_large_string(kind))


def _needs_pyarrow(path: Path) -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"{path} is read by pyarrow, which is not installed: pip install 'diffmem[parquet]'."
        ) from error

"""Peak memory of building and opening sets of very many small images, in a process of its own for each.

Writes PNGs of 32 x 32 pixels in EDM's layout as a zip, and as whatever else is asked for, then runs `diffmem data build` and
`diffmem data info` and prints, for each, the seconds, images per second, and the peak of the anonymous memory (RssAnon of Linux:
all but mapped files, whose pages the system drops when memory is short).

    python benchmarks/data_memory.py --count 1000000 --steps zip:npy npy:npy npy folder:npy tar:npy parquet:npy --folder /big/disk

A step is SOURCE:OUT (a build) or a form alone (`data info`); sources are made once, what is built serves later steps.
"""

from __future__ import annotations

import argparse
import io
import os
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

SIDE = 32
_ENDING = {"zip": ".zip", "npy": ".npy", "npz": ".npz", "tar": ".tar", "parquet": ".parquet", "folder": ""}
_BETWEEN = 0.02


def pngs(count: int) -> Iterator[bytes]:
    """Yield PNGs of one picture, each with its number in its first pixels, compressed at level 1."""
    rng = np.random.default_rng(0)
    rows = np.zeros((SIDE, 1 + 3 * SIDE), np.uint8)
    rows[:, 1:] = np.arange(SIDE)[:, None] * 4 + np.repeat(rng.integers(0, 64, (SIDE, 12)), 8, 1)
    content = bytearray(rows.tobytes())

    def chunk(kind: bytes, inside: bytes) -> bytes:
        return struct.pack(">I", len(inside)) + kind + inside + struct.pack(">I", zlib.crc32(kind + inside))

    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0))
    end = chunk(b"IEND", b"")
    for number in range(count):
        struct.pack_into(">Q", content, 1, number * 0x9E3779B97F4A7C15 % 2**64)
        yield head + chunk(b"IDAT", zlib.compress(bytes(content), 1)) + end


def write_zip(path: Path, count: int) -> None:
    """Write a zip in EDM's layout, with labels, without holding its directory as objects."""
    directory, labels, files = bytearray(), bytearray(), 0
    with path.open("wb") as stream:

        def add(name: bytes, content: bytes) -> None:
            nonlocal files
            offset, files = stream.tell(), files + 1
            facts = struct.pack(
                "<HHHIIIHH", 0, 0, 33, zlib.crc32(content), len(content), len(content), len(name), 0
            )
            stream.write(b"PK\3\4" + struct.pack("<HH", 20, 0) + facts + name + content)
            wide = offset > 0xFFFFFFFE
            facts = facts[:-2] + struct.pack("<HHHHII", 12 * wide, 0, 0, 0, 0, 0xFFFFFFFF if wide else offset)
            directory.extend(b"PK\1\2" + struct.pack("<HHH", 20, 20, 0) + facts + name)
            if wide:
                directory.extend(struct.pack("<HHQ", 1, 8, offset))

        for number, content in enumerate(pngs(count)):
            name = f"{number // 1000:05d}/img{number:08d}.png"
            labels.extend(f'{", " if number else ""}["{name}", {number % 10}]'.encode())
            add(name.encode(), content)
        add(b"dataset.json", b'{"labels": [' + labels + b"]}")
        start = stream.tell()
        stream.write(directory)
        end = stream.tell()
        stream.write(
            b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, files, files, len(directory), start)
        )
        stream.write(b"PK\6\7" + struct.pack("<IQI", 0, end, 1))
        few = min(files, 0xFFFF)
        stream.write(
            b"PK\5\6"
            + struct.pack(
                "<HHHHIIH", 0, 0, few, few, min(len(directory), 0xFFFFFFFF), min(start, 0xFFFFFFFF), 0
            )
        )


def write_source(form: str, path: Path, count: int) -> None:
    """Write the images in a form."""
    if form == "zip":
        write_zip(path, count)
    elif form == "npy":
        pixels = np.lib.format.open_memmap(path, "w+", np.uint8, (count, 3, SIDE, SIDE))
        rng = np.random.default_rng(0)
        for start in range(0, count, 10_000):
            part = pixels[start : start + 10_000]
            part[:] = rng.integers(0, 256, part.shape, np.uint8)
    elif form == "tar":
        with path.open("wb") as stream:
            for number, content in enumerate(pngs(count)):
                info = tarfile.TarInfo(f"{number:08d}.png")
                info.size = len(content)
                stream.write(info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512))
            stream.write(bytes(1024))
    elif form == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pa.schema(
            {"image": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "label": pa.int64()}
        )
        with pq.ParquetWriter(path, schema) as writer:
            rows: list[dict[str, object]] = []
            for number, content in enumerate(pngs(count)):
                rows.append({"image": {"bytes": content, "path": f"{number:08d}.png"}, "label": number % 10})
                if len(rows) == 1000 or number == count - 1:
                    writer.write_table(pa.Table.from_pylist(rows, schema))
                    rows = []
    else:
        for number, content in enumerate(pngs(count)):
            folder = path / f"{number // 1000:05d}"
            if number % 1000 == 0:
                folder.mkdir(parents=True)
            (folder / f"img{number:08d}.png").write_bytes(content)


def measured(command: list[str]) -> tuple[float, float, str]:
    """Run a command of diffmem; return its seconds, the peak of its anonymous memory in MB with its processes', and what it printed."""
    started, peak, text = time.monotonic(), 0.0, io.StringIO()
    with tempfile.TemporaryFile("w+") as printed:
        process = subprocess.Popen(
            [sys.executable, "-m", "diffmem", *command],
            stdout=printed,
            stderr=subprocess.STDOUT,
            env=os.environ | {"COLUMNS": "150"},
        )
        while process.poll() is None:
            peak = max(peak, sum(map(anonymous, family(process.pid))))
            time.sleep(_BETWEEN)
        printed.seek(0)
        text.write(printed.read())
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{text.getvalue()}")
    return time.monotonic() - started, peak, text.getvalue()


def family(process: int) -> list[int]:
    """Return a process and its children."""
    try:
        listed = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        listed = []
    return [process, *(one for child in listed for one in family(int(child)))]


def anonymous(process: int) -> float:
    """Return the anonymous memory of a process in MB; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1000 * 1.024 for line in lines if line.startswith("RssAnon")), 0.0)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=20_000, help="images")
    parser.add_argument(
        "--steps", nargs="+", default=["zip:npy", "npy:npy", "npy"], help="SOURCE:OUT, or a form alone"
    )
    parser.add_argument(
        "--folder", type=Path, help="where the sources are made once and kept; a temporary one if left out"
    )
    parser.add_argument(
        "--options", nargs="*", default=[], help="further words for every build, without their dashes"
    )
    options = parser.parse_args()
    if not sys.platform.startswith("linux"):
        sys.exit("RssAnon is told by Linux only.")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        kept = options.folder or Path(name)
        for step in options.steps:
            source, _, out = step.partition(":")
            path = kept / f"source-{options.count}{_ENDING[source]}"
            if not path.exists():
                write_source(source, path, options.count)
            command = ["data", "info", str(path)]
            if out:
                command = ["data", "build", str(path), str(Path(name) / f"out-{source}{_ENDING[out]}")]
                command += [f"--{word}" if not word.isdigit() else word for word in options.options]
            seconds, peak, printed = measured(command)
            rate = options.count / seconds
            print(
                f"{step:<12} {seconds:>7.1f} s  {rate:>8,.0f} images/s  {peak:>6.0f} MB at most", flush=True
            )
            fingerprint = next((line for line in printed.splitlines() if "fingerprint" in line), "")
            print(f"             {fingerprint.strip()[-110:]}", flush=True)


if __name__ == "__main__":
    main()

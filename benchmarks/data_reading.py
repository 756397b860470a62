"""Speed of reading many small encoded images, beside a plain loop of Pillow on as many processes.

Writes PNGs of 32 x 32 pixels as a folder, a tar and a Parquet file, then reads each in turns with the plain loop: every file opened,
`Image.open(...).convert("RGB")`, its pixels put into one array. Prints, for each, files per second (the best round) and the ratio of
the best rounds; a ratio of 1 is the loop's speed. The plain loop checks nothing: neither CRCs of pixels, nor sizes, nor links.

    python benchmarks/data_reading.py --count 10000 --rounds 3
    python benchmarks/data_reading.py --count 100000 --rounds 2 --processes 2 --forms folder

With several processes, the loop's are of `multiprocessing`, each reads a part of the files into shared memory; starting them counts on both
sides.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from math import prod
from mmap import mmap
from pathlib import Path

import numpy as np
from PIL import Image

from diffmem.data import open_images
from diffmem.data.formats.workers import decoding_processes

SIDE = 32


def encoded(count: int) -> list[bytes]:
    """Return PNGs of smooth random images, some 2 KB each as photographs of that size have."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    contents = []
    for image in coarse:
        stream = io.BytesIO()
        pixels = np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        noise = rng.integers(0, 8, pixels.shape, dtype=np.uint8)
        Image.fromarray(pixels // 2 + noise).save(stream, "PNG")
        contents.append(stream.getvalue())
    return contents


def write(folder: Path, contents: list[bytes]) -> dict[str, Path]:
    """Write the images in each form; Parquet only where pyarrow is installed."""
    made = {"folder": folder / "images", "tar": folder / "images.tar"}
    made["folder"].mkdir()
    names = [f"{index:06d}.png" for index in range(len(contents))]
    with tarfile.open(made["tar"], "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in zip(names, contents, strict=True):
            (made["folder"] / name).write_bytes(content)
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        return made
    made["parquet"] = folder / "images.parquet"
    pq.write_table(pa.table({"image": contents}), made["parquet"], row_group_size=1000)
    return made


def read_part(files: list[Path], start: int, pixels: np.ndarray) -> None:
    """Read some files into their places."""
    for index, file in enumerate(files, start):
        with Image.open(file) as image:
            pixels[index] = np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def plain_loop(folder: Path, processes: int) -> np.ndarray:
    """Read a folder as a short script would."""
    files = sorted(folder.iterdir())
    shape = len(files), 3, SIDE, SIDE
    # Shared with the processes that are forked.
    pixels = (
        np.empty(shape, np.uint8)
        if processes == 1
        else np.frombuffer(mmap(-1, prod(shape)), np.uint8).reshape(shape)
    )
    if processes == 1:
        read_part(files, 0, pixels)
        return pixels
    step = -(-len(files) // processes)
    context = multiprocessing.get_context("fork")
    parts = [
        context.Process(target=read_part, args=(files[start : start + step], start, pixels))
        for start in range(0, len(files), step)
    ]
    for part in parts:
        part.start()
    for part in parts:
        part.join()
    return pixels


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=10_000, help="images")
    parser.add_argument("--rounds", type=int, default=3, help="readings of each form, in turns")
    parser.add_argument("--processes", type=int, default=1, help="of the loop, and of the reading")
    parser.add_argument("--forms", nargs="+", default=["folder", "tar", "parquet"], help="which are read")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        made = write(Path(name), encoded(options.count))
        readers: dict[str, Callable[[], np.ndarray]] = {
            "plain loop": lambda: plain_loop(made["folder"], options.processes)
        }
        for form, path in made.items():
            if form in options.forms:
                readers[form] = lambda path=path: open_images(path).images
        best = dict.fromkeys(readers, float("inf"))
        expected = None
        for _ in range(options.rounds):
            for form, read in readers.items():
                started = time.perf_counter()
                with decoding_processes(options.processes):
                    images = read()
                best[form] = min(best[form], time.perf_counter() - started)
                expected = images if expected is None else expected
                if not np.array_equal(images, expected):
                    sys.exit(f"{form}: other pixels")
        for form, seconds in best.items():
            ratio = best["plain loop"] / seconds
            print(f"{form:<11} {options.count / seconds:>8,.0f} files/s  {ratio:.2f} of the plain loop")


if __name__ == "__main__":
    main()

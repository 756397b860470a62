"""The worst that files of unknown origin can be costs neither memory nor time before it is refused."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import hostile_files as make
import pytest
from data_builders import encoded, write_zip
from hostile_files import COLOUR, PNG, chunk
from parameters import amount

WORST = {
    "a long animation": lambda path: make.folder(
        path,
        x__png=make.png(
            4, 2**27, b"", chunk(b"acTL", struct.pack(">II", 2, 0)),
            chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 4, 2**27, 0, 0, 1, 1, 2, 0)),
        ),
    ),
    "1 GB of chunks": lambda path: make.folder(path) and make.sparse(path / "x.png", PNG[:33], 2**30) and path,
    "a large webp": lambda path: make.folder(
        path, x__webp=make.patched(encoded(COLOUR, "WEBP", lossless=True), 21, "<I", 0x0FFFBFFE)
    ),
    "many large webps": lambda path: make.bombs(path, 40),
    "a tile without end": lambda path: make.folder(path, x__tif=make.tiff_of_tiles(46_336)),
    "rows that are skipped": lambda path: make.folder(path, x__bmp=make.bmp_of_runs(60_000_000, 1, b"\0\2\xff\xff\0\1")),
    "tags that share their bytes": lambda path: make.folder(path, x__tif=make.table_of_tags(60_000, 500_000)),
    "an endless header": lambda path: make.sparse(path, b"\x93NUMPY\x02\0\xff\xff\xff\xff", 2**32),
    "an endless header in a zip": lambda path: make.zip_of_zeros(
        path, "images.npy", b"\x93NUMPY\x02\0" + struct.pack("<I", 2**28), 2**28
    ),
    "a set of too many images": lambda path: make.sparse(path, make.idx_header(10**9, 1, 1), 10**9),
    "an endless attribute in a tar": lambda path: make.tar_of_header(path, tarfile.XHDTYPE, 2**28),
    "an endless name in a tar": lambda path: make.tar_of_header(path, tarfile.GNUTYPE_LONGNAME, 2**28),
    "a tar of a million members": lambda path: make.tar_of_members(path, amount(100_000, 500_000)),
    "a description of lists": lambda path: write_zip(
        path, {"x.png": PNG, "dataset.json": b"[" + b"[]," * 20_000_000 + b"[]]"}, method=zipfile.ZIP_STORED
    ),
}  # fmt: skip

OPENER = """
import json, resource, sys, time
from diffmem.data import open_images
from diffmem.errors import UserError
import PIL.Image
PIL.Image.init()

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024

resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))
results = {}
for name, path in json.loads(sys.argv[1]).items():
    before, started = peak(), time.process_time()
    try:
        open_images(path)
        told = ""
    except UserError as error:
        told = str(error)
    results[name] = told, peak() - before, time.process_time() - started
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """What a process said to each of the worst, and what it cost in MiB and seconds."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the memory of a process is read from /proc")
    folder = tmp_path_factory.mktemp("worst")
    paths = {
        name: str(build(folder / f"source-{number}")) for number, (name, build) in enumerate(WORST.items())
    }
    done = subprocess.run(
        [sys.executable, "-c", OPENER, json.dumps(paths)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return {name: (paths[name], *told) for name, told in json.loads(done.stdout).items()}


@pytest.mark.thorough
@pytest.mark.parametrize("name", WORST)
def test_the_worst_cost_neither_memory_nor_time(opened, name):
    path, told, mebibytes, seconds = opened[name]
    assert "refused" in told or "Cannot read" in told
    make.one_line(told, Path(path))
    # The last of them is found out by its first image, of 64 million pixels.
    assert mebibytes < (1300 if name == "many large webps" else 300)
    assert seconds < amount(4, 10)  # of the processor; the most are 1.7, and 8 with all members of the tar

"""Real audits through the command line: the rows of benchmarks/audit_simulation.py with images instead of a table.

    python benchmarks/audit_rows.py cifar-10-python.tar.gz --audits 5 [--rows noise2-13 none ...]

For each row and audit, roles are redrawn among the 60,000 images of CIFAR-10, files are written, and `diffmem audit` is run on them; the
exit code (0 none found, 3 copies found, 4 cannot tell), the seconds and the first line are printed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from audit_simulation import FRESH, HELDOUT, PLANTED, SAMPLES, TRAINING
from diffmem.data import open_images

ROWS: dict[str, tuple[str | None, int]] = {
    "noise2-13": ("noise2", 13),
    "noise2-5": ("noise2", 5),
    "noise4-5": ("noise4", 5),
    "noise8-13": ("noise8", 13),
    "jpeg50-13": ("jpeg50", 13),
    "blur0.7-13": ("blur0.7", 13),
    "noise2-1": ("noise2", 1),
    "noise2-2": ("noise2", 2),
    "none": (None, 0),
    "small-15": ("noise2", 15),
    **{name: (name, 0) for name in FRESH},
}


def write(path: Path, images: np.ndarray) -> None:
    """Write images as .npz, channels last, as most programs do."""
    np.savez(path, images=images.transpose(0, 2, 3, 1))


def one(images: np.ndarray, row: str, seed: int, folder: Path) -> tuple[int, float, str]:
    """Write the files of one audit, run it, and return the exit code, the seconds and the first line."""
    rng = np.random.default_rng([seed, *row.encode()])
    sizes = (1_000, 1_000, 5_000) if row.startswith("small") else (TRAINING, HELDOUT, SAMPLES)
    order = rng.permutation(len(images))[: sum(sizes)]
    training, heldout, samples = (images[part] for part in np.split(order, np.cumsum(sizes)[:-1]))
    kind, count = ROWS[row]
    samples = samples.copy()
    if count and kind is not None:
        samples[-count:] = PLANTED[kind](training[rng.choice(len(training), count, replace=False)])
    elif kind is not None:
        samples = FRESH[kind](samples)
    for name, part in (("train", training), ("heldout", heldout), ("samples", samples)):
        write(folder / f"{name}.npz", part)
    command = [sys.executable, "-m", "diffmem", "audit", "--out", str(folder / "audit")]
    for name in ("train", "heldout", "samples"):
        command += [f"--{name}", str(folder / f"{name}.npz")]
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, time.monotonic() - start, done.stdout.partition("\n")[0]


def main() -> None:
    """Run rows and print them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("archive", type=Path)
    parser.add_argument("--audits", type=int, default=5)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    given = parser.parse_args()
    images = np.concatenate([open_images(given.archive, split).images for split in ("train", "test")])
    for row in given.rows:
        for seed in range(given.audits):
            with tempfile.TemporaryDirectory() as folder:
                code, seconds, line = one(images, row, seed, Path(folder))
            print(f"{row} {seed}: exit {code}, {seconds:.0f} s: {line}", flush=True)


if __name__ == "__main__":
    main()

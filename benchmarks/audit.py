"""Time and memory of an audit in pixels: 10,000 samples against 50,000 training images of 3 x 32 x 32, or a million in a memory map.

    python benchmarks/audit.py --data cifar-10-python.tar.gz
    python benchmarks/audit.py --training 1000000 --file /somewhere/million.npy

The audit compares samples, held-out images, and all training images (leave-one-out). The baseline is `measure` (only R_mem and its null
rate), in the same process, alternating with the audit: the ratio is the cost of all other criteria, the leave-one-out search,
the positive controls and the C_T test. Without --data, synthetic images with the spectrum of photographs are used. A million of them are
written to --file in blocks and kept; the baseline is then left out, and the estimated time is printed beside the measured one.
Exits with 1 if a required value is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from diffmem.auditing import AuditRequest, audit
from diffmem.data import ImageSet, open_images
from diffmem.memorization import measure
from neighbours import images

SECONDS_BAR, MEGABYTES_BAR = 60.0, 1500.0
SHAPE = (3, 32, 32)
BLOCK = 50_000
PLANTED = 100


def named(pixels: np.ndarray) -> ImageSet:
    """Return an unlabelled set."""
    return ImageSet(pixels, None, tuple(map(str, range(len(pixels)))))


def made(count: int, seed: int) -> np.ndarray:
    """Return synthetic images with the spectrum of photographs."""
    return images("image", count, int(np.prod(SHAPE)), seed).numpy().reshape(-1, *SHAPE)


def written(path: Path, count: int) -> ImageSet:
    """Return a set in a memory map, made unless the file is there."""
    if not path.exists():
        store = np.lib.format.open_memmap(path, "w+", np.uint8, (count, *SHAPE))
        for start in range(0, count, BLOCK):
            store[start : start + BLOCK] = made(min(BLOCK, count - start), seed=start)
        store.flush()
        del store
    return open_images(path)


def sets(arguments: argparse.Namespace) -> tuple[ImageSet, ImageSet, ImageSet]:
    """Return training images, held-out images, and samples of which 100 are copies."""
    if arguments.data is not None:
        training, rest = open_images(arguments.data), open_images(arguments.data, "test")
        half = len(rest) // 2
        # The model has not seen the held-out images: the samples are the others and their mirror images.
        heldout, others = rest.images[:half], rest.images[half:]
        fresh = np.concatenate([others, others[..., ::-1]])
    else:
        heldout, fresh = made(5000, seed=-1), made(arguments.samples, seed=-2)
        if arguments.file is not None:
            training = written(arguments.file, arguments.training)
        else:
            training = named(made(arguments.training, seed=0))
    pixels = np.ascontiguousarray(fresh[: arguments.samples]).copy()
    pixels[:PLANTED] = training.images[:PLANTED]
    return training, named(np.ascontiguousarray(heldout)), named(pixels)


class Memory(threading.Thread):
    """Watches the anonymous memory of this process: mapped files are the operating system's to drop."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before, self.most, self.done = self.now(), 0.0, False

    @staticmethod
    def now() -> float:
        """Return megabytes."""
        status = Path("/proc/self/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0]) / 1024

    def run(self) -> None:
        """Sample the memory ten times a second."""
        while not self.done:
            self.most = max(self.most, self.now())
            time.sleep(0.1)


def audited(training: ImageSet, heldout: ImageSet, samples: ImageSet) -> tuple[float, list[str]]:
    """Run an audit; return its seconds and its own estimate."""
    told: list[str] = []
    with tempfile.TemporaryDirectory() as shards:
        start = time.monotonic()
        request = AuditRequest(training=training, heldout=heldout, samples=samples)
        found = audit(request, Path(shards), report=told.append)
        seconds = time.monotonic() - start
    ratio = found.result.criterion("ratio")
    assert ratio is not None
    assert ratio.flagged.count >= PLANTED, "copies were missed"
    return seconds, told


def main() -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, help="a CIFAR-10 archive")
    parser.add_argument(
        "--file", type=Path, help="an .npy that the training images are made in and mapped from"
    )
    parser.add_argument("--training", type=int, default=50_000)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    training, heldout, samples = sets(arguments)
    watch = Memory()
    watch.start()
    audits, baselines = [], []
    for _ in range(arguments.rounds if arguments.file is None else 1):
        seconds, told = audited(training, heldout, samples)
        audits.append(seconds)
        print(f"audit: {seconds:.1f} s; {told or 'nothing'} was projected", flush=True)
        if arguments.file is None:
            start = time.monotonic()
            measure(samples.images, training.images, heldout=heldout.images)
            baselines.append(time.monotonic() - start)
            print(f"measure: {baselines[-1]:.1f} s", flush=True)
    watch.done = True
    print(
        f"{len(samples):,} samples, {len(training):,} training images, {len(heldout):,} held out: median {statistics.median(audits):.1f} s,"
        f" {watch.most:.0f} MB of memory beside mapped files, {watch.before:.0f} MB of it the inputs"
    )
    if baselines:
        ratios = [one / other for one, other in zip(audits, baselines, strict=True)]
        print(f"audit / measure: {statistics.median(ratios):.1f}x ({min(ratios):.1f} to {max(ratios):.1f})")
    if arguments.file is not None:
        return 0  # the bars are for sets that fit the memory
    return int(statistics.median(audits) > SECONDS_BAR or watch.most > MEGABYTES_BAR)


if __name__ == "__main__":
    sys.exit(main())

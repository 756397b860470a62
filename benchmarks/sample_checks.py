"""Accuracy of the check of samples: fresh images, degraded but valid ones, and samples that cannot be judged.

    python benchmarks/sample_checks.py
    python benchmarks/sample_checks.py --data cifar-10-python.tar.gz --emoji emoji16.npz --models runs/one.npz runs/two.npz

Rows are changes of fresh images; columns are image sets, with training sets of several sizes. A cell is the number of correct
results. The digits are bundled; other sets are given. With --models, generated digits are checked too. Prints a table for the
documentation, time and memory of a check, and exits with 1 if a fresh or valid row is rejected or a required value is missed.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from diffmem.data import open_images
from diffmem.memorization.plausibility import check_samples
from diffmem.memorization.plausibility.value_range import readings

SECONDS_BAR, MEGABYTES_BAR = 3.0, 300.0
Change = Callable[[np.ndarray], np.ndarray]
JUDGED = ("plausible",)


def bytes_of(values: np.ndarray) -> np.ndarray:
    """Round and clip to 0 to 255."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def blurred(sigma: float) -> Change:
    """Return a blur of so many pixels."""
    return lambda images: bytes_of(gaussian_filter(images.astype(np.float32), (0, 0, sigma, sigma)))


def contrast(factor: float) -> Change:
    """Return a change of contrast about each image's mean."""

    def change(images: np.ndarray) -> np.ndarray:
        middle = images.mean(axis=(2, 3), keepdims=True)
        return bytes_of(middle + factor * (images - middle))

    return change


def noised(levels: float) -> Change:
    """Return Gaussian noise of so many grey levels."""
    return lambda images: bytes_of(images + np.random.default_rng(1).normal(0, levels, images.shape))


def brighter(levels: float) -> Change:
    """Return a change of brightness."""
    return lambda images: bytes_of(images.astype(float) + levels)


def jpeg(quality: int) -> Change:
    """Return JPEG compression."""

    def change(images: np.ndarray) -> np.ndarray:
        result = np.empty_like(images)
        for index, image in enumerate(images):
            plane = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
            stream = io.BytesIO()
            Image.fromarray(plane).save(stream, "JPEG", quality=quality)
            read = np.asarray(Image.open(stream))
            result[index] = read[None] if read.ndim == 2 else read.transpose(2, 0, 1)
        return result

    return change


def bright_third(images: np.ndarray) -> np.ndarray:
    """Return the brightest third of the images: a subset such as a class is one."""
    return images[np.argsort(images.mean(axis=(1, 2, 3)))[-(len(images) // 3) :]]


def uniform(images: np.ndarray) -> np.ndarray:
    """Return white noise of all values."""
    return np.random.default_rng(2).integers(0, 256, images.shape).astype(np.uint8)


def gaussian(levels: float) -> Change:
    """Return white noise of so many levels about grey."""
    return lambda images: bytes_of(np.random.default_rng(3).normal(128, levels, images.shape))


def peppered(images: np.ndarray) -> np.ndarray:
    """Return images of which half of the values are black or white."""
    random = np.random.default_rng(4).random(images.shape)
    return np.where(random < 0.25, 0, np.where(random > 0.75, 255, images)).astype(np.uint8)


def upon_mean(images: np.ndarray) -> np.ndarray:
    """Return noise of 40 grey levels upon the mean image."""
    return bytes_of(images.mean(axis=0) + np.random.default_rng(5).normal(0, 40, images.shape))


def chequered(images: np.ndarray) -> np.ndarray:
    """Return images under a chequerboard of 80 grey levels."""
    rows, columns = np.indices(images.shape[2:])
    return bytes_of(images + 80.0 * (-1.0) ** (rows + columns))


def sheets(side: int, padding: int, resized: bool) -> Change:
    """Return sheets of side x side images, brought to the size of one image if asked."""

    def change(images: np.ndarray) -> np.ndarray:
        count, channels, height, width = images.shape
        number = max(1, count // side**2)
        shape = (number, channels, side * (height + padding) + padding, side * (width + padding) + padding)
        result = np.zeros(shape, np.uint8)
        for place in range(side**2):
            top = padding + place // side * (height + padding)
            left = padding + place % side * (width + padding)
            chosen = images[place * number : (place + 1) * number]
            result[: len(chosen), :, top : top + height, left : left + width] = chosen
        if not resized:
            return result
        planes = [
            np.asarray(Image.fromarray(p).resize((width, height), Image.Resampling.BILINEAR))
            for s in result
            for p in s
        ]
        return np.stack(planes).reshape(number, channels, height, width)

    return change


def repeated(number: int, levels: int) -> Change:
    """Return `number` images over and over, with noise of some grey levels."""

    def change(images: np.ndarray) -> np.ndarray:
        chosen = images[np.arange(len(images)) % number].astype(int)
        return bytes_of(chosen + np.random.default_rng(6).integers(-levels, levels + 1, chosen.shape))

    return change


def constants(images: np.ndarray) -> np.ndarray:
    """Return images of one colour each but for a grey level."""
    random = np.random.default_rng(7)
    colours = random.integers(1, 255, (len(images), images.shape[1], 1, 1))
    return bytes_of(colours + random.integers(-1, 2, images.shape))


HONEST: dict[str, Change] = {
    "fresh": lambda images: images,
    "the brightest third": bright_third,
    "blurred by 0.5 pixels": blurred(0.5),
    "blurred by 1 pixel": blurred(1),
    "blurred by 2 pixels": blurred(2),
    "blurred by 3 pixels": blurred(3),
    "contrast 0.3": contrast(0.3),
    "contrast 0.6": contrast(0.6),
    "JPEG of quality 20": jpeg(20),
    "noise of 4 grey levels": noised(4),
    "noise of 12 grey levels": noised(12),
    "20 grey levels brighter": brighter(20),
    "20 grey levels darker": brighter(-20),
}
UNFIT: dict[str, tuple[Change, tuple[str, ...]]] = {
    "black": (lambda images: np.zeros_like(images), ("constant",)),
    "one colour each, +- 1 level": (constants, ("constant",)),
    "one image": (repeated(1, 0), ("repeated",)),
    "one image, +- 1 level": (repeated(1, 1), ("repeated",)),
    "3 images, +- 1 level": (repeated(3, 1), ("repeated",)),
    "white noise, all values": (uniform, ("noise",)),
    "white noise of 10 grey levels": (gaussian(10), ("noise",)),
    "half of the values black or white": (peppered, ("noise",)),
    "half image, half white noise": (
        lambda images: bytes_of((images + uniform(images).astype(float)) / 2),
        ("noise",),
    ),
    "noise of 64 grey levels": (noised(64), ("noise",)),
    "noise of 25 grey levels": (noised(25), ("noise",)),
    "noise of 40 grey levels on the mean image": (upon_mean, ("noise",)),
    "under a chequerboard": (chequered, ("noise", "value range")),
    "sheets 2 x 2": (sheets(2, 2, False), ("tiles",)),
    "sheets 8 x 8": (sheets(8, 2, False), ("tiles",)),
    "sheets 2 x 2, resized": (sheets(2, 2, True), ("tiles", "noise")),
    "sheets 4 x 4, resized": (sheets(4, 0, True), ("tiles", "noise")),
    "sheets 8 x 8, resized": (sheets(8, 2, True), ("tiles", "noise")),
}


def image_sets(
    arguments: argparse.Namespace,
) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray, tuple[int, ...]]]:
    """Return by name: training images, held-out images, fresh images, and the sizes of training sets."""
    digits = open_images("digits").images
    order = np.random.default_rng(0).permutation(len(digits))
    found = {
        "digits": (digits[order[:800]], digits[order[800:1000]], digits[order[1000:]], (10, 50, 200, 800))
    }
    if arguments.emoji is not None:
        emoji = np.ascontiguousarray(np.load(arguments.emoji)["images"].transpose(0, 3, 1, 2))
        order = np.random.default_rng(0).permutation(len(emoji))
        found["emoji"] = (emoji[order[:800]], emoji[order[800:1000]], emoji[order[1000:]], (10, 50, 200, 800))
    if arguments.data is not None:
        training, test = open_images(arguments.data).images, open_images(arguments.data, "test").images
        found["CIFAR-10"] = (training, test[:2000], test[2000:5000], (10, 100, 1000, len(training)))
    return found


def shares(sets: dict, change: Change, kinds: tuple[str, ...]) -> list[str]:
    """Return a cell for each set: how many of the checks, over sizes and with or without held-out images, came out as they should."""
    cells = []
    for training, heldout, fresh, sizes in sets.values():
        samples = change(fresh)
        right = total = 0
        for size in sizes:
            chosen = np.random.default_rng(size).permutation(len(training))[:size]
            for null in (heldout, None):
                record = check_samples(samples, training[np.sort(chosen)], null).record
                right += record.kind in kinds
                total += 1
        cells.append(f"{right} of {total}")
    return cells


def print_table(title: str, sets: dict, rows: dict[str, tuple[Change, tuple[str, ...]]]) -> bool:
    """Print a table in Markdown; return whether all cells are full."""
    print(f"\n| {title} | " + " | ".join(sets) + " |\n|" + "---|" * (len(sets) + 1))
    full = True
    for name, (change, kinds) in rows.items():
        cells = shares(sets, change, kinds)
        full &= all(cell.split(" of ")[0] == cell.split(" of ")[1] for cell in cells)
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    return full


def cost() -> bool:
    """Print time and memory of a check of 10,000 samples against 50,000 training images of 3 x 32 x 32; return whether the bars hold."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (6000, 3, 8, 8)).astype(np.uint8).repeat(4, 2).repeat(4, 3)
    base = gaussian_filter(coarse.astype(np.float32), (0, 0, 1.5, 1.5)).astype(np.uint8)
    training = np.concatenate([base[:5000] + np.uint8(k) for k in range(10)])
    samples = np.concatenate([base[5000:] + np.uint8(k) for k in range(10)])
    start = time.perf_counter()
    check_samples(samples, training, samples[:2000])
    seconds = time.perf_counter() - start
    tracemalloc.start()
    check_samples(samples, training, samples[:2000])
    megabytes = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    print(
        f"\n10,000 samples, 50,000 training images of 3 x 32 x 32: {seconds:.2f} s, {megabytes:.0f} MB beside the images"
    )
    return seconds <= SECONDS_BAR and megabytes <= MEGABYTES_BAR


def main() -> int:
    """Print all tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="archive of CIFAR-10")
    parser.add_argument("--emoji", type=Path, help=".npz with images (N, H, W, C)")
    parser.add_argument("--models", type=Path, nargs="*", default=[], help="digits generated by models")
    arguments = parser.parse_args()
    sets = image_sets(arguments)
    well = print_table("honest: judged", sets, {name: (change, JUDGED) for name, change in HONEST.items()})
    print_table("unfit: recognised", sets, UNFIT)
    for index, (name, (_, _, fresh, _)) in enumerate(sets.items()):
        rows = {r.mistake: (r.spoil, ("value range",)) for r in readings(fresh.shape[1])}
        print_table(f"value range, {name}", {name: list(sets.values())[index]}, rows)
    digits = sets["digits"]
    for path in arguments.models:
        record = check_samples(open_images(path).images, digits[0], digits[1]).record
        print(f"{path.name}: {record.kind}; {record.problem or '; '.join(record.notes)}")
    return 0 if cost() and well else 1


if __name__ == "__main__":
    sys.exit(main())

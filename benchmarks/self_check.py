"""Which wrong readings of a model the check against training images finds, and which it cannot.

    python benchmarks/self_check.py [TRAINER ...] [--steps N]

A small network is trained on digits and written in the layout of each trainer, and opened as it was trained. Then it is read wrongly, one
thing at a time: each setting of few values, the prediction type, the direction and kind of a flow's time, the range of the images and the
order of colours. Prints for each whether the model is refused, what the message names, and by how much the wrong reading is worse.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from diffmem.data import ImageSet, open_images, rgb
from diffmem.errors import UserError
from diffmem.models import Denoiser, origin_of
from diffmem.models.readings import MappedDenoiser, generic_readings
from diffmem.optimum.denoising_error import denoising_check
from diffmem.optimum.denoising_records import DenoisingCheck


@dataclass(frozen=True)
class Row:
    """A wrong reading and what the check says of it.

    Attributes:
        text: What is wrong.
        refused: Whether the model is refused.
        named: The better reading that the message names; none if it names none.
        hint: A reading that the note tells of without refusing; none without.
        ratio: The error of the right reading over that of the wrong one, mean over levels; none if no reading but the wrong one was
            measured.
        levels: At how many levels the named reading is sound.
    """

    text: str
    refused: bool
    named: str | None
    hint: str | None
    ratio: float | None
    levels: int


def wrong_readings(right: Denoiser) -> Iterator[tuple[str, Callable[[], Denoiser]]]:
    """Yield ways to misread a model that is read rightly."""
    origin = origin_of(right)
    for reading in origin.readings:
        yield reading.text, reading.open
    # Without the file, whose readings would be those of the right one.
    alone = copy(right)
    alone.origin = None  # type: ignore[attr-defined]
    for reading in generic_readings(alone):
        if "in [0, 1]" not in reading.text:
            yield reading.text, reading.open
    # Of a network of images in [0, 1] that is read as one of [-1, 1]; the reverse cannot be made of this one.
    yield (
        "images were in [0, 1], read as [-1, 1]",
        lambda: MappedDenoiser(right, lambda x: 2 * x - 1, lambda y: (y + 1) / 2, 2.0),
    )


def rows(right: Denoiser, images: ImageSet) -> Iterator[Row]:
    """Yield a row for each wrong reading of a model, and for the right one, the first."""
    yield row_of("as it was trained", denoising_check(right, images))
    for text, opened in wrong_readings(right):
        try:
            wrong = opened()
        except UserError:
            continue
        yield row_of(text, denoising_check(wrong, images))


def row_of(text: str, check: DenoisingCheck) -> Row:
    """Return what a check says."""
    better = check.better
    lowest = better or min(check.readings, key=lambda one: one.overall, default=None)
    hint = lowest.text if better is None and lowest is not None and lowest.lower else None
    return Row(
        text,
        check.problem is not None,
        None if better is None else better.text,
        hint,
        None if lowest is None else lowest.ratio,
        0 if better is None else len(better.sound),
    )


def table(found: Iterator[Row]) -> str:
    """Return rows as a table of Markdown."""
    lines = [
        "| read as | refused | better reading | ratio of errors | levels |",
        "| --- | --- | --- | --- | --- |",
    ]
    for one in found:
        named = one.named or ("none" if one.hint is None else f"({one.hint})")
        ratio = "–" if one.ratio is None else f"{one.ratio:.3g}"
        lines.append(f"| {one.text} | {'yes' if one.refused else 'no'} | {named} | {ratio} | {one.levels} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table of each network."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "trainers", nargs="*", help="layouts of tests/builders/trained_checkpoints.py; all if none"
    )
    parser.add_argument("--steps", type=int, default=1500)
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "builders"))
    from trained_checkpoints import LAYOUTS, opened_as_told, write_trained

    images = open_images("digits")
    with TemporaryDirectory() as folder:
        for name in options.trainers or LAYOUTS:
            begin = time.monotonic()
            path = write_trained(name, Path(folder) / name, images, options.steps)
            seconds = time.monotonic() - begin
            right = opened_as_told(name, path, images)
            seen = images if right.image_shape[0] == 1 else rgb(images)
            print(f"\n{name}, {options.steps} steps in {seconds:.0f} s\n")
            print(table(rows(right, seen)), flush=True)


if __name__ == "__main__":
    main()

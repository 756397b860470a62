"""Other readings under which samples are compared with the training images, too: of files, shapes, values and orientation."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from diffmem.auditing.compare import Comparison
from diffmem.auditing.criteria import PIXELS
from diffmem.auditing.detector import occurrences
from diffmem.auditing.evidence import SAME_PICTURE_RMS
from diffmem.auditing.readings import CLEARLY_NEARER, STRICTER, OtherReading
from diffmem.auditing.request import AuditRequest
from diffmem.data import ImageSet, fit_images
from diffmem.data.reading import Fit
from diffmem.memorization.plausibility import SampleCheck
from diffmem.memorization.plausibility.repeats import constant_images
from diffmem.memorization.plausibility.statistics import draw
from diffmem.progress import Progress

__all__ = ["TURNS", "other_readings", "turned_searches"]

Pixels = NDArray[np.uint8]
Turn = Callable[[Pixels], Pixels]

TURNS: tuple[tuple[str, Turn], ...] = (
    ("mirrored left to right", lambda images: images[..., ::-1]),
    ("turned by 180 degrees", lambda images: images[..., ::-1, ::-1]),
    ("mirrored top to bottom", lambda images: images[..., ::-1, :]),
    ("turned by 90 degrees", lambda images: images.swapaxes(2, 3)[..., ::-1, :]),
    ("turned by 270 degrees", lambda images: images.swapaxes(2, 3)[..., ::-1]),
    ("with rows and columns exchanged", lambda images: images.swapaxes(2, 3)),
    (
        "with rows and columns exchanged and turned by 180 degrees",
        lambda images: images[..., ::-1, ::-1].swapaxes(2, 3),
    ),
)
"""The ways to turn an image, (n, C, H, W) to the same or (n, C, W, H), other than to leave it."""

_DRAWN = 400
_SEVERAL = 3
_QUARTER = 0.25
_BRIGHTER = 12.0
_HARDER = 1.25
_WAYS: tuple[tuple[Fit, str], ...] = (("stretch", "stretched"), ("pad", "padded"))


def other_readings(
    request: AuditRequest,
    samples: ImageSet,
    check: SampleCheck,
    found: Comparison,
    seed: int,
    progress: Progress,
) -> list[OtherReading]:
    """Return the other readings under which the samples are to be compared.

    Args:
        request: With training images.
        samples: As they are read.
        check: Whether they can be judged.
        found: What comes of them as they are read.
        seed: Of draws.
        progress: Called while files are read again.
    """
    usual = found.found.times
    return [
        *_values(request, samples, check, usual, seed),
        *_files(request, samples, usual, progress),
        *_shapes(request, samples, check, usual, progress),
        *_turned(request, samples, found, seed),
    ]


def _values(
    request: AuditRequest, samples: ImageSet, check: SampleCheck, times: NDArray[np.int64], seed: int
) -> Iterator[OtherReading]:
    training = request.training
    assert training is not None
    if check.reinterpreted is not None and check.record.reading is not None:
        text = f"samples with their {check.record.reading}"
        values = samples.with_images(check.reinterpreted, text)
        yield OtherReading(text, "Write the samples in the range 0 to 255", training, values, times)
    elif training.shape[0] == samples.shape[0] and times.any():
        table = _levels(draw(samples.images, seed, np.flatnonzero(times)), draw(training.images, seed))
        if table is not None:
            text = "samples with the brightness and contrast of the training images"
            levelled = np.stack([part[samples.images[:, at]] for at, part in enumerate(table)], axis=1)
            yield OtherReading(
                text, "Write the samples' values as those of the training images are", training, samples.with_images(levelled, text),
                times, fits=False,
            )  # fmt: skip


def _levels(samples: Pixels, training: Pixels) -> NDArray[np.uint8] | None:
    """Return what becomes of each value in each channel, uint8 (C, 256), for the mean and deviation of the training images.

    None where they differ little, as fresh images do: by less than 12 grey levels and a factor of 1.25.
    """
    (mean, spread), (meant, wanted) = (
        (one.mean(axis=(0, 2, 3), dtype=np.float64), one.std(axis=(0, 2, 3), dtype=np.float64))
        for one in (samples, training)
    )
    if not spread.all() or not wanted.all():
        return None
    factor = wanted / spread
    if np.abs(mean - meant).max() < _BRIGHTER and max(factor.max(), 1 / factor.min()) < _HARDER:
        return None
    values = meant[:, None] + factor[:, None] * (np.arange(256) - mean[:, None])
    table: NDArray[np.uint8] = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return table


def _files(
    request: AuditRequest, samples: ImageSet, times: NDArray[np.int64], progress: Progress
) -> Iterator[OtherReading]:
    training = request.training
    assert training is not None
    for other in request.other_training:
        yield OtherReading(other.text, other.remedy, other.open(progress), samples, times)
    for other in request.other_samples:
        again = other.open(progress)
        counted = np.where(constant_images(again.images), 0, occurrences(again.images))
        if counted.any():
            yield OtherReading(f"samples with {other.text}", other.remedy, training, again, counted)


def _shapes(
    request: AuditRequest, samples: ImageSet, check: SampleCheck, times: NDArray[np.int64], progress: Progress
) -> Iterator[OtherReading]:
    training = request.training
    assert training is not None
    square = [one.shape[1] == one.shape[2] for one in (training, samples)]
    if check.border is not None:
        inner = samples.with_images(check.border.without(samples.images), "border cut off")
        if square[0] and inner.shape[1] != inner.shape[2]:
            inner = fit_images(inner, "stretch", min(training.shape[1], *inner.shape[1:]), progress)
        remedy = "Cut the border off the samples"
        yield OtherReading("samples without their border", remedy, training, inner, times)
    if square == [False, True]:
        side = samples.shape[1]
        for fit, done in _WAYS:
            text = f"training images {done} to {side} x {side} pixels"
            remedy = f"--train-read fit={fit} --train-read resolution={side}"
            yield OtherReading(text, remedy, fit_images(training, fit, side, progress), samples, times)
    elif square == [True, False]:
        side = training.shape[1]
        for fit, done in _WAYS:
            text = f"samples {done} to {side} x {side} pixels"
            remedy = f"--samples-read fit={fit} --samples-read resolution={side}"
            yield OtherReading(text, remedy, training, fit_images(samples, fit, side, progress), times)


def turned_searches(samples: int) -> int:
    """Return how many images are searched for in all orientations, of so many samples."""
    return len(TURNS) * min(_DRAWN, samples)


def _turned(request: AuditRequest, samples: ImageSet, found: Comparison, seed: int) -> Iterator[OtherReading]:
    """Yield the orientations in which a draw of the samples is nearer to the training images, or some of it far nearer.

    An array whose axes were exchanged, or which was written from the bottom, holds copies that no comparison of pixels shows.
    """
    training = request.training
    assert training is not None
    trials = np.flatnonzero(found.found.trials)
    if not len(trials):
        return
    drawn = np.sort(np.random.default_rng(seed).permutation(trials)[:_DRAWN])
    usual = found.found.batch.neighbours[PIXELS].distances[drawn]
    images = found.samples.images[drawn]
    scale = 255 * np.sqrt(np.prod(images.shape[1:]))
    searched = request.transforms is not None and request.transforms.flip
    for text, turn in TURNS[1:] if searched else TURNS:
        turned = np.ascontiguousarray(turn(images))
        if turned.shape != images.shape:
            continue
        near = found.detector.search(turned, spaces={PIXELS}).neighbours[PIXELS].distances
        same = (near[:, 0] <= SAME_PICTURE_RMS * scale) & (near[:, 0] < _QUARTER * usual[:, 0])
        flagged = [
            int((one[:, 0] < request.threshold * one[:, 1]).sum()) if one.shape[1] > 1 else 0
            for one in (near, usual)
        ]
        closer = np.median(near[:, 0]) < CLEARLY_NEARER * np.median(usual[:, 0])
        if same.any() or closer or flagged[0] >= _SEVERAL + 2 * flagged[1]:
            remedy = (
                "--transforms flip"
                if text == TURNS[0][0]
                else "Write the samples as the training images stand"
            )
            whole = samples.with_images(np.ascontiguousarray(turn(samples.images)), f"samples {text}")
            yield OtherReading(
                f"samples {text}", remedy, training, whole, found.found.times, stricter=STRICTER * len(TURNS)
            )

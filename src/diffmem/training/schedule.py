"""Schedules as functions of the training-set size N and the images seen: warm-up, EMA decay, end, snapshots.

All of them are those of the study's training code, which scales the EDM code's schedules for 50,000 images to N, so that
every duration is a number of epochs. That code truncates durations to whole thousands of images (`rounding="kimg"`); the
default keeps them exact, which gives the same numbers whenever N is a multiple of 1,000.
"""

from __future__ import annotations

import math

from diffmem.training.config import TrainingConfig

__all__ = ["ema_beta", "evaluation_images", "learning_rate", "study_snapshots", "total_images"]

_FULL_SET = 50_000  # the set for which the original durations were chosen
_TICK_IMAGES, _TICKS_PER_SNAPSHOT = 50_000, 50


def _duration(epochs: float, size: int, config: TrainingConfig) -> float:
    """Return the images in so many epochs of a set of this size."""
    images = epochs * size
    return math.floor(images / 1000) * 1000 if config.rounding == "kimg" else images


def total_images(config: TrainingConfig, size: int) -> int:
    """Return the images seen when training ends: whole batches, at least the configured epochs."""
    images = _duration(config.epochs, size, config)
    if config.rounding == "kimg":
        images = max(images, 1000)
    return math.ceil(images / config.batch_size) * config.batch_size


def learning_rate(config: TrainingConfig, size: int, seen: int) -> float:
    """Return the learning rate of the step that follows `seen` images: linear from 0 during the warm-up, then constant."""
    return config.learning_rate * min(seen / max(_duration(config.warmup, size, config), 1e-8), 1.0)


def ema_beta(config: TrainingConfig, size: int, seen: int) -> float:
    """Return the decay of the average for the step that follows `seen` images: ema <- beta ema + (1 - beta) weights.

    With h = min(half-life, ramp * seen) in images, B the batch size and r = 50,000 / N (study, training loop):
    mode1 0.5^(B / h); mode2 0.5^(512 / (h r)); mode3 0.5^(B / 500,000); mode4 final / 0.5^(B / 500,000) * 0.5^(B / (h r)).
    """
    ema, batch = config.ema, config.batch_size
    constant = _half_power(batch / (10 * _FULL_SET))
    if ema.mode == "mode3":
        return constant
    half_life = max(min(_duration(ema.half_life, size, config), ema.ramp * seen), 1e-8)
    if ema.mode == "mode1":
        return _half_power(batch / half_life)
    ratio = _FULL_SET / size
    if ema.mode == "mode2":
        return _half_power(512 / half_life / ratio)
    return ema.final / constant * _half_power(batch / half_life / ratio)


def _half_power(exponent: float) -> float:
    # A power that underflows is zero; Python would raise.
    return 0.0 if exponent > 1000 else math.exp2(-exponent)


def study_snapshots(total: int, batch_size: int) -> list[int]:
    """Return the images seen at the study's snapshots after the first: every 50 ticks of 50,000 images, and the end.

    A tick ends with the first whole batch at or past 50,000 images; the first tick ends with the first batch.
    """
    tick = math.ceil(_TICK_IMAGES / batch_size) * batch_size
    step = tick * _TICKS_PER_SNAPSHOT
    points = list(range(batch_size + step, total, step))
    return [*points, total]


def evaluation_images(config: TrainingConfig, size: int) -> list[int]:
    """Return the images seen at each evaluation point, ascending, whole batches, the last one at the end of training."""
    total, batch = total_images(config, size), config.batch_size
    if config.evaluations.schedule == "study":
        return study_snapshots(total, batch)
    if config.evaluations.schedule == "doubling":
        start, every = config.evaluations.start * size, config.evaluations.per_doubling
        steps = math.ceil(every * math.log2(total / start)) if total > start else 0
        found = {math.ceil(start * 2 ** (step / every) / batch) * batch for step in range(steps)}
        return sorted({point for point in found if point < total} | {total})
    count, first = config.evaluations.count, config.evaluations.first
    shares = [first ** ((count - 1 - i) / (count - 1)) for i in range(count)] if count > 1 else [1.0]
    points = {
        min(total, max(1, math.ceil(share * config.epochs * size / batch)) * batch) for share in shares[:-1]
    }
    return sorted(points | {total})

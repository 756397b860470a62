"""FLIPD of samples as a record, calibrated by canaries: whether low values mean memorized, and which values are low."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from diffmem.attacks.exposure import rank_sum_p_value
from diffmem.attacks.flipd import Flipd, FlipdConfig, FlipdMethod, flipd
from diffmem.attacks.roc import Area, area_under_curve
from diffmem.data import CanarySet, ImageSet
from diffmem.errors import UserError
from diffmem.memorization.rates import Rate
from diffmem.models import Denoiser
from diffmem.progress import NO_PROGRESS, Progress, parts_of

__all__ = ["FlipdRecord", "flipd_record"]

# A record of some 200 images takes 2 dim passes of each: minutes for a small network at this size, and days at 32x32x3.
_EXACT_IN_RECORD = 256
_POWER = 0.5
_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


class FlipdRecord(FlipdMethod):
    """FLIPD of samples, and of the canaries that calibrate it if there are any. Low values mean memorized."""

    protocol: str = Field(description="Id of the measurement: noise level, trace, probes, seed.")
    standard_error: float | None = Field(
        description="Root mean square standard error of a sample's value; none if the trace is exact."
    )
    images: int = Field(description="Samples that were measured.")
    samples: dict[str, float] = Field(
        description="Quantiles of the samples' values, by share: '0' is the smallest, '1' the largest."
    )
    planted: dict[str, float] | None = Field(
        default=None, description="The same of planted canaries; none without canaries."
    )
    control: dict[str, float] | None = Field(default=None, description="The same of control canaries.")
    unmarked: dict[str, float] | None = Field(
        default=None,
        description="The same of the control canaries' images without their marks: ordinary images that were not trained on.",
    )
    auc: Area | None = Field(
        default=None,
        description="Share of pairs in which the planted canary is below the control one: 1 if memorized images stand out, 0.5 by chance.",
    )
    p_value: float | None = Field(
        default=None,
        description="p-value of planted canaries ranking as low or lower if nothing was memorized: Mann-Whitney, one-sided.",
    )
    threshold: float | None = Field(
        default=None,
        description="The smallest value of an unmarked image that was not trained on; what lies below is as low as memorized images."
        " None without canaries: no threshold is known then.",
    )
    false_alarm: float | None = Field(
        default=None,
        description="Share of other such images expected below the threshold: 1 / (K + 1), the smallest that K images can set.",
    )
    planted_below: Rate | None = Field(
        default=None, description="Share of the planted canaries below the threshold."
    )
    samples_below: Rate | None = Field(default=None, description="Share of the samples below the threshold.")
    sentence: str = Field(description="The finding with its numbers.")
    notes: list[str] = Field(default_factory=list, description="Notes.")


def flipd_record(
    denoiser: Denoiser,
    samples: ImageSet,
    canaries: CanarySet | None = None,
    most: int = 128,
    config: FlipdConfig | None = None,
    progress: Progress = NO_PROGRESS,
) -> FlipdRecord:
    """Measure FLIPD of samples; with canaries, whether it separates memorized images, and a threshold.

    Planted against control canaries say whether the values show memorization in this model. The threshold comes from the control
    canaries' images without their marks: marked images that were not trained on are unlike anything that the model makes, so
    their values are far above those of any sample.

    Args:
        samples: Its samples, of its shape, or other images.
        most: Most samples that are measured.
        config: How. Its seed also draws the samples; without a trace it is exact up to 256 values, as a record takes many images.

    Raises:
        UserError: The images do not fit the model, or it returns values that are not finite.
    """
    if most < 1:
        raise UserError(f"At least 1 sample must be measured, not {most}.")
    config = config or FlipdConfig()
    if config.trace is None:
        small = math.prod(denoiser.image_shape) <= _EXACT_IN_RECORD
        config = replace(config, trace="exact" if small else "hutchinson")
    if len(samples) > most:
        rng = np.random.default_rng([config.seed, 0x666C6970])
        chosen = np.sort(rng.choice(len(samples), most, replace=False))
        samples = samples.take(chosen, f"{most} drawn for FLIPD")
    groups: dict[str, tuple[NDArray[np.uint8], NDArray[np.int64] | None]] = {
        "samples": (samples.images, samples.labels)
    }
    if canaries is not None:
        groups |= {
            "planted": (canaries.planted, canaries.planted_labels),
            "control": (canaries.control, canaries.control_labels),
            "unmarked": (canaries.unmarked, canaries.control_labels),
        }
    found: dict[str, Flipd] = {}
    notes = []
    sizes = [len(images) for images, _ in groups.values()]
    for (name, (images, labels)), part in parts_of(progress, groups.items(), sizes):
        found[name] = flipd(denoiser, images, labels if denoiser.num_labels else None, config, part)
        if denoiser.num_labels and labels is None:
            notes.append(
                f"The model has classes and the {name} images have no labels: it was evaluated without."
            )
    one, method = found["samples"], found["samples"].method
    how = "exact" if method.trace == "exact" else f"hutchinson {method.probes}/seed={config.seed}"
    errors = one.standard_errors
    record = FlipdRecord(
        protocol=f"flipd/clean/sigma={method.sigma:.4g}/{how}/{method.derivative}",
        **method.model_dump(),
        standard_error=None if errors is None else math.sqrt(float(np.square(errors).mean())),
        images=len(samples),
        samples=_quantiles(one.values),
        sentence=f"{_half(one.values)}; which values mean memorized is not known without canaries in the training set.",
        notes=notes,
    )
    if canaries is None:
        return record
    return _calibrated(record, {name: each.values for name, each in found.items()})


def _calibrated(record: FlipdRecord, values: dict[str, NDArray[np.float64]]) -> FlipdRecord:
    """Return a record with what canaries say about the values that were measured."""
    samples, planted, control, unmarked = (
        values[name] for name in ("samples", "planted", "control", "unmarked")
    )
    threshold, count = float(unmarked.min()), len(planted)
    below = [Rate(int((part < threshold).sum()), len(part)) for part in (planted, samples)]
    p = rank_sum_p_value(-planted, -control)
    update = {
        "samples": _quantiles(samples),
        "planted": _quantiles(planted),
        "control": _quantiles(control),
        "unmarked": _quantiles(unmarked),
        "auc": None if count < 2 else area_under_curve(-planted, -control),
        "p_value": p,
        "threshold": threshold,
        "false_alarm": 1 / (count + 1),
        "planted_below": below[0],
        "samples_below": below[1],
        "sentence": f"{_half(samples)}. Planted canaries rank below control ones with p = {p:.2g}. {below[1].count} of {len(samples)}"
        f" samples and {below[0].count} of {count} planted canaries have fewer than any of {count} ordinary images that were not trained on"
        f" ({threshold:.3g}){_power(below[0])}.",
    }
    return record.model_copy(update=update)


def _half(samples: NDArray[np.float64]) -> str:
    return f"Half of the samples have fewer than {np.median(samples):.3g} local dimensions"


def _power(planted: Rate) -> str:
    """Return what it means for samples how many planted canaries lie below the threshold."""
    if planted.value >= _POWER:
        return ""
    return "; as most planted canaries do not, samples above the threshold may be memorized all the same"


def _quantiles(values: NDArray[np.float64]) -> dict[str, float]:
    return {f"{share:g}": float(np.quantile(values, share)) for share in _QUANTILES}

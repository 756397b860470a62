"""FLIPD of samples as a record, calibrated by canaries: whether low values mean memorized, and which values are low."""

from __future__ import annotations

import math
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from diffmem.attacks.exposure import rank_sum_p_value
from diffmem.attacks.flipd import Derivative, Flipd, Trace, flipd
from diffmem.attacks.roc import Area, area_under_curve
from diffmem.data import CanarySet, ImageSet
from diffmem.errors import UserError
from diffmem.memorization.rates import Rate
from diffmem.memorization.records import Record
from diffmem.models import Denoiser
from diffmem.progress import NO_PROGRESS, Progress, part_of

__all__ = ["Flipd", "FlipdRecord", "flipd", "flipd_record"]

# A record of some 200 images takes 2 dim passes of each: minutes for a small network at this size, and days at 32x32x3.
_EXACT_IN_RECORD = 256
_POWER = 0.5
_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


class FlipdRecord(Record):
    """FLIPD of samples, and of the canaries that calibrate it if there are any. Low values mean memorized."""

    protocol: str = Field(description="Id of the measurement: noise level, trace, probes, seed.")
    sigma: float = Field(description="The noise level, in units of what the model denoises.")
    dimension: int = Field(
        description="Values of an image, or of its latents: the greatest number of dimensions."
    )
    trace: Trace = Field(description="'exact', or 'hutchinson' if it was estimated from random directions.")
    probes: int = Field(description="Random directions for each image; 0 if the trace is exact.")
    derivative: Derivative = Field(
        description="'autograd', or 'differences' for a model that cannot be differentiated."
    )
    standard_error: float | None = Field(
        description="Root mean square standard error of a sample's value; none if the trace is exact."
    )
    images: int = Field(description="Samples that were measured.")
    samples: dict[str, float] = Field(
        description="Quantiles of the samples' values, by share: '0' is the smallest, '1' the largest."
    )
    planted: dict[str, float] | None = Field(
        description="The same of planted canaries; none without canaries."
    )
    control: dict[str, float] | None = Field(description="The same of control canaries.")
    unmarked: dict[str, float] | None = Field(
        description="The same of the control canaries' images without their marks: ordinary images that were not trained on."
    )
    auc: Area | None = Field(
        description="Share of pairs in which the planted canary is below the control one: 1 if memorized images stand out, 0.5 by chance."
    )
    p_value: float | None = Field(
        description="p-value of planted canaries ranking as low or lower if nothing was memorized: Mann-Whitney, one-sided."
    )
    threshold: float | None = Field(
        description="The smallest value of an unmarked image that was not trained on; what lies below is as low as memorized images."
        " None without canaries: no threshold is known then."
    )
    false_alarm: float | None = Field(
        description="Share of other such images expected below the threshold: 1 / (K + 1), the smallest that K images can set."
    )
    planted_below: Rate | None = Field(description="Share of the planted canaries below the threshold.")
    samples_below: Rate | None = Field(description="Share of the samples below the threshold.")
    sentence: str = Field(description="The finding with its numbers.")
    notes: list[str] = Field(default_factory=list, description="Notes.")


def flipd_record(
    denoiser: Denoiser,
    samples: ImageSet,
    canaries: CanarySet | None = None,
    seed: int = 0,
    most: int = 128,
    *,
    sigma: float | None = None,
    trace: Trace | None = None,
    probes: int = 16,
    batch_size: int = 64,
    progress: Progress = NO_PROGRESS,
) -> FlipdRecord:
    """Measure FLIPD of samples; with canaries, whether it tells memorized images, and a threshold.

    Planted against control canaries say whether the values show memorization in this model. The threshold comes from the control
    canaries' images without their marks: marked images that were not trained on are unlike anything that the model makes, so
    their values are far above those of any sample.

    Args:
        denoiser: The model; see `flipd`.
        samples: Its samples, of its shape, or other images.
        canaries: Of its training set.
        seed: Of the choice of samples and of random directions.
        most: Most samples that are asked about.
        sigma: Noise level; see `flipd`.
        trace: How the trace is computed; none for exact up to 256 values, as a record takes many images.
        probes: Random directions for each image, if it is estimated.
        batch_size: Directions at a time.
        progress: Told the share that is done.

    Raises:
        UserError: The images do not fit the model, or it returns values that are not finite.
    """
    if most < 1:
        raise UserError(f"At least 1 sample must be measured, not {most}.")
    if len(samples) > most:
        chosen = np.sort(np.random.default_rng([seed, 0x666C6970]).choice(len(samples), most, replace=False))
        samples = samples.take(chosen, f"{most} drawn for FLIPD")
    kind: Trace = trace or ("exact" if math.prod(denoiser.image_shape) <= _EXACT_IN_RECORD else "hutchinson")
    groups: dict[str, tuple[NDArray[np.uint8], NDArray[np.int64] | None]] = {
        "samples": (samples.images, samples.labels)
    }
    if canaries is not None:
        groups |= {
            "planted": (canaries.planted, canaries.planted_labels),
            "control": (canaries.control, canaries.control_labels),
            "unmarked": (canaries.unmarked, canaries.control_labels),
        }
    total, done = sum(len(images) for images, _ in groups.values()), 0
    found: dict[str, Flipd] = {}
    notes = []
    for name, (images, labels) in groups.items():
        told = part_of(progress, done / total, len(images) / total)
        given = labels if denoiser.num_labels else None
        found[name] = flipd(
            denoiser,
            images,
            given,
            sigma,
            trace=kind,
            probes=probes,
            seed=seed,
            batch_size=batch_size,
            progress=told,
        )
        done += len(images)
        if denoiser.num_labels and labels is None:
            notes.append(
                f"The model has classes and the {name} images have no labels: it was evaluated without."
            )
    one = found["samples"]
    how = "exact" if one.trace == "exact" else f"hutchinson {one.probes}/seed={seed}"
    errors = one.standard_errors
    return FlipdRecord(
        protocol=f"flipd/clean/sigma={one.sigma:.4g}/{how}/{one.derivative}",
        sigma=one.sigma,
        dimension=one.dimension,
        trace=one.trace,
        probes=one.probes,
        derivative=one.derivative,
        standard_error=None if errors is None else math.sqrt(float(np.square(errors).mean())),
        images=len(samples),
        samples=_quantiles(one.values),
        notes=notes,
        **_calibrated({name: each.values for name, each in found.items()}),
    )


class _Calibration(TypedDict):
    planted: dict[str, float] | None
    control: dict[str, float] | None
    unmarked: dict[str, float] | None
    auc: Area | None
    p_value: float | None
    threshold: float | None
    false_alarm: float | None
    planted_below: Rate | None
    samples_below: Rate | None
    sentence: str


def _calibrated(values: dict[str, NDArray[np.float64]]) -> _Calibration:
    """Return what canaries say about values that were measured."""
    samples = values["samples"]
    told = f"Half of the samples have fewer than {np.median(samples):.3g} local dimensions"
    if "planted" not in values:
        return _Calibration(
            planted=None, control=None, unmarked=None, auc=None, p_value=None, threshold=None, false_alarm=None,
            planted_below=None, samples_below=None,
            sentence=f"{told}; which values mean memorized is not known without canaries in the training set.",
        )  # fmt: skip
    planted, control, unmarked = values["planted"], values["control"], values["unmarked"]
    threshold, count = float(unmarked.min()), len(planted)
    below = [Rate(int((part < threshold).sum()), len(part)) for part in (planted, samples)]
    auc = None if count < 2 else area_under_curve(-planted, -control)
    p = rank_sum_p_value(-planted, -control)
    return _Calibration(
        planted=_quantiles(planted), control=_quantiles(control), unmarked=_quantiles(unmarked), auc=auc, p_value=p,
        threshold=threshold, false_alarm=1 / (count + 1),
        planted_below=below[0], samples_below=below[1],
        sentence=f"{told}. Planted canaries rank below control ones with p = {p:.2g}. {below[1].count} of {len(samples)} samples and"
        f" {below[0].count} of {count} planted canaries have fewer than any of {count} ordinary images that were not trained on"
        f" ({threshold:.3g}){_power(below[0])}.",
    )  # fmt: skip


def _power(planted: Rate) -> str:
    """Return what it means for samples how many planted canaries lie below the threshold."""
    if planted.value >= _POWER:
        return ""
    return "; as most planted canaries do not, samples above the threshold may be memorized all the same"


def _quantiles(values: NDArray[np.float64]) -> dict[str, float]:
    return {f"{share:g}": float(np.quantile(values, share)) for share in _QUANTILES}

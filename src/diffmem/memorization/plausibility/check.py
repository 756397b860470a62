"""Are these samples of a model of this training set at all?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from diffmem.errors import UserError
from diffmem.memorization.plausibility.borders import Border, find_border
from diffmem.memorization.plausibility.noise import NoiseGauges
from diffmem.memorization.plausibility.repeats import (
    clusters,
    constant_images,
    near_constant,
    repeats,
)
from diffmem.memorization.plausibility.statistics import SetStatisticsRecord, conform, draw, set_statistics
from diffmem.memorization.plausibility.tiles import find_lattice, find_sheet
from diffmem.memorization.plausibility.value_range import Reading, best_reading
from diffmem.memorization.records import Record

__all__ = ["SampleCheck", "SampleCheckRecord", "SampleKind", "check_samples"]

SampleKind = Literal["plausible", "constant", "repeated", "noise", "tiles", "border", "value range", "other"]

SAMPLES = "samples"
"""What images are called of which a model is the origin."""

_MOST = 0.5
_COMPARED = 400
_FEWEST = 20
_COLLAPSED = 0.05
_READ = 8
_UNSCALED = 16
_GAUGED = 1000
_FLAT = 0.02


class SampleCheckRecord(Record):
    """Whether samples can be images of a model of this training set, and how many of them are trials."""

    samples: int = Field(description="All samples that were given.")
    judged: int = Field(
        description="Distinct samples that are not constant: what a rate may be computed over."
    )
    constant: int = Field(description="Samples of one colour: each channel is constant.")
    repeats: int = Field(description="Exact repeats of an earlier sample that is not constant.")
    most_repeated: int = Field(
        description="Times that the most frequent image occurs, of samples not constant."
    )
    kind: SampleKind = Field(description="'plausible' if the samples can be judged, else what they are.")
    problem: str | None = Field(
        description="Why the samples cannot be judged, in one sentence; null if they can."
    )
    notes: list[str] = Field(description="What must be said though the samples can be judged.")
    statistics: dict[str, SetStatisticsRecord] = Field(
        description="By role: 'training', 'heldout', 'samples'."
    )
    reading: str | None = Field(
        description="The reading of the samples' values that fits the training images clearly better; null if none does."
    )


@dataclass(frozen=True, eq=False)
class SampleCheck:
    """Whether samples can be judged, and which of them are trials.

    Attributes:
        record: What was found.
        judged: Samples that are trials, bool (Q,): neither constant nor an exact repeat of an earlier sample.
        reinterpreted: The samples under `record.reading`, uint8 (Q, C, H, W); None if there is no such reading.
        border: The border that most samples have and training images lack; None if they have none.
    """

    record: SampleCheckRecord
    judged: NDArray[np.bool_]
    reinterpreted: NDArray[np.uint8] | None
    border: Border | None = None


def check_samples(
    samples: NDArray[np.uint8],
    training: NDArray[np.uint8],
    heldout: NDArray[np.uint8] | None = None,
    *,
    seed: int = 0,
    called: str = SAMPLES,
) -> SampleCheck:
    """Compare samples with the training images, and with each other, by plain statistics; no neighbours are searched.

    Constant images and repeats are found among all samples, everything else in a seeded draw of at most 2,000 of each set.

    Args:
        samples: Generated images, uint8 (Q, C, H, W).
        training: The training images, uint8 (N, C, H, W); size and channels may differ from the samples'.
        heldout: Fresh images of the same kind, uint8 (M, C, H, W), which say how far fresh images are from the training images.
        seed: Of the draws.
        called: What the images are called in sentences; held-out images may be checked in the same way.

    Raises:
        UserError: An array is not uint8 (N, C, H, W), or there are no samples or training images.
    """
    for name, images in (("samples", samples), ("training images", training), ("held-out images", heldout)):
        if images is not None and (images.dtype != np.uint8 or images.ndim != 4):
            raise UserError(
                f"The {name} are {images.dtype} of shape {images.shape}; give uint8 (N, C, H, W)."
            )
    if len(samples) == 0 or len(training) == 0:
        raise UserError("Samples are compared with training images; give at least one of each.")
    fresh = heldout if heldout is not None and len(heldout) else None
    return _Check(samples, training, fresh, seed, called).run()


class _Check:
    """The check under way: what is drawn once and what has been found so far."""

    def __init__(
        self,
        samples: NDArray[np.uint8],
        training: NDArray[np.uint8],
        heldout: NDArray[np.uint8] | None,
        seed: int,
        called: str,
    ) -> None:
        self.samples, self.seed, self.called = samples, seed, called
        self.generated = called == SAMPLES
        self.count = len(samples)
        self.training = draw(training, seed)
        self.heldout = None if heldout is None else draw(heldout, seed)
        self.constant = constant_images(samples)
        self.repeated, self.most = repeats(samples, ~self.constant)
        self.notes: list[str] = []
        self.reading: str | None = None
        self.reinterpreted: NDArray[np.uint8] | None = None
        self.border: Border | None = None
        self.statistics: dict[str, SetStatisticsRecord] = {
            "training": set_statistics(training, self.training),
            "samples": set_statistics(samples, draw(samples, seed)),
        }
        if heldout is not None and self.heldout is not None:
            self.statistics["heldout"] = set_statistics(heldout, self.heldout)

    def run(self) -> SampleCheck:
        kind, problem = self._all_constant() or self._judged() or ("plausible", None)
        judged = ~self.constant & ~self.repeated
        constant, repeated = int(self.constant.sum()), int(self.repeated.sum())
        notes = []
        if constant and kind != "constant":
            notes.append(f"{constant} of {self.count} samples are constant: they are no trials.")
        if repeated and kind != "repeated":
            most = f"; the most frequent occurs {self.most} times" if self.most > 2 else ""
            notes.append(
                f"{repeated} of {self.count} samples are exact repeats of earlier ones{most}; each image counts once."
            )
        record = SampleCheckRecord(
            samples=self.count,
            judged=int(judged.sum()),
            constant=constant,
            repeats=repeated,
            most_repeated=self.most,
            kind=kind,
            problem=problem,
            notes=[*notes, *self.notes],
            statistics=self.statistics,
            reading=self.reading,
        )
        return SampleCheck(record, judged, self.reinterpreted, self.border)

    def _all_constant(self) -> tuple[SampleKind, str] | None:
        number = int(self.constant.sum())
        usual = float(constant_images(self.training).mean())
        # A training set may hold blank images: samples of its own share of them are no failure.
        if number < self.count and (number < _MOST * self.count or number < 1.5 * usual * self.count):
            return None
        blank = self.samples[self.constant, :, 0, 0]
        colours = np.unique(blank, axis=0)
        if len(colours) == 1:
            which = f"one and the same constant image ({_colour(colours[0])})"
            why = "; the sampler may have returned NaN" if self.generated and not colours[0].any() else ""
        else:
            which, why = f"constant images of {len(colours)} colours", ""
        return "constant", f"{number} of {self.count} {self.called} are {which}{why}."

    def _judged(self) -> tuple[SampleKind, str] | None:
        """What samples that are not constant are, if they cannot be judged."""
        distinct = np.flatnonzero(~self.constant & ~self.repeated)
        drawn = draw(self.samples, self.seed, distinct)
        shape = self.training.shape[1:]
        same = drawn.shape[1:] == shape
        alike = conform(drawn[:_GAUGED], shape)
        gauge = NoiseGauges.fit(self.training[:_GAUGED])
        fit = None
        if len(drawn) >= _READ:
            fresh = (
                self.heldout
                if same and self.heldout is not None and self.heldout.shape[1:] == shape
                else None
            )
            fit = best_reading(alike, self.training, fresh, layouts=same)
        # Values of 0 and 1 are no constant images: a reading that fits comes first.
        unscaled = fit is not None and int(drawn.max()) <= _UNSCALED
        found = None if unscaled else self._near_constant(drawn, len(distinct), fit is None)
        found = found or self._near_repeats()
        # Sheets may have a border, too; of images in the form of the training images, a border is the likelier.
        if found is None and not same:
            found = self._sheets(drawn)
        if found is None and int(drawn.max()) > _UNSCALED:  # else edges of one colour are all over
            found = self._bordered(drawn)
        if found:
            return found
        # Nor can such values be distinguished from noise: too little of the images is left in them.
        if fit is not None and (unscaled or not self._still_noise(gauge, fit.reading, alike)):
            reading = fit.reading
            self.reading = reading.title
            self.reinterpreted = reading.mend(np.asarray(self.samples))
            return "value range", (
                f"The {self.called}' values do not fit the training images'; with {reading.title} they fit {fit.ratio:.0f} times"
                f" better: {reading.mistake}?"
            )
        return (self._sheets(drawn) if same else None) or self._noise(gauge, alike)

    def _still_noise(self, gauge: NoiseGauges, reading: Reading, alike: NDArray[np.uint8]) -> bool:
        """Whether samples are noise under a reading, beyond what the mistake makes of the training images."""
        noisy = gauge.noisy(reading.mend(alike)).mean()
        if noisy < _MOST:
            return False
        usual = gauge.noisy(reading.mend(reading.spoil(self.training[:_GAUGED]))).mean()
        return bool(noisy > 1.5 * usual)

    def _bordered(self, drawn: NDArray[np.uint8]) -> tuple[SampleKind, str] | None:
        self.border = find_border(drawn, self.training)
        if self.border is None:
            return None
        return "border", (
            f"{100 * self.border.share:.0f}% of the {self.called} have an edge of one colour that the training images lack ({self.border}"
            f" of {drawn.shape[2]} x {drawn.shape[3]}): cut the border off, or write whole images."
        )

    def _sheets(self, drawn: NDArray[np.uint8]) -> tuple[SampleKind, str] | None:
        shape = self.training.shape[1:]
        same = drawn.shape[1:] == shape
        if same and len(drawn) < _FEWEST:
            return None  # any few images have lines across which they happen to differ
        lattice = None if same else find_sheet(drawn, self.training)
        if lattice is None:
            lattice = find_lattice(drawn, conform(self.training, drawn.shape[1:]))
        if lattice is None:
            return None
        height, width = drawn.shape[2:]
        remedy = "write single images" if same else f"cut them into images of {shape[1]} x {shape[2]}"
        return "tiles", (
            f"The {self.called}, {height} x {width} pixels, are sheets of {lattice.rows} x {lattice.columns} images, not single"
            f" images: {remedy}."
        )

    def _near_constant(
        self, drawn: NDArray[np.uint8], distinct: int, faint: bool
    ) -> tuple[SampleKind, str] | None:
        training = self.statistics["training"]
        blank = int(self.constant.sum())
        if training.contrast > 8:
            share = float(near_constant(drawn).mean())
            usual = float(near_constant(self.training).mean())
            total = (share * distinct + blank) / (distinct + blank)
            if total >= _MOST and total >= 1.5 * usual:
                return "constant", (
                    f"{100 * total:.0f}% of the {self.called} have one colour but for one grey level or a border"
                    f"{'; the sampler failed' if self.generated else ''}."
                )
            if share > 0.02 and share > 2 * usual:
                self.notes.append(
                    f"About {100 * share:.0f}% of the samples have one colour but for a grey level or a border."
                )
        contrast = set_statistics(drawn, drawn).contrast
        if faint and contrast < _FLAT * training.contrast:
            return "other", (
                f"The {self.called} have next to no contrast: {contrast:.1f} grey levels beside {training.contrast:.0f} of the"
                f" training images."
            )
        return None

    def _near_repeats(self) -> tuple[SampleKind, str] | None:
        drawn = draw(self.samples, self.seed, np.flatnonzero(~self.constant), _COMPARED)
        if len(drawn) < _FEWEST:
            return None
        known = draw(self.training, self.seed, largest=_COMPARED)
        found, usual = clusters(drawn), clusters(known)
        if found.largest_share >= _MOST and found.largest_share > 2 * usual.largest_share:
            one = "a sampler that makes one image says nothing of the others"
            return "repeated", (
                f"{_share(found.largest, found.images, self.count)} {self.called} show one and the same image, but for a grey level"
                f" or so{f'; {one}' if self.generated else ''}."
            )
        few = found.distinct_share <= _COLLAPSED and 4 * found.distinct <= usual.distinct
        if few:
            return "repeated", (
                f"{_share(found.images, found.images, self.count)} {self.called} show only {found.distinct} different images, but"
                f" for a grey level or so{': the model has collapsed to them' if self.generated else ''}."
            )
        return None

    def _noise(self, gauge: NoiseGauges, alike: NDArray[np.uint8]) -> tuple[SampleKind, str] | None:
        noisy = float(gauge.noisy(alike).mean())
        if noisy >= _MOST:
            share = float(np.median(gauge.shares(alike)))
            return "noise", (
                f"{100 * noisy:.0f}% of the {self.called} are noise: {100 * min(share, 1):.0f}% of their variance, by the median, lies"
                f" where the training images have next to none"
                f"{'; the model is untrained, or sampling stopped early' if self.generated else ''}."
            )
        if noisy >= 0.05:
            self.notes.append(f"About {100 * noisy:.0f}% of the samples are mostly noise.")
        return None


def _share(number: int, drawn: int, count: int) -> str:
    return f"{number} of {count}" if drawn == count else f"{number} of {drawn} drawn"


def _colour(values: NDArray[np.uint8]) -> str:
    if (values == 0).all():
        return "black"
    if (values == 255).all():
        return "white"
    return (
        f"grey {values[0]}"
        if (values == values[0]).all()
        else "colour " + "/".join(map(str, values.tolist()))
    )

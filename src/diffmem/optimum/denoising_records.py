"""The records of a model's denoising error on training images, and what follows from it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from diffmem.memorization.rates import MeanRecord
from diffmem.memorization.records import Record

__all__ = ["DenoisingCheck", "ErrorPoint", "LabelUse", "ModelReadingRecord"]

LabelUse = Literal["none", "of the images", "no label"]
_SHOWN = 3
_WAY_ON = "Make samples with the program that trained it (--samples), or give the model as a function (diffmem.function_denoiser)"


class ErrorPoint(Record):
    """Mean squared errors per value at one noise level, in the units of what the model denoises."""

    sigma: float = Field(description="Noise level.")
    middle: bool = Field(description="Whether it is one of the three at which a model is refused.")
    model: MeanRecord = Field(description="Of the model.")
    nothing: MeanRecord = Field(description="Of the noisy image itself: about sigma squared.")
    mean_image: MeanRecord = Field(description="Of the mean image: the variance.")
    gaussian: MeanRecord | None = Field(
        description="Of the Gaussian with the mean and the covariance of the images, the best affine denoiser; none for latents and"
        " for images of more than 3,072 values."
    )
    worse: bool = Field(
        description="Whether the model is surely worse than both: by four standard errors, paired."
    )


class ModelReadingRecord(Record):
    """The same model read in another way, on the same noisy images."""

    text: str = Field(description="What is other.")
    remedy: str = Field(description="How to choose it.")
    images: int = Field(
        description="On how many images it was tried; fewer where the average over levels was worse from the start."
    )
    errors: list[float | None] = Field(
        description="Its mean squared error at each level; none at levels that it does not have."
    )
    sound: list[float] = Field(
        description="Levels at which its error is surely below that of the best that uses no other pixel."
    )
    ratio: float = Field(
        description="Its error over that of the model as read, on the same noisy images, mean over the sound levels; over all that it has"
        " if there are none."
    )
    overall: float = Field(description="The ratio over all levels that it has, as a geometric mean.")
    lower: bool = Field(
        description="Whether it has two sound levels or more, the ratio is surely below 1, and it is not worse over all levels together."
    )
    better: bool = Field(description="Whether besides the ratio is surely below 0.9.")


class DenoisingCheck(Record):
    """The denoising error of a model on training images."""

    missing: str | None = Field(default=None, description="Why nothing was measured; none if it was.")
    images: int = Field(description="Images that were denoised.")
    labels: LabelUse = Field(default="none", description="The classes that the model was given.")
    latent: bool = Field(default=False, description="Whether errors are of latents.")
    deviation: float | None = Field(
        default=None, description="Root of the mean variance of a value of the images."
    )
    points: list[ErrorPoint] = Field(default_factory=list, description="One for each noise level, ascending.")
    readings: list[ModelReadingRecord] = Field(
        default_factory=list, description="Other readings that were tried."
    )

    @property
    def better(self) -> ModelReadingRecord | None:
        """The reading that should be chosen instead; none if no other is better. Of equal ones, the first: one that a setting chooses."""
        found = [one for one in self.readings if one.better]
        least = min((one.overall for one in found), default=0.0)
        return next((one for one in found if one.overall <= 1.001 * least), None)

    @property
    def problem(self) -> str | None:
        """Why the model should not be used as it was read, with the figures and what to do; none if there is no reason."""
        middle = [point for point in self.points if point.middle]
        better = self.better
        if better is not None:
            pairs = [
                (point.sigma, point.model.value, error)
                for point, error in zip(self.points, better.errors, strict=True)
                if error is not None and point.sigma in better.sound
            ]
            clearest = sorted(sorted(pairs, key=lambda pair: pair[2] / pair[1])[:_SHOWN])
            figures = "; ".join(
                f"at sigma {sigma:.3g}, {usual:.3g} as read and {error:.3g} so"
                for sigma, usual, error in clearest
            )
            return (
                f"The model denoises the training images better if it is read in another way: {better.text}. The error is"
                f" {1 - better.ratio:.0%} lower, mean over {len(better.sound)} noise levels; squared, per value: {figures}."
                f" {better.remedy}."
            )
        if len(middle) == 3 and all(point.worse for point in middle):
            figures = "; ".join(
                f"at sigma {point.sigma:.3g}, {point.model.value:.3g}, doing nothing {point.nothing.value:.3g}, the mean image"
                f" {point.mean_image.value:.3g}"
                for point in middle
            )
            return (
                "As it was read, the model is no denoiser of the training images: it is worse than doing nothing and than the mean image."
                f" Mean squared error per value {figures}. Either these are not its training images, or the file was read wrongly,"
                f" and none of the {len(self.readings)} other readings that were tried is better. {_WAY_ON}."
            )
        return None

    @property
    def sentence(self) -> str:
        """The figures in a sentence."""
        if self.missing is not None:
            return f"The model was not checked against the images: {self.missing}"
        middle = [point for point in self.points if point.middle] or self.points
        figures = "; ".join(
            f"{point.model.value:.3g} at sigma {point.sigma:.3g} (doing nothing {point.nothing.value:.3g}, mean image"
            f" {point.mean_image.value:.3g}"
            + ("" if point.gaussian is None else f", Gaussian {point.gaussian.value:.3g}")
            + ")"
            for point in middle
        )
        return f"Denoising error on {self.images:,} training images, squared, per value: {figures}. {self._tried}".rstrip()

    @property
    def _tried(self) -> str:
        """What is to be said of the other readings."""
        if not self.readings or self.better is not None:
            return ""
        lowest = min((one for one in self.readings if one.lower), key=lambda one: one.overall, default=None)
        if lowest is None:
            return f"None of {len(self.readings)} other readings is better."
        return (
            f"Of {len(self.readings)} other readings, the error is {1 - lowest.ratio:.1%} lower, too little to decide, for this one:"
            f" {lowest.text}. Make sure of it."
        )

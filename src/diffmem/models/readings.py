"""The same network read in other ways: what a wrong prediction type, image range, order of colours or direction of time would be.

A file may be read wrongly, or hold something else than its user says. Each reading changes one thing; which of them denoises images best
shows what the network was trained for. See `diffmem.optimum.denoising_error`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import replace
from functools import partial

from torch import Tensor

from diffmem.models.continuous import Coefficients, ContinuousDenoiser, straight_flow, trigonometric_flow
from diffmem.models.denoiser import Denoiser, DescribedDenoiser, Origin, Reading
from diffmem.models.discrete import DiscreteDenoiser, Prediction
from diffmem.models.latent import LatentDenoiser

__all__ = ["MappedDenoiser", "generic_readings", "of_unit_range", "other_readings"]

_BY_HAND = "No setting chooses that: give the model as a function (diffmem.function_denoiser)"
_PREDICTIONS: dict[Prediction, str] = {
    "epsilon": "the noise",
    "sample": "the clean image",
    "v_prediction": "the velocity v",
}


class MappedDenoiser(DescribedDenoiser):
    """D of a network whose images are others than those that are given to it: D(x; s) = back(D_network(to(x); units s)).

    Args:
        inner: Of the network's images.
        to: Makes the network's images of those in [-1, 1] units, (B, C, H, W).
        back: The inverse.
        units: What a noise level is multiplied by.
    """

    def __init__(
        self,
        inner: Denoiser,
        to: Callable[[Tensor], Tensor],
        back: Callable[[Tensor], Tensor],
        units: float = 1.0,
    ) -> None:
        self.inner, self._to, self._back, self._units = inner, to, back, units
        self.sigma_min, self.sigma_max = inner.sigma_min / units, inner.sigma_max / units
        self.image_shape, self.num_labels, self.device = inner.image_shape, inner.num_labels, inner.device

    def _text(self) -> str:
        text = self.inner._text() if isinstance(self.inner, DescribedDenoiser) else repr(self.inner)
        return f"{text}, of images in other units"

    def __call__(self, x: Tensor, sigma: Tensor | float, labels: Tensor | None = None) -> Tensor:
        """Denoise a batch; see `Denoiser`."""
        return self._back(self.inner(self._to(x), sigma * self._units, labels))


def of_unit_range(denoiser: Denoiser) -> MappedDenoiser:
    """Return a denoiser of images in [-1, 1] made of one of images in [0, 1]: D(x; s) = 2 D01((x + 1) / 2; s / 2) - 1."""
    return MappedDenoiser(denoiser, lambda x: (x + 1) / 2, lambda clean: 2 * clean - 1, 0.5)


def other_readings(denoiser: Denoiser) -> list[Reading]:
    """Return the same model read in other ways: first with other settings of its file, then what no setting chooses."""
    origin: Origin | None = getattr(denoiser, "origin", None)
    known = () if origin is None else origin.readings
    named = {reading.text for reading in known}
    return [*known, *(reading for reading in generic_readings(denoiser) if reading.text not in named)]


def generic_readings(denoiser: Denoiser) -> list[Reading]:
    """Return the readings of a denoiser that need no file; of latents, only what the network predicts."""
    if isinstance(denoiser, LatentDenoiser):
        return [
            replace(reading, open=partial(_of_latents, denoiser, reading.open))
            for reading in _of_the_network(denoiser.inner)
        ]
    return [*_of_the_network(denoiser), *_of_the_images(denoiser)]


def _of_latents(denoiser: LatentDenoiser, open_inner: Callable[[], Denoiser]) -> LatentDenoiser:
    other = copy(denoiser)
    other.inner = open_inner()
    return other


def _of_the_network(denoiser: Denoiser) -> Iterator[Reading]:
    """Yield what else the network may predict, and which time it may know."""
    if isinstance(denoiser, DiscreteDenoiser):
        for prediction, text in _PREDICTIONS.items():
            if prediction != denoiser.prediction:
                yield Reading(
                    f"the network predicts {text}", _BY_HAND, partial(_with, denoiser, prediction=prediction)
                )
    if not isinstance(denoiser, ContinuousDenoiser):
        return
    process = denoiser.process
    if process.unit_range:
        other = replace(process, unit_range=False)
        bounds = {"sigma_min": process.sigma_min, "sigma_max": process.sigma_max}
        yield Reading(
            "the network's images are in [-1, 1]", _BY_HAND, partial(_with, denoiser, process=other, **bounds)
        )
    flows = {flow.text: flow for flow in (straight_flow(), trigonometric_flow())}
    if process.text not in flows:
        return

    def turned(sigma: Tensor) -> Coefficients:
        skip, out, scale, time = process.coefficients(sigma)
        return Coefficients(skip, -out, scale, 1 - time)

    yield Reading(
        "the flow's time runs from images to noise, as its velocity does",
        _BY_HAND,
        partial(_with, denoiser, process=replace(process, coefficients=turned)),
    )
    for text, flow in flows.items():
        if text != process.text:
            changed = replace(process, text=text, coefficients=flow.coefficients)
            yield Reading(
                f"the network predicts the {text}", _BY_HAND, partial(_with, denoiser, process=changed)
            )


def _of_the_images(denoiser: Denoiser) -> Iterator[Reading]:
    """Yield which images the network may have been trained on."""
    if not (isinstance(denoiser, ContinuousDenoiser) and denoiser.process.unit_range):
        yield Reading(
            "the network's images are in [0, 1]",
            _BY_HAND,
            partial(of_unit_range, denoiser),
        )
    if denoiser.image_shape[0] == 3:
        yield Reading(
            "the network's colours are in the order blue, green, red",
            _BY_HAND,
            partial(MappedDenoiser, denoiser, lambda x: x.flip(1), lambda clean: clean.flip(1)),
        )


def _with(denoiser: Denoiser, **changes: object) -> Denoiser:
    """Return a copy with other attributes and the same network."""
    other = copy(denoiser)
    for name, value in changes.items():
        setattr(other, name, value)
    return other

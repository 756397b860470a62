"""Scores of prompts that need a network, taken from a model and then from its base: one network in memory at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from diffmem.attacks.conditions import LEVELS, States, first_step, null_magnitudes, renoised
from diffmem.attacks.scores import attack_levels, attack_scores
from diffmem.auditing.model import as_the_model_sees
from diffmem.auditing.prompts.detector_records import DetectorKey
from diffmem.auditing.prompts.plan import PromptPlan
from diffmem.data import ImageSet
from diffmem.data.prompts import comparable
from diffmem.models.latent import LatentDenoiser
from diffmem.progress import Progress, Stages

__all__ = ["Probing"]

_SEEDS = 2
"""Of each prompt, its first ones are probed."""

_IMAGES = 4
"""Of each caption, so many images at most have their losses measured."""

_SKIPPED = 3  # the levels of the loss attack are 30, many more than prompts' order needs
_LOSSES = 10


@dataclass(eq=False)
class Probing:
    """What was measured of the prompts of an audit so far.

    Args:
        plan: The prompts.
        pairs: Images with captions, trained on and held out; for the losses.
        seed: Of the noise of the losses.
        based: Whether a base model follows.

    Attributes:
        scores: By detector, and by prompt as `comparable` writes it.
    """

    plan: PromptPlan
    pairs: tuple[ImageSet, ...]
    seed: int
    based: bool
    scores: dict[DetectorKey, dict[str, float]] = field(default_factory=dict)
    _states: States | None = None
    _losses: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        found: dict[int, list[tuple[ImageSet, int]]] = defaultdict(list)
        for images in self.pairs if self.based else ():
            captioned = self.plan.captioned(images)
            if captioned is None or captioned.labels is None:
                continue
            for at, label in enumerate(captioned.labels.tolist()):
                if len(found[label]) < _IMAGES:
                    found[label].append((captioned, at))
        self._pairs = [(label, *pair) for label, those in sorted(found.items()) for pair in those]

    @property
    def evaluations(self) -> tuple[int, int]:
        """Evaluations of the network for all of it: by the model, and by its base."""
        states, losses = len(self._probed), _LOSSES * len(self._pairs)
        own = states * (6 + 2 * len(LEVELS)) + losses
        return own, states * len(LEVELS) + losses if self.based else 0

    def of_model(self, denoiser: LatentDenoiser, samples: ImageSet, progress: Progress) -> None:
        """Probe the model: without guidance, which only the samples have.

        Args:
            denoiser: The model; its labels are the prompts.
            samples: Of the plan.
            progress: Called now and then.
        """
        stages = Stages(progress, first=0.4, states=0.4, losses=0.2)
        labels, seeds = self._asked
        magnitude, sharpness = first_step(denoiser, labels, seeds, progress=stages.first)
        states = renoised(denoiser, samples.images[self._probed], labels, seeds, stages.states)
        self._put("magnitude", magnitude)
        self._put("sharpness", sharpness)
        self._put("own_null", states.own)
        if self.based:
            self._states, self._losses = states, self._loss(denoiser, stages.losses)

    def of_base(self, denoiser: LatentDenoiser, progress: Progress) -> None:
        """Probe the base model, after the model; see `of_model`."""
        stages = Stages(progress, states=0.5, losses=0.5)
        assert self._states is not None
        assert self._losses is not None
        self._put("base_null", null_magnitudes(denoiser, self._states, stages.states))
        self._states = None  # the only large thing
        gained = self._losses - self._loss(denoiser, stages.losses)
        found: dict[str, list[float]] = defaultdict(list)
        for (label, _, _), value in zip(self._pairs, gained.tolist(), strict=True):
            found[comparable(self.plan.texts[label])].append(value)
        self.scores["membership"] = {text: float(np.mean(values)) for text, values in found.items()}

    @property
    def _probed(self) -> NDArray[np.int64]:
        """Samples of the plan that are probed; a plan without seeds in its list has none."""
        return np.flatnonzero([(seed or 0) < _SEEDS for seed in self.plan.listed.seeds])

    @property
    def _asked(self) -> tuple[list[int], list[int]]:
        chosen = self._probed.tolist()
        return [self.plan.labels[at] for at in chosen], [self.plan.seeds[at] for at in chosen]

    def _put(self, key: DetectorKey, values: NDArray[np.float64]) -> None:
        labels = np.array(self._asked[0])
        self.scores[key] = {
            comparable(text): float(values[labels == label].mean())
            for label, text in enumerate(self.plan.texts)
        }

    def _loss(self, denoiser: LatentDenoiser, progress: Progress) -> NDArray[np.float64]:
        """Return minus the loss of each pair: with the same noise for every model."""
        if not self._pairs:
            return np.empty(0)
        seen: Mapping[int, ImageSet] = {
            id(images): as_the_model_sees(images, denoiser) for _, images, _ in self._pairs
        }
        pixels = np.stack([seen[id(images)].images[at] for _, images, at in self._pairs])
        labels = np.array([label for label, _, _ in self._pairs], np.int64)
        levels = attack_levels("loss", denoiser)[1::_SKIPPED][:_LOSSES]
        return attack_scores("loss", denoiser, pixels, labels, levels, self.seed, progress=progress)

"""What is to be audited, and how: the one object that an audit takes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from diffmem.auditing.spaces import FeatureSpace
from diffmem.data import CanarySet, ImageSet
from diffmem.errors import UserError
from diffmem.memorization import Transforms
from diffmem.models import Denoiser
from diffmem.progress import Progress
from diffmem.sampling import SamplerConfig

__all__ = ["PROBED", "AuditRequest", "OtherTraining"]

PROBED = 128
"""Most samples that are asked about their dimension."""

_DEDUPLICATED = re.compile(r"removed that repeat an earlier one within (?!0 |no )")
"""What `diffmem data duplicates --dedup` writes into the history of a set."""


@dataclass(frozen=True)
class OtherTraining:
    """The training images as another rule of reading makes them.

    Attributes:
        text: The rule, for people: 'EXIF orientation applied'.
        remedy: How to choose it: '--train-read exif=apply'.
        open: Gives the images.
    """

    text: str
    remedy: str
    open: Callable[[Progress], ImageSet]


@dataclass(frozen=True, eq=False)
class AuditRequest:
    """What is to be audited, and how.

    Attributes:
        training: The training images; none to look at the model alone.
        samples: Generated images; none to generate them from the model.
        heldout: Images of the same source that were not trained on.
        model: The model; none if samples were given.
        canaries: Marked images that the training set holds, and their control group.
        other_training: Other readings of the training images, under which the samples are looked at, too.
        deduplicated: Whether near-copies were removed from the training set; if left out, what its history says.
        number: Samples to generate.
        sampler: How they are generated.
        first_seed: Seed of the first.
        transforms: Changes under which a sample still counts as a copy.
        features: Feature spaces in which copies are looked for, too.
        threshold: Of the ratio rules, in (0, 1].
        target: Share of copies that is to be excluded, in (0, 1).
        private: Whether names and images stay out of the report.
        seed: Of everything random but the samples.
        title: Heading of the report.
        sources: Where each set, and the model, was read from, by role.
        device: Where to compute.
        batch_size: Images at a time.

    Raises:
        UserError: Things are missing, do not go together, or are out of range.
    """

    training: ImageSet | None = None
    samples: ImageSet | None = None
    heldout: ImageSet | None = None
    model: Denoiser | None = None
    canaries: CanarySet | None = None
    other_training: Sequence[OtherTraining] = ()
    deduplicated: bool | None = None
    number: int = 10_000
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    first_seed: int = 0
    transforms: Transforms | None = None
    features: Sequence[FeatureSpace] = ()
    threshold: float = 1 / 3
    target: float = 0.01
    private: bool = False
    seed: int = 0
    title: str = "Does this model leak its training data?"
    sources: dict[str, str] = field(default_factory=dict)
    device: str = "cpu"
    batch_size: int = 64

    @property
    def drawn(self) -> int:
        """Samples that are generated: without training images, as many as are asked about their dimension."""
        return self.number if self.training is not None else min(self.number, PROBED)

    @property
    def first_number(self) -> int:
        """Number of the first sample: its seed if it is generated, else 0."""
        return 0 if self.model is None else self.first_seed

    @property
    def near_copies_removed(self) -> bool:
        """Whether near-copies were removed from the training set: as told, else as its history says."""
        if self.deduplicated is not None or self.training is None:
            return bool(self.deduplicated)
        return any(_DEDUPLICATED.search(step) for step in self.training.history)

    def __post_init__(self) -> None:
        if self.samples is None and self.model is None:
            raise UserError("Give samples or a model: an audit needs something to look at.")
        if self.samples is not None and self.model is not None:
            raise UserError("Give either samples or a model, not both: samples are generated from the model.")
        if self.training is None and self.model is None:
            raise UserError(
                "Name the training images with --train: samples alone say nothing about what they copy."
            )
        if not 0 < self.target < 1:
            raise UserError(
                f"The share of copies to exclude must lie between 0 and 1, not {self.target:g}; the default is 0.01."
            )
        classes = 0 if self.model is None or self.canaries is None else self.model.num_labels
        if classes and self.canaries is not None and self.canaries.planted_labels is None:
            raise UserError(
                f"The model has {classes} classes and the canaries have no labels; plant them in a labelled set."
            )
        if self.model is not None and self.number < 1:
            raise UserError(f"At least 1 sample must be generated, not {self.number}.")

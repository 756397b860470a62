"""What is to be audited, and how: the one object that an audit takes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from diffmem.auditing.spaces import FeatureSpace
from diffmem.data import CanarySet, ImageSet
from diffmem.errors import UserError, check_seed
from diffmem.memorization import Transforms
from diffmem.models import Denoiser
from diffmem.progress import Progress
from diffmem.sampling import SamplerConfig

__all__ = ["PROBED", "AuditOptions", "AuditRequest", "OtherSource"]

PROBED = 128
"""Most samples that FLIPD is measured for."""

_DEDUPLICATED = re.compile(r"removed that repeat an earlier one within (?!0 |no )")
"""What `diffmem data duplicates --dedup` writes into the history of a set."""


@dataclass(frozen=True)
class OtherSource:
    """A set of images as another rule of reading makes it.

    Attributes:
        text: The rule, for people: 'EXIF orientation applied'.
        remedy: How to choose it: '--train-read exif=apply'.
        open: Gives the images.
    """

    text: str
    remedy: str
    open: Callable[[Progress], ImageSet]


@dataclass(frozen=True, kw_only=True)
class AuditOptions:
    """How an audit is done; `diffmem audit` has options of these names.

    Attributes:
        num: Samples to generate from the model.
        first_seed: Seed of the first sample.
        deduplicated: Near-copies were removed from the training set: use only held-out images for the null rate. Set by itself where
            diffmem removed them: the history of the set says so.
        target: Rate of copies that a clean audit must exclude at 95% confidence, in (0, 1).
        private: Keep every image and file name out of the report: indices and hashes only.
        seed: Seed of all random choices except the samples.
        title: Heading of the report.
        batch_size: Images at a time.

    Raises:
        UserError: A number is out of range.
    """

    num: int = 10_000
    first_seed: int = 0
    deduplicated: bool | None = None
    target: float = 0.01
    private: bool = False
    seed: int = 0
    title: str = "Does this model leak its training data?"
    batch_size: int = 64

    def __post_init__(self) -> None:
        if not 0 < self.target < 1:
            raise UserError(
                f"The share of copies to exclude must lie between 0 and 1, not {self.target:g}; the default is 0.01."
            )
        check_seed(self.seed)
        check_seed(self.first_seed, "first seed")
        if self.num < 1:
            raise UserError(f"At least 1 sample must be generated, not {self.num}.")


@dataclass(frozen=True, eq=False)
class AuditRequest:
    """What is to be audited, and how.

    Attributes:
        training: The training images; none to examine the model alone.
        samples: Generated images; none to generate them from the model.
        heldout: Images of the same source that were not trained on.
        model: The model; none if samples were given.
        canaries: Marked images that the training set holds, and their control group.
        other_training: Other readings of the training images, under which the samples are compared with them, too.
        other_samples: Likewise, of the samples.
        options: The settings; `settled` are those that the audit goes by.
        sampler: How samples are generated.
        transforms: Changes under which a sample still counts as a copy.
        features: Feature spaces in which copies are searched, too.
        threshold: Of the ratio rules, in (0, 1].
        sources: Where each set, and the model, was read from, by role.
        device: Where to compute.

    Raises:
        UserError: Things are missing, or do not go together.
    """

    training: ImageSet | None = None
    samples: ImageSet | None = None
    heldout: ImageSet | None = None
    model: Denoiser | None = None
    canaries: CanarySet | None = None
    other_training: Sequence[OtherSource] = ()
    other_samples: Sequence[OtherSource] = ()
    options: AuditOptions = field(default_factory=AuditOptions)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    transforms: Transforms | None = None
    features: Sequence[FeatureSpace] = ()
    threshold: float = 1 / 3
    sources: dict[str, str] = field(default_factory=dict)
    device: str = "cpu"

    @property
    def settled(self) -> AuditOptions:
        """The options as they apply here.

        Without training images, only as many samples are generated as FLIPD is measured for; given samples are counted from 0;
        near-copies were removed if the options say so, else if the history of the training set does.
        """
        removed = self.options.deduplicated
        if removed is None:
            history = () if self.training is None else self.training.history
            removed = any(_DEDUPLICATED.search(step) for step in history)
        return replace(
            self.options,
            num=self.options.num if self.training is not None else min(self.options.num, PROBED),
            first_seed=0 if self.model is None else self.options.first_seed,
            deduplicated=removed and self.training is not None,
        )

    def __post_init__(self) -> None:
        if self.samples is None and self.model is None:
            raise UserError("Give samples or a model: an audit needs something to look at.")
        if self.samples is not None and self.model is not None:
            raise UserError("Give either samples or a model, not both: samples are generated from the model.")
        if self.training is None and self.model is None:
            raise UserError(
                "Name the training images with --train: samples alone say nothing about what they copy."
            )
        classes = 0 if self.model is None else self.model.num_labels
        if classes and self.canaries is not None and self.canaries.planted_labels is None:
            raise UserError(
                f"The model has {classes} classes and the canaries have no labels; plant them in a labelled set."
            )

"""Samples of a text-to-image model for an audit by prompt, and of its base model with the same prompts and noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from diffmem.attacks.exposure import ExposureRecord, exposure_of_model
from diffmem.auditing.model import check_reading, model_record
from diffmem.auditing.prompts.detectors import Scores
from diffmem.auditing.prompts.plan import PromptPlan
from diffmem.auditing.prompts.probing import Probing
from diffmem.auditing.records import ModelRecord
from diffmem.auditing.request import AuditOptions
from diffmem.auditing.time_estimate import estimate_sampling
from diffmem.data import CanarySet, ImageSet
from diffmem.data.formats.files import named
from diffmem.errors import UserError
from diffmem.memory import within_memory
from diffmem.models import origin_of
from diffmem.models.denoiser import model_text
from diffmem.models.guided import GuidedDenoiser
from diffmem.models.latent import LatentDenoiser
from diffmem.models.pretrained.text_model import TextModel, open_text_model
from diffmem.progress import NO_PROGRESS, Progress, Stages
from diffmem.sampling import BrokenModelError, SamplerConfig, generate_resumable
from diffmem.text import count_text, duration_text

__all__ = ["MEMBERSHIP", "PromptedModel", "PromptedSamples", "sample_prompts"]

MEMBERSHIP = (
    "Not done for a text-to-image model: an attack needs the prompt of each image, and the audit encodes those alone that it makes samples"
    " of. What memory of single images there is shows in the canaries, where some were planted."
)
"""Why there is no membership inference."""


@dataclass(frozen=True, kw_only=True)
class PromptedModel:
    """A text-to-image model, its base model, and how both are asked.

    Attributes:
        path: A folder that `open_text_model` reads.
        lora: FILE or FILE:WEIGHT, merged into it; its base is then the same folder without it, unless `base` says otherwise.
        base: The folder of the model that a fine-tune started from; none to leave the comparison out.
        seeds_per_prompt: Seeds of each prompt.
        prompts_per_group: Most training captions, and most captions that were not trained on.
        guidance: Scale of classifier-free guidance; 1 is none.
        size: (H, W) of the images in pixels; none for that of the model's settings.
        dtype: Of the network.
    """

    path: Path
    lora: Path | str | None = None
    base: Path | None = None
    seeds_per_prompt: int = 4
    prompts_per_group: int = 300
    guidance: float = 7.5
    size: tuple[int, int] | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"

    @property
    def base_path(self) -> Path | None:
        """The folder of the base model; none if there is none to compare with."""
        return self.base or (self.path if self.lora is not None else None)

    def check(self) -> None:
        """Refuse what cannot be, before anything is read.

        Raises:
            UserError: The base is the model itself.
        """
        if self.lora is None and self.base is not None and self.base.resolve() == self.path.resolve():
            raise UserError(
                f"{self.base} is the audited model itself; --base names what it was trained from."
            )


@dataclass(frozen=True, eq=False)
class PromptedSamples:
    """What was made.

    Attributes:
        samples: Of the model, in the order of the plan.
        base: Of the base model, likewise; none without.
        model: The record of the model.
        exposure: Of canaries with captions, by the losses of the model.
        notes: On the base model, and on prompts that were cut.
        scores: Of the prompts, by the detectors that need a network.
    """

    samples: ImageSet
    base: ImageSet | None
    model: ModelRecord
    exposure: tuple[ExposureRecord, ...]
    notes: tuple[str, ...]
    scores: Scores


@dataclass(frozen=True, eq=False)
class _Work:
    """What is the same for both models."""

    plan: PromptPlan
    config: SamplerConfig
    options: AuditOptions
    guidance: float

    def images(self, opened: TextModel, shards: Path, progress: Progress) -> ImageSet:
        guided = _guided(opened.denoiser, self.guidance)
        # The digest is of the prompts, too.
        tag = f"audit {origin_of(opened.denoiser).digest} guidance {self.guidance!r} {self.config.model_dump_json()}"
        try:
            made = generate_resumable(
                guided,
                self.plan.seeds,
                self.config,
                shards,
                tag,
                labels=self.plan.labels,
                batch_size=self.options.batch_size,
                progress=progress,
            )
        except BrokenModelError as error:
            raise UserError(str(error)) from error
        names = tuple(name for name in self.plan.listed.files if name is not None)
        return ImageSet(made.images, None, names, None, (self.sampling,))

    @property
    def sampling(self) -> str:
        """The sampler in words."""
        guided = "without guidance" if self.guidance == 1 else f"guidance {self.guidance:g}"
        return f"{self.config.describe()}, {guided}; noise drawn by prompt and seed"


def sample_prompts(
    model: PromptedModel,
    plan: PromptPlan,
    known: tuple[ImageSet | None, ImageSet | None, CanarySet | None],
    config: SamplerConfig,
    options: AuditOptions,
    where: tuple[str, Path, Path],
    progress: Progress = NO_PROGRESS,
    report: Callable[[str], None] = lambda text: None,
) -> PromptedSamples:
    """Open the model and sample it, then drop it and do the same with its base: one network and one autoencoder at a time.

    An interrupted call goes on where it stopped.

    Args:
        known: The training images, with captions, on which the reading of the model is checked; held-out images; and canaries.
        where: The device, and the folders that keep the samples of the model and of its base.
        report: Called with the model, and with what it will take, before samples are made.

    Raises:
        UserError: A model cannot be read or was read wrongly, the base is of another kind or the same, or values are not finite; or
            canaries have another size than the model's images.
    """
    training, heldout, canaries = known
    device, shards, base_shards = where
    model.check()
    others = model.base_path
    part = 0.0 if others is None else 0.4
    stages = Stages(
        progress, check=0.03, canaries=0.02, own=0.8 - part, base=part, probe=0.1, probe_base=0.05
    )
    open_it = partial(open_text_model, prompts=plan.texts, size=model.size, device=device, dtype=model.dtype)
    started = None
    if model.base is not None:
        base = open_text_model(model.base, ("",), size=model.size, device="cpu", dtype=model.dtype)
        started = _kind(base), base.files
        del base
        _free()
    opened = open_it(model.path, lora=model.lora)
    if started is not None:  # what does not fit is said before hours of work
        _check_base(model, started, (_kind(opened), opened.files))
    report(f"model: {model_text(opened.denoiser, options.private)}")
    shape = opened.denoiser.pixel_shape
    if canaries is not None and canaries.shape != shape:  # else it is said after hours of work
        raise UserError(
            f"The canaries have shape {canaries.shape} and the model makes {shape} (C, H, W): plant them at its size, or give --resolution."
        )
    work = _Work(plan, config, options, model.guidance)
    pairs = tuple(one for one in (training, heldout) if one is not None and one.captions is not None)
    probing = Probing(plan, pairs, options.seed, others is not None)
    report(_cost_text(opened, work, probing))
    check = None
    shown = None if training is None else plan.captioned(training)
    if shown is not None:
        check = check_reading(opened.denoiser, shown, options, stages.check)
        if check.problem is not None:
            raise UserError(check.problem)
    exposure = []
    if canaries is not None and canaries.planted_captions is not None:
        exposure.append(
            exposure_of_model(opened.denoiser, plan.labelled(canaries), options.seed, stages.canaries)
        )
    samples = work.images(opened, shards, stages.own)
    probing.of_model(opened.denoiser, samples, stages.probe)
    record = model_record(opened.denoiser, str(model.path), config, options, check).model_copy(
        update={"seeds": (0, model.seeds_per_prompt - 1), "sampling": work.sampling}
    )
    notes = list(plan.notes)
    if opened.prompts.truncated:
        cut = [opened.prompts.prompts[at] for at in opened.prompts.truncated]
        notes.append(
            f"{count_text(len(cut), 'prompt')} longer than the {opened.prompts.longest} pieces that the model reads, so that the end was"
            f" not read{'' if options.private else f' ({named(cut)})'}."
        )
    if others is None:
        return PromptedSamples(samples, None, record, tuple(exposure), tuple(notes), probing.scores)
    del opened
    _free()
    base = open_it(others)
    which = "" if options.private else f", {others},"
    notes.append(
        f"The base model{which} was asked the same with the same noise; SHA-256 of what it is {origin_of(base.denoiser).digest}."
    )
    made = work.images(base, base_shards, stages.base)
    probing.of_base(base.denoiser, stages.probe_base)
    del base
    _free()
    return PromptedSamples(samples, made, record, tuple(exposure), tuple(notes), probing.scores)


def _guided(model: LatentDenoiser, scale: float) -> LatentDenoiser:
    return LatentDenoiser(GuidedDenoiser(model.inner, scale), model.decode, model.encode, model.pixel_shape)


def _check_base(model: PromptedModel, base: tuple[_Kind, str], own: tuple[_Kind, str]) -> None:
    """Refuse a base that the model was not trained from, or that is the model, by the kinds and the files of both.

    Raises:
        UserError: See above.
    """
    if base[0] != own[0]:
        raise UserError(
            f"{model.base} is not what {model.path} was trained from: its images, latents or text encoders have other sizes. Name its base."
        )
    if base[1] == own[1]:
        raise UserError(f"{model.base} and {model.path} hold the same weights: there is nothing to compare.")


_Kind = tuple[object, ...]


def _kind(model: TextModel) -> _Kind:
    """Return what a model and its base have in common."""
    table = model.prompts
    return (
        model.denoiser.pixel_shape,
        model.denoiser.image_shape,
        table.states.shape[1:],
        None if table.pooled is None else table.pooled.shape[1:],
    )


def _cost_text(opened: TextModel, work: _Work, probing: Probing) -> str:
    """Say what the samples and the detectors take: evaluations of the network, time, and memory of the weights."""
    guided, models = _guided(opened.denoiser, work.guidance), 2 if probing.based else 1
    samples, each = len(work.plan.labels), work.config.evaluations * (1 if work.guidance == 1 else 2)

    def seconds(count: int) -> float:
        return estimate_sampling(guided, work.config, samples, count)

    sampled, probed = models * samples * each, sum(probing.evaluations)
    took = models * within_memory(seconds, min(samples, work.options.batch_size), "batch_size")
    took *= 1 + probed / sampled
    return (
        f"samples: {len(work.plan.texts):,} prompts, {samples:,} images"
        f"{', and as many of the base model' if models == 2 else ''}; {sampled:,} evaluations of the network and {probed:,}"
        f" for detectors, about {duration_text(took)}; weights on {guided.device} take"
        f" {opened.weight_bytes / 2**30:.2f} GiB, one model at a time"
    )


def _free() -> None:
    """Give back the memory of a model that was dropped; it and its readings refer to each other."""
    import gc

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

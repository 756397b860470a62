"""Audits of text-to-image models: samples by prompt of the model and its base, then the audit of samples with prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from diffmem.auditing import Audited, AuditOptions, AuditResult
from diffmem.auditing.prompts.detectors import AskedPrompt, Detected, detectors_of
from diffmem.auditing.prompts.plan import PromptPlan, plan_given, plan_prompts
from diffmem.auditing.prompts.sampling import MEMBERSHIP, PromptedModel, PromptedSamples, sample_prompts
from diffmem.auditing.records import InputRecord, MembershipPart
from diffmem.auditing.verdict import limitations, verdict_without_training
from diffmem.data import CanarySet, ImageSet
from diffmem.data.prompts import PromptList
from diffmem.environment import versions
from diffmem.errors import UserError
from diffmem.models.pretrained.text_folder import is_text_folder
from diffmem.progress import Progress
from diffmem.sampling import SamplerConfig

__all__ = ["MadeByPrompt", "made_by_prompt", "text_model_of"]

_NAMES = tuple(field.name for field in fields(PromptedModel) if field.name not in ("path", "size"))
_USUAL = (None, "ema", False)


def text_model_of(model: object, options: dict[str, Any], details: Mapping[str, Any]) -> PromptedModel | None:
    """Return a text-to-image model that is named, with its options, which are taken out; none of any other model.

    Args:
        model: What is to be audited.
        options: Of `audit`.
        details: Further arguments for opening it.

    Raises:
        UserError: Options are for another kind of model.
    """
    given = {name: options.pop(name) for name in _NAMES if name in options}
    named = [name for name, value in given.items() if name in ("lora", "base") and value is not None]
    if not isinstance(model, str | Path) or not (named or is_text_folder(Path(model).expanduser())):
        changed = [name for name, value in given.items() if value != getattr(PromptedModel, name)]
        if changed:
            raise UserError(
                f"--{changed[0].replace('_', '-')} is for a text-to-image model (--model FOLDER); this is none."
            )
        return None
    other = next(
        (name for name, value in details.items() if name != "resolution" and value not in _USUAL), None
    )
    if other is not None:
        option = "model-set" if other == "settings" else other.replace("_", "-")
        raise UserError(f"--{option} is not for a text-to-image model, whose folder tells all; leave it out.")
    size = details.get("resolution")
    lora, base = given.pop("lora", None), given.pop("base", None)
    return PromptedModel(
        path=Path(model).expanduser(),
        lora=lora,
        base=None if base is None else Path(base).expanduser(),
        size=(size, size) if isinstance(size, int) else size,
        **given,
    )


@dataclass(frozen=True, eq=False)
class MadeByPrompt:
    """Samples by prompt.

    Attributes:
        plan: What was asked.
        found: What was made.
    """

    plan: PromptPlan
    found: PromptedSamples

    def noted(self, audited: Audited) -> Audited:
        """Return an audit of the samples with the model that made them."""
        result = audited.result
        update = {
            "model": self.found.model,
            "membership": MembershipPart(refused=MEMBERSHIP),
            "exposure": [*result.exposure, *self.found.exposure],
            "notes": [*self.found.notes, *result.notes],
        }
        return Audited(result.model_copy(update=update), audited.shown)

    def ranked(self, options: AuditOptions, device: str) -> tuple[Audited, Detected]:
        """Return an audit without training images, which cannot tell, and what scores say of the prompts."""
        samples, plan = self.found.samples, self.plan
        reason = "Prompts are ranked by scores; a high one is no proof, and a low one clears nothing."
        result = AuditResult(
            title=options.title,
            private=options.private,
            seed=options.seed,
            target=options.target,
            verdict=verdict_without_training([reason]),
            inputs=[
                InputRecord(
                    role="samples",
                    source=None,
                    read=[],
                    steps=[],
                    images=len(samples),
                    shape=samples.shape,
                    fingerprint=samples.fingerprint,
                )
            ],
            model=None,
            membership=None,
            limitations=limitations(None, None, False),
            versions=versions(device),
        )
        group = dict(zip(plan.listed.texts, plan.listed.groups, strict=True))
        asked = [AskedPrompt(text, group[text] or "new") for text in plan.texts]
        labels = np.array(plan.labels)
        of_prompt = [np.flatnonzero(labels == at) for at in range(len(asked))]
        detected = detectors_of(
            asked, (samples.images, of_prompt), self.found.scores, {}, private=options.private
        )
        return self.noted(Audited(result)), detected


def made_by_prompt(
    model: PromptedModel,
    sets: Mapping[str, ImageSet | None],
    lists: tuple[PromptList | None, PromptList | None],
    options: tuple[AuditOptions, SamplerConfig, CanarySet | None],
    where: tuple[str, Path, Path],
    progress: Progress,
    report: Callable[[str], None],
) -> MadeByPrompt:
    """Choose the prompts of an audit, and make the samples of a model and its base.

    Args:
        model: The model.
        sets: 'training' and 'heldout'.
        lists: Without training images, prompts and control prompts.
        options: Of the audit, of the sampler, and canaries.
        where: See `sample_prompts`.

    Raises:
        UserError: There are no training images with captions and no lists, or an option is for other models; see also
            `sample_prompts`.
    """
    settings, sampler, canaries = options
    training, heldout = sets["training"], sets["heldout"]
    if settings.first_seed:
        raise UserError("--first-seed is not for a text-to-image model: each prompt has the seeds from 0 on.")
    if settings.num != AuditOptions.num:
        raise UserError(
            "--num is not for a text-to-image model: --prompts-per-group and --seeds-per-prompt say how many samples are made."
        )
    prompts, controls = lists
    if training is not None:
        held = () if heldout is None else heldout.captions or ()
        plan = plan_prompts(
            training,
            [caption for caption in held if caption is not None],
            canaries=canaries,
            most=model.prompts_per_group,
            per_prompt=model.seeds_per_prompt,
            seed=settings.seed,
        )
    elif prompts is None or controls is None:
        raise UserError(
            "An audit of a text-to-image model needs the images and captions that it was trained on: --train. Without them, lists of"
            " prompts and of control prompts are ranked: --prompts and --controls."
        )
    else:
        other = "--heldout" if heldout is not None else "--canaries" if canaries is not None else None
        if other is not None:
            raise UserError(
                f"{other} is for an audit with the training images (--train); without them, the control prompts are those of --controls."
            )
        plan = plan_given(prompts, controls, model.seeds_per_prompt)
    return MadeByPrompt(
        plan,
        sample_prompts(
            model, plan, (training, heldout, canaries), sampler, settings, where, progress, report
        ),
    )

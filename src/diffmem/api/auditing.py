"""`audit`: does this model leak its training images?"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from diffmem.api.inputs import Images, Model, as_images, as_model
from diffmem.api.spreading import model_by_path, read_executor, spread_over
from diffmem.api.text_models import made_by_prompt, text_model_of
from diffmem.auditing import (
    Audited,
    AuditOptions,
    AuditRequest,
    AuditResult,
    OtherSource,
    open_feature_space,
    parse_transforms,
)
from diffmem.auditing import audit as run_audit
from diffmem.auditing.prompts.detectors import Detected, Scores
from diffmem.auditing.prompts.measure import PromptAudit, PromptInputs, audit_prompts
from diffmem.auditing.prompts.report.detectors import detectors_part
from diffmem.auditing.prompts.report.part import prompts_part
from diffmem.auditing.records import VerdictRecord
from diffmem.auditing.report import audit_images, write_audit
from diffmem.auditing.report.text import FINDING_TEXT, audit_table, count_of_total, deciding_first
from diffmem.console import rendered
from diffmem.data import CanarySet, ImageSet, Reading, other_readings
from diffmem.data.prompts import PromptList, comparable, read_prompts
from diffmem.distributed import world
from diffmem.environment import choose_device
from diffmem.errors import UserError
from diffmem.models.denoiser import model_text
from diffmem.progress import Stages, show_progress
from diffmem.sampling import SamplerConfig
from diffmem.text import html_table

__all__ = ["Audit", "audit"]


@dataclass(frozen=True, eq=False)
class Audit:
    """An audit that is done.

    Attributes:
        found: The record, with what the pictures need.
        prompts: What was found by prompt, with what its pictures need; none without a list of prompts.
        detected: What scores say of prompts, which decides nothing; none without a list of prompts.
    """

    found: Audited
    prompts: PromptAudit | None = None
    detected: Detected | None = None

    @property
    def result(self) -> AuditResult:
        """Everything that was found, as one record: what `audit.json` holds."""
        return self.found.result

    @property
    def verdict(self) -> VerdictRecord:
        """The verdict, which prints as its sentence; `.verdict.verdict` is 'copies found', 'none found' or 'cannot tell'."""
        return self.result.verdict

    def __str__(self) -> str:
        table = [audit_table(self.result)] if self.result.criteria else []
        return rendered(
            self.verdict.sentence,
            *table,
            *([] if self.prompts is None else [self.prompts.record.sentence]),
            *([] if self.detected is None else [self.detected.record.sentence]),
            *(f"- {text}" for text in [*self.verdict.missing, *self.result.notes]),
        )

    def _repr_html_(self) -> str:
        rows = [
            (one.title, f"{count_of_total(one.flagged)}; {FINDING_TEXT[one.finding]}")
            for one in deciding_first(self.result.criteria)
        ]
        return html_table(self.verdict.sentence, rows)

    def save(self, out: str | Path) -> Path:
        """Write the report's folder: audit.html, audit.json, matches.csv and pictures; return the page.

        Raises:
            DiffmemError: A file cannot be written.
        """
        parts = []
        if self.prompts is not None and self.found.shown is not None:
            parts.append(prompts_part(self.prompts, self.found.shown))
        if self.detected is not None:
            parts.append(detectors_part(self.detected))
        return write_audit(self.result, audit_images(self.found), self.found.matches, Path(out), parts)


def audit(
    training: Images | None = None,
    *,
    samples: Images | None = None,
    model: Model | None = None,
    heldout: Images | None = None,
    readings: Mapping[str, Reading] | None = None,
    shards: str | Path | None = None,
    report: Callable[[str], None] = lambda line: None,
    device: str | None = None,
    **options: Any,
) -> Audit:
    """Say whether a model, or a set of its samples, copies training images: copies found, none found, or cannot tell.

    Args:
        training: The whole training set; left out, the model alone is examined.
        samples: Generated images.
        model: In place of samples: a denoiser, or anything that `open_model` reads.
        heldout: Images of the same source that were not trained on.
        readings: How files become pixels: 'training', 'heldout' or 'samples' -> its `Reading`.
        shards: Folder that keeps generated samples, so that a call that was interrupted resumes; the caller removes it.
        report: Called with lines that say how long the work will take, where that is long.
        device: 'cpu', 'cuda' or 'cuda:N'; by default a GPU where there is one.
        options: Fields of `AuditOptions`, for example num, target, private, deduplicated, seed, or `options`, an `AuditOptions`;
            further fields of `AuditRequest`. `transforms` may be written as 'flip+shift2', `features` as ['inception'], `canaries` as a
            path; `opening`, a dictionary, has further arguments of `open_model`: settings, resolution, weights, allow_pickle. `prompts`
            is a list of the prompts of the samples (a `PromptList`, or the path of a .txt, .csv or .jsonl), and `base_samples` are images
            of the base model for the same prompts and seeds. For a text-to-image model without training images, `prompts` are ranked
            beside those of `controls`, also a list.
            `executor`, a YAML file or 'local', says where sampling and searches are done in pieces, with the same result; it needs
            `shards`, and a model that is named by its path. For the folder of a text-to-image model, the fields of `PromptedModel`:
            `lora`, `base`, `seeds_per_prompt`, `prompts_per_group`, `guidance`, `dtype`; samples of its base are kept in `base_shards`.

    Returns:
        The audit: `verdict`, `result` (all that was found) and `save(folder)`.

    Raises:
        UserError: Images or the model cannot be read, or do not go together.
    """
    device, given = choose_device(device), dict(readings or {})
    sets = {"training": training, "heldout": heldout, "samples": samples}
    sources = {
        role: str(one) for role, one in {**sets, "model": model}.items() if isinstance(one, str | Path)
    }
    details, executor = options.pop("opening", {}), options.pop("executor", None)
    executor = None if executor is None else read_executor(executor)  # before images are read
    base_shards = options.pop("base_shards", None)
    text_model = text_model_of(model, options, details)
    if text_model is not None and executor is not None:
        raise UserError("Samples of a text-to-image model are made by this process; leave the executor out.")
    prompts, base = options.pop("prompts", None), options.pop("base_samples", None)
    controls = options.pop("controls", None)
    if text_model is not None and samples is not None:
        raise UserError("Give either samples or a model, not both: samples are generated from the model.")
    if prompts is None and base is not None:
        raise UserError(
            "Samples of a base model (--base-samples) are compared by prompt: give the list of prompts, --prompts."
        )
    ranks = text_model is not None and training is None
    if controls is not None and not ranks:
        raise UserError(
            "A list of control prompts (--controls) is for a text-to-image model (--model) without training images; else captions of"
            " held-out images (--heldout) are the control prompts, or those whose group is control."
        )
    if prompts is not None and not ranks and (samples is None or training is None):
        raise UserError(
            "A list of prompts (--prompts) belongs to samples (--samples) and training images (--train), or, with --controls, to a"
            " text-to-image model (--model) alone."
        )
    prompts, controls = _list(prompts), _list(controls)
    base = None if base is None else as_images(base, given.get("samples"))
    if isinstance(options.get("transforms"), str):
        options["transforms"] = parse_transforms(options["transforms"])
    if isinstance(options.get("canaries"), str | Path):
        options["canaries"] = CanarySet.load(Path(options["canaries"]))
    options["features"] = [
        open_feature_space(one, device) if isinstance(one, str) else one
        for one in options.get("features") or []
    ]
    read = {role: None if one is None else as_images(one, given.get(role)) for role, one in sets.items()}
    given_samples = read["samples"]
    if base is not None and given_samples is not None and np.array_equal(base.images, given_samples.images):
        raise UserError(
            "Samples (--samples) and those of the base model (--base-samples) are the same images: there is nothing to compare. Name the"
            " folder of what the base model made."
        )
    sides = None if read["training"] is None else read["training"].shape[1:]
    opened = None
    if model is not None and text_model is None:
        opened = as_model(model, device, suggested=sides, **details)
    names = options.keys() & {field.name for field in fields(AuditOptions)}
    settings = replace(options.pop("options", AuditOptions()), **{name: options.pop(name) for name in names})
    elsewhere = None
    if executor is not None and model is not None:
        elsewhere = model_by_path(model, {**details, "suggested": sides})
    say = report if world().is_main else lambda line: None
    if opened is not None:
        say(f"model: {model_text(opened, settings.private)}")
    with (
        tempfile.TemporaryDirectory(prefix="diffmem-audit-") as scratch,
        spread_over(executor, device, None if shards is None else Path(shards), elsewhere),
        show_progress("Auditing") as progress,
    ):
        folder, made = Path(scratch if shards is None else shards), None
        stages = Stages(
            progress, make=0.0 if text_model is None else 0.9, audit=1.0 if text_model is None else 0.1
        )
        if text_model is not None:
            asked = settings, options.get("sampler", SamplerConfig()), options.get("canaries")
            where = device, folder, folder / "base" if base_shards is None else Path(base_shards)
            made = made_by_prompt(text_model, read, (prompts, controls), asked, where, stages.make, say)
            if training is None:
                ranking, detected = made.ranked(settings, device)
                return Audit(ranking, None, detected)
            read["samples"], prompts, base = made.found.samples, made.plan.listed, made.found.base
        request = AuditRequest(
            training=read["training"], samples=read["samples"], heldout=read["heldout"], model=opened, sources=sources,
            device=device, options=settings, **options,
        )  # fmt: skip
        scores: Scores = {} if made is None else made.found.scores
        inputs = None if prompts is None else _prompt_inputs(request, prompts, base, scores)
        if request.training is not None:
            others = {
                role: _others(one, sources[role], given.get(role, Reading()), option)
                for role, one, option in (
                    ("training", request.training, "--train-read"), ("samples", request.samples, "--samples-read"),
                )
                if one is not None and role in sources
            }  # fmt: skip
            request = replace(
                request,
                other_training=others.get("training", []),
                other_samples=others.get("samples", []),
            )
        found = run_audit(request, folder, stages.audit, report)
    if inputs is None:
        return Audit(found)
    done, by_prompt = audit_prompts(found, inputs)
    return Audit(done if made is None else made.noted(done), by_prompt, by_prompt.detected)


def _list(prompts: object) -> PromptList | None:
    """Return a list of prompts that is given as such or by its path; none of none."""
    if isinstance(prompts, str | Path):
        return read_prompts(Path(prompts))
    if prompts is not None and not isinstance(prompts, PromptList):
        raise UserError(f"Prompts are a PromptList or the path of a list, not {type(prompts).__name__}.")
    return prompts


def _prompt_inputs(
    request: AuditRequest, prompts: PromptList, base: ImageSet | None, scores: Scores
) -> PromptInputs:
    """Return what an audit by prompt needs, checked before anything takes long."""
    held = () if request.heldout is None else request.heldout.captions or ()
    canaries = request.canaries
    left_out = None if canaries is None else canaries.control_captions
    planted = {}
    if canaries is not None and canaries.planted_captions is not None:
        times = [canaries.repeats] * len(canaries) if canaries.levels is None else canaries.levels.tolist()
        planted = dict(zip(map(comparable, canaries.planted_captions), times, strict=True))
    control = [*(one for one in held if one is not None), *(left_out or ())]
    inputs = PromptInputs(prompts, control, _unseen(request), base, scores, planted)
    if request.samples is not None and request.training is not None:
        inputs.check(request.samples, request.training)
    return inputs


def _unseen(request: AuditRequest) -> ImageSet | None:
    """Return the images with captions that were not trained on: held-out ones, then control canaries of their size."""
    heldout, canaries = request.heldout, request.canaries
    if heldout is None or heldout.captions is None:
        return None
    if canaries is None or canaries.control_captions is None or canaries.control.shape[1:] != heldout.shape:
        return heldout
    names = tuple(f"control canary {number}" for number in range(len(canaries)))
    return ImageSet(
        np.concatenate([heldout.images, canaries.control]),
        None,
        (*heldout.names, *names),
        captions=(*heldout.captions, *canaries.control_captions),
    )


def _others(images: ImageSet, source: str, reading: Reading, option: str) -> list[OtherSource]:
    """Return the other readings of a set, where reading it was a choice."""
    usual = reading.choices()

    def remedy(choices: dict[str, str]) -> str:
        changed = {key: value for key, value in choices.items() if usual.get(key) != value}
        return " ".join(f"{option} {key}={value}" for key, value in (changed or choices).items())

    return [
        OtherSource(one.text, remedy(one.reading.choices()), one.open)
        for one in other_readings(images, source, reading)
    ]

"""`audit`: does this model leak its training images?"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from diffmem.api.inputs import Images, Model, as_images, as_model
from diffmem.api.spreading import model_by_path, spread_over
from diffmem.auditing import (
    Audited,
    AuditOptions,
    AuditRequest,
    AuditResult,
    OtherTraining,
    open_feature_space,
    parse_transforms,
)
from diffmem.auditing import audit as run_audit
from diffmem.auditing.records import VerdictRecord
from diffmem.auditing.report import audit_images, write_audit
from diffmem.auditing.report.text import FINDING_TEXT, audit_table, count_of_total, deciding_first
from diffmem.console import rendered
from diffmem.data import CanarySet, ImageSet, Reading, other_readings
from diffmem.distributed import world
from diffmem.environment import choose_device
from diffmem.models.denoiser import model_text
from diffmem.progress import show_progress
from diffmem.text import html_table

__all__ = ["Audit", "audit"]


@dataclass(frozen=True, eq=False)
class Audit:
    """An audit that is done.

    Attributes:
        found: The record, with what the pictures need.
    """

    found: Audited

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
        return write_audit(self.result, audit_images(self.found), self.found.matches, Path(out))


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
        readings: How the files of 'training', 'heldout' and 'samples' become pixels.
        shards: Folder that keeps generated samples, so that a call that was interrupted goes on; the caller removes it.
        report: Called with lines that say how long the work will take, where that is long.
        device: 'cpu', 'cuda' or 'cuda:N'; by default a GPU where there is one.
        options: Fields of `AuditOptions`, for example num, target, private, deduplicated, seed, or these as one object, `options`;
            further fields of `AuditRequest`. `transforms` may be written as 'flip+shift2', `features` as ['inception'], `canaries` as a
            path; `opening`, a dictionary, has further arguments of `open_model`: settings, resolution, weights, allow_pickle.
            `executor`, a YAML file or 'local', says where sampling and searches are done in pieces, with the same result; it
            needs `shards`, and a model that is named by its path.

    Raises:
        UserError: Images or the model cannot be read, or do not go together.
    """
    device, given = choose_device(device), dict(readings or {})
    sets = {"training": training, "heldout": heldout, "samples": samples}
    sources = {
        role: str(one) for role, one in {**sets, "model": model}.items() if isinstance(one, str | Path)
    }
    details, executor = options.pop("opening", {}), options.pop("executor", None)
    if isinstance(options.get("transforms"), str):
        options["transforms"] = parse_transforms(options["transforms"])
    if isinstance(options.get("canaries"), str | Path):
        options["canaries"] = CanarySet.load(Path(options["canaries"]))
    options["features"] = [
        open_feature_space(one, device) if isinstance(one, str) else one
        for one in options.get("features") or []
    ]
    read = {role: None if one is None else as_images(one, given.get(role)) for role, one in sets.items()}
    sides = None if read["training"] is None else read["training"].shape[1:]
    opened = None if model is None else as_model(model, device, suggested=sides, **details)
    names = options.keys() & {field.name for field in fields(AuditOptions)}
    settings = replace(options.pop("options", AuditOptions()), **{name: options.pop(name) for name in names})
    if opened is not None and world().is_main:
        report(f"model: {model_text(opened, settings.private)}")
    request = AuditRequest(
        training=read["training"], samples=read["samples"], heldout=read["heldout"], model=opened, sources=sources, device=device,
        options=settings, **options,
    )  # fmt: skip
    if request.training is not None and "training" in sources:
        others = _others(request.training, sources["training"], given.get("training", Reading()))
        request = replace(request, other_training=others)
    elsewhere = None
    if executor is not None and model is not None:
        elsewhere = model_by_path(model, {**details, "suggested": sides})
    with (
        tempfile.TemporaryDirectory(prefix="diffmem-audit-") as scratch,
        spread_over(executor, device, None if shards is None else Path(shards), elsewhere),
        show_progress("Auditing") as progress,
    ):
        return Audit(run_audit(request, Path(scratch if shards is None else shards), progress, report))


def _others(images: ImageSet, source: str, reading: Reading) -> list[OtherTraining]:
    """Return the other readings of the training images, where reading them was a choice."""
    usual = reading.choices()

    def remedy(choices: dict[str, str]) -> str:
        changed = {key: value for key, value in choices.items() if usual.get(key) != value}
        return " ".join(f"--train-read {key}={value}" for key, value in (changed or choices).items())

    return [
        OtherTraining(one.text, remedy(one.reading.choices()), one.open)
        for one in other_readings(images, source, reading)
    ]

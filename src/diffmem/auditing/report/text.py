"""An audit in words: the verdict, its table, and every number as people read it; on the terminal and in the page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from diffmem.attacks.roc import Area
from diffmem.auditing.records import (
    AuditResult,
    CriterionRecord,
    InputRecord,
    MatchRecord,
    SpaceRecord,
    Verdict,
)
from diffmem.auditing.verdict import format_test
from diffmem.memorization.rates import Rate
from diffmem.reports.text import threshold_text
from diffmem.text import count_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = [
    "FINDING_TEXT",
    "VERDICT_TEXT",
    "area_text",
    "audit_table",
    "chance_text",
    "count_of_total",
    "deciding_first",
    "fine_percent",
    "fine_rate",
    "input_text",
    "key_numbers",
    "match_text",
    "number_text",
    "print_audit",
    "ratio_threshold",
    "record_rows",
    "space_text",
]

VERDICT_TEXT: dict[Verdict, str] = {
    "copies found": "Copies found",
    "none found": "None found",
    "cannot tell": "Cannot tell",
}

FINDING_TEXT = {
    "copies": "▲ copies",
    "none": "✓ none",
    "cannot tell": "? cannot tell",
    "not usable": "– not usable",
}
"""What a criterion finds, as a sign and a word: colour is never all that distinguishes them."""

_STYLES = {"copies": "bold red", "none": "green", "cannot tell": "yellow", "not usable": "dim"}
_VERDICT_STYLES = {"copies found": "bold red", "none found": "bold green", "cannot tell": "bold yellow"}


def fine_percent(share: float) -> str:
    """Return a share as a percentage that is never rounded to none or to all: '0.03%', '0.0003%', '99.97%', 'above 99.99%'."""
    if share < 0.99995:
        return f"{_points(share)}%"
    return "100%" if share == 1 else "above 99.99%"


def _points(share: float) -> str:
    """Return percentage points without the sign."""
    points = 100 * share
    if points in (0, 100):
        return f"{points:.0f}"
    if points >= 0.01 or points < 1e-6:
        return f"{points:.2f}" if points >= 0.01 else f"{points:.2g}"
    # Two digits, without an exponent as long as that can be read.
    return f"{points:.{1 - math.floor(math.log10(points))}f}".rstrip("0")


def fine_rate(rate: Rate) -> str:
    """Return a rate with its 95% interval: '0.03% [0.01, 0.09]'."""
    return f"{fine_percent(rate.value)} [{_points(rate.low)}, {_points(rate.high)}]"


def area_text(area: Area) -> str:
    """Return an area under a curve with its interval: '0.512 [0.487, 0.537]'."""
    return f"{area.value:.3f} [{area.low:.3f}, {area.high:.3f}]"


def chance_text(row: CriterionRecord) -> str:
    """Return the expected number and the strongest test: '1.2 expected; below 0.1: 13 events against 0, p = 3e-08'; a dash if no null."""
    expected = "–" if row.null is None else f"{row.null.value * row.flagged.total:.3g} expected"
    test = row.strongest
    if test is None or not test.events:
        return expected
    return f"{expected}; below {test.strictness:.3g}: {format_test(test)}"


def deciding_first(criteria: Sequence[CriterionRecord]) -> list[CriterionRecord]:
    """Return criteria, those that decide first, else in their order."""
    return sorted(criteria, key=lambda one: one.role != "deciding")


def count_of_total(rate: Rate) -> str:
    """Return the counts of a rate: '3 of 10,000'."""
    return f"{rate.count:,} of {rate.total:,}"


def ratio_threshold(result: AuditResult) -> float | None:
    """Return the threshold of the ratio rule; none if the rule was not applied."""
    rule = result.criterion("ratio")
    return None if rule is None else rule.threshold


def key_numbers(result: AuditResult) -> list[tuple[str, str]]:
    """Return the numbers to know first, each with what it counts."""
    found = []
    samples = next((one for one in result.inputs if one.role == "samples"), None)
    if samples is not None:
        found.append((f"{samples.images:,}", "samples"))
    if result.sample_check is not None and result.sample_check.judged != result.sample_check.samples:
        found.append((f"{result.sample_check.judged:,}", "of them different and judged"))
    if result.copies is not None:
        samples_, images = result.copies.samples, result.copies.distinct
        found.append(
            (f"{samples_:,}", f"{'sample' if samples_ == 1 else 'samples'} flagged by a deciding criterion")
        )
        found.append((f"{images:,}", f"different training {'image' if images == 1 else 'images'} among them"))
    if result.space is not None:
        found += [
            (f"{result.space.training_images:,}", "training images"),
            (f"{result.space.null_heldout + result.space.null_training:,}", "null images (not copied)"),
        ]
    return found


def match_text(match: MatchRecord) -> str:
    """Return a match in one line: 'sample 12 copies training image 7: ratio 0.05, 3.1 grey levels apart'."""
    changed = "" if match.variant == "as is" else f", {match.variant}"
    return (
        f"sample {match.sample} copies training image {match.training}{changed}: ratio {match.ratio:.3f},"
        f" {match.rms:.2f} grey levels apart"
    )


def space_text(space: SpaceRecord, result: AuditResult) -> list[str]:
    """Return the space of the comparison in sentences."""
    channels, height, width = space.shape
    colour = "grey" if channels == 1 else "colour"
    threshold = ratio_threshold(result)
    null = []
    if space.null_heldout:
        null.append(count_text(space.null_heldout, "held-out image", "held-out images"))
    if space.null_training:
        null.append(f"{space.null_training:,} training images (leave-one-out)")
    sentences = (
        (True, f"Compared as {colour} images of {height} x {width} pixels; protocol {space.protocol}."),
        (
            True,
            f"{space.training_images:,} training images, {space.distinct_images:,} of them distinct: exact copies count as one image.",
        ),
        (null, f"Null images, which are not copies: {' and '.join(null)}."),
        (not null, "There are no null images: the false-positive rate is not known."),
        (
            space.null_training,
            "Using training images as null assumes that they are a random sample of their source: that no near-copies were removed.",
        ),
        (
            space.deduplicated and not space.null_training,
            "Near-copies were removed from the training set, so its images are not used as null images.",
        ),
        (
            space.null_heldout,
            "Samples were also compared with training and held-out images together: without copying, they come near to both equally"
            " often, in proportion to their number.",
        ),
        (
            space.disagree,
            f"By {', '.join(space.disagree)}, held-out and training images differ in how often they come near to training images; there"
            " only the held-out images are the null.",
        ),
        (
            space.heldout_overlap,
            f"{count_text(space.heldout_overlap, 'held-out image is', 'held-out images are')} identical to a training image; the"
            " null leaves them out.",
        ),
        (
            threshold is not None,
            f"The ratio rules call a sample a copy below {threshold_text(threshold or 0)} of the distance to the second nearest.",
        ),
    )
    return [sentence for holds, sentence in sentences if holds]


def input_text(record: InputRecord) -> list[str]:
    """Return an input in sentences: source, size, fingerprint, and what was done to it."""
    channels, height, width = record.shape
    lines = [
        f"{count_text(record.images, 'image', 'images')} of {height} x {width} pixels, {count_text(channels, 'channel', 'channels')}"
        + ("" if record.source is None else f", from {record.source}"),
        f"SHA-256 {record.fingerprint}",
    ]
    return lines + [f"Then: {step}." for step in (step.rstrip(".") for step in record.steps)]


def number_text(value: Any) -> str:
    """Return any value of a record in words: rates with intervals, lists joined, numbers with at most six digits."""
    if isinstance(value, Rate):
        return f"{fine_rate(value)}, {count_of_total(value)} ({value.method})"
    if isinstance(value, Area):
        return f"{area_text(value)}, {value.members:,} against {value.nonmembers:,} ({value.confidence:.0%}, {value.method})"
    if isinstance(value, BaseModel):
        return "; ".join(f"{name}: {text}" for name, _, text in record_rows(value))
    if isinstance(value, dict):
        return "; ".join(f"{key}: {number_text(one)}" for key, one in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(number_text(one) for one in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value is None else str(value)


def record_rows(record: BaseModel, *, without: tuple[str, ...] = ()) -> Iterator[tuple[str, str, str]]:
    """Yield (name, meaning, value in words) of each field of a record but those that are shown elsewhere."""
    for name, field in type(record).model_fields.items():
        if name not in without:
            yield name.replace("_", " "), field.description or "", number_text(getattr(record, name))


def audit_table(result: AuditResult) -> Table:
    """Return the criteria as a table for a terminal of 80 columns."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(
        caption=Text("Brackets are 95% intervals. (s): supporting, not used for the verdict."),
        caption_justify="left",
    )
    table.box, table.pad_edge, table.collapse_padding = SIMPLE_HEAD, False, True
    table.add_column("criterion", min_width=16, overflow="fold", vertical="top")
    table.add_column("samples flagged", justify="right")
    table.add_column("null images flagged", justify="right")
    table.add_column("finding", no_wrap=True)
    for one in deciding_first(result.criteria):
        null = "no null" if one.null is None else f"{fine_rate(one.null)}\n{count_of_total(one.null)}"
        table.add_row(
            Text(one.title + (" (s)" if one.role == "supporting" else "")),
            Text(f"{fine_rate(one.flagged)}\n{count_of_total(one.flagged)}"),
            Text(null),
            Text(FINDING_TEXT[one.finding], style=_STYLES[one.finding]),
        )
    return table


def print_audit(result: AuditResult, console: Console | None = None) -> None:
    """Print an audit on the terminal; its first line is the verdict, whole, so that a program can read it."""
    from rich.padding import Padding
    from rich.text import Text

    from diffmem.console import console as new_console

    to = new_console() if console is None else console
    verdict = result.verdict
    to.print(Text(_one_line(verdict.sentence), style=_VERDICT_STYLES[verdict.verdict]), soft_wrap=True)
    if result.criteria:
        to.print(audit_table(result))
    for heading, lines in _parts(result):
        to.print(Text(f"{heading}:", style="bold"))
        for line in lines:
            to.print(Padding(Text(f"- {_one_line(line)}"), (0, 0, 0, 2)))


def _parts(result: AuditResult) -> list[tuple[str, list[str]]]:
    """Return what stands below the table, by heading."""
    parts = [("Missing", result.verdict.missing), ("Before you use these numbers", result.notes)]
    if not result.criteria:
        parts.insert(0, ("Why", result.verdict.reasons))
    if result.copies is not None and result.copies.worst:
        parts.insert(0, ("Nearest", [match_text(one) for one in result.copies.worst[:3]]))
    if result.model is not None and result.model.check is not None:
        parts.append(("The model", [result.model.check.sentence]))
    if result.membership is not None:
        lines = [
            f"{one.attack}: AUC {area_text(one.auc)}, TPR {fine_rate(one.tpr)} at {fine_percent(one.fpr.value)} FPR"
            for one in result.membership.attacks
        ]
        warnings = [warning for one in result.membership.attacks for warning in one.warnings]
        refused = [] if result.membership.refused is None else [result.membership.refused]
        parts.append(("Membership", [*lines, *dict.fromkeys(warnings), *refused]))
    if result.exposure:
        parts.append(("Canaries", [f"{one.source}: {one.sentence}" for one in result.exposure]))
    if result.flipd is not None:
        parts.append(("FLIPD", [result.flipd.sentence]))
    if result.verdict.verdict != "copies found":
        parts.append(("What this does not prove", result.limitations))
    return [(heading, lines) for heading, lines in parts if lines]


def _one_line(text: str) -> str:
    return " ".join(text.split())

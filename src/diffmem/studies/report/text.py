"""What a study found, in words: EMM, the headline, the warnings; and as a table, one row per run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffmem.reports.tables import text_table
from diffmem.reports.text import rate_text, size_text, target_text
from diffmem.runs.records import RunRecord
from diffmem.studies.records import EmmRecord, StudyResult
from diffmem.text import count_text, duration_text, percent

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "NULL_RATE_WORTH_A_WARNING",
    "ascending",
    "emm_text",
    "ends_text",
    "headline",
    "terminal_table",
    "warnings_of",
]

NULL_RATE_WORTH_A_WARNING = 0.02


def emm_text(emm: EmmRecord, sizes: list[int]) -> str:
    """Return EMM in a few words: '47 [41, 55]', 'above 5,000', 'below 500', 'not monotone, 32 to 256',
    'unfinished, 64 to 128 so far' or 'unknown'.

    Args:
        sizes: The sizes it tried, in any order.
    """
    if emm.status == "estimated" and emm.value is not None:
        known = emm.low is not None and emm.high is not None
        return size_text(emm.value) + (f" [{ends_text(emm).replace(' to ', ', ')}]" if known else "")
    if emm.status == "above largest" and sizes:
        return f"above {size_text(max(sizes))}"
    if emm.status == "below smallest" and sizes:
        return f"below {size_text(min(sizes))}"
    if emm.status in ("not monotone", "unfinished"):
        ends = ends_text(emm)
        so_far = " so far" if ends and emm.status == "unfinished" else ""
        return emm.status + (f", {ends}{so_far}" if ends else "")
    return "unknown"


def ends_text(emm: EmmRecord) -> str:
    """Return where EMM lies as far as it is known: '64 to 128', 'at least 64', 'below 128' or nothing."""
    if emm.low is not None and emm.high is not None:
        return f"{size_text(emm.low)} to {size_text(emm.high)}"
    if emm.low is not None:
        return f"at least {size_text(emm.low)}"
    return "" if emm.high is None else f"below {size_text(emm.high)}"


def headline(result: StudyResult) -> str:
    """Answer the study's question in one or two plain sentences."""
    emm, target, ends = result.emm, target_text(result.epsilon), ends_text(result.emm)
    if not result.runs or emm.status == "no runs":
        return "No training has finished yet, so nothing can be said about memorization."
    smallest, largest = result.runs[0].size, result.runs[-1].size

    def highest(size: int) -> str:
        return percent(max(run.peak.memorized.value for run in result.runs if run.size == size))

    return {
        "above largest": (
            f"Even when trained on {count_text(largest, 'image')}, the largest size tried, this model copies its training"
            f" data: {highest(largest)} of its samples are copies, and {target} are asked for. Its EMM is above"
            f" {size_text(largest)}; larger sizes would show where it is."
        ),
        "below smallest": (
            f"Already when trained on {count_text(smallest, 'image')}, the smallest size tried, fewer than {target} of"
            f" this model's samples are copies of its training data: {highest(smallest)}. Its EMM is below"
            f" {size_text(smallest)}; smaller sizes would show where it is."
        ),
        "not monotone": (
            "R_mem does not fall with the number of training images here: a larger size certainly reaches"
            f" {target} and a smaller one certainly does not. EMM is not one number"
            f"{f'; the crossings lie within {ends} training images' if ends else ''}."
        ),
        "unfinished": (
            "Not all trainings are finished:"
            f" {f'so far it is {ends} training images' if ends else 'no training has decided anything yet'}."
        ),
        "estimated": (
            f"Trained on up to about {size_text(emm.value or 0)} images"
            f"{f' (95% interval {ends})' if ' to ' in ends else ''}, this model copies its training data: at least"
            f" {target} of its samples are copies of a training image. On more images it copies less."
        ),
    }[emm.status]


def warnings_of(result: StudyResult) -> list[str]:
    """Return what to know before using the numbers: the study's notes and what its null rates say."""
    warnings = [*result.emm.notes, *(result.emm_last.notes if result.emm_last else []), *result.notes]
    without = [run for run in result.runs if run.null is None]
    if without:
        warnings.append(
            f"{count_text(len(without), 'run has', 'runs have')} no null rate, because no images were"
            " held out: how often the rule flags images by chance is not known there."
        )
    for run in result.runs:
        if run.null is not None and run.null.value > NULL_RATE_WORTH_A_WARNING:
            warnings.append(
                f"At {count_text(run.size, 'image', 'images')} (seed {run.seed}) the rule also flags"
                f" {percent(run.null.value)} of held-out images, which are not copies: R_mem may overstate"
                " copying by about as much."
            )
    copies = [run for run in result.runs if run.duplicates]
    if copies:
        most = max(run.duplicates for run in copies)
        warnings.append(
            f"{count_text(len(copies), 'training set holds', 'training sets hold')} exact duplicates"
            f" (up to {most:,}); they were counted as one image each."
        )
    return list(dict.fromkeys(warnings))


def ascending(result: StudyResult) -> list[RunRecord]:
    """Return the runs by size, then by seed."""
    return sorted(result.runs, key=lambda run: (run.size, run.seed))


def terminal_table(result: StudyResult) -> Table:
    """Return the summary as a table for a terminal of 80 columns, with EMM below it."""
    from rich.text import Text

    sizes = [run.size for run in result.runs]
    several = len(set(sizes)) < len(sizes)
    caption = f"EMM at {target_text(result.epsilon)}: {emm_text(result.emm, sizes)}"
    if result.emm_last is not None:
        caption += f"; from the ends of training: {emm_text(result.emm_last, sizes)}"
    table = text_table(result.title, caption)
    names = ["N", *(["seed"] if several else []), "R_mem peak [95%]", "at\nepoch", "R_mem\nend", "null\nrate"]
    for name in [*names, "images\ncopied", "training"]:
        table.add_column(name, justify="right", no_wrap=True, vertical="bottom")
    for run in ascending(result):
        cells = [
            size_text(run.size),
            *([str(run.seed)] if several else []),
            rate_text(run.peak.memorized),
            size_text(run.peak.epoch),
            percent(run.last.memorized.value),
            "–" if run.null is None else percent(run.null.value),
            f"{run.peak.distinct_replicated:,} of {run.size - run.duplicates:,}",
            duration_text(run.training_seconds),
        ]
        table.add_row(*map(Text, cells))
    return table

"""What a study found, in words: EMM, the headline, the warnings."""

from __future__ import annotations

import math

from diffmem.reports.text import line_text, size_text
from diffmem.studies.records import EmmRecord, StudyResult
from diffmem.text import count_text, percent

__all__ = ["NULL_RATE_WORTH_A_WARNING", "emm_text", "headline", "warnings_of"]


NULL_RATE_WORTH_A_WARNING = 0.02


def _interval(emm: EmmRecord) -> tuple[float, float] | None:
    return None if emm.low is None or emm.high is None else (emm.low, emm.high)


def emm_text(emm: EmmRecord, sizes: list[int]) -> str:
    """Return EMM in a few words: '47 [41, 55]', 'above 5,000', 'below 500', 'not monotone, 32 to 256',
    'unfinished, 64 to 128 so far' or 'unknown'.

    Args:
        emm: What the study found.
        sizes: The sizes it tried, in any order.
    """
    if emm.status == "estimated" and emm.value is not None:
        interval = _interval(emm)
        return size_text(emm.value) + (
            "" if interval is None else f" [{size_text(interval[0])}, {size_text(interval[1])}]"
        )
    if emm.status == "above largest" and sizes:
        return f"above {size_text(max(sizes))}"
    if emm.status == "below smallest" and sizes:
        return f"below {size_text(min(sizes))}"
    if emm.status in ("not monotone", "unfinished"):
        ends = _ends_text(emm)
        so_far = " so far" if ends and emm.status == "unfinished" else ""
        return emm.status + (f", {ends}{so_far}" if ends else "")
    return "unknown"


def _ends_text(emm: EmmRecord) -> str:
    """Return where EMM lies as far as it is known: '64 to 128', 'at least 64', 'below 128' or nothing."""
    if emm.low is not None and emm.high is not None:
        return f"{size_text(emm.low)} to {size_text(emm.high)}"
    if emm.low is not None:
        return f"at least {size_text(emm.low)}"
    return "" if emm.high is None else f"below {size_text(emm.high)}"


def headline(result: StudyResult) -> str:
    """Answer the study's question in one or two plain sentences."""
    emm, share = result.emm, line_text(result.epsilon)
    if not result.runs or emm.status == "no runs":
        return "No training has finished yet, so nothing can be said about memorization."
    smallest, largest = result.runs[0].size, result.runs[-1].size
    if emm.status == "above largest":
        rates = [run.peak.memorized.value for run in result.runs if run.size == largest]
        return (
            f"Even when trained on {count_text(largest, 'image', 'images')}, the largest size tried,"
            f" this model copies its training data: {percent(max(rates))} of its samples are copies (threshold:"
            f" {share})."
            f" Its EMM is above {size_text(largest)}; larger sizes would locate it."
        )
    if emm.status == "below smallest":
        rates = [run.peak.memorized.value for run in result.runs if run.size == smallest]
        return (
            f"Already when trained on {count_text(smallest, 'image', 'images')}, the smallest size tried,"
            f" fewer than {share} of this model's samples are copies of its training data:"
            f" {percent(max(rates))}. Its EMM is below {size_text(smallest)}; smaller sizes would"
            " locate it."
        )
    ends = _ends_text(emm)
    if emm.status == "not monotone":
        return (
            "R_mem does not fall with the number of training images here: a larger size certainly reaches"
            f" {share} and a smaller one certainly does not. EMM is not one number"
            + (f"; the crossings lie within {ends} training images." if ends else ".")
        )
    if emm.status == "unfinished":
        return "The search for EMM is still running: " + (
            f"so far it is {ends} training images." if ends else "no training has decided anything yet."
        )
    interval = _interval(emm)
    between = (
        "" if interval is None else f" (95% interval {size_text(interval[0])} to {size_text(interval[1])})"
    )
    return (
        f"Trained on up to about {size_text(emm.value or math.nan)} images{between}, this model copies its"
        f" training data: at least {share} of its samples are copies of a training image."
        " On more images it copies less."
    )


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

"""What a study found, in words: EMM, the headline, the warnings."""

from __future__ import annotations

import math

from diffmem.reports.text import size_text, target_text
from diffmem.studies.records import EmmRecord, StudyResult
from diffmem.text import count_text, percent

__all__ = ["NULL_RATE_WORTH_A_WARNING", "emm_text", "ends_text", "headline", "warnings_of"]


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
    beyond = {"above largest": result.runs[-1].size, "below smallest": result.runs[0].size}
    if emm.status in beyond:
        size = beyond[emm.status]
        rate = percent(max(run.peak.memorized.value for run in result.runs if run.size == size))
        trained = f"when trained on {count_text(size, 'image', 'images')}"
        if emm.status == "above largest":
            return (
                f"Even {trained}, the largest size tried, this model copies its training data: {rate} of its samples"
                f" are copies, and {target} are asked for. Its EMM is above {size_text(size)}; larger sizes would show"
                " where it is."
            )
        return (
            f"Already {trained}, the smallest size tried, fewer than {target} of this model's samples are copies of its"
            f" training data: {rate}. Its EMM is below {size_text(size)}; smaller sizes would show where it is."
        )
    if emm.status == "not monotone":
        return (
            "R_mem does not fall with the number of training images here: a larger size certainly reaches"
            f" {target} and a smaller one certainly does not. EMM is not one number"
            + (f"; the crossings lie within {ends} training images." if ends else ".")
        )
    if emm.status == "unfinished":
        return "The search for EMM is still running: " + (
            f"so far it is {ends} training images." if ends else "no training has decided anything yet."
        )
    between = f" (95% interval {ends})" if " to " in ends else ""
    return (
        f"Trained on up to about {size_text(emm.value or math.nan)} images{between}, this model copies its"
        f" training data: at least {target} of its samples are copies of a training image."
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

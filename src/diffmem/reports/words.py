"""Numbers and findings as people read them; shared by the page, the figures and the terminal."""

from __future__ import annotations

import math

from diffmem.memorization.records import RateRecord
from diffmem.studies.results import EmmRecord, StudyResult

__all__ = [
    "count_words",
    "emm_words",
    "headline",
    "line_words",
    "percent",
    "rate_words",
    "size_words",
    "threshold_words",
    "warnings_of",
]

NULL_RATE_WORTH_A_WARNING = 0.02


def percent(share: float) -> str:
    """Return a share in [0, 1] as a percentage with one decimal, '92.1%'."""
    return f"{100 * share:.1f}%"


def rate_words(rate: RateRecord) -> str:
    """Return a rate with its 95% interval: '92.1% [91.5, 92.6]'."""
    return f"{percent(rate.value)} [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"


def size_words(number: float) -> str:
    """Return a number of images or epochs: '5,000', '47', '3.5'; whole numbers from 10 on."""
    if math.isinf(number):
        return "∞"
    return f"{number:,.0f}" if number >= 10 or number == round(number) else f"{number:.2g}"


def count_words(number: int, one: str, many: str) -> str:
    """Return '1 image' or '2,000 images'."""
    return f"{number:,} {one if number == 1 else many}"


def threshold_words(threshold: float) -> str:
    """Return the threshold of the ratio rule: '1/3' where it is that, else three digits."""
    return "1/3" if math.isclose(threshold, 1 / 3, rel_tol=1e-3) else f"{threshold:.3g}"


def _interval(emm: EmmRecord) -> tuple[float, float] | None:
    return None if emm.low is None or emm.high is None else (emm.low, emm.high)


def line_words(epsilon: float) -> str:
    """Return the share that R_mem is held against, 1 - epsilon: '90%'."""
    return f"{100 * (1 - epsilon):.4g}%"


def emm_words(emm: EmmRecord, sizes: list[int]) -> str:
    """Return EMM in a few words: '47 [41, 55]', 'above 5,000', 'below 500', 'not monotone, 32 to 256',
    'unfinished, 64 to 128 so far' or 'unknown'.

    Args:
        emm: What the study found.
        sizes: The sizes it tried, in any order.
    """
    if emm.status == "estimated" and emm.value is not None:
        interval = _interval(emm)
        return size_words(emm.value) + (
            "" if interval is None else f" [{size_words(interval[0])}, {size_words(interval[1])}]"
        )
    if emm.status == "above largest" and sizes:
        return f"above {size_words(max(sizes))}"
    if emm.status == "below smallest" and sizes:
        return f"below {size_words(min(sizes))}"
    if emm.status in ("not monotone", "unfinished"):
        ends = _ends_words(emm)
        so_far = " so far" if ends and emm.status == "unfinished" else ""
        return emm.status + (f", {ends}{so_far}" if ends else "")
    return "unknown"


def _ends_words(emm: EmmRecord) -> str:
    """Return where EMM lies as far as it is known: '64 to 128', 'at least 64', 'below 128' or nothing."""
    if emm.low is not None and emm.high is not None:
        return f"{size_words(emm.low)} to {size_words(emm.high)}"
    if emm.low is not None:
        return f"at least {size_words(emm.low)}"
    return "" if emm.high is None else f"below {size_words(emm.high)}"


def headline(result: StudyResult) -> str:
    """Answer the study's question in one or two plain sentences."""
    emm, share = result.emm, line_words(result.epsilon)
    if not result.runs or emm.status == "no runs":
        return "No training has finished yet, so nothing can be said about memorization."
    smallest, largest = result.runs[0].size, result.runs[-1].size
    if emm.status == "above largest":
        rates = [run.peak.memorized.value for run in result.runs if run.size == largest]
        return (
            f"Even when trained on {count_words(largest, 'image', 'images')}, the largest size tried,"
            f" this model copies its training data: {percent(max(rates))} of its samples are copies (threshold:"
            f" {share})."
            f" Its EMM is above {size_words(largest)}; larger sizes would locate it."
        )
    if emm.status == "below smallest":
        rates = [run.peak.memorized.value for run in result.runs if run.size == smallest]
        return (
            f"Already when trained on {count_words(smallest, 'image', 'images')}, the smallest size tried,"
            f" fewer than {share} of this model's samples are copies of its training data:"
            f" {percent(max(rates))}. Its EMM is below {size_words(smallest)}; smaller sizes would"
            " locate it."
        )
    ends = _ends_words(emm)
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
        "" if interval is None else f" (95% interval {size_words(interval[0])} to {size_words(interval[1])})"
    )
    return (
        f"Trained on up to about {size_words(emm.value or math.nan)} images{between}, this model copies its"
        f" training data: at least {share} of its samples are copies of a training image."
        " On more images it copies less."
    )


def warnings_of(result: StudyResult) -> list[str]:
    """Return what to know before using the numbers: the study's notes and what its null rates say."""
    warnings = [*result.emm.notes, *(result.emm_last.notes if result.emm_last else []), *result.notes]
    without = [run for run in result.runs if run.null is None]
    if without:
        warnings.append(
            f"{count_words(len(without), 'run has', 'runs have')} no null rate, because no images were"
            " held out: how often the rule flags images by chance is not known there."
        )
    for run in result.runs:
        if run.null is not None and run.null.value > NULL_RATE_WORTH_A_WARNING:
            warnings.append(
                f"At {count_words(run.size, 'image', 'images')} (seed {run.seed}) the rule also flags"
                f" {percent(run.null.value)} of held-out images, which are not copies: R_mem may overstate"
                " copying by about as much."
            )
    copies = [run for run in result.runs if run.duplicates]
    if copies:
        most = max(run.duplicates for run in copies)
        warnings.append(
            f"{count_words(len(copies), 'training set holds', 'training sets hold')} exact duplicates"
            f" (up to {most:,}); they were counted as one image each."
        )
    return list(dict.fromkeys(warnings))

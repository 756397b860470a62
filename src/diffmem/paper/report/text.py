"""An experiment as people read it: its scale, its levels, its rates over seeds, its verdicts."""

from __future__ import annotations

from collections.abc import Sequence

from diffmem.memorization.rates import Rate
from diffmem.paper.records import ClaimRecord, ExperimentResult, LevelRecord
from diffmem.paper.report.match import paper_points, published_at
from diffmem.reports.level_axis import mask_of
from diffmem.reports.text import rate_text, sentence, shared_texts, size_text
from diffmem.studies.records import StudyResult
from diffmem.text import percent

__all__ = [
    "SCALE_WORDS",
    "UNKNOWN",
    "data_text",
    "lead",
    "level_text",
    "method_text",
    "paper_heading",
    "paper_text",
    "rates_text",
    "verdict_text",
    "versions_text",
]

UNKNOWN = "unknown"

SCALE_WORDS = {
    "paper": "Paper scale: the networks, training-set sizes and epochs of the paper.",
    "cpu": "CPU scale: smaller networks, images, training sets and budgets than the paper's, so that it runs on a"
    " CPU; the directions of the findings can be compared, the numbers cannot.",
    "smoke": "Smoke scale: everything runs, but far too briefly to learn anything; these numbers say nothing about"
    " memorization.",
}
_WHO = {"paper": "The paper's scale", "cpu": "The CPU scale", "smoke": "The smoke scale"}
_VERDICTS = {
    "shown": "shows this",
    "opposite": "shows the opposite",
    "cannot tell": "shows neither this nor the opposite",
}


def verdict_text(result: ExperimentResult, claim: ClaimRecord) -> str:
    """Return a verdict in a sentence: 'The CPU scale shows neither this nor the opposite: ...'."""
    numbers = sentence(claim.numbers, capital=False)
    opening = f"{_WHO[result.scale]} {_VERDICTS[claim.verdict]}"
    return f"{opening}: {numbers}" if numbers else f"{opening}."


def level_text(name: str) -> str:
    """Return a level's name for a table; a mask '1,0,0' becomes '100'."""
    mask = mask_of(name)
    return name if mask is None else "".join("1" if on else "0" for on in mask)


def rates_text(rates: Sequence[Rate]) -> str:
    """Return one rate with its interval; of several seeds their mean and the span of all their intervals."""
    if len(rates) == 1:
        return rate_text(rates[0])
    mean = sum(rate.value for rate in rates) / len(rates)
    low, high = min(rate.low for rate in rates), max(rate.high for rate in rates)
    return f"{percent(mean)} [{100 * low:.1f}, {100 * high:.1f}]"


def paper_text(result: ExperimentResult, level: LevelRecord, size: int) -> str:
    """Return the paper's number that stands beside one level and size, or 'unknown'.

    Where the paper's size is another, it is named: '92.1% at 1,000'. Where the paper draws epochs, it is the
    highest point of its curve, with its epoch.
    """
    if result.form == "epochs":
        points = paper_points(result, level.paper_name)
        if not points:
            return UNKNOWN
        epoch, value = max(points, key=lambda point: point[1])
        return f"{value:.1f}% at {size_text(epoch)}"
    found = published_at(result, level.paper_name, size)
    if not found:
        return UNKNOWN
    words = " or ".join(f"{value:.1f}%" for _, value in found)
    return words if found[0][0] == size else f"{words} at {size_text(found[0][0])}"


def paper_heading(result: ExperimentResult) -> str:
    """Return the heading of a column of `paper_text`: what stands behind 'at'."""
    return "paper (at epoch)" if result.form == "epochs" else "paper (at its N)"


def data_text(result: ExperimentResult) -> str:
    """Return the data in words: of all levels if they share it, else the first and how many others there are."""
    found = list(dict.fromkeys(level.study.data for level in result.levels))
    if len(found) <= 1:
        return "".join(found)
    return f"{found[0].rstrip('.')} (and {len(found) - 1} more, one per level: see below)"


def lead(result: ExperimentResult) -> str:
    """Return the first lines of a page: the scale and the data set used."""
    data = data_text(result)
    return SCALE_WORDS[result.scale] + (f" Data: {sentence(data, capital=False)}" if data else "")


def method_text(result: ExperimentResult) -> list[tuple[str, list[str]]]:
    """Return how the experiment was made: (heading, lines); a line per level only where levels differ."""

    headings = {
        "Data": "data",
        "Model": "model",
        "Training": "training",
        "Sampling": "sampling",
        "Measuring protocol": "protocol",
    }
    found = []
    for heading, name in headings.items():
        texts = [(level_text(level.name), getattr(level.study, name)) for level in result.levels]
        found.append((heading, shared_texts(texts, len(texts))))
    found.append(("Versions", versions_text([level.study for level in result.levels])))
    return [(heading, lines) for heading, lines in found if lines]


def versions_text(studies: Sequence[StudyResult]) -> list[str]:
    """Return each set of versions that the studies used, once."""
    return list(
        dict.fromkeys(", ".join(f"{name} {one}" for name, one in study.versions.items()) for study in studies)
    )

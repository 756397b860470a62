"""The levels of a factor as people read them: rates over seeds, rows, warnings, how it was made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diffmem.memorization.rates import Rate
from diffmem.reports.level_axis import mask_of, numbers_of
from diffmem.reports.text import rate_text, shared_texts
from diffmem.runs.records import RunRecord
from diffmem.studies.records import GridLevel, GridResult, StudyResult
from diffmem.studies.report.text import emm_text, warnings_of
from diffmem.text import percent

__all__ = [
    "LevelRow",
    "data_text",
    "level_label",
    "level_rows",
    "level_sizes",
    "level_text",
    "levels_warnings",
    "method_text",
    "numeric",
    "rates_text",
    "versions_text",
]


def level_text(name: str) -> str:
    """Return a level's name for a table; a mask '1,0,0' becomes '100'."""
    mask = mask_of(name)
    return name if mask is None else "".join("1" if on else "0" for on in mask)


def level_label(name: str, factor: str, names: Sequence[str]) -> str:
    """Return a level's name where it stands alone: where all names are bare numbers it says what it is a number of."""
    return f"{factor} = {name}" if numeric(names) else level_text(name)


def numeric(names: Sequence[str]) -> bool:
    """Return whether all levels are bare numbers."""
    return all(name[:1] in "-+.0123456789" and numbers_of([name]) for name in names)


def rates_text(rates: Sequence[Rate]) -> str:
    """Return one rate with its interval; of several seeds their mean and the span of all their intervals."""
    if len(rates) == 1:
        return rate_text(rates[0])
    mean = sum(rate.value for rate in rates) / len(rates)
    low, high = min(rate.low for rate in rates), max(rate.high for rate in rates)
    return f"{percent(mean)} [{100 * low:.1f}, {100 * high:.1f}]"


def level_sizes(result: GridResult) -> list[tuple[GridLevel, int, list[RunRecord]]]:
    """Return each level and size with its runs (one per seed), in the order of levels, sizes ascending."""
    found = []
    for level in result.levels:
        for size in sorted({run.size for run in level.study.runs}):
            runs = sorted((run for run in level.study.runs if run.size == size), key=lambda run: run.seed)
            found.append((level, size, runs))
    return found


def data_text(result: GridResult) -> str:
    """Return the data in words: of all levels if they share it, else the first and how many others there are."""
    found = list(dict.fromkeys(level.study.data for level in result.levels))
    if len(found) <= 1:
        return "".join(found)
    return f"{found[0].rstrip('.')} (and {len(found) - 1} more, one per level: see below)"


def method_text(result: GridResult) -> list[tuple[str, list[str]]]:
    """Return how the studies were made: (heading, lines); a line per level only where levels differ."""

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


@dataclass(frozen=True)
class LevelRow:
    """One level at one size, each of its numbers as it is shown.

    Rates have their 95% interval; of several seeds they are the mean and the span of all their intervals.
    """

    level: str
    first: bool  # of its level
    emm: str  # of its level
    size: int
    seeds: int
    peak: str
    last: str
    null: str


def level_rows(result: GridResult) -> list[LevelRow]:
    """Return one row per level and size, in the order of levels, sizes ascending."""
    rows = []
    for level, size, runs in level_sizes(result):
        nulls = [run.null for run in runs if run.null is not None]
        sizes = [run.size for run in level.study.runs]
        rows.append(
            LevelRow(
                level=level_text(level.name),
                first=size == min(sizes),
                emm=emm_text(level.study.emm, sizes),
                size=size,
                seeds=len(runs),
                peak=rates_text([run.peak.memorized for run in runs]),
                last=rates_text([run.last.memorized for run in runs]),
                null=rates_text(nulls) if nulls else "none held out",
            )
        )
    return rows


def levels_warnings(result: GridResult) -> list[str]:
    """Return what to know before using the numbers, of all levels, each once; a level is named where they differ."""
    warnings = (
        (level_text(level.name), warning)
        for level in result.levels
        for warning in warnings_of(level.study)
        if warning not in result.notes
    )
    return shared_texts(warnings, len(result.levels))

"""When training begins to copy: of a study, of runs that were measured elsewhere, and of sizes that were not trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffmem.api.studies import StudyFolder, open_study
from diffmem.console import rendered
from diffmem.errors import UserError
from diffmem.studies.onset import LINES, Curve, onset_of_runs, predicted
from diffmem.studies.onset import onset as onset_of
from diffmem.studies.onset_records import LineTimes, OnsetRecord, TimeAt
from diffmem.studies.report.onset_text import onset_headline, onset_table, predictions_table
from diffmem.text import html_table

__all__ = ["Onset", "onset"]


@dataclass(frozen=True, eq=False)
class Onset:
    """When training begins to copy, for every level of a factor.

    Attributes:
        levels: Level -> what is known of it; 'base' where there is no factor.
    """

    levels: dict[str, OnsetRecord]

    @property
    def record(self) -> OnsetRecord:
        """What is known, of a study without levels.

        Raises:
            UserError: It has several levels.
        """
        if len(self.levels) > 1:
            raise UserError(f"This study has the levels {', '.join(self.levels)}: see `levels`.")
        return next(iter(self.levels.values()))

    def at(self, size: float, line: float = 0.01, level: str | None = None) -> TimeAt:
        """Return when one more training on so many images would reach a line, with its prediction interval.

        Args:
            size: Number of training images, trained or not.
            line: One of the lines that were asked for.
            level: Of the factor; may be left out where there is one alone.

        Raises:
            UserError: There is no such level or line, the runs do not tell, or the size is more than ten times beyond those trained.
        """
        if level is not None and level not in self.levels:
            raise UserError(f"There is no level {level!r}; there are {', '.join(self.levels)}.")
        record = self.record if level is None else self.levels[level]
        found = next((one for one in record.lines if one.line == line), None)
        if found is None:
            known = ", ".join(str(one.line) for one in record.lines)
            raise UserError(
                f"The line {line} was not asked for; there are {known}. Give it to `onset` as lines=({line},)."
            )
        return predicted(found, [size], record.confidence)[size]

    @property
    def tables(self) -> list[Any]:
        """The times of every level, in epochs, as tables for `console`."""
        several = len(self.levels) > 1
        return [onset_table(record, name if several else "") for name, record in self.levels.items()]

    def predictions(self, sizes: Sequence[float]) -> list[Any]:
        """Return the times at these sizes, trained or not, of every level, as tables for `console`; errors are those of `at`."""
        return [
            predictions_table(
                [(line, predicted(line, sizes, record.confidence)) for line in _told(record)], sizes, name
            )
            for name, record in self.levels.items()
        ]

    def __str__(self) -> str:
        return rendered(*self.tables)

    def _repr_html_(self) -> str:
        rows = [(name, onset_headline(record)) for name, record in self.levels.items()]
        return html_table("When training begins to copy", rows)


def _told(record: OnsetRecord) -> list[LineTimes]:
    """Return the lines that have a law; the first one where none has, whose reason is then said."""
    return [line for line in record.lines if line.growth is not None] or record.lines[:1]


def onset(source: str | Path | StudyFolder | Sequence[Curve], lines: Sequence[float] = LINES) -> Onset:
    """Return when training reaches these shares of copies, against the number of training images.

    Args:
        source: A study or its folder, of which the runs that are finished count (of a search also those that go on), or curves
            that were measured elsewhere.
        lines: Shares of copies, each in (0, 1).

    Raises:
        UserError: It is no such folder, a line is not between 0 and 1 or there is none, or two curves are of the same size and seed.
    """
    if not lines:
        raise UserError(
            "There is no line; give the shares of copies whose times are asked for, for example lines=(0.01, 0.1)."
        )
    found = open_study(source) if isinstance(source, str | Path) else source
    if not isinstance(found, StudyFolder):
        runs = Counter((curve.size, curve.seed) for curve in found)
        for (size, seed), count in runs.items():
            if count > 1:
                raise UserError(
                    f"{count} curves are of N = {size} and seed {seed}; each run counts once, so give others their own seeds."
                )
        return Onset({"base": onset_of(found, lines)})
    result = found.result
    return Onset(
        {
            level.name: onset_of_runs(level.runs, lines, adaptive=result.plan != "grid")
            for level in result.levels
        }
    )

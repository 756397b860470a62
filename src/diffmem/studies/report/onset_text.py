"""When training reaches a rate of copies, in words and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from diffmem.reports.tables import text_table
from diffmem.reports.text import capitalized, shared_texts, size_text
from diffmem.studies.onset import predicted
from diffmem.studies.onset_records import (
    Growth,
    Interval,
    LineTimes,
    OnsetRecord,
    RunTime,
    SizeTime,
    TimeAt,
    Times,
)
from diffmem.studies.records import LevelRecord, StudyRecord
from diffmem.studies.report.text import level_label
from diffmem.text import count_text

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "exponent_text",
    "line_text",
    "onset_answer",
    "onset_headline",
    "onset_notes",
    "onset_of_levels",
    "onset_rows",
    "onset_table",
    "predictions_table",
    "time_text",
    "times_text",
]


def line_text(line: float) -> str:
    """Return a share of copies: '1%'."""
    return f"{100 * line:.4g}%"


def exponent_text(growth: Growth) -> str:
    """Return the exponent of a law with its interval: '1.02 [0.91, 1.13]'."""
    exponent = growth.exponent
    return f"{exponent.value:.2f} [{exponent.low:.2f}, {exponent.high:.2f}]"


def time_text(time: RunTime | SizeTime) -> str:
    """Return a time in epochs: '410 [360, 480]', '360 to 480', 'after 1,000', 'before 10', or a dash where nothing is known."""
    low, high = (None if one is None else size_text(one / time.per_epoch) for one in (time.low, time.high))
    if low is not None and high is not None:
        if time.value is None:
            return f"{low} to {high}"
        return f"{size_text(time.value / time.per_epoch)} [{low}, {high}]"
    if low is not None:
        return f"after {low}"
    return "–" if high is None else f"before {high}"


def onset_headline(record: OnsetRecord) -> str:
    """Return the answer in one sentence: until when the largest size may be trained, and how that grows with N."""
    for line in _best_first(record):
        if line.growth is None:
            continue
        largest = line.growth.sizes[1]
        at = predicted(line, [largest], record.confidence)[largest].epochs
        growth = line.growth.exponent
        return (
            f"A training on {count_text(largest, 'image')} reaches {line_text(line.line)} copies after about"
            f" {size_text(at.value)} epochs ({_percent(record)} prediction interval {size_text(at.low)} to"
            f" {size_text(at.high)}); in images seen, that time grows as N^{growth.value:.2f}"
            f" ({growth.low:.2f} to {growth.high:.2f})."
        )
    known = [line for line in _best_first(record) if any(size.low or size.high for size in line.sizes)]
    if not known:
        why = next(
            (line.unknown for line in _best_first(record) if line.runs),
            "cannot tell: there are no evaluations",
        )
        return f"When training begins to copy: {why}."
    size = known[0].sizes[-1]
    answer = f"A training on {count_text(size.size, 'image')} {_reached(size, line_text(known[0].line))}"
    if len(known[0].sizes) == 1:  # nobody asks for a law of one size
        return f"{answer}."
    return f"{answer}; how that time grows with the number of images cannot be told."


def onset_answer(level: LevelRecord) -> str:
    """Return what is known of a level of a study that asks when training copies, in a sentence."""
    if level.onset is None or not level.onset.lines[0].runs:
        return "When training begins to copy is not known yet."
    return onset_headline(level.onset)


def times_text(level: LevelRecord) -> str:
    """Return the epochs of each size until the first line, '40: 410 [360, 480]; 80: after 1,000'; a dash where nothing is known."""
    if level.onset is None:
        return "–"
    sizes = level.onset.lines[0].sizes
    if len(sizes) == 1:
        return time_text(sizes[0])
    return "; ".join(f"{size_text(size.size)}: {time_text(size)}" for size in sizes) or "–"


def _best_first(record: OnsetRecord) -> list[LineTimes]:
    """Return the lines with those last that chance comes near."""
    return sorted(record.lines, key=lambda line: line.near_chance)


def _reached(size: SizeTime, rate: str) -> str:
    if size.low is None and size.high is not None:
        return f"had reached {rate} copies before epoch {size_text(size.high / size.per_epoch)}, the first that tells"
    if size.high is None and size.low is not None:
        return f"had not reached {rate} copies by epoch {size_text(size.low / size.per_epoch)}, the last that tells"
    return f"reaches {rate} copies after {time_text(size)} epochs"


def _percent(record: OnsetRecord) -> str:
    return f"{100 * record.confidence:.4g}%"


def onset_rows(record: OnsetRecord) -> tuple[list[str], list[list[str]]]:
    """Return the head and the rows of a table: N, the epochs at each line and at the least Frechet distance; last, the exponents."""
    columns: list[Times] = [*record.lines]
    head = ["N", *(f"{line_text(line.line)} copies" for line in record.lines)]
    if record.best_frechet is not None:
        columns.append(record.best_frechet)
        head.append("least Frechet distance")
    sizes = sorted({size.size for times in columns for size in times.sizes})
    rows = []
    for size in sizes:
        found = [next((one for one in times.sizes if one.size == size), None) for times in columns]
        rows.append([size_text(size), *("–" if one is None else time_text(one) for one in found)])
    rows.append(
        ["exponent", *("–" if times.growth is None else exponent_text(times.growth) for times in columns)]
    )
    return head, rows


def onset_of_levels(result: StudyRecord) -> list[tuple[str, str, list[str], list[list[str]], list[str]]]:
    """Return the name, the answer, the head and the rows of the table, and the notes of every level that was evaluated."""
    return [
        (
            level_label(level.name, result),
            onset_headline(level.onset),
            *onset_rows(level.onset),
            onset_notes(level.onset),
        )
        for level in result.levels
        if level.onset is not None and level.onset.lines[0].runs
    ]


def onset_notes(record: OnsetRecord) -> list[str]:
    """Return what to know before using the numbers: what cannot be told and why, and caveats."""
    notes = list(record.notes)
    unknown = [(f"{line_text(line.line)} copies", line.unknown) for line in record.lines if line.unknown]
    if record.best_frechet is not None and record.best_frechet.unknown:
        unknown.append(("least Frechet distance", record.best_frechet.unknown))
    count = len(record.lines) + (record.best_frechet is not None)
    notes += [capitalized(f"{text}.") for text in shared_texts(unknown, count)]
    for line in record.lines:
        notes += [
            f"N = {run.size:,}, seed {run.seed}: {run.note} ({line_text(line.line)}); the first time counts."
            for run in line.runs
            if run.note
        ]
    if record.lines and max((size.runs for size in record.lines[0].sizes), default=0) == 1:
        notes.append("One run per size: the interval of a size is that between its evaluations alone.")
    return notes


def onset_table(record: OnsetRecord, level: str = "") -> Table:
    """Return when each size reaches each line, in epochs, as a table for `console`; the answer below it.

    Args:
        level: Named in the heading.
    """
    caption = " ".join([onset_headline(record), *onset_notes(record)])
    head, rows = onset_rows(record)
    of_level = f" of {level}" if level else ""
    return _table(
        f"Epochs{of_level} until a share of copies [{_percent(record)} interval]", caption, head, rows
    )


def predictions_table(
    found: Sequence[tuple[LineTimes, Mapping[float, TimeAt]]], sizes: Sequence[float], level: str = ""
) -> Table:
    """Return the predictions of lines at sizes, in epochs, as a table for `console`.

    Args:
        level: Named in the heading unless it is 'base'.
    """
    of_level = f" of {level}" if level not in ("", "base") else ""
    head = ["N", *(f"{line_text(line.line)} copies" for line, _ in found)]
    rows = [[size_text(size), *(_interval_text(times[size].epochs) for _, times in found)] for size in sizes]
    return _table(f"Epochs{of_level} of one more training [prediction interval]", "", head, rows)


def _table(title: str, caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich.text import Text

    table = text_table(title, caption, narrow=True)
    for name in head:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _interval_text(interval: Interval) -> str:
    return f"{size_text(interval.value)} [{size_text(interval.low)}, {size_text(interval.high)}]"

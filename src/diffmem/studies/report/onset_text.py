"""When training reaches a rate of copies, in words and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from diffmem.reports.tables import text_table
from diffmem.reports.text import size_text
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
from diffmem.text import count_text

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "exponent_text",
    "line_text",
    "onset_headline",
    "onset_notes",
    "onset_rows",
    "onset_table",
    "time_text",
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
    for line in record.lines:
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
    known = [line for line in record.lines if any(size.low or size.high for size in line.sizes)]
    if not known:
        return "When training begins to copy cannot be told: there are no evaluations."
    size = known[0].sizes[-1]
    return (
        f"A training on {count_text(size.size, 'image')} reaches {line_text(known[0].line)} copies {_when(size)}; how"
        " that time grows with the number of images cannot be told."
    )


def _when(size: SizeTime) -> str:
    text = time_text(size)
    return text + " epochs" if text.startswith(("after", "before")) else f"after {text} epochs"


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


def onset_notes(record: OnsetRecord) -> list[str]:
    """Return what to know before using the numbers: what cannot be told and why, and caveats."""
    notes = [f"{line_text(line.line)} copies: {line.unknown}." for line in record.lines if line.unknown]
    if record.best_frechet is not None and record.best_frechet.unknown:
        notes.append(f"Least Frechet distance: {record.best_frechet.unknown}.")
    for line in record.lines:
        notes += [
            f"N = {run.size:,}, seed {run.seed}: {run.note} ({line_text(line.line)}); the first time counts."
            for run in line.runs
            if run.note
        ]
    if record.lines and max((size.runs for size in record.lines[0].sizes), default=0) == 1:
        notes.append("One run per size: the interval of a size is that between its evaluations alone.")
    return notes


def onset_table(record: OnsetRecord) -> Table:
    """Return when each size reaches each line, in epochs, as a table for `console`; the answer below it."""
    from rich.text import Text

    caption = " ".join([onset_headline(record), *onset_notes(record)])
    table = text_table(f"Epochs until a share of copies [{_percent(record)}]", caption, narrow=True)
    head, rows = onset_rows(record)
    for name in head:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def predictions_table(lines: Sequence[LineTimes], found: Sequence[dict[float, TimeAt]]) -> Table:
    """Return predictions, in epochs, as a table for `console`."""
    from rich.text import Text

    table = text_table("Epochs of one more run, with prediction intervals", "", narrow=True)
    for name in ["N", *(f"{line_text(line.line)} copies" for line in lines)]:
        table.add_column(name, justify="right")
    for size in found[0] if found else ():
        table.add_row(Text(size_text(size)), *(Text(_interval_text(times[size].epochs)) for times in found))
    return table


def _interval_text(interval: Interval) -> str:
    return f"{size_text(interval.value)} [{size_text(interval.low)}, {size_text(interval.high)}]"

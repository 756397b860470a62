"""Detectors on the page of an audit, and in a terminal; `detectors.json` and `detectors.csv`."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from diffmem.auditing.prompts.detector_records import DetectorLevel, DetectorRecord, DetectorsRecord
from diffmem.auditing.prompts.detectors import Detected
from diffmem.auditing.prompts.records import GROUP_TEXT
from diffmem.auditing.report.page import ReportPart
from diffmem.auditing.report.text import fine_rate
from diffmem.auditing.report.write import csv_cell
from diffmem.auditing.significance import format_p
from diffmem.data.prompts import prompt_hash
from diffmem.reports.folder import numbers_bytes
from diffmem.reports.html import render_page

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["detectors_csv", "detectors_part", "detectors_table"]

_LONGEST = 80


def detectors_part(found: Detected) -> ReportPart:
    """Return the part of the page and its files; a private one names prompts by their hashes."""
    record = found.record
    levels = _levels(record)
    html = render_page(
        "detectors.html",
        package=__package__,
        record=record,
        heads=["Detector", *(_level_text(each) for each in levels), "False alarms", "Here"],
        powers=[_row(one, levels) for one in record.detectors],
        ranked=[
            [
                one.prompt_hash[:16] if one.prompt is None else one.prompt[:_LONGEST] or "(empty)",
                GROUP_TEXT[one.group],
                "–" if one.repeats is None else f"{one.repeats:,}",
                f"{one.score:.4g}",
                f"{one.p_value:.3g}",
            ]
            for one in record.ranked
        ],
    )
    files = {"detectors.json": numbers_bytes(record), "detectors.csv": detectors_csv(found).encode()}
    return ReportPart(html, files)


def detectors_table(record: DetectorsRecord) -> Table:
    """Return the power of the detectors as a table for a terminal."""
    from rich.table import Table
    from rich.text import Text

    levels = _levels(record)
    table = Table("detector", *map(_level_text, levels), "false alarms", "here", box=None)
    table.title, table.title_justify = Text("Detectors: share found (95% interval), area"), "left"
    for one in record.detectors:
        table.add_row(*map(Text, _row(one, levels)))
    return table


def detectors_csv(found: Detected) -> str:
    """Return the scores of every prompt as CSV, a header first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    keys = [one.key for one in found.record.detectors]
    writer.writerow([*([] if found.record.private else ["prompt"]), "prompt_hash", "group", "repeats", *keys])
    for one in found.prompts:
        scores = [found.scores[key].get(one.key) for key in keys]
        named = [] if found.record.private else [csv_cell(one.text)]
        writer.writerow([*named, prompt_hash(one.text), one.group, one.repeats, *scores])
    return text.getvalue()


def _levels(record: DetectorsRecord) -> list[int | None]:
    return list(dict.fromkeys(level.repeats for one in record.detectors for level in one.levels))


def _level_text(repeats: int | None) -> str:
    return "Trained" if repeats is None else f"Seen {repeats:,} x an epoch"


def _row(one: DetectorRecord, levels: list[int | None]) -> list[str]:
    of_level = {level.repeats: level for level in one.levels}
    usable = {None: "–", True: "power", False: "not usable here"}[one.usable]
    alarms = "–" if one.false_alarms is None else f"{one.false_alarms:.1%} of {one.controls:,}"
    return [one.title, *(_cell(of_level.get(each)) for each in levels), alarms, usable]


def _cell(level: DetectorLevel | None) -> str:
    if level is None:
        return "–"
    found = "" if level.found is None else f"{fine_rate(level.found)}\n"
    area = "" if level.auc is None else f"area {level.auc.value:.2f}, "
    return f"{found}{area}{format_p(level.p_value)}"

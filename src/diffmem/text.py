"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

__all__ = ["bytes_text", "count_text", "duration_text", "file_name", "html_table", "percent"]


def count_text(count: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun: '1 file', '2,000 files'."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def duration_text(seconds: float) -> str:
    """Return a duration as people say it: '42 s', '3 min 05 s', '2 h 10 min'."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def bytes_text(count: float) -> str:
    """Return a number of bytes as people say it: '512 B', '3.4 MB'."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def file_name(text: str) -> str:
    """Return a text as the name of a file: letters, numbers and . , = - stay, other signs become _."""
    return "".join(sign if sign.isalnum() or sign in ".,=-" else "_" for sign in text)


def percent(share: float) -> str:
    """Return a share in [0, 1] as a percentage with one decimal, '92.1%'."""
    return f"{100 * share:.1f}%"


def html_table(title: str, rows: Iterable[tuple[str, object]]) -> str:
    """Return names and values as an HTML table, for a notebook; all text is escaped."""
    lines = "".join(
        f"<tr><th style='text-align:left'>{escape(name)}</th><td style='text-align:left'>{escape(str(value))}</td></tr>"
        for name, value in rows
    )
    return f"<table><caption style='text-align:left'><b>{escape(title)}</b></caption>{lines}</table>"

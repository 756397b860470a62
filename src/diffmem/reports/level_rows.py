"""Rows of a figure, one for each level, and names of levels cut so that they fit."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

from diffmem.reports.style import FONT_SIZE, dress, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ROWS_WIDTH", "level_rows", "short_names"]

ROWS_WIDTH = 8.6
_NAME_LETTERS = 30
"""Letters of a level's name beside its row, on one line."""


def level_rows(
    names: Sequence[str], xlabel: str, height: float, more: Sequence[str] = ()
) -> tuple[Figure, Axes]:
    """Return a figure with an empty row for each name, the first on top.

    Args:
        xlabel: What runs along the rows.
        height: Of all but the rows, in inches.
        more: Names of further rows.
    """
    shown = [*short_names(names, _NAME_LETTERS), *more]
    row = 0.46 if any("\n" in name for name in shown) else 0.38
    figure = new_figure(ROWS_WIDTH, height + row * max(len(shown), 1))
    axes = figure.subplots()
    dress(axes, xlabel, "")
    axes.grid(visible=False, axis="y")
    axes.set_ylim(max(len(shown), 1) - 0.45, -0.55)
    axes.set_yticks(range(len(shown)), shown)
    axes.tick_params(axis="y", length=0, labelsize=FONT_SIZE - 0.5)
    axes.spines["left"].set_visible(False)
    return figure, axes


def short_names(names: Sequence[str], letters: int) -> list[str]:
    """Return each name on at most two lines of so many letters, for matplotlib.

    A longer name keeps the words in which it differs from the others, with as many words around them as fit; a sign of
    omission stands for the rest.

    Args:
        letters: Most letters on a line; 8 or more.
    """
    words = [name.split() for name in names]
    first = _shared(words)
    last = _shared([one[: first - 1 if first else None : -1] for one in words])
    return [plain(_lines(one, first, last, letters)) for one in words]


def _shared(words: Sequence[Sequence[str]]) -> int:
    """Return how many words all begin with; 0 for a single name, which differs from none."""
    if len(words) < 2:
        return 0
    return len(list(takewhile(lambda found: len(set(found)) == 1, zip(*words, strict=False))))


def _lines(words: Sequence[str], first: int, last: int, letters: int) -> str:
    whole = textwrap.wrap(" ".join(words), letters)
    if len(whole) <= 2:
        return "\n".join(whole)
    start, stop = first, len(words) - last
    if start >= stop:  # the same name as another's, or a part of it
        start, stop = 0, len(words)
    best = _cut(words, start, stop, letters)
    if best is None:  # even what differs is too long: both of its ends
        core = " ".join(words[start:stop])
        return f"{core[: letters - 2].rstrip()} …\n… {core[-(letters - 2) :].lstrip()}"
    grown = True
    while grown:
        grown = False
        for left, right in ((start, stop + 1), (start - 1, stop)):
            wider = _cut(words, left, right, letters) if left >= 0 and right <= len(words) else None
            if wider is not None:
                start, stop, best, grown = left, right, wider, True
    return best


def _cut(words: Sequence[str], start: int, stop: int, letters: int) -> str | None:
    """Return some of the words on two lines, or none if they do not fit."""
    text = ("… " if start else "") + " ".join(words[start:stop]) + (" …" if stop < len(words) else "")
    lines = textwrap.wrap(text, letters, break_long_words=False)
    return "\n".join(lines) if len(lines) <= 2 and max(map(len, lines)) <= letters else None

"""An axis of levels, in words or numbers."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from diffmem.reports.style import plain, readable_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["CHARACTER", "level_axis", "mask_of", "numbers_of"]


CHARACTER = 0.068
"""Width of a letter of the small font, in inches; generous, so that labels do not touch."""


def level_axis(
    axes: Axes, places: Sequence[float], names: Sequence[str], *, logarithmic: bool, width: float
) -> None:
    """Put the levels' names on the x axis, turned where they do not fit side by side.

    Args:
        places: Where each level is.
        names: Its name; empty for none.
        logarithmic: The places are positive numbers on a log10 axis; names that would collide are left out.
        width: Width of the axes in inches, to know what fits.
    """
    if logarithmic:
        low, high = min(places), max(places)
        margin = (high / low) ** 0.05
        axes.set_xscale("log")
        axes.set_xlim(low / margin, high * margin)
        longest = max(len(name) for name in names)
        room = (CHARACTER * longest + 0.08) / width
        kept = set(readable_ticks(list(places), low / margin, high * margin, room))
        shown = [(x, name) for x, name in zip(places, names, strict=True) if x in kept and name]
        axes.set_xticks([x for x, _ in shown], [plain(name) for _, name in shown])
        axes.set_xticks([], minor=True)
        return
    axes.set_xlim(min(places) - 0.6, max(places) + 0.6)
    slot = width / (max(places) - min(places) + 1.2)
    fits = max(int((slot - 0.08) / CHARACTER), 1)
    longest_word = max((len(word) for name in names for word in name.split()), default=0)
    turned = longest_word > fits
    steep = turned and slot < 0.45  # a slanted label of two lines would run into its neighbour
    if steep:
        # The end of a name tells it from its neighbours as often as its beginning does.
        lines = [name if len(name) <= 34 else f"{name[:16]}…{name[-16:]}" for name in names]
    else:
        lines = [textwrap.fill(name, 24 if turned else fits, break_long_words=False) for name in names]
    axes.set_xticks(list(places), [plain(line) for line in lines])
    if turned:
        axes.tick_params(axis="x", labelrotation=90 if steep else 40)
        for label in axes.get_xticklabels():
            label.set(
                ha="center" if steep else "right", va="top", rotation_mode="default" if steep else "anchor"
            )


_NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?(?![\w.])")


def numbers_of(names: Sequence[str]) -> list[float] | None:
    """Return the one number in each name ('0.01', 'C = 20') if all say the same beside it, else none."""
    found, rests = [], set()
    for name in names:
        numbers = _NUMBER.findall(name)
        if len(numbers) != 1 or mask_of(name) is not None:
            return None
        found.append(float(numbers[0].replace(",", "")))
        rests.add(_NUMBER.sub("", name))
    return found if len(rests) == 1 else None


def mask_of(name: str) -> tuple[bool, ...] | None:
    """Return the skip mask that a level's name writes ('1,0,0': only the first skip is kept), or none."""
    parts = [part.strip() for part in name.strip("[]() ").split(",")]
    if len(parts) < 2 or any(part not in ("0", "1") for part in parts):
        return None
    return tuple(part == "1" for part in parts)

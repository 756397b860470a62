"""A short page: what was found in one sentence, a table, pictures, and how to read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diffmem.reports.html import embedded_png, render_page

__all__ = ["PicturePage"]


@dataclass(frozen=True)
class PicturePage:
    """What a page says beside its pictures.

    Attributes:
        kind: Of report, in a few words.
        title: Of the page.
        headline: What was found.
        heads: Of the columns.
        rows: A cell for each column.
        notes: Paragraphs below the pictures.
    """

    kind: str
    title: str
    headline: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def render(self, pictures: Mapping[str, bytes]) -> bytes:
        """Return the page as UTF-8, with everything inside.

        Args:
            pictures: What each shows, in words -> the content of its PNG file.
        """
        shown = [(alt, embedded_png(content)) for alt, content in pictures.items()]
        return render_page("pictures.html", result=self, pictures=shown).encode()

"""Tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["text_table"]


def text_table(title: str, caption: str, *, narrow: bool = False) -> Table:
    """Return an empty table with a title above it and a caption below, both as they stand: no markup is read.

    Args:
        narrow: Less room between the columns.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    return Table(
        title=Text(title), caption=Text(caption), title_justify="left", caption_justify="left",
        box=SIMPLE_HEAD, pad_edge=False, collapse_padding=narrow,
    )  # fmt: skip

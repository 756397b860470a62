"""Work that may be done elsewhere: in pieces, each a function of JSON that writes what it finds to a disk that all see.

Work that can be split asks `spread()` where its pieces may go. Nothing is answered, unless the caller has set a place by
`spreading`: then sampling and exact searches are split, and their results are the same, bit for bit, however many work on them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from diffmem.progress import Progress

__all__ = ["Piece", "Spread", "spread", "spreading"]


@dataclass(frozen=True)
class Piece:
    """A piece of a work.

    Attributes:
        function: 'package.module:name' of a function `name(content, progress, warn)`; called again, where what worked on it died.
        content: What it is given; JSON, with absolute paths.
    """

    function: str
    content: dict[str, Any]


class Spread(Protocol):
    """Where pieces may be worked on.

    Attributes:
        device: Where they compute: 'cpu' or 'cuda'.
        folder: On a disk that all see; what is written there stays until the end of the work.
        model: The keyword arguments of `open_model` that open the model which is sampled, as JSON; none if it is in no file.
        kept: What was written to the folder to be used again, by what it is made of; for `shared`.
    """

    device: str
    folder: Path
    model: dict[str, Any] | None
    kept: dict[object, Any]

    @property
    def slots(self) -> int:
        """How many pieces are worked on at once."""
        ...

    def run(self, pieces: Sequence[Piece], progress: Progress) -> None:
        """Do all pieces, in any order.

        Raises:
            DiffmemError: One failed, or what works on it died again and again.
        """
        ...


_spread: ContextVar[Spread | None] = ContextVar("spread", default=None)


def spread() -> Spread | None:
    """Return where pieces of this work may go; none if all is done here."""
    return _spread.get()


@contextmanager
def spreading(place: Spread | None) -> Iterator[None]:
    """Let the work in the block be split and done there."""
    token = _spread.set(place)
    try:
        yield
    finally:
        _spread.reset(token)

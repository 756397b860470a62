"""Names of very many images without as many text objects: made, or cut out of one text, when they are asked for."""

from __future__ import annotations

from abc import abstractmethod
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

__all__ = ["LazyNames", "NumberedNames", "PackedNames"]


class LazyNames(Sequence[str]):
    """A sequence of texts that equals the tuple of the same texts. Immutable."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _name(self, index: int) -> str: ...

    @abstractmethod
    def take(self, indices: NDArray[np.integer[Any]]) -> LazyNames:
        """Return the names at some positions, each from 0 to N - 1."""

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> LazyNames: ...

    def __getitem__(self, index: int | slice) -> str | LazyNames:
        positions = range(len(self))[index]
        return self._name(positions) if isinstance(positions, int) else self.take(np.arange(len(self))[index])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (tuple, LazyNames)):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # equal to a tuple, whose hash would need every name


class NumberedNames(LazyNames):
    """'images.npy[0]', 'images.npy[1]' and so on.

    Args:
        stem: What stands before the bracket: plain text without NUL.
        numbers: The number of each name.
    """

    def __init__(self, stem: str, numbers: range | NDArray[np.integer[Any]]) -> None:
        self._stem, self._numbers = stem, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def _name(self, index: int) -> str:
        return f"{self._stem}[{self._numbers[index]}]"

    def take(self, indices: NDArray[np.integer[Any]]) -> NumberedNames:
        """Return the names at some positions; they keep their numbers."""
        if isinstance(self._numbers, range):
            return NumberedNames(self._stem, self._numbers.start + self._numbers.step * indices)
        return NumberedNames(self._stem, self._numbers[indices])


class PackedNames(LazyNames):
    """Names that lie one after the other in UTF-8: 16 bytes for each beside its own.

    Args:
        content: The names in UTF-8, without separators.
        ends: Where each ends, int64 (N,): ascending, the last is the length of the content.

    Raises:
        ValueError: The ends do not fit the content, a name is no valid UTF-8, or one holds a NUL.
    """

    def __init__(self, content: bytes, ends: NDArray[np.int64]) -> None:
        starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
        if ends.ndim != 1 or not len(ends) or bool((ends < starts).any()) or int(ends[-1]) != len(content):
            raise ValueError("the ends of the names do not fit their text")
        content.decode()
        if b"\0" in content:
            raise ValueError("a name holds a NUL")
        inner = np.frombuffer(content, np.uint8)[starts[starts < len(content)]]
        if bool((inner & 0xC0 == 0x80).any()):
            raise ValueError("a name ends inside of a letter")
        self._content, self._starts, self._ends = content, starts, ends

    @classmethod
    def pack(cls, names: Iterable[str]) -> tuple[bytes, NDArray[np.int64]]:
        """Return the content and the ends of at least one name."""
        content, ends = bytearray(), array("q")
        for name in names:
            content += name.encode()
            ends.append(len(content))
        return bytes(content), np.array(ends, np.int64)

    @classmethod
    def of(cls, names: Iterable[str]) -> PackedNames:
        """Return at least one name; see the class for the errors."""
        return cls(*cls.pack(names))

    def __len__(self) -> int:
        return len(self._ends)

    def _name(self, index: int) -> str:
        return self._content[self._starts[index] : self._ends[index]].decode()

    def take(self, indices: NDArray[np.integer[Any]]) -> PackedNames:
        """Return the names at some positions; the text is shared."""
        taken = object.__new__(PackedNames)
        taken._content, taken._starts, taken._ends = (
            self._content,
            self._starts[indices],
            self._ends[indices],
        )
        return taken

"""Files of a folder or zip that are not read: which of them are images, and how the history tells of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from diffmem.data.conversions import Conversion, count_text, name_text
from diffmem.data.signatures import KINDS, LIKELY, ending_of, kind_by_ending, readable_format, unread_kind
from diffmem.errors import UserError

__all__ = ["PassedOver"]

_MOST_NAMED = 3


class PassedOver:
    """Sorts the files of a source into those that are read and those that are skipped, by their content.

    A file with the ending of an image is read without being looked at here: if it is none, that is an error.
    """

    def __init__(self) -> None:
        self._images: list[str] = []
        self._kinds: Counter[str] = Counter()
        self._others: list[str] = []

    def is_read(self, name: str, head: Callable[[], bytes]) -> bool:
        """Return whether a file is an image of a format that is read; count it if it is not.

        Args:
            name: Its path.
            head: Gives its first bytes, at least `HEAD_BYTES` or all.
        """
        if ending_of(name) in LIKELY:
            return True
        kind = kind_by_ending(name)
        if kind is None:
            content = head()
            if readable_format(content) is not None:
                return True
            kind = unread_kind(content)
        if kind is None:
            self._others.append(name)
        else:
            self._images.append(name)
            self._kinds[kind] += 1
        return False

    def add(self, name: str) -> None:
        """Count a file that is not looked at."""
        self._others.append(name)

    def nothing(self, what: str) -> UserError:
        """Return the error about a source of which nothing is read."""
        told = "".join(f"; {one.sentence}" for one in self.conversions(0))
        return UserError(f"{what} holds no images; the formats {', '.join(KINDS)} are read{told}.")

    def conversions(self, files: int) -> tuple[Conversion, ...]:
        """Return what was skipped.

        Args:
            files: Number of files that are read.
        """
        total = files + len(self._images) + len(self._others)
        found = []
        if self._images:
            kinds = ", ".join(f"{kind} {count:,}" for kind, count in self._kinds.most_common())
            told = (
                f"{len(self._images):,} of {count_text(total, 'file')} not read: images of unsupported formats,"
                f" {kinds} ({_named(self._images)})"
            )
            found.append(Conversion("not-read", "none", len(self._images), total, told, True))
        if self._others:
            told = f"{count_text(len(self._others), 'other file')} skipped ({_named(self._others)})"
            found.append(Conversion("passed-over", "none", len(self._others), total, told, False))
        return tuple(found)


def _named(names: list[str]) -> str:
    return ", ".join(map(name_text, sorted(names)[:_MOST_NAMED])) + (
        ", ..." if len(names) > _MOST_NAMED else ""
    )

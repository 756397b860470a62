"""What the program prints: readable on any console, and never a reason to fail.

A console that cannot show a letter gets a sign of ASCII for it, one that is full or closed loses words and not the work, and
text is only ever text: names of files hold brackets and colons, which `rich` would take for markup.
"""

from __future__ import annotations

import codecs
import functools
import io
import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Output", "ascii_signs", "console", "rendered", "speaking", "warn", "without_controls"]

_HANDLER = "diffmem-signs"
_WIDEST = 100_000
_SIGNS = {
    "▲": "!", "✓": "ok", "✗": "x", "×": "x", "·": "-", "•": "*", "–": "-", "—": "-", "−": "-", "‐": "-", "‑": "-", "…": "...",
    "±": "+-", "≥": ">=", "≤": "<=", "≠": "!=", "≈": "~", "→": "->", "←": "<-", "∞": "inf", "µ": "u", "μ": "u", "σ": "sigma",
    "ε": "epsilon", "α": "alpha", "β": "beta", "Δ": "Delta", "²": "^2", "³": "^3", "°": " degrees", "½": "1/2", "§": "section ",
    "‘": "'", "’": "'", "“": '"', "”": '"', "«": '"', "»": '"', "√": "sqrt ", "∑": "sum ", "∈": " in ", "\u00a0": " ",
    "\u202f": " ", "\u2009": " ",
}  # fmt: skip


_CONTROLS = {
    code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    for code in (*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}


def without_controls(text: str) -> str:
    """Return a text with the letters that command a terminal, all but tabs and line ends, as their escapes."""
    return text.translate(_CONTROLS)


class Output:
    """A stream that notes its first failure and from then on swallows what it is told.

    The work behind the words goes on: a report is still written where its table has no reader.

    Attributes:
        failure: Why the stream could not be written; none if all was.
    """

    def __init__(self, stream: TextIO) -> None:
        self.failure: OSError | None = None
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or swallow; return the number of letters."""
        if self.failure is None:
            try:
                self._stream.write(text)
            except OSError as error:
                self._fail(error)
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write each."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Pass on what is held back."""
        if self.failure is None:
            try:
                self._stream.flush()
            except OSError as error:
                self._fail(error)

    def _fail(self, error: OSError) -> None:
        self.failure = error
        # What the stream still holds would fail once more as the interpreter ends, with a traceback of its own.
        with suppress(OSError, ValueError):
            number = self._stream.fileno()
            if number in (1, 2):
                nothing = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nothing, number)
                os.close(nothing)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def speaking() -> Iterator[tuple[Output, Output]]:
    """Make standard output and standard error fit for any console while the block runs; yield both.

    Letters that their encoding lacks become signs (`ascii_signs`), and a write that fails is noted in `Output.failure`.
    """
    codecs.register_error(_HANDLER, ascii_signs)
    before = sys.stdout, sys.stderr
    out, err = (_fit(stream) for stream in before)
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
    try:
        yield out, err
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before


def _fit(stream: TextIO | None) -> Output:
    if isinstance(stream, Output):
        return stream
    if stream is None:  # the caller closed it
        return Output(open(os.devnull, "w", encoding="utf-8"))
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        with suppress(OSError, ValueError):
            reconfigure(errors=_HANDLER)
    return Output(stream)


def ascii_signs(error: UnicodeError) -> tuple[str, int]:
    """Replace letters that an encoding lacks, for `codecs.register_error`: marks by ASCII marks, others by their escapes.

    Lines of tables become '-', '|' and '+'; a byte of a file name that is no letter becomes '\\xNN'.

    Returns:
        What to write instead, ASCII alone, and where to go on.

    Raises:
        UnicodeError: The error is not one of encoding.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_sign, error.object[error.start : error.end])), error.end


def _sign(letter: str) -> str:
    if letter in _SIGNS:
        return _SIGNS[letter]
    code = ord(letter)
    if 0x2500 <= code < 0x2580:  # lines that tables and bars are drawn with
        words = set(unicodedata.name(letter).split())
        flat, upright = words & {"HORIZONTAL", "LEFT", "RIGHT"}, words & {"VERTICAL", "UP", "DOWN"}
        return "+" if flat and upright else "|" if upright else "-"
    if 0x2580 <= code < 0x25A0:
        return "#"
    if 0x2800 <= code < 0x2900:
        return "*"
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"  # a byte of a file name that was no letter
    return letter.encode("ascii", "backslashreplace").decode()


def console(
    *, stderr: bool = False, file: IO[str] | None = None, width: int | None = None, soft_wrap: bool = False
) -> Console:
    """Return a console that prints text as it is, without markup, emoji codes or highlighting; control letters as escapes.

    On a terminal, tables fit its width; elsewhere each is as wide as its content needs, unless the variable COLUMNS says how wide.

    Args:
        stderr: Print on standard error.
        file: Print there instead.
        width: In letters; by default as above.
        soft_wrap: Let the terminal break lines that are too long.
    """
    stream = file or (sys.stderr if stderr else sys.stdout)
    natural = width is None and "COLUMNS" not in os.environ and not stream.isatty()
    made: Console = _console_class()(
        stderr=stderr, file=file, width=_WIDEST if natural else width, soft_wrap=soft_wrap, markup=False, emoji=False,
        highlight=False,
    )  # fmt: skip
    return made


def rendered(*shown: object, width: int = 100) -> str:
    """Return as text what a console would print, tables of rich included."""
    stream = io.StringIO()
    to = console(file=stream, width=width)
    for one in shown:
        to.print(one)
    return stream.getvalue().rstrip()


@functools.cache
def _console_class() -> Any:
    from rich.console import Console
    from rich.measure import Measurement
    from rich.segment import Segment
    from rich.table import Table

    class AnyConsole(Console):
        """A console for every encoding, and without a width where nobody looks at a screen."""

        _laying_out = False

        @property
        def encoding(self) -> str:
            """UTF-8, whatever the stream's own: the stream replaces what it lacks, and tables keep their form."""
            return "utf-8"

        def render(self, renderable: Any, options: Any = None) -> Iterator[Segment]:
            """Yield the pieces of something to print, none of which commands the terminal but those that `rich` makes."""
            if self._laying_out:  # a cell of a table: an escape is longer than its letter, and would be cut
                yield from super().render(renderable, options)
                return
            self._laying_out = True
            try:
                for piece in super().render(renderable, options):
                    yield piece if piece.control else Segment(without_controls(piece.text), piece.style)
            finally:
                self._laying_out = False

        def print(self, *objects: Any, **options: Any) -> None:
            """Print as `rich` does; in a file or pipe without breaking or cutting a line."""
            if self.width == _WIDEST and objects and "width" not in options:
                for one in objects:
                    if isinstance(one, Table):
                        for column in one.columns:
                            column.max_width = None
                needed = [Measurement.get(self, self.options, one).maximum for one in objects]
                options["width"] = max(1, sum(needed) + len(needed) - 1)
            super().print(*objects, **options)

    return AnyConsole


def warn(text: str) -> None:
    """Tell a warning on standard error."""
    print(f"warning: {text}", file=sys.stderr)

"""The errors that users see: one clear line, with the value that is wrong and the remedy.

`UserError` stands for a mistake that the user can mend (a bad path, a bad value, a broken input file): the command line
prints its text and exits with code 2. `DiffmemError` stands for a failure of the program or the machine (a full disk, a
loss that became NaN): exit code 1. Anything else is a bug and shows its traceback.
"""

from __future__ import annotations

__all__ = ["DiffmemError", "UserError", "check_seed", "nearest"]


class DiffmemError(Exception):
    """A failure that is not the user's mistake but is understood: exit code 1, one line."""


class UserError(DiffmemError):
    """A mistake of the user's, with its value and its remedy: exit code 2, one line."""


def check_seed(seed: int, name: str = "seed") -> None:
    """Refuse a negative seed, of which the random bits of NumPy and of hashes know none."""
    if seed < 0:
        raise UserError(f"The {name} must be 0 or more, not {seed}.")


def nearest(word: str, choices: list[str]) -> str:
    """Return " Did you mean 'x'?" for the choice closest to `word`, or an empty string if none is close."""
    import difflib

    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""

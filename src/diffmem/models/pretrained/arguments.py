"""Constructor arguments of foreign networks, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from diffmem.errors import UserError

__all__ = ["number", "numbers"]


def _is_number(value: object, whole: bool) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool) or math.isnan(value):
        return False
    return not whole or (value >= 1 and value % 1 == 0)


def number(settings: Mapping[str, Any], key: str, whole: bool = False) -> Any:
    """Return an argument that must be a number, or a positive whole one: float, or int.

    Raises:
        UserError: It is something else.
    """
    value = settings[key]
    if not _is_number(value, whole):
        raise UserError(f"{key} must be a {'positive whole ' if whole else ''}number, not {value!r}.")
    return int(value) if whole else float(value)


def numbers(settings: Mapping[str, Any], key: str, whole: bool = False) -> tuple[Any, ...]:
    """Return an argument that must be a list of numbers; see `number`."""
    value = settings[key]
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    if not is_list or not all(_is_number(entry, whole) for entry in value):
        raise UserError(
            f"{key} must be a list of {'positive whole ' if whole else ''}numbers, not {value!r}."
        )
    return tuple(int(entry) if whole else float(entry) for entry in value)

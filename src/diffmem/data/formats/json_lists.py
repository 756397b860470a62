"""JSON whose long lists are handed on one element at a time, so that a million of them never are objects together."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

__all__ = ["read_object"]

_SPACE = re.compile(r"[ \t\n\r]*")


def read_object(text: str, lists: Mapping[str, Callable[[Iterator[object]], object]]) -> Any:
    """Return what a text of JSON holds; of an object, the lists under some keys are what a function makes of their elements.

    Args:
        text: The JSON.
        lists: By key, what takes the elements of a list, all of them; other values under the key are as they are.

    Raises:
        ValueError: It is no JSON.
    """
    decode = json.JSONDecoder().raw_decode

    def after(place: int) -> int:
        found = _SPACE.match(text, place)
        assert found is not None
        return found.end()

    def expect(place: int, letters: str) -> int:
        if text[place : place + 1] not in letters or place >= len(text):
            raise json.JSONDecodeError(f"{' or '.join(letters)} expected", text, place)
        return place

    def elements(place: int, ends: list[int]) -> Iterator[object]:
        place = after(place + 1)
        if text[place : place + 1] != "]":
            while True:
                value, place = decode(text, place)
                yield value
                place = expect(after(place), ",]")
                if text[place] == "]":
                    break
                place = after(place + 1)
        ends.append(place + 1)

    def members(place: int, result: dict[str, Any]) -> int:
        place = after(place + 1)
        if text[place : place + 1] == "}":
            return place + 1
        while True:
            key, place = decode(text, expect(place, '"'))
            place = after(expect(after(place), ":") + 1)
            take = lists.get(key)
            if take is not None and text[place : place + 1] == "[":
                ends: list[int] = []
                result[key] = take(elements(place, ends))
                place = ends[0]
            else:
                result[key], place = decode(text, place)
            place = expect(after(place), ",}")
            if text[place] == "}":
                return place + 1
            place = after(place + 1)

    start = after(0)
    result: Any = {}
    if text[start : start + 1] == "{":
        end = members(start, result)
    else:
        result, end = decode(text, start)
    if after(end) != len(text):
        raise json.JSONDecodeError("Extra data", text, end)
    return result

"""Damage to checkpoints, drawn at random: to the bytes of a pickle, and to what it holds."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch

__all__ = ["DEPTH", "FORMATS", "NEST", "NUMBERS", "PROOF", "Harm", "damaged", "mutated", "with_nests"]

DEPTH = 10_000
"""How many dictionaries `with_nests` puts into each other."""

NEST = "a nest of dictionaries"
"""The text in the place of such dictionaries."""

PROOF = Path("executed")
"""The folder, of the working directory, that a pickle makes if a call in it is carried out."""

_NESTS = 0.005  # of the new values: each costs half a second
_WRITTEN = b"X" + struct.pack("<I", len(NEST)) + NEST.encode()
_NESTED = b"}X\x01\0\0\0a" * DEPTH + b"N" + b"s" * DEPTH
NUMBERS = (
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    2**62,
    2**63 - 1,
    2**64 - 1,
)
"""What is written over numbers: the ends of their types."""
FORMATS = {"B": 8, "<H": 16, ">H": 16, "<I": 32, ">I": 32, "<Q": 64, ">Q": 64}
"""How numbers are written in files, with their bits."""
_SIGNS = b'0179-./\\"[]{}:, \n\0x'
_DTYPES = (
    torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int8, torch.uint8, torch.bool, torch.complex64,
)  # fmt: skip


class Harm:
    """Pickled as a call that leaves a folder behind."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(PROOF),)


def damaged(random: Random, content: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Return bytes with bits flipped, numbers overwritten, or a part cut out, doubled or moved, at one to three places.

    With other contents of its kind, also with a part of another one or another sign; headers are at the ends, where half of that is done.
    """
    for _ in range(random.randint(1, 3)):
        place = random.randrange(len(content) or 1)
        if others and random.random() < 0.5:
            place = min(place, random.randrange(80))
            place = len(content) - 1 - place if content and random.random() < 0.4 else place
        length = random.choice((1, 2, 4, 8, 16, random.randint(1, len(content) or 1)))
        head, part, tail = content[:place], content[place : place + length], content[place + length :]
        match random.randrange(9 if others else 7):
            case 0 | 1:
                content = (
                    head + bytes([part[0] ^ 1 << random.randrange(8)] if part else b"") + part[1:] + tail
                )
            case 2:
                form = random.choice(list(FORMATS))
                number = struct.pack(form, random.choice(NUMBERS) & (2 ** FORMATS[form] - 1))
                content = head + number + content[place + len(number) :]
            case 3:
                content = head + random.randbytes(min(length, 8)) + content[place + min(length, 8) :]
            case 4:
                content = head + tail if random.random() < 0.8 else head
            case 5:
                content = head + part * random.choice((2, 3, 20 if length < 1000 else 2)) + tail
            case 6:
                at = random.randrange(len(content) or 1)
                content = content[:at] + part + content[at:]
            case 7:
                other = random.choice(others)
                start = random.randint(0, len(other))
                content = head + other[start : start + length] + tail
            case _:
                content = head + bytes([random.choice(_SIGNS)]) + content[place + 1 :]
    return content


def with_nests(content: bytes) -> bytes:
    """Return a pickle of protocol 2 with dictionaries of dictionaries, `DEPTH` deep, where `mutated` wanted them."""
    return content.replace(_WRITTEN, _NESTED)


def mutated(random: Random, tree: dict[Any, Any]) -> dict[Any, Any]:
    """Return nested dictionaries and lists with one to three of their entries changed, doubled, renamed or left out; the old are kept."""
    whole: dict[Any, Any] = _copied(tree)
    for _ in range(random.choice((1, 1, 2, 3))):
        holder: Any = whole
        while True:
            places = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            if not places:
                break
            place = random.choice(places)
            inner = holder[place]
            if isinstance(inner, dict | list) and inner and random.random() < 0.9:
                holder = inner
                continue
            _change(random, holder, place, whole)
            break
    return whole


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    return [_copied(each) for each in value] if isinstance(value, list) else value


def _change(random: Random, holder: Any, place: Any, whole: dict[Any, Any]) -> None:
    value = holder[place]
    match random.randrange(8):
        case 0:
            del holder[place]
        case 1 if isinstance(holder, dict):
            holder[_other_name(random, place)] = holder.pop(place)
        case 2 if isinstance(holder, dict):
            holder[_other_name(random, place)] = value
        case 3:
            at = random.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
            holder[place], holder[at] = holder[at], holder[place]
        case 4 | 5 | 6 if isinstance(value, torch.Tensor):
            holder[place] = _other_tensor(random, value)
        case _:
            holder[place] = _other_value(random, whole)


def _other_name(random: Random, name: Any) -> Any:
    return random.choice(
        (
            f"{name}x",
            f"module.{name}",
            str(name)[1:],
            f"{name}.weight",
            "",
            "é\n\x1b",
            "x" * 5000,
            7,
            random.randrange(2**31),
        )
    )


def _other_tensor(random: Random, one: torch.Tensor) -> torch.Tensor:
    rows = one if one.ndim else one[None]
    match random.randrange(12):
        case 0:
            return one.reshape(-1)
        case 1:
            return one[None]
        case 2:
            return one[..., None]
        case 3:
            return rows.transpose(0, -1).contiguous()
        case 4:
            return torch.cat([rows, rows], random.randrange(rows.ndim))
        case 5:
            return rows.narrow(random.randrange(rows.ndim), 0, 1)
        case 6:
            return rows[:0]
        case 7:
            return torch.zeros(1, dtype=one.dtype).expand(random.choice(([10**9], one.shape, [2**31, 2**31])))
        case 8:
            return (
                torch.zeros((0, 2 ** random.choice((20, 40, 62))))
                if random.random() < 0.5
                else torch.zeros(())
            )
        case 9 | 10:
            return one.to(random.choice(_DTYPES))
        case _:
            hostile = one.clone().double() if random.random() < 0.1 else one.clone()
            if hostile.numel():
                hostile.reshape(-1)[random.randrange(hostile.numel())] = (
                    random.choice((float("nan"), float("inf"), -float("inf"), 3e38, 0.0, -1.0))
                    if hostile.is_floating_point()
                    else random.choice((0, 1, -1, 100))
                )
            return hostile


def _other_value(random: Random, whole: dict[Any, Any]) -> Any:
    if random.random() < _NESTS:
        return NEST
    return random.choice(
        (
            None, True, -1, 0, 10**5, 2**62, 2**90, float("nan"), float("inf"), 0.5, -1e300, "", "text", "1", "x" * 5000, "é\n\x1b[31m",
            b"bytes", [], {}, (1, 2), [1, [2, [3]]], {"a": {"b": {}}}, [None] * 300, {str(i): i for i in range(300)},
            torch.ones(2, 2), torch.tensor(3), torch.zeros(0), Harm(), whole, [whole] * 3, next(iter(whole.values()), None),
        )
    )  # fmt: skip

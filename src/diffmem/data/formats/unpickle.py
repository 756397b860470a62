"""A reader for the pickles of CIFAR-10 that cannot run code.

The batches are pickled dictionaries: of NumPy arrays, lists, byte strings and numbers. This reader knows the
five callables that they name (see `pickle_machine`); nothing is imported.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from enum import Enum
from typing import ClassVar

from diffmem.data.formats.guards import reading
from diffmem.data.formats.pickle_arrays import ARRAY_NAMES, PickledArray, build_array, call_numpy, text
from diffmem.data.formats.pickle_machine import Budget, PickleMachine
from diffmem.errors import UserError

__all__ = ["MAX_PICKLE_BYTES", "load_dictionary"]

MAX_PICKLE_BYTES = 128 * 2**20
"""Most bytes of one pickle; a CIFAR-10 batch has 31 million."""

_MAX_OPCODES = 1_000_000  # a batch of 10,000 images has 100,000 at most
_CODES = frozenset({"u1", "i8"})
_DIMENSIONS = range(1, 3)


class _Call(Enum):
    ENCODE = "encode"
    BYTES = "bytes"


def load_dictionary(content: bytes, name: str) -> dict[str, object]:
    """Return the dictionary that a pickle holds, without running anything that it asks for.

    Args:
        content: The pickle, of any protocol up to 5.
        name: What to call it in errors.

    Returns:
        The dictionary with its keys as text. Values are None, bool, int, str, bytes, list, tuple, dict, or
        arrays of uint8 or int64. Python 2 strings are bytes.

    Raises:
        UserError: The pickle is damaged, too large, no dictionary, or asks for anything else.
    """
    if len(content) > MAX_PICKLE_BYTES:
        raise UserError(
            f"{name} is refused: the pickle has {len(content):,} bytes; the limit is {MAX_PICKLE_BYTES:,}."
        )
    with reading(name):
        # Each byte of a batch is encoded once at most; a pickle that encodes one text again and again is not one.
        budget = Budget(name, _MAX_OPCODES, size=len(content))
        result = _Batch(name, budget).run(io.BytesIO(content))
        if not isinstance(result, dict):
            raise TypeError(f"the pickle holds a {type(result).__name__}, not a dictionary")
        return {text(key): _finished(value) for key, value in result.items()}


class _Batch(PickleMachine):
    kind: ClassVar[str] = "a CIFAR-10 batch"
    remedy: ClassVar[str] = "Get the archive from its official place."
    names: Mapping[str, object] = {
        **ARRAY_NAMES,
        "_codecs encode": _Call.ENCODE,
        "__builtin__ bytes": _Call.BYTES,  # how Python 3 writes an empty byte string for Python 2
    }

    def call(self, called: object, arguments: object) -> object:
        match called, arguments:
            case _Call.ENCODE, (str(word), "latin1" | "latin-1"):
                self.budget.spend_bytes(len(word))
                return word.encode("latin-1")
            case _Call.BYTES, ():
                return b""
        made = call_numpy(called, arguments, _CODES, _DIMENSIONS)
        if made is None:
            raise ValueError(
                "the pickle makes something other than byte strings and arrays of uint8 or int64"
            )
        return made

    def build(self, target: object, state: object) -> None:
        if not build_array(target, state, _DIMENSIONS):
            raise ValueError("the pickle fills an object in a way that arrays are never filled")


def _finished(value: object) -> object:
    if not isinstance(value, PickledArray):
        return value
    if value.value is None:
        raise ValueError("the pickle holds an array without content")
    return value.value

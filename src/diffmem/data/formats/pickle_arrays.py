"""How NumPy's arrays and numbers lie in a pickle, rebuilt without a call into what the pickle names.

An array is pickled as `_reconstruct` followed by the state (version, shape, dtype, Fortran order, bytes), with
protocol 5 as `_frombuffer` of (bytes, dtype, shape, order); a number as `scalar` of (dtype, bytes). NumPy sees
only a checked shape and type.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ARRAY_NAMES", "NUMBER_NAMES", "PickledArray", "PickledType", "build_array", "call_numpy", "text"]


class _Call(Enum):
    RECONSTRUCT = "_reconstruct"
    NDARRAY = "ndarray"
    DTYPE = "dtype"
    SCALAR = "scalar"
    FROMBUFFER = "_frombuffer"


ARRAY_NAMES: dict[str, object] = {
    "numpy.core.multiarray _reconstruct": _Call.RECONSTRUCT,
    "numpy._core.multiarray _reconstruct": _Call.RECONSTRUCT,
    "numpy ndarray": _Call.NDARRAY,
    "numpy dtype": _Call.DTYPE,
}
"""The names of arrays up to protocol 4, for `PickleMachine.names`."""

NUMBER_NAMES: dict[str, object] = {
    "numpy.core.multiarray scalar": _Call.SCALAR,
    "numpy._core.multiarray scalar": _Call.SCALAR,
    "numpy.core.numeric _frombuffer": _Call.FROMBUFFER,
    "numpy._core.numeric _frombuffer": _Call.FROMBUFFER,
}
"""The names of numbers, and of arrays of protocol 5."""


@dataclass
class PickledType:
    """A dtype: its code, such as "i8"; the order of bytes is little-endian."""

    code: str


@dataclass
class PickledArray:
    """An array, whose content follows."""

    value: NDArray[Any] | None = None


def call_numpy(called: object, arguments: object, codes: frozenset[str], dimensions: range) -> object:
    """Return what a call of one of the names stands for, or None if it is none of them.

    Args:
        called: What stands on the stack.
        arguments: Its arguments.
        codes: The dtypes allowed.
        dimensions: The numbers of dimensions allowed.

    Raises:
        ValueError: A number or an array does not fit its bytes.
    """
    match called, arguments:
        case _Call.RECONSTRUCT, (_Call.NDARRAY, tuple(), _):
            return PickledArray()
        case _Call.DTYPE, (str() | bytes() as code, *_) if len(code) < 4 and text(code) in codes:
            return PickledType(text(code))
        case _Call.SCALAR, (PickledType(code), bytes(content)):
            return _shaped(content, code, (), "C", range(1)).item()
        case _Call.FROMBUFFER, (bytes(content), PickledType(code), tuple(shape), "C" | "F" as order):
            return PickledArray(_shaped(content, code, shape, order, dimensions))
    return None


def build_array(target: object, state: object, dimensions: range) -> bool:
    """Fill an array, or check the state of a dtype; say whether it was one of the two.

    Raises:
        ValueError: The shape does not fit the content.
    """
    match target, state:
        case PickledType(), (_, str() | bytes() as order, *_) if len(order) == 1 and text(order) in "|<":
            return True
        case (
            PickledArray(value=None),
            (_, tuple(shape), PickledType(code), bool() | 0 | 1 as fortran, bytes(content)),
        ):
            target.value = _shaped(content, code, shape, "F" if fortran else "C", dimensions)
            return True
    return False


def text(word: str | bytes) -> str:
    """Return a word that Python 2 wrote as bytes and Python 3 as text."""
    return word if isinstance(word, str) else word.decode("latin-1")


def _shaped(content: bytes, code: str, shape: tuple[Any, ...], order: Any, allowed: range) -> NDArray[Any]:
    if len(shape) not in allowed or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("the pickle holds an array of an unusual shape")
    return np.frombuffer(content, np.dtype(code).newbyteorder("<")).reshape(shape, order=order)

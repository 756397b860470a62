"""A reader for the pickles of CIFAR-10 that cannot run code.

The batches are pickled dictionaries: of NumPy arrays, lists, byte strings and numbers. Python's own unpickler
imports and calls whatever a pickle names. This one does not use it: it walks over the opcodes that
`pickletools` takes apart, knows the few that such batches need, and stands in for the five callables that
they name. Nothing is ever imported, and NumPy sees only a checked shape and type. Format: Python's
`pickletools` documentation; NumPy arrays are pickled as `_reconstruct` followed by the state (version, shape,
dtype, Fortran order, bytes).
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffmem.data.guards import reading
from diffmem.errors import UserError

__all__ = ["MAX_PICKLE_BYTES", "load_dictionary"]

MAX_PICKLE_BYTES = 128 * 2**20
"""Most bytes of one pickle; a CIFAR-10 batch has 31 million."""

_MAX_OPCODES = 5_000_000


class _Call(Enum):
    RECONSTRUCT = "_reconstruct"
    NDARRAY = "ndarray"
    DTYPE = "dtype"
    ENCODE = "encode"
    BYTES = "bytes"


_GLOBALS = {
    "numpy.core.multiarray _reconstruct": _Call.RECONSTRUCT,
    "numpy._core.multiarray _reconstruct": _Call.RECONSTRUCT,
    "numpy ndarray": _Call.NDARRAY,
    "numpy dtype": _Call.DTYPE,
    "_codecs encode": _Call.ENCODE,
    "__builtin__ bytes": _Call.BYTES,  # how Python 3 writes an empty byte string for Python 2
}
_PUSHED = {
    "BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "UNICODE", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
}  # fmt: skip
_PYTHON_2_STRINGS = {"STRING", "BINSTRING", "SHORT_BINSTRING"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARK = object()


@dataclass
class _Dtype:
    code: str


@dataclass
class _Array:
    value: NDArray[Any] | None = None


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
        result = _Machine(name).run(content)
        if not isinstance(result, dict):
            raise TypeError(f"the pickle holds a {type(result).__name__}, not a dictionary")
        return {_text(key): _finished(value) for key, value in result.items()}


class _Machine:
    """The stack and the memo of one pickle."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, content: bytes) -> object:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            if count > _MAX_OPCODES:
                raise UserError(f"{self.name} is refused: the pickle has more than {_MAX_OPCODES:,} opcodes.")
            if opcode.name == "STOP":
                return self.pop()
            self.step(opcode.name, argument)
        raise EOFError("the pickle is cut short")

    def step(self, opcode: str, argument: Any) -> None:
        stack = self.stack
        if opcode in _PUSHED:
            stack.append(argument)
        elif opcode in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[argument] = self.top()
        elif opcode == "MEMOIZE":
            self.memo[len(self.memo)] = self.top()
        elif opcode in ("BINGET", "LONG_BINGET", "GET"):
            if argument not in self.memo:
                raise ValueError(f"the pickle uses the memo {argument} before it is set")
            stack.append(self.memo[argument])
        elif opcode in _PYTHON_2_STRINGS:
            stack.append(argument.encode("latin-1"))
        elif opcode == "MARK":
            stack.append(_MARK)
        elif opcode in _TUPLES:
            items = [self.pop() for _ in range(_TUPLES[opcode])]
            stack.append(tuple(reversed(items)))
        elif opcode == "TUPLE":
            stack.append(tuple(self.since_mark()))
        elif opcode == "EMPTY_LIST":
            stack.append([])
        elif opcode == "LIST":
            stack.append(self.since_mark())
        elif opcode == "EMPTY_DICT":
            stack.append({})
        elif opcode in ("APPEND", "APPENDS"):
            items = [self.pop()] if opcode == "APPEND" else self.since_mark()
            self.top(list).extend(items)
        elif opcode in ("SETITEM", "SETITEMS", "DICT"):
            items = [self.pop(), self.pop()][::-1] if opcode == "SETITEM" else self.since_mark()
            if opcode == "DICT":
                stack.append({})
            _set_items(self.top(dict), items)
        elif opcode in _CONSTANTS:
            stack.append(_CONSTANTS[opcode])
        elif opcode == "POP":
            self.pop()
        elif opcode == "GLOBAL":
            self.push_global(argument)
        elif opcode == "STACK_GLOBAL":
            name, module = self.pop(), self.pop()
            self.push_global(f"{module} {name}")
        elif opcode == "REDUCE":
            arguments, called = self.pop(), self.pop()
            stack.append(_call(called, arguments))
        elif opcode == "BUILD":
            state = self.pop()
            _build(self.top(), state)
        elif opcode not in ("PROTO", "FRAME"):
            raise UserError(
                f"{self.name} is refused: pickle asks for {opcode}, which a CIFAR-10 batch never needs."
            )

    def push_global(self, name: str) -> None:
        if name not in _GLOBALS:
            asked = name.replace(" ", ".")[:100]
            raise UserError(
                f"{self.name} is refused: pickle asks for {asked}, which could run code. Get the archive "
                "from its official place."
            )
        self.stack.append(_GLOBALS[name])

    def top(self, kind: type = object) -> Any:
        if not self.stack or self.stack[-1] is _MARK or not isinstance(self.stack[-1], kind):
            raise ValueError("the pickle's stack does not hold what its next opcode needs")
        return self.stack[-1]

    def pop(self) -> Any:
        self.top()
        return self.stack.pop()

    def since_mark(self) -> list[Any]:
        for place in range(len(self.stack) - 1, -1, -1):
            if self.stack[place] is _MARK:
                items = self.stack[place + 1 :]
                del self.stack[place:]
                return items
        raise ValueError("the pickle closes a group that it never opened")


def _set_items(target: dict[Any, Any], items: list[Any]) -> None:
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, (str, bytes)):  # also keeps deeply nested keys from exhausting the C stack
            raise TypeError(f"the pickle has a key of type {type(key).__name__}")
        target[key] = value


def _call(called: object, arguments: object) -> object:
    match called, arguments:
        case _Call.ENCODE, (str(text), "latin1" | "latin-1"):
            return text.encode("latin-1")
        case _Call.BYTES, ():
            return b""
        case _Call.RECONSTRUCT, (_Call.NDARRAY, tuple(), _):
            return _Array()
        case _Call.DTYPE, (str() | bytes() as code, *_) if _text(code) in ("u1", "i8"):
            return _Dtype(_text(code))
    raise ValueError("the pickle makes something other than byte strings and arrays of uint8 or int64")


def _build(target: object, state: object) -> None:
    match target, state:
        case _Dtype(), (_, str() | bytes() as order, *_) if _text(order) in ("|", "<"):
            return
        case _Array(value=None), (_, tuple(shape), _Dtype(code), bool() | 0 | 1 as fortran, bytes(content)):
            if len(shape) not in (1, 2) or not all(type(size) is int and size >= 0 for size in shape):
                raise ValueError("the pickle holds an array of an unusual shape")
            array = np.frombuffer(content, np.dtype(code).newbyteorder("<"))
            target.value = array.reshape(shape, order="F" if fortran else "C")
            return
    raise ValueError("the pickle fills an object in a way that arrays are never filled")


def _text(word: str | bytes) -> str:
    return word if isinstance(word, str) else word.decode("latin-1")


def _finished(value: object) -> object:
    if not isinstance(value, _Array):
        return value
    if value.value is None:
        raise ValueError("the pickle holds an array without content")
    return value.value

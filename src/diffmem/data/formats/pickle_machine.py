"""The machine behind the readers of pickles that cannot run code: opcodes, stack and memo, but no names.

Python's own unpickler imports and calls whatever a pickle names. This one walks over the opcodes that
`pickletools` takes apart and knows those that build plain values. What a name, a call or a stored state means
is left to the reader of one kind of file, which knows the few that such files need; everything else is
refused. Nothing is ever imported. Format: Python's `pickletools` documentation.

Values that share parts can be small in memory and endless when they are walked, printed or hashed (a pair of
a pair of a pair ...), so nothing of a pickle is ever put into words before its type is known.
"""

from __future__ import annotations

import pickletools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import IO, Any, ClassVar

from diffmem.errors import UserError

__all__ = ["Budget", "PickleMachine"]

_PUSHED = {
    "BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "UNICODE", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
}  # fmt: skip
_PYTHON_2_STRINGS = {"STRING", "BINSTRING", "SHORT_BINSTRING"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_LONGEST_NAME = 100  # longer than all that any reader knows
_MARK = object()


class Budget:
    """What one file may still spend, however many pickles it nests.

    Args:
        name: What to call the file in errors.
        opcodes: Most opcodes.
        size: Most bytes that calls may make, beyond those that the pickle itself holds.
    """

    def __init__(self, name: str, opcodes: int, size: int = 0) -> None:
        self.name, self.opcodes, self.size = name, opcodes, size
        self._opcodes_left, self._size_left = opcodes, size

    def spend_opcode(self) -> None:
        """Count an opcode.

        Raises:
            UserError: There are too many.
        """
        self._opcodes_left -= 1
        if self._opcodes_left < 0:
            raise UserError(f"{self.name} is refused: the pickle has more than {self.opcodes:,} opcodes.")

    def spend_bytes(self, count: int) -> None:
        """Count bytes that are about to be made.

        Raises:
            UserError: They are too many.
        """
        self._size_left -= count
        if self._size_left < 0:
            raise UserError(f"{self.name} is refused: the pickle asks for more than {self.size:,} bytes.")


class PickleMachine(ABC):
    """The stack and the memo of one pickle; a subclass knows the names of one kind of file.

    Args:
        name: What to call the file in errors.
        budget: What the pickle may spend.

    Attributes:
        kind: The kind of file, for errors ("a CIFAR-10 batch").
        remedy: Where to get a good one, a sentence for errors.
        opcodes: The opcodes that this kind of file needs beyond those of plain values.
        keys: Types of the keys of dictionaries; none that nests, which also keeps hashing cheap.
        names: Globals by "module name", and what stands in for each on the stack.
    """

    kind: ClassVar[str]
    remedy: ClassVar[str]
    opcodes: ClassVar[frozenset[str]] = frozenset()
    keys: ClassVar[tuple[type, ...]] = (str, bytes)
    names: Mapping[str, object]

    def __init__(self, name: str, budget: Budget) -> None:
        self.name, self.budget = name, budget
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    @abstractmethod
    def call(self, called: object, arguments: object) -> object:
        """Return what a call stands for; an exception if it is none of those that this kind of file needs."""

    @abstractmethod
    def build(self, target: object, state: object) -> None:
        """Give an object of `call` its state, or raise."""

    def create(self, kind: object, arguments: object) -> object:
        """Return a new object of a class (NEWOBJ), or raise."""
        raise ValueError("the pickle makes an object of a class")

    def find_stored(self, key: object) -> object:
        """Return what the file keeps outside of the pickle under this key (BINPERSID), or raise."""
        raise ValueError("the pickle asks for something outside of it")

    def run(self, stream: IO[bytes]) -> object:
        """Return the value of the pickle that starts where the stream is; the stream is left behind it.

        Raises:
            UserError: The pickle asks for a name or an opcode that this kind of file never needs, or spends
                more than its budget.
            Exception: Any other, for a damaged pickle; see `diffmem.data.formats.guards.reading`.
        """
        for opcode, argument, _ in pickletools.genops(stream):
            self.budget.spend_opcode()
            if opcode.name == "STOP":
                return self.pop()
            self.step(opcode.name, argument)
        raise EOFError("the pickle is cut short")

    def step(self, opcode: str, argument: Any) -> None:
        """Carry out one opcode."""
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
            self.set_items(self.top(dict), items)
        elif opcode in _CONSTANTS:
            stack.append(_CONSTANTS[opcode])
        elif opcode == "POP":
            self.pop()
        elif opcode == "GLOBAL":
            self.push_global(argument)
        elif opcode == "STACK_GLOBAL":
            name, module = self.pop(), self.pop()
            if not isinstance(name, str) or not isinstance(module, str):
                raise TypeError("the pickle names a global with something other than text")
            self.push_global(f"{module[:_LONGEST_NAME]} {name[:_LONGEST_NAME]}")
        elif opcode == "REDUCE":
            arguments, called = self.pop(), self.pop()
            stack.append(self.call(called, arguments))
        elif opcode == "BUILD":
            state = self.pop()
            self.build(self.top(), state)
        elif opcode in self.opcodes:
            self.step_further(opcode, argument)
        elif opcode not in ("PROTO", "FRAME"):
            raise UserError(
                f"{self.name} is refused: pickle asks for {opcode}, which {self.kind} never needs."
            )

    def step_further(self, opcode: str, argument: Any) -> None:
        """Carry out one of the opcodes that not every kind of file needs."""
        stack = self.stack
        if opcode in ("FLOAT", "BINFLOAT"):
            stack.append(argument)
        elif opcode == "BYTEARRAY8":
            stack.append(bytes(argument))
        elif opcode == "EMPTY_SET":
            stack.append(set())
        elif opcode == "ADDITEMS":
            items = self.since_mark()
            self.top(set).update(self.checked_keys(items))
        elif opcode == "NEWOBJ":
            arguments, kind = self.pop(), self.pop()
            stack.append(self.create(kind, arguments))
        elif opcode == "BINPERSID":
            stack.append(self.find_stored(self.pop()))
        else:
            raise NotImplementedError(f"opcode {opcode}")

    def push_global(self, name: str) -> None:
        """Push what stands in for a name, written "module name"."""
        if name not in self.names:
            asked = name[: 2 * _LONGEST_NAME].replace(" ", ".")[:_LONGEST_NAME]
            raise UserError(
                f"{self.name} is refused: pickle asks for {asked if asked.isprintable() else repr(asked)},"
                f" which could run code. {self.remedy}"
            )
        self.stack.append(self.names[name])

    def top(self, kind: type = object) -> Any:
        """Return the topmost value, which must be of this type."""
        if not self.stack or self.stack[-1] is _MARK or not isinstance(self.stack[-1], kind):
            raise ValueError("the pickle's stack does not hold what its next opcode needs")
        return self.stack[-1]

    def pop(self) -> Any:
        """Take the topmost value from the stack."""
        self.top()
        return self.stack.pop()

    def since_mark(self) -> list[Any]:
        """Take the values above the last mark, and the mark."""
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                items = self.stack[index + 1 :]
                del self.stack[index:]
                return items
        raise ValueError("the pickle closes a group that it never opened")

    def checked_keys(self, keys: list[Any]) -> list[Any]:
        """Return values that may be hashed, or raise."""
        for key in keys:
            if not isinstance(key, self.keys):  # also keeps deeply nested keys from exhausting the C stack
                raise TypeError(f"the pickle has a key of type {type(key).__name__}")
        return keys

    def set_items(self, target: dict[Any, Any], items: list[Any]) -> None:
        """Fill a dictionary from alternating keys and values."""
        for key, value in zip(self.checked_keys(items[::2]), items[1::2], strict=True):
            target[key] = value

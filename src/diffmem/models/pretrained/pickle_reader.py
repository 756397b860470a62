"""A reader for pickles of PyTorch modules in the layout of EDM's code that cannot run code.

Such a file names the functions that rebuild tensors, storages and objects; its objects carry the source text
of their classes, which EDM's own loader executes. Here every name is looked up in the short list below and
stands for a record: what a tensor, a storage or an object was made of. Source text is dropped unread. A
storage pickled on its own is a byte string that holds a whole file of PyTorch's older format; it is read by
the same machine, with still fewer names. Formats: the pickles that PyTorch, NumPy and EDM write.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import IO, Any, ClassVar

import torch

from diffmem.data.formats.pickle_arrays import ARRAY_NAMES, NUMBER_NAMES, build_array, call_numpy
from diffmem.data.formats.pickle_machine import Budget, PickleMachine
from diffmem.models.pretrained.recognition import WAYS_ON

__all__ = [
    "LEGACY_MAGIC",
    "ModulePickle",
    "PickledObject",
    "PickledStorage",
    "PickledTensor",
    "read_legacy",
]

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""The number that the first pickle of PyTorch's older format holds."""

_LEGACY_PROTOCOL = 1001
_LONGEST_INTEGER = 2**127  # the magic number has 73 bits
_BYTES_OF_ITEM = 64  # of a set
_CODES = frozenset({"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"})
_DIMENSIONS = range(9)


# No text of a file is equal to one of these.
_Call = Enum(
    "_Call",
    "ENCODE BYTES SET DICT OBJECT ORDERED EASY CONTAINER RECONSTRUCTOR TENSOR PARAMETER FROM_BYTES PERSISTENT PATH",
)


@dataclass(eq=False)
class PickledStorage:
    """A flat run of numbers.

    Attributes:
        dtype: Their type.
        count: How many there are.
        content: Their bytes, little-endian; none until they are read.
    """

    dtype: torch.dtype
    count: int
    content: bytearray | None = field(default=None, repr=False)

    def fill(self, content: bytes) -> None:
        """Take the bytes, which must be exactly as many as the numbers need."""
        needed = self.count * self.dtype.itemsize
        if self.content is not None or len(content) != needed:
            raise ValueError(f"a storage of {needed:,} bytes has {len(content):,}")
        self.content = bytearray(content)


@dataclass(eq=False)
class PickledTensor:
    """A view of a storage, checked to lie inside of it and to have no more numbers than it.

    Attributes:
        storage: Where its numbers are.
        offset: Place of the first.
        shape: Its sizes.
        stride: Steps in numbers, one for each size.
    """

    storage: PickledStorage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.stride) or len(self.shape) not in _DIMENSIONS:
            raise ValueError("a tensor has an unusual number of dimensions")
        numbers = (self.offset, *self.shape, *self.stride)
        if not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
            raise ValueError("a tensor has sizes that are no whole numbers")
        size = math.prod(self.shape)
        last = self.offset + sum(
            (length - 1) * step for length, step in zip(self.shape, self.stride, strict=True)
        )
        if size > self.storage.count or (size and last >= self.storage.count):
            raise ValueError("a tensor is larger than its storage")

    def value(self) -> torch.Tensor:
        """Return the numbers as a tensor of their type; it shares the storage's memory."""
        if self.storage.content is None:
            raise ValueError("a tensor's storage is not in the file")
        if 0 in self.shape:
            return torch.empty(self.shape, dtype=self.storage.dtype)
        flat = torch.frombuffer(self.storage.content, dtype=self.storage.dtype)
        return flat.as_strided(self.shape, self.stride, self.offset)


@dataclass(eq=False)
class PickledObject:
    """An object as its class's name and its attributes.

    Attributes:
        class_name: The name, without its module; empty for a container of PyTorch.
        state: Its attributes.
        arguments: Positional arguments of its constructor, as far as the file says.
        keywords: Keyword arguments.
    """

    class_name: str = ""
    state: dict[Any, Any] | None = None
    arguments: Any = ()
    keywords: Any = field(default_factory=dict)


_STORAGES: dict[str, object] = {
    f"{module} {word}Storage": dtype
    for module in ("torch", "torch.cuda")
    for word, dtype in {
        "Float": torch.float32,
        "Double": torch.float64,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Byte": torch.uint8,
        "Char": torch.int8,
        "Short": torch.int16,
        "Int": torch.int32,
        "Long": torch.int64,
        "Bool": torch.bool,
    }.items()
}
_BUILT_IN = {"bytes": _Call.BYTES, "set": _Call.SET, "dict": _Call.DICT, "object": _Call.OBJECT}
_NAMES: dict[str, object] = {
    **_STORAGES,
    **ARRAY_NAMES,
    **NUMBER_NAMES,
    # Protocols up to 2 write the names of Python 2.
    **{
        f"{module} {word}": call for module in ("builtins", "__builtin__") for word, call in _BUILT_IN.items()
    },
    "copyreg _reconstructor": _Call.RECONSTRUCTOR,
    "copy_reg _reconstructor": _Call.RECONSTRUCTOR,
    "_codecs encode": _Call.ENCODE,
    "collections OrderedDict": _Call.ORDERED,
    "dnnlib.util EasyDict": _Call.EASY,
    # What a training was called with: kept as a record like any container, and nothing of it is needed.
    "argparse Namespace": _Call.CONTAINER,
    **{
        f"{module} {system}Path": _Call.PATH
        for module in ("pathlib", "pathlib._local")
        for system in ("Posix", "Windows")
    },
    "torch.nn.modules.container ModuleDict": _Call.CONTAINER,
    "torch.nn.modules.container ModuleList": _Call.CONTAINER,
    "torch.nn.modules.container Sequential": _Call.CONTAINER,
    "torch._utils _rebuild_tensor_v2": _Call.TENSOR,
    "torch._utils _rebuild_parameter": _Call.PARAMETER,
    "torch.storage _load_from_bytes": _Call.FROM_BYTES,
    "torch_utils.persistence _reconstruct_persistent_obj": _Call.PERSISTENT,
}


class _StoragePickle(PickleMachine):
    """A pickle of PyTorch's format that names nothing but storages.

    Attributes:
        storages: Those named so far, by their keys.
    """

    kind: ClassVar[str] = "a checkpoint"
    remedy: ClassVar[str] = (
        "Nothing of it was run. Where it was made, save the network's tensors alone (torch.save of its state_dict)."
        f" {WAYS_ON}"
    )
    opcodes: ClassVar[frozenset[str]] = frozenset({"BINPERSID"})
    keys: ClassVar[tuple[type, ...]] = (str,)
    names: Mapping[str, object] = _STORAGES

    def __init__(self, name: str, budget: Budget) -> None:
        super().__init__(name, budget)
        self.storages: dict[str, PickledStorage] = {}

    def step(self, opcode: str, argument: Any) -> None:
        if isinstance(argument, int) and not -_LONGEST_INTEGER < argument < _LONGEST_INTEGER:
            raise ValueError("the pickle holds a number of more than 127 bits")
        super().step(opcode, argument)

    def call(self, called: object, arguments: object) -> object:
        raise ValueError("the pickle of a storage calls something")

    def build(self, target: object, state: object) -> None:
        raise ValueError("the pickle fills an object in a way that its kind is never filled")

    def find_stored(self, key: object) -> object:
        match key:
            case ("storage", torch.dtype() as dtype, str(name), str(), int(count)) | (
                "storage",
                torch.dtype() as dtype,
                str(name),
                str(),
                int(count),
                None,
            ) if count >= 0:
                known = self.storages.setdefault(name, PickledStorage(dtype, count))
                if (known.dtype, known.count) != (dtype, count):
                    raise ValueError(f"the pickle describes storage {name[:40]!r} in two ways")
                return known
        raise ValueError("the pickle asks for something outside of it that is no whole storage")


class ModulePickle(_StoragePickle):
    """The pickle of a dictionary of modules: tensors, numbers and objects as records.

    Args:
        name: What to call the file in errors.
        budget: What the pickle may spend; its bytes bound the texts encoded and the storages in it.
    """

    opcodes: ClassVar[frozenset[str]] = frozenset(
        {"FLOAT", "BINFLOAT", "BYTEARRAY8", "EMPTY_SET", "ADDITEMS", "NEWOBJ", "BINPERSID"}
    )
    keys: ClassVar[tuple[type, ...]] = (str, int)
    names: Mapping[str, object] = _NAMES

    def call(self, called: object, arguments: object) -> object:
        """Return the record that a call stands for."""
        match called, arguments:
            case _Call.TENSOR, (
                (PickledStorage() as storage, int(offset), tuple(shape), tuple(stride), _, _)
                | (PickledStorage() as storage, int(offset), tuple(shape), tuple(stride), _, _, None)
            ):
                return PickledTensor(storage, offset, shape, stride)
            case _Call.PARAMETER, (PickledTensor() as tensor, _, _):
                return tensor
            case _Call.FROM_BYTES, (bytes(content),):
                return self._storage_of(content)
            case _Call.PERSISTENT, (dict(meta),):
                return _persistent(meta)
            case _Call.ORDERED, ():
                return {}
            case _Call.RECONSTRUCTOR, (_Call.EASY, _Call.DICT, dict(content)):
                return content
            case _Call.RECONSTRUCTOR, (_Call.CONTAINER, _Call.OBJECT, None):
                return PickledObject()
            case _Call.SET, (list(items),):
                self.budget.spend_bytes(_BYTES_OF_ITEM * len(items))
                return set(self.checked_keys(items))
            case _Call.ENCODE, (str(word), "latin1" | "latin-1"):
                self.budget.spend_bytes(len(word))
                return word.encode("latin-1")
            case _Call.BYTES, ():
                return b""
            case _Call.PATH, tuple():
                return None  # the path of a file on the machine that trained
        made = call_numpy(called, arguments, _CODES, _DIMENSIONS)
        if made is None:
            raise ValueError("the pickle calls a function in a way that a network never needs")
        return made

    def create(self, kind: object, arguments: object) -> object:
        """Return an empty container of modules or of values."""
        match kind, arguments:
            case _Call.CONTAINER, ():
                return PickledObject()
            case _Call.EASY, ():
                return {}
        raise ValueError("the pickle makes an object that a network never needs")

    def build(self, target: object, state: object) -> None:
        """Fill a container of modules, an array or a dtype, each once."""
        match target, state:
            case PickledObject(state=None), dict():
                target.state = state
                return
            case dict(), dict(more) if more.keys() == {"_metadata"}:
                return  # versions of modules, which torch hangs on every state_dict
        if not build_array(target, state, _DIMENSIONS):
            super().build(target, state)

    def checked_keys(self, keys: list[Any]) -> list[Any]:
        """Return values that may be hashed: texts and small numbers, of which no crowd shares one hash."""
        if any(isinstance(key, int) and not -(2**31) < key < 2**31 for key in keys):
            raise ValueError("the pickle has a key of more than 31 bits")
        return super().checked_keys(keys)

    def find_stored(self, key: object) -> object:
        """Return a storage; the older format also keeps classes so, with their source text."""
        match key:
            case ("module", _Call.CONTAINER as kind, _, _):
                return kind
        return super().find_stored(key)

    def _storage_of(self, content: bytes) -> PickledStorage:
        self.budget.spend_bytes(len(content))  # the same bytes may be asked for again and again
        stream = io.BytesIO(content)
        machine = _StoragePickle(self.name, self.budget)
        if machine.run(stream) != LEGACY_MAGIC:
            raise ValueError("a storage is not in PyTorch's older format")
        storage = read_legacy(stream, machine)
        if not isinstance(storage, PickledStorage):
            raise ValueError("the bytes of a storage hold something else")
        return storage


def read_legacy(stream: IO[bytes], machine: _StoragePickle) -> object:
    """Return what a file of PyTorch's older format holds, behind its magic number.

    There follow the version, facts about the writing machine, the value itself, the keys of its storages, and
    for each the number of its elements and their bytes.

    Args:
        stream: The file, behind the first pickle.
        machine: What to read the value with; its storages are filled.

    Raises:
        UserError: As `PickleMachine.run`.
        Exception: Any other, for a damaged file.
    """

    def plain() -> object:
        return _StoragePickle(machine.name, machine.budget).run(stream)

    version = plain()
    if type(version) is not int or version != _LEGACY_PROTOCOL:
        raise ValueError("the file has an unknown version of PyTorch's older format")
    facts = plain()
    if not isinstance(facts, dict) or facts.get("little_endian") is not True:
        raise ValueError("the file was written on a big-endian machine")
    value = machine.run(stream)
    keys = plain()
    if not isinstance(keys, list) or len(keys) != len(machine.storages):
        raise ValueError("the file does not list its storages")
    for key in keys:
        if not isinstance(key, str) or key not in machine.storages:
            raise ValueError("the file lists a storage that its value does not use")
        storage = machine.storages[key]
        (count,) = struct.unpack("<q", stream.read(8))
        if count != storage.count:
            raise ValueError(f"a storage of {storage.count:,} numbers is stored as {count:,}")
        size = storage.count * storage.dtype.itemsize
        storage.fill(stream.read(size))
    return value


def _persistent(meta: dict[Any, Any]) -> PickledObject:
    """The record of an object; the text of its source goes no further than this."""
    name, state = meta.get("class_name"), meta.get("state")
    if meta.get("type") != "class" or not isinstance(name, str) or not isinstance(state, dict):
        raise ValueError("the pickle holds an object without a class's name and state")
    return PickledObject(
        class_name=name,
        state=state,
        arguments=state.get("_init_args", meta.get("init_args", ())),
        keywords=state.get("_init_kwargs", meta.get("init_kwargs", {})),
    )

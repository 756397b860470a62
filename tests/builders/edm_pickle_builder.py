"""Writes network snapshots in the layout of EDM's training code, and pickles that mean harm.

The classes here imitate what the pickles name, so that Python's own pickler writes them. The imitated loader
executes the source text in a pickle, as the real one does: a reader that ran it would be found out.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import sys
import types

import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn


def _reconstruct_persistent_obj(meta):
    exec(meta["module_src"], {})
    return meta


class EasyDict(dict):
    """A dictionary with another name, as EDM's configurations are."""


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
EasyDict.__module__ = "dnnlib.util"


@contextlib.contextmanager
def imitated():
    """Let Python find the imitations under the names of the real ones."""
    modules = {name: types.ModuleType(name) for name in ("torch_utils", "dnnlib")}
    modules["torch_utils.persistence"] = types.ModuleType("torch_utils.persistence")
    modules["torch_utils.persistence"]._reconstruct_persistent_obj = _reconstruct_persistent_obj
    modules["dnnlib.util"] = types.ModuleType("dnnlib.util")
    modules["dnnlib.util"].EasyDict = EasyDict
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]


class Persistent(nn.Module):
    """A module that pickles itself with its class's source text; the arguments are kept in its state."""

    def __init__(self, class_name, source="", args=(), kwargs=None):
        super().__init__()
        self.__dict__["_told"] = {"module_src": source, "class_name": class_name}
        self._init_args, self._init_kwargs = args, kwargs or {}

    def __reduce__(self):
        state = {name: value for name, value in self.__dict__.items() if name != "_told"}
        meta = {"type": "class", "version": 6, **self._told, "state": state}
        return _reconstruct_persistent_obj, (meta,)


class Other:
    """An object that is no module, such as a loss."""

    def __init__(self, class_name, source, **state):
        self.meta = {
            "type": "class",
            "version": 6,
            "module_src": source,
            "class_name": class_name,
            "state": state,
        }

    def __reduce__(self):
        return _reconstruct_persistent_obj, (self.meta,)


def network(state, config, source="", args=()):
    """A module tree with these tensors, under the wrapper that the configuration names."""
    kwargs = {name: value for name, value in config.items() if name != "class_name"}
    root = Persistent(config["class_name"], source, args, kwargs)
    for path, value in state.items():
        module = root
        *parents, name = path.split(".")
        for parent in parents:
            if parent not in module._modules:
                container = parent in ("enc", "dec")
                module.add_module(parent, nn.ModuleDict() if container else Persistent("Part", source))
            module = module._modules[parent]
        if name in ("resample_filter", "freqs"):
            module.register_buffer(name, value.clone())
        else:
            module.register_parameter(name, nn.Parameter(value.clone(), requires_grad=False))
    root.register_parameter("absent", None)
    root.register_buffer("scratch", torch.ones(2), persistent=False)
    return root


def snapshot(state, config, source="", args=()):
    """What a training run of EDM saves."""
    ema = network(state, config, source, args)
    return {
        "ema": ema,
        "loss_fn": Other("EDMLoss", source, P_mean=-1.2, P_std=1.2, sigma_data=0.5),
        "augment_pipe": Other("AugmentPipe", source, wavelet=np.arange(6, dtype=np.float64).reshape(2, 3)),
        "dataset_kwargs": EasyDict(path="cifar10.zip", xflip=False, max_size=np.int64(50_000), cache=b"\xff"),
    }


def pickled(value, protocol=4):
    """The value as a plain pickle."""
    with imitated():
        return pickle.dumps(value, protocol)


def saved(value, zipped):
    """The value as a file of `torch.save`, of the newer format or the older."""
    stream = io.BytesIO()
    with imitated():
        torch.save(value, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


class Call:
    """Pickled as a call of a function, and of `state` as what is built into its result."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


class Nested:
    """Pickled as the bytes of a storage that are another pickle."""

    def __init__(self, content):
        self.content = content

    def __reduce__(self):
        return torch.storage._load_from_bytes, (self.content,)


def damaged(content):
    """Random damage to a file: bytes cut off at the end, or some bits flipped or bytes replaced."""
    cut = st.integers(0, len(content) - 1).map(lambda length: content[:length])
    place = st.integers(0, len(content) - 1)

    def changed(places):
        bytes_ = bytearray(content)
        for where, value in places:
            bytes_[where] ^= value
        return bytes(bytes_)

    flips = st.lists(
        st.tuples(place, st.sampled_from([1 << bit for bit in range(8)])), min_size=1, max_size=4
    )
    others = st.lists(st.tuples(place, st.integers(1, 255)), min_size=1, max_size=2)
    return st.one_of(cut, flips.map(changed), others.map(changed))

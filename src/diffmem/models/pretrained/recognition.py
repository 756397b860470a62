"""What a checkpoint is that no reader here opens: which trainer wrote it, and what its owner can do.

A sound file of another program is never called damaged: it is named by the names of its entries and tensors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["WAYS_ON", "described", "tensor_names"]

WAYS_ON = (
    "Make samples with the program that trained it and audit these (--samples), or give the model as a function"
    " (diffmem.function_denoiser; docs/how-to/open-a-model.md has an example for each trainer)."
)
"""What helps wherever a model is not opened."""

_SHOWN = 3
_LONGEST = 60
_Test = Callable[[frozenset[str], frozenset[str]], bool]


def _has(*entries: str, tensors: tuple[str, ...] = (), without: tuple[str, ...] = ()) -> _Test:
    """Return a test for entries of a checkpoint, and for names that some tensors begin with."""

    def test(keys: frozenset[str], names: frozenset[str]) -> bool:
        return (
            keys.issuperset(entries)
            and keys.isdisjoint(without)
            and all(any(name.startswith(first) for name in names) for first in tensors)
        )

    return test


_STATE = "a training state of EDM's code (training-state-*.pt)"
_STATE_2 = "a training state of EDM2's code (training-state-*.pt)"
_NETWORK_OF = {
    _STATE: "network-snapshot-{}.pkl",
    _STATE_2: "network-snapshot-{}-*.pkl, one for each EMA length",
}
_STEP = re.compile(r"training-state-(\d+)\.pt")
_TRAINERS: tuple[tuple[str, _Test], ...] = (
    ("a checkpoint of lucidrains' denoising-diffusion-pytorch", _has("model", "ema", "step", "scaler")),
    ("a diffusion model of lucidrains' denoising-diffusion-pytorch", _has(tensors=("model.init_conv.",))),
    (
        "an elucidated diffusion model of lucidrains' denoising-diffusion-pytorch",
        _has(tensors=("net.init_conv.",)),
    ),
    ("a checkpoint of pytorch-ddpm", _has("net_model", "ema_model", "x_T")),
    ("a checkpoint of k-diffusion", _has("model", "model_ema", "config")),
    (
        "a network of improved-diffusion or guided-diffusion",
        _has(tensors=("input_blocks.0.0.", "time_embed.0.")),
    ),
    (
        "the weights of a UNet2DModel of diffusers",
        _has(tensors=("conv_in.", "down_blocks.0.", "time_embedding.")),
    ),
    (_STATE, _has("net", "optimizer_state")),
    (_STATE_2, _has("state", "net", "loss_fn", "optimizer", "ema")),
)


def described(path: Path, content: Any) -> str:
    """Return why a file is not opened: what it is, the reason, and what to do instead.

    Args:
        path: The file.
        content: What it holds: nested dictionaries, whatever stands for their tensors.
    """
    names = frozenset(tensor_names(content))
    keys = frozenset(str(key) for key in content) if isinstance(content, Mapping) else frozenset()
    found = next((trainer for trainer, test in _TRAINERS if test(keys, names)), None)
    if found in _NETWORK_OF:
        step = _STEP.fullmatch(path.name)
        network = _NETWORK_OF[found].format(step[1] if step else "*")
        return (
            f"{path} is {found}: it holds what a training goes on with. Give the network-snapshot-*.pkl of the same step, which holds the"
            f" averaged network: {network}."
        )
    if found is not None and "diffusers" in found and (path.parent / "config.json").is_file():
        return f"{path} holds {found} alone. Give its folder, {path.parent}."
    if found is not None:
        return f"{path} is {found}, which is not supported yet. {WAYS_ON}"
    first = ", ".join(repr(name[:_LONGEST]) for name in sorted(names or keys)[:_SHOWN])
    what = (
        f"{len(names):,} tensors ({first}, ...)"
        if names
        else f"no tensors, but {first or type(content).__name__}"
    )
    return f"{path} is a checkpoint of a trainer that is not known: it holds {what}. {WAYS_ON}"


def tensor_names(content: Any, most_levels: int = 4) -> Iterator[str]:
    """Yield the names of tensors in nested dictionaries, without those of the outer entries.

    A container is looked into once, however often it is used.
    """
    waiting: list[tuple[str, Any, int]] = [("", content, 0)]
    seen: set[int] = set()
    while waiting:
        prefix, value, level = waiting.pop()
        if isinstance(value, Mapping) and level < most_levels and id(value) not in seen:
            seen.add(id(value))
            outer = level == 0 and any(isinstance(each, Mapping) for each in value.values())
            waiting += [("" if outer else f"{prefix}{key}.", each, level + 1) for key, each in value.items()]
        elif hasattr(value, "shape") and prefix:
            yield prefix.removesuffix(".")

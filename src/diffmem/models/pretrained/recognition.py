"""What a checkpoint is that no reader here opens: which trainer wrote it, and what its owner can do.

A sound file of another program is never called damaged: it is named by the names of its entries and tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["SAMPLES_ONLY", "WAYS_ON", "described", "tensor_names", "unlike"]

WAYS_ON = (
    "Make samples with the program that trained it and audit these (--samples), or give the model as a function"
    " (diffmem.function_denoiser; docs/how-to/open-a-model.md has an example for each trainer)."
)
"""What helps wherever a model is not opened."""

SAMPLES_ONLY = "Make samples with the program that it belongs to and audit these (--samples)."
"""What helps where no function of noisy images in 1 or 3 channels can stand for the model."""

_NO_DENOISER = (
    "it is distilled to map noise to the end of a trajectory in one or a few steps, and is no denoiser"
)
_FLOW = "its network predicts the velocity of a flow, which is not read from a folder of diffusers yet"
_UNLIKE = {
    "ConsistencyModelPipeline": _NO_DENOISER,
    "CMStochasticIterativeScheduler": _NO_DENOISER,
    "LCMScheduler": _NO_DENOISER,
    "TCDScheduler": _NO_DENOISER,
    "FlowMatchEulerDiscreteScheduler": _FLOW,
    "FlowMatchHeunDiscreteScheduler": _FLOW,
    "UNet2DConditionModel": "what it denoises is directed by text or other embeddings",
}


def unlike(kind: object, possible: Iterable[str]) -> str:
    """Return why a class of diffusers is not supported, and the ways on.

    Args:
        kind: The class, as a folder says it.
        possible: Those that are supported in its place.
    """
    reason = _UNLIKE.get(kind) if isinstance(kind, str) else None
    if reason is None:
        names = list(possible)
        if len(names) > _MOST_NAMES:
            names[_MOST_NAMES:] = [
                f"one of {len(names) - _MOST_NAMES} more that docs/how-to/open-a-model.md names"
            ]
        reason = "it must be " + " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    return f"{reason}. {SAMPLES_ONLY if reason == _NO_DENOISER else WAYS_ON}"


_SHOWN = 3
_MOST_NAMES = 8
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
_TRAINERS: tuple[tuple[str, _Test], ...] = (
    ("a checkpoint of lucidrains' denoising-diffusion-pytorch", _has("model", "ema", "step", "scaler")),
    ("a diffusion model of lucidrains' denoising-diffusion-pytorch", _has(tensors=("model.init_conv.",))),
    (
        "an elucidated diffusion model of lucidrains' denoising-diffusion-pytorch",
        _has(tensors=("net.init_conv.",)),
    ),
    ("a checkpoint of pytorch-ddpm", _has("net_model", "ema_model", "x_T")),
    ("a checkpoint of torchcfm's CIFAR-10 example", _has("net_model", "ema_model", "sched", "optim")),
    ("a checkpoint of flow_matching's image example", _has("model", tensors=("model.input_blocks.0.0.",))),
    ("a checkpoint of k-diffusion", _has("model", "model_ema", "config")),
    ("a checkpoint of score_sde_pytorch", _has("model", "ema", "step", "optimizer")),
    (
        "a network of improved-diffusion or guided-diffusion",
        _has(tensors=("input_blocks.0.0.", "time_embed.0.")),
    ),
    (
        "the weights of a UNet2DModel of diffusers",
        _has(tensors=("conv_in.", "down_blocks.0.", "time_embedding.")),
    ),
    (_STATE, _has("net", "optimizer_state")),
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
    if found == _STATE:
        return (
            f"{path} is {_STATE}: it holds what a training goes on with. Give the network-snapshot-*.pkl of the same step, which holds the"
            " averaged network."
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

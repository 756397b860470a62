"""Networks of the diffusers library, built from the settings in a folder and filled with tensors that fit exactly.

This is the one way for all kinds of networks. A class of the library is only constructed: nothing of it that could download, or run code
of the folder, is called.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffmem.errors import UserError, nearest
from diffmem.models.pretrained.diffusers_files import read_settings, read_weights
from diffmem.models.weights import check_tensors, naming

__all__ = ["built", "constructed", "described_network", "filled", "library_class", "text_of"]

# Names of attention tensors before diffusers 0.15, which the folders of the first published models keep.
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
# What the library's averages of weights (EMAModel) write among the settings of their network.
_AVERAGING = frozenset(
    ["decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup"]
)
# Settings of an earlier class of the same network, with the value at which they do nothing.
_IDLE = {
    "DiTTransformer2DModel": {
        "attention_type": "default",
        "double_self_attention": False,
        "only_cross_attention": False,
        "use_linear_projection": False,
    }
}


def built(kind: str, config: Path, root: Path, least: int, allow_pickle: bool) -> nn.Module:
    """Return a network of the library with the tensors of a folder.

    Args:
        kind: Class of the network in the library.
        config: Its settings; its weights are beside it.
        root: The folder that both must belong to, whatever links there are.
        least: How many tensors a network of these settings has at least; so no settings name more layers than the weights have.
        allow_pickle: As of `read_weights`.

    Returns:
        The network: float32 on the CPU, in evaluation mode, weights frozen.

    Raises:
        UserError: diffusers is missing, the library knows no such network, or the tensors are not exactly those of the network.
    """
    make = described_network(kind, config, root)
    return filled(config, make, read_weights(config.parent, root, allow_pickle), least)


def described_network(kind: str, config: Path, root: Path) -> Callable[[], nn.Module]:
    """Return what constructs a network of the library as its settings in a folder say it, with any weights; see `built`.

    Raises:
        UserError: diffusers is missing, or the library knows no such network or no such setting of it.
    """
    library = library_class("diffusers", kind, "diffusers")
    known, idle = list(inspect.signature(library).parameters), _IDLE.get(kind, {})
    arguments = {}
    settings = read_settings(config, root)
    if settings.get("quantization_config"):
        raise UserError(
            f"{config}: quantization_config: its weights are quantized, which is not supported. Give the folder of the model before it was"
            " quantized."
        )
    for key, value in settings.items():
        if key.startswith("_") or (key in _AVERAGING and key not in known):
            continue
        if key in known:
            arguments[key] = value
        elif value is not None and (key not in idle or value != idle[key]):
            raise UserError(
                f"{config}: the installed diffusers knows no {key!r} of {kind}.{nearest(key, known)} If the folder is of a newer"
                " diffusers, install that: pip install -U diffusers."
            )
    return partial(library, **arguments)


def constructed(config: Path, make: Callable[[], nn.Module]) -> nn.Module:
    """Return a network with any weights, whose settings are in `config`; on the device that is chosen around the call.

    Raises:
        UserError: The library cannot build it.
    """
    try:
        return make()
    except Exception as error:  # whatever a network's parts raise on settings that do not fit
        raise UserError(f"{config} describes no network that can be built: {text_of(error)}.") from error


def filled(config: Path, make: Callable[[], nn.Module], tensors: dict[str, Tensor], least: int) -> nn.Module:
    """Return a network with these tensors; see `built`.

    Args:
        config: Its settings, for messages.
        make: Constructs it, with any weights.
        tensors: By name.
        least: How many tensors it has at least.

    Raises:
        UserError: It cannot be constructed, or the tensors are not exactly those of the network.
    """
    if least > len(tensors):
        raise UserError(
            f"{config}: its layers (layers_per_block or num_layers), {least} or more, do not fit weights of {len(tensors)} tensors."
        )
    # Without storage first: whatever sizes the settings name, no more is allocated than the file of weights holds.
    with torch.device("meta"):
        network = constructed(config, make)
    renamed = _fitting(config, network.state_dict(), tensors)
    # Weights of its own, in the place of random ones: for a billion of them, drawing these takes longer than reading the file.
    network.load_state_dict(
        {name: tensor.to(torch.float32, copy=True) for name, tensor in renamed.items()}, assign=True
    )
    if not _is_whole(network):
        del network
        with torch.random.fork_rng(devices=[]):
            network = constructed(config, make)
        network.load_state_dict(renamed)
    return network.float().eval().requires_grad_(False)


def _is_whole(network: nn.Module) -> bool:
    """Whether all that a network holds has storage; what its weights do not tell, such as numbers of positions, has none yet."""
    held = [value for module in network.modules() for value in vars(module).values()]
    return not any(tensor.is_meta for tensor in [*held, *network.buffers()] if isinstance(tensor, Tensor))


def text_of(error: Exception) -> str:
    """Return the text of an error in one line without a full stop."""
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__


def library_class(package: str, name: str, extra: str) -> Any:
    """Return a class of a package that is optional.

    Args:
        package: Its name.
        name: Of the class.
        extra: Of this package, which installs it.

    Raises:
        UserError: The package is not installed or does not load.
    """
    if importlib.util.find_spec(package) is None:
        needed = "that package" if package == "diffusers" else f"{package}, for text-to-image models"
        raise UserError(f"Folders of diffusers need {needed}: pip install 'diffmem[{extra}]'.")
    try:
        return getattr(importlib.import_module(package), name)
    except Exception as error:  # its parts fail in many ways where other packages do not fit each other
        raise UserError(
            f"{package} is installed but does not load ({text_of(error)}). Often torchvision is of another build than torch: install both"
            " from one source, or pip uninstall torchvision."
        ) from error


def _fitting(config: Path, wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors by the names of a network after checking that they are exactly its own."""
    found = dict(tensors)
    for name in tensors:
        stem, _, last = name.rpartition(".")
        module, _, old = stem.rpartition(".")
        new = f"{module}.{_OLD_NAMES.get(old, old)}.{last}"
        if name not in wanted and new in wanted and new not in found:
            found[new] = found.pop(name)
    with naming(config):
        check_tensors(found, wanted, " Its weights do not fit its settings.")
    return found

"""What a checkpoint is that no reader here opens: which trainer wrote it, and what its owner can do.

A sound file of another program is never called damaged: it is named by the names of its entries and tensors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["SAMPLES_ONLY", "TO_CONVERT", "WAYS_ON", "described", "tensor_names", "unlike"]

WAYS_ON = (
    "Make samples with the program that trained it and audit these (--samples), or give the model as a function"
    " (diffmem.function_denoiser; docs/how-to/open-a-model.md has an example for each trainer)."
)
"""What helps wherever a model is not opened."""

SAMPLES_ONLY = "Make samples with the program that it belongs to and audit these (--samples)."
"""What helps where no function of noisy images in 1 or 3 channels can stand for the model."""

TO_CONVERT = (
    "Convert it to a folder once, where there is a network, with diffusers: StableDiffusionPipeline (StableDiffusionXLPipeline for SDXL)"
    ".from_single_file('FILE.safetensors').save_pretrained('FOLDER'). Then give the folder, with prompts (diffmem.open_text_model)."
)
"""What helps where one file holds all of Stable Diffusion."""

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
    "UNet2DConditionModel": "what it denoises is conditioned on text or other embeddings",
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


def _has(*entries: str, tensors: tuple[str, ...] = (), without: str | None = None) -> _Test:
    """Return a test for entries of a checkpoint, and for names that some tensors begin with, or that none does."""

    def test(keys: frozenset[str], names: frozenset[str]) -> bool:
        return (
            keys.issuperset(entries)
            and all(any(name.startswith(first) for name in names) for first in tensors)
            and not (without and any(name.startswith(without) for name in names))
        )

    return test


def _holds(*parts: str) -> _Test:
    """Return a test for a part of the name of some tensor."""
    return lambda _, names: any(part in name for name in names for part in parts)


class _Kind(NamedTuple):
    """What a checkpoint may be, why it is not opened (nothing: its network is none that is read), and what to do."""

    what: str
    test: _Test
    why: str = ""
    ways: str = WAYS_ON


_UNET = "the weights of a UNet2DModel of diffusers"
_LUCIDRAINS = "lucidrains' denoising-diffusion-pytorch"
_NO_NETWORK = "which a training goes on with and which holds no network"
_BESIDE = "Give the file of the network beside it."
_STATE = "which holds what a training goes on with"
_NETWORK_OF_STATE = "Give the network-snapshot-*.pkl of the same step, which holds the averaged network:"
_STEP = re.compile(r"training-state-(\d+)\.pt")
_KINDS = (
    _Kind(
        "a training state of EDM's code (training-state-*.pt)",
        _has("net", "optimizer_state"),
        _STATE,
        f"{_NETWORK_OF_STATE} network-snapshot-{{}}.pkl.",
    ),
    _Kind(
        "a training state of EDM2's code (training-state-*.pt)",
        _has("state", "net", "loss_fn", "optimizer", "ema"),
        _STATE,
        f"{_NETWORK_OF_STATE} network-snapshot-{{}}-*.pkl, one for each EMA length.",
    ),
    _Kind("the state of an optimizer", _has("state", "param_groups"), _NO_NETWORK, _BESIDE),
    _Kind(
        "the state of a schedule of learning rates", _has("last_epoch", "_step_count"), _NO_NETWORK, _BESIDE
    ),
    _Kind("the states of random generators", _has("random_state", "torch_manual_seed"), _NO_NETWORK, _BESIDE),
    _Kind("the state of a gradient scaler", _has("scale", "growth_factor"), _NO_NETWORK, _BESIDE),
    _Kind(
        "changes to a model (LoRA)",
        _holds("lora_A.", "lora_B.", "lora_down.", "lora_up.", ".lora.", "lora_unet_"),
        "which are no whole model",
        f"Of Stable Diffusion and SDXL, give the folder of the model that it changes, with this file as --lora. Or: {SAMPLES_ONLY}",
    ),
    _Kind(
        "a checkpoint of latent diffusion (CompVis), such as Stable Diffusion",
        _has(tensors=("model.diffusion_model.",)),
        "whose network denoises latents, mostly conditioned on text",
        f"{TO_CONVERT} Or: {SAMPLES_ONLY}",
    ),
    _Kind(
        "the weights of a UNet2DConditionModel of diffusers",
        lambda keys, names: (
            _has(tensors=("conv_in.", "down_blocks."))(keys, names) and _holds(".attn2.")(keys, names)
        ),
        "whose network is conditioned on text or other embeddings",
        SAMPLES_ONLY,
    ),
    _Kind(
        "a network of DiT or SiT",
        _has(tensors=("x_embedder.proj.", "t_embedder.mlp.", "blocks.0.adaLN_modulation.")),
        "which denoises latents whose autoencoder is not in the file",
        SAMPLES_ONLY,
    ),
    _Kind("a network of U-ViT", _has(tensors=("pos_embed", "in_blocks.0.attn.", "out_blocks."))),
    _Kind(
        "an autoencoder",
        _has(tensors=("encoder.conv_in.", "decoder.conv_in.")),
        "which makes latents and denoises nothing",
        "Give the folder of the pipeline that it belongs to.",
    ),
    _Kind(
        "a text encoder",
        _has(tensors=("text_model.",)),
        "which denoises nothing",
        SAMPLES_ONLY,
    ),
    _Kind(
        "the tensors of a network of EDM's code",
        _has(tensors=("model.map_layer0.",)),
        "without the arguments that it was made with",
        "Give the network-snapshot-*.pkl of the training; or save the tensors as .safetensors and give the arguments as settings.",
    ),
    _Kind(
        f"a checkpoint of {_LUCIDRAINS}",
        lambda keys, names: (
            _has("model", "ema", "step", "scaler")(keys, names)
            and _holds("init_conv.", "sqrt_recipm1_alphas_cumprod")(keys, names)
        ),
    ),
    _Kind(f"a diffusion model of {_LUCIDRAINS}", _has(tensors=("model.init_conv.",))),
    _Kind(f"an elucidated diffusion model of {_LUCIDRAINS}", _has(tensors=("net.init_conv.",))),
    _Kind("a checkpoint of pytorch-ddpm", _has("net_model", "ema_model", "x_T")),
    _Kind(
        "a network of pytorch-ddpm",
        _holds("time_embedding.timembedding.0."),
        "in a file that this trainer does not write, so that nothing tells how it was trained",
        "If it trained it, give its ckpt.pt, or put the state dict into such a one: torch.save({{'ema_model': state_dict}}, ...)."
        f" {WAYS_ON}",
    ),
    _Kind("a checkpoint of k-diffusion", _has("model", "model_ema", "config"), "which is not supported yet"),
    _Kind(
        "a checkpoint of score_sde_pytorch",
        lambda keys, names: (
            _has("model", "ema", "step", "optimizer")(keys, names)
            and _holds("all_modules.", "module.sigmas")(keys, names)
        ),
    ),
    _Kind(
        "a classifier of guided-diffusion",
        _has(tensors=("input_blocks.0.0.", "time_embed.0.", "middle_block."), without="output_blocks."),
        "which tells classes and denoises nothing",
        "Give the diffusion model that it guides.",
    ),
    _Kind(
        "a network of improved-diffusion or guided-diffusion",
        lambda keys, names: (
            "time_embed.0.weight" not in keys
            and _holds("input_blocks.0.0.")(keys, names)
            and _holds("time_embed.0.")(keys, names)
        ),
        "in a file that neither of these trainers writes, so that nothing tells what it was trained to predict",
        "If one of them trained it, save its state dict alone (torch.save(network.state_dict(), 'model.pt')) and give that file."
        f" {WAYS_ON}",
    ),
    _Kind(
        "a network of improved-diffusion or guided-diffusion",
        _has(tensors=("input_blocks.0.0.", "time_embed.0.")),
    ),
    _Kind(
        _UNET,
        _has(tensors=("conv_in.", "down_blocks.0.", "time_embedding.")),
        "without the settings that belong to them (config.json, scheduler_config.json)",
        f"Give the folder of its pipeline. {WAYS_ON}",
    ),
)


def described(path: Path, content: Any) -> str:
    """Return why a file is not opened: what it is, the reason, and what to do instead.

    Args:
        path: The file.
        content: What it holds: nested dictionaries, whatever stands for their tensors.
    """
    names = frozenset(tensor_names(content))
    keys = frozenset(str(key) for key in content) if isinstance(content, Mapping) else frozenset()
    found = next((kind for kind in _KINDS if kind.test(keys, names)), None)
    if found is not None and "of diffusers" in found.what and (path.parent / "config.json").is_file():
        return f"{path} holds {found.what} alone. Give its folder, {path.parent}."
    first = ", ".join(repr(name[:_LONGEST]) for name in sorted(names or keys)[:_SHOWN])
    if found is not None:
        verb = "is" if found.what.startswith(("a ", "an ")) else "holds"
        why = found.why or f"whose network is none that is read (first tensors: {first})"
        step = _STEP.fullmatch(path.name)
        return f"{path} {verb} {found.what}, {why}. {found.ways.format(step[1] if step else '*')}"
    if not isinstance(content, Mapping):
        shape = getattr(content, "shape", None)
        what = type(content).__name__ if shape is None else f"one tensor of {tuple(shape)}"
        return f"{path} is a pickle that holds {what} and no dictionary of networks. {WAYS_ON}"
    what = f"{len(names):,} tensors ({first}, ...)" if names else f"no tensors, but {first}"
    if not content:
        return f"{path} is a checkpoint that holds nothing. {_BESIDE}"
    trainer = " (PyTorch Lightning)" if "pytorch-lightning_version" in keys else ""
    return f"{path} is a checkpoint of a trainer that is not known{trainer}: it holds {what}. {WAYS_ON}"


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

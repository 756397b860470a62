"""Folders of the diffusers library as denoisers: an unconditional or class-conditional pixel-space `UNet2DModel` with its scheduler.

The folder is read as data (`diffusers_files`): names and numbers choose the library's own network, which is filled with tensors that fit
it exactly; the noise levels are computed here (`discrete`). Nothing is downloaded, for no part of the library that could is called, and
no code in the folder is run. What DDPM and DDIM schedulers share is what the network was trained with; how they step is not used.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffmem.data.guards import reading
from diffmem.errors import UserError, nearest
from diffmem.models.diffusers_files import read_settings, read_weights
from diffmem.models.diffusers_settings import (
    NETWORK,
    NetworkSettings,
    Parts,
    check_fit,
    find_parts,
    read_levels,
    read_network,
    read_scheduler,
)
from diffmem.models.discrete import DiscreteDenoiser, Timesteps

__all__ = ["open_diffusers"]

# Names of attention tensors before diffusers 0.15, which the folders of the first published models keep.
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_TRIAL_SIGMA = 1.0


def open_diffusers(
    folder: Path | str,
    *,
    device: torch.device | str = "cpu",
    allow_pickle: bool = False,
    clip: bool = False,
    timesteps: Timesteps | None = None,
) -> DiscreteDenoiser:
    """Open a folder that `save_pretrained` of diffusers wrote, as a `Denoiser`.

    At the noise level of each timestep (`levels` of the result), it is the network's own prediction of the clean image. Its noise
    range is that of the timesteps (linear betas: 0.0100 to 157), which samplers keep to; a level outside is refused. With
    `rescale_betas_zero_snr`, the last timestep has an infinite level, so the range ends one timestep before.

    Args:
        folder: Of a `DDPMPipeline` or `DDIMPipeline` (with `model_index.json`; the parts in subfolders, or all in one as in the first
            published models), or of a bare `UNet2DModel` (with `config.json`) with its `scheduler_config.json` in it, in its
            subfolder `scheduler`, or in the folder `scheduler` beside it.
        device: Where to compute.
        allow_pickle: Whether weights may be read from a pickle (`.bin`) where there are no safetensors.
        clip: Whether D is clipped or thresholded as the scheduler does it to each prediction (`clip_sample`, `thresholding`). Then a
            sampler here steps as the scheduler does with `use_clipped_model_output`, and D has no gradient where it is clipped.
        timesteps: How noise levels between timesteps are served, see `DiscreteDenoiser`; none for 'interpolated', or 'nearest' if the
            network looks its timesteps up in a table.

    Returns:
        The denoiser: float32, in evaluation mode, weights frozen. A network with classes has `num_class_embeds` of them; if it was
        trained with a class for "no label" among these, that is one of them.

    Raises:
        UserError: diffusers is not installed, or the folder is damaged, incomplete, or of a kind that is not supported, such as a latent
            one; the message names the first offender.
    """
    home = Path(folder)
    if not home.is_dir():
        raise UserError(
            f"There is no folder {home}. Give the path of a folder that save_pretrained of diffusers wrote; nothing is downloaded."
        )
    with reading(str(home)):
        parts = find_parts(home)
        scheduler, network = read_scheduler(parts), read_network(parts)
    levels = read_levels(parts, scheduler)
    check_fit(parts, scheduler, network, len(levels), timesteps)
    unet = _built(parts, network, allow_pickle).to(device)
    denoiser = DiscreteDenoiser(
        _Raw(unet, network.in_channels),
        levels,
        scheduler.prediction_type,
        (network.in_channels, *network.sides),
        network.num_class_embeds or 0,
        timesteps=timesteps or ("nearest" if network.time_embedding_type == "learned" else "interpolated"),
        finish=scheduler.finish() if clip else None,
        device=next(unet.parameters()).device,
    )
    _try(parts, denoiser)
    return denoiser


class _Raw:
    """F(x_t, t, labels) of a library network, without the channels of a learned variance."""

    def __init__(self, unet: nn.Module, channels: int) -> None:
        self._unet, self._channels = unet, channels

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        out: Tensor = self._unet(x, t, labels, return_dict=False)[0]
        return out[:, : self._channels]


def _library() -> type[nn.Module]:
    if importlib.util.find_spec("diffusers") is None:
        raise UserError("Folders of diffusers need that package: pip install 'diffmem[diffusers]'.")
    try:
        from diffusers import UNet2DModel
    except Exception as error:  # its parts fail in many ways where other packages do not fit each other
        raise UserError(
            f"diffusers is installed but does not load ({_line(error)}). Often torchvision is of another build than torch: install both"
            " from one source, or pip uninstall torchvision."
        ) from error
    network: type[nn.Module] = UNet2DModel
    return network


def _built(parts: Parts, network: NetworkSettings, allow_pickle: bool) -> nn.Module:
    """Build the library's network and fill it with the folder's tensors."""
    library = _library()
    settings = {
        key: value
        for key, value in read_settings(parts.network, parts.home).items()
        if not key.startswith("_")
    }
    known = list(inspect.signature(library).parameters)
    for key, value in settings.items():
        if key not in known and value is not None:
            raise UserError(
                f"{parts.network}: the installed diffusers knows no {key!r} of {NETWORK}.{nearest(key, known)} If the folder is of a newer"
                " diffusers, install that: pip install -U diffusers."
            )
    arguments = {key: value for key, value in settings.items() if key in known}
    tensors = read_weights(parts.network.parent, parts.home, allow_pickle)
    if network.layers_per_block * len(network.block_out_channels) > len(tensors):
        raise UserError(
            f"{parts.network}: layers_per_block {network.layers_per_block} does not fit weights of {len(tensors)} tensors."
        )
    # Without storage first: whatever sizes the settings name, no more is allocated than the file of weights holds.
    with torch.device("meta"):
        _fill(parts, _constructed(parts, library, arguments), dict(tensors), dry=True)
    with torch.random.fork_rng(devices=[]):
        unet = _constructed(parts, library, arguments)
    _fill(parts, unet, tensors, dry=False)
    return unet.float().eval().requires_grad_(False)


def _constructed(parts: Parts, library: type[nn.Module], arguments: Mapping[str, Any]) -> nn.Module:
    try:
        return library(**arguments)
    except Exception as error:  # whatever a network's parts raise on settings that do not fit
        raise UserError(
            f"{parts.network} describes no network that diffusers can build: {_line(error)}."
        ) from error


def _fill(parts: Parts, unet: nn.Module, tensors: dict[str, Tensor], dry: bool) -> None:
    """Copy tensors by name after checking that they are exactly those of the network; only check if `dry`."""
    wanted, place = unet.state_dict(), parts.network.parent
    for name in list(tensors):
        stem, _, last = name.rpartition(".")
        module, _, old = stem.rpartition(".")
        new = f"{module}.{_OLD_NAMES.get(old, old)}.{last}"
        if name not in wanted and new in wanted and new not in tensors:
            tensors[new] = tensors.pop(name)
    for name, tensor in tensors.items():
        if name not in wanted:
            raise UserError(
                f"The weights in {place} hold a tensor {name!r} that the network of config.json lacks.{nearest(name, list(wanted))}"
            )
        if tensor.shape != wanted[name].shape:
            raise UserError(
                f"The weights in {place} do not fit config.json: tensor {name!r} has shape {tuple(tensor.shape)}, not"
                f" {tuple(wanted[name].shape)}."
            )
    missing = [name for name in wanted if name not in tensors]
    if missing:
        raise UserError(
            f"The weights in {place} lack {len(missing)} tensor(s) of the network of config.json, first {missing[0]!r}."
        )
    if not dry:
        unet.load_state_dict(tensors)


def _try(parts: Parts, denoiser: DiscreteDenoiser) -> None:
    """Denoise one image, so that a network that cannot is found now."""
    sigma = min(max(_TRIAL_SIGMA, denoiser.sigma_min), denoiser.sigma_max)
    x = torch.zeros(1, *denoiser.image_shape, device=denoiser.device)
    labels = torch.zeros(1, dtype=torch.int64) if denoiser.num_labels else None
    try:
        with torch.no_grad():
            clean = denoiser(x, sigma, labels)
    except Exception as error:  # as for the constructor
        raise UserError(f"The network in {parts.network.parent} does not run: {_line(error)}.") from error
    if clean.shape != x.shape or not bool(torch.isfinite(clean).all()):
        raise UserError(
            f"The network in {parts.network.parent} makes {tuple(clean.shape)} of {tuple(x.shape)}, or values that are not finite."
        )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__

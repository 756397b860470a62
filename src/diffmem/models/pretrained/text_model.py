"""Text-to-image models as denoisers whose labels are prompts: Stable Diffusion 1.x, 2.x and SDXL from folders of diffusers, with LoRA.

Prompts are encoded once, and the encoders are dropped before the network is loaded; then a network with a table of encoded prompts is one
of classes, label i being prompt i and "no label" the null prompt. Whatever samples, scores or checks denoisers works with it as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from diffmem.data.formats.guards import in_one_line, is_folder, reading
from diffmem.data.images import ImageSet
from diffmem.environment import choose_device
from diffmem.errors import UserError
from diffmem.files import sha256_file
from diffmem.models.denoiser import Origin, network_text
from diffmem.models.discrete import DiscreteDenoiser, DiscreteProcess
from diffmem.models.latent import LatentDenoiser
from diffmem.models.pretrained.diffusers_build import built, constructed, described_network
from diffmem.models.pretrained.diffusers_folder import (
    TRIAL_SIGMA,
    codec_of,
    read_autoencoder,
    try_network,
)
from diffmem.models.pretrained.lora import Lora, parse_lora, read_lora
from diffmem.models.pretrained.recognition import TO_CONVERT
from diffmem.models.pretrained.text_encoders import PromptTable, encoded, encoders_of
from diffmem.models.pretrained.text_folder import (
    TextParts,
    TextUnetSettings,
    check_name,
    find_text_parts,
    read_text_network,
    read_text_scheduler,
)
from diffmem.models.readings import generic_readings
from diffmem.models.weights import naming

__all__ = ["TextModel", "open_text_model", "prompts_of"]

_FORMAT = "text-to-image folder of diffusers"
_ONE_FILE = (".safetensors", ".ckpt", ".pt", ".bin")


@dataclass(frozen=True, eq=False)
class TextModel:
    """A text-to-image model with a list of prompts.

    Attributes:
        denoiser: Its labels are the numbers of the prompts, and "no label" (-1, or no labels) is the null prompt; its `origin` says what
            was read.
        prompts: The prompts, encoded.
        lora: What was merged into it; none for the model of the folder alone.
        weight_bytes: Memory that the weights of its network and its autoencoder take.
        files: SHA-256 of the files that it was read from, a LoRA with its weight among them.
    """

    denoiser: LatentDenoiser
    prompts: PromptTable
    lora: Lora | None
    weight_bytes: int = 0
    files: str = ""


@in_one_line()
def open_text_model(
    path: Path | str,
    prompts: Sequence[str],
    *,
    lora: Path | str | None = None,
    size: int | tuple[int, int] | None = None,
    device: torch.device | str | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> TextModel:
    """Open the folder of a `StableDiffusionPipeline` or `StableDiffusionXLPipeline` with prompts as labels.

    Nothing is downloaded, and no code of the folder is run; weights are read from safetensors alone. At the noise level of a timestep, D
    is the network's own prediction for the prompt alone: guidance is not applied. To have the base of a LoRA, open the folder without it.

    Args:
        path: The folder that `save_pretrained` of diffusers wrote.
        prompts: At least one; label i is the i-th. The empty prompt is one, too: of SDXL, it differs from none, which is zeros.
        lora: FILE.safetensors, or FILE.safetensors:WEIGHT; merged into the weights, of the text encoders as well.
        size: Side of the images, or (H, W), in pixels; that of the network's settings by default.
        device: Where to compute; a GPU where there is one by default.
        dtype: Of the network. The text encoders and the autoencoder compute in float32 always.

    Raises:
        UserError: A package is missing; the folder is damaged, incomplete, or of a kind that is not supported, such as inpainting,
            ControlNet or distilled for few steps; or the LoRA does not fit in every tensor, or changes nothing.
    """
    with suppress(RuntimeError):  # a user who is not known: the name is taken as it is
        path = Path(path).expanduser()
    home = _folder(Path(path))
    where = torch.device(choose_device(None) if device is None else device)
    with reading(str(home)):
        parts = find_text_parts(home)
        scheduler, network = read_text_scheduler(parts), read_text_network(parts)
        autoencoder = read_autoencoder(parts, network.in_channels, network.sides)
        assert autoencoder is not None  # `find_text_parts` needs one
        assert parts.autoencoder is not None
        sides = _sides(parts, network, autoencoder.factor, size)
        encoders = encoders_of(parts)
    width = sum(encoder.width for encoder in encoders)
    if width != network.cross_attention_dim:
        raise UserError(
            f"{parts.network}: cross_attention_dim {network.cross_attention_dim} does not fit the text encoders, whose states have {width}."
        )
    merged = None
    make = described_network(network.kind, parts.network, parts.home)
    if lora is not None:
        with torch.device("meta"):
            skeletons = {"unet": constructed(parts.network, make)}
        skeletons |= {encoder.part.name: encoder.skeleton() for encoder in encoders}
        choice = parse_lora(lora)
        caches = [up.name for up in choice.path.absolute().parents if up.name.startswith("models--")]
        check_name(choice.path, choice.path.stem, *caches)
        with reading(str(choice.path)):
            merged = read_lora(choice, skeletons)

    def merge(part: str, changed: nn.Module) -> None:
        if merged is not None:
            merged.merge(part, changed)

    with naming(parts.scheduler):
        process = DiscreteProcess(scheduler.levels(), scheduler.prediction_type)
    table = encoded(encoders, parts, prompts, merge, where)
    raw = built(network.kind, parts.network, parts.home, network.layers, allow_pickle=False)
    merge("unet", raw)
    if merged is not None:
        merged.check()
    height, width = sides
    prompted = _Prompted(
        nn.Module.to(raw, where, getattr(torch, dtype)),  # the library's own warns of any type
        table,
        (height * autoencoder.factor, width * autoencoder.factor) if parts.is_xl else None,
    )
    inner = DiscreteDenoiser(
        prompted,
        process,
        (network.in_channels, height, width),
        len(table.prompts),
        null_label=len(table.prompts),
        device=where,
    )
    small = (network.in_channels, network.unit, network.unit)  # as large as it must be for a trial
    trial = DiscreteDenoiser(prompted, process, small, 1, null_label=-1, device=where)
    sigma = min(max(TRIAL_SIGMA, inner.sigma_min), inner.sigma_max)
    noise = torch.zeros(1, *small, device=where)
    try_network(f"The network in {parts.network.parent}", noise, lambda x: trial(x, sigma))
    codec = codec_of(autoencoder, parts.autoencoder, parts.autoencoder_root, False, where)
    side = 2 * autoencoder.factor
    image = torch.zeros(1, autoencoder.in_channels, side, side, device=where)
    try_network(
        f"The autoencoder in {parts.autoencoder.parent}", image, lambda x: codec.decode(codec.encode(x))
    )
    pixels = (autoencoder.out_channels, height * autoencoder.factor, width * autoencoder.factor)
    latent = LatentDenoiser(inner, codec.decode, codec.encode, pixels)
    # The folder's own name is none of it: it stands in private reports.
    remedy = (
        f"Write it as prediction_type into {parts.scheduler.relative_to(home)} of the model's folder, if the model was trained so; a"
        " fine-tune's training settings say it"
    )
    files = _files_digest(parts, merged)
    latent.origin = Origin(
        _FORMAT,
        f"{parts.pipeline} {home.resolve().name}" + (f" + {merged.path.name}" if merged is not None else ""),
        hashlib.sha256(repr((table.prompts, sides, dtype, parts.zero_null, files)).encode()).hexdigest(),
        (*_notes(parts, table, merged, dtype), *(merged.doubts(process.prediction) if merged else [])),
        home,
        tuple(replace(reading, remedy=remedy) for reading in generic_readings(latent)),
    )
    size_of = sum(one.nbytes for part in (raw, codec.network) for one in part.parameters())
    return TextModel(latent, table, merged, size_of, files)


def prompts_of(images: ImageSet) -> tuple[ImageSet, tuple[str, ...]]:
    """Return the images that have captions, with the number of their caption as their class, and the distinct captions in this order.

    Without any captions, all images without classes, and the empty prompt: then "no label" is what such images can be denoised with.
    """
    captions = images.captions or ()
    chosen = [index for index, caption in enumerate(captions) if caption is not None]
    if not chosen:
        return replace(images, labels=None, class_names=None), ("",)
    prompts = tuple(dict.fromkeys(caption for caption in captions if caption is not None))
    number = {prompt: index for index, prompt in enumerate(prompts)}
    labels = np.array([number[caption] for caption in captions if caption is not None], dtype=np.int64)
    return replace(images.take(chosen, "those with captions"), labels=labels, class_names=None), prompts


def _folder(path: Path) -> Path:
    """Return the folder of a pipeline, that of the only revision in a hub's cache; refuse a file that holds all of it."""
    if is_folder(path):
        revisions = (
            sorted((path / "snapshots").iterdir())
            if (path / "refs").is_dir() and (path / "snapshots").is_dir()
            else []
        )
        return revisions[0] if len(revisions) == 1 else path
    if path.suffix in _ONE_FILE and path.is_file():
        raise UserError(f"{path} is one file, whose settings are not in it. {TO_CONVERT}")
    raise UserError(
        f"There is no folder {path}. Give the folder of a pipeline of diffusers; nothing is downloaded."
    )


def _sides(
    parts: TextParts, network: TextUnetSettings, factor: int, size: int | tuple[int, int] | None
) -> tuple[int, int]:
    """Return (H, W) of the latents."""
    made = (size, size) if isinstance(size, int) else size
    pixels = made or (network.sides[0] * factor, network.sides[1] * factor)
    unit = network.unit * factor
    most = _MOST_LATENTS * factor**2
    if any(side < 1 or side % unit for side in pixels) or pixels[0] * pixels[1] > most:
        raise UserError(
            f"{parts.home}: images of {pixels[0]} x {pixels[1]} pixels do not fit this model: sides must be multiples of {unit}, and at"
            f" most {most:,} pixels."
        )
    return pixels[0] // factor, pixels[1] // factor


_MOST_LATENTS = (
    2**16
)  # 2,048 x 2,048 pixels of the published models; its attention compares all latents with all


class _Prompted:
    """F(x_t, t, labels) of a network that is given the row of a table of prompts for each label, the last row for none."""

    def __init__(self, network: nn.Module, table: PromptTable, pixels: tuple[int, int] | None) -> None:
        first = next(network.parameters())
        self._network, self._dtype = network, first.dtype
        self._states = table.states.to(first)
        self._pooled = None if table.pooled is None else table.pooled.to(first)
        # SDXL is told the size of the image before and after cropping, and where it was cut: nowhere (Podell et al. 2023, section 2.2).
        self._sizes = None if pixels is None else torch.tensor([*pixels, 0, 0, *pixels]).to(first)

    def __repr__(self) -> str:
        return network_text(self._network)

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        rows = torch.full((len(x),), -1, device=x.device) if labels is None else labels
        more = {}
        if self._pooled is not None and self._sizes is not None:
            more = {
                "added_cond_kwargs": {
                    "text_embeds": self._pooled[rows],
                    "time_ids": self._sizes.expand(len(x), -1),
                }
            }
        out: Tensor = self._network(
            x.to(self._dtype), t, encoder_hidden_states=self._states[rows], return_dict=False, **more
        )[0]
        return out.float()


def _notes(parts: TextParts, table: PromptTable, lora: Lora | None, dtype: str) -> tuple[str, ...]:
    null = "zeros" if parts.zero_null else "the encoded empty prompt"
    cut = len(table.truncated)
    encoders = " and ".join(part.kind for part in parts.encoders)
    return (
        f"Its classes are prompts ({len(table.prompts):,} given), encoded by {encoders}, of {table.longest} pieces at most; no label is the"
        f" null prompt, {null}. D is that of the prompt alone, without guidance.",
        *([f"{cut:,} prompt(s) are longer than that, and their ends were not read."] if cut else []),
        *([lora.text()] if lora is not None else []),
        *(f"Weights of the variant {each} were read." for each in sorted(parts.variants)),
        f"The network computes in {dtype}, encoders and autoencoder in float32.",
        "Images are sampled by diffmem's sampler, not by the pipeline's own scheduler; no safety checker looks at them.",
        "The model denoises latents; its samples are decoded by its autoencoder and compared as pixels. What the autoencoder cannot draw"
        " sharply, no copy has.",
    )


def _files_digest(parts: TextParts, lora: Lora | None) -> str:
    """Return a hash of the files of the parts that are used, and of the LoRA with its weight."""
    digest = hashlib.sha256()
    folders = (
        [parts.network.parent, parts.scheduler.parent, parts.autoencoder.parent] if parts.autoencoder else []
    )
    for part in parts.encoders:
        folders += [part.config.parent, part.tokenizer]
    for folder in folders:
        for file in sorted(file for file in folder.iterdir() if file.is_file()):
            digest.update(f"{folder.name}/{file.name} {sha256_file(file)}\n".encode())
    if lora is not None:
        digest.update(f"{sha256_file(lora.path)} {lora.weight!r}".encode())
    return digest.hexdigest()

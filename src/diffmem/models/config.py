"""`ModelConfig`: the model M as typed, hashable settings, and the denoiser built from them."""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from diffmem.errors import UserError
from diffmem.models.denoiser import count_parameters
from diffmem.models.networks.families import DhariwalUNet, SongSettings, SongUNet
from diffmem.models.networks.unet import UNet, UNetSettings, encoder_outputs
from diffmem.models.preconditioning import EDM, VE, VP, Preconditioned

__all__ = ["ModelConfig", "build_denoiser", "count_parameters"]

# Karras et al. 2022, Tables 7 and 8; dropout 0.13 is the default of their training command, which the study
# never changed.
_FAMILIES: dict[str, dict[str, Any]] = {
    "ddpmpp": {
        "channels": 128,
        "multipliers": (2, 2, 2),
        "blocks": 2,
        "attention": (16,),
        "embedding": "positional",
    },
    "ncsnpp": {
        "channels": 128,
        "multipliers": (2, 2, 2),
        "blocks": 2,
        "attention": (16,),
        "embedding": "fourier",
    },
    "adm": {
        "channels": 192,
        "multipliers": (1, 2, 3, 4),
        "blocks": 3,
        "attention": (32, 16, 8),
        "embedding": "positional",
    },
}
_PRECONDITIONING: dict[str, type[VP] | type[VE] | type[EDM]] = {"vp": VP, "ve": VE, "edm": EDM}


class ModelConfig(BaseModel):
    """The network and its preconditioning. What is not given takes the default of the architecture.

    The defaults are the paper's basic setup (Gu et al. 2025): DDPM++ with VP preconditioning, 2 blocks, 128 channels
    (35,125,251 parameters at 32x32x3).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: Literal["ddpmpp", "ncsnpp", "adm", "optimum"] = Field(
        "ddpmpp",
        description="Family of the U-Net, or 'optimum': the closed-form optimum, which is not trained.",
    )
    preconditioning: Literal["vp", "ve", "edm"] = Field(
        "vp", description="Preconditioning and training noise."
    )
    channels: int = Field(128, ge=4, multiple_of=4, description="Base width.")
    multipliers: tuple[int, ...] = Field(
        (2, 2, 2), min_length=1, description="Width of each resolution in units of channels."
    )
    blocks: int = Field(2, ge=1, description="Residual blocks at each resolution.")
    attention: tuple[int, ...] = Field((16,), description="Resolutions with self-attention.")
    embedding: Literal["positional", "fourier"] = Field(
        "positional", description="Embedding of the noise level."
    )
    dropout: float = Field(0.13, ge=0, lt=1, description="Dropout probability.")
    skip_mask: tuple[bool, ...] | None = Field(
        None, description="Which encoder outputs reach the decoder, in order; none for all."
    )

    @model_validator(mode="before")
    @classmethod
    def _family_defaults(cls, values: Any) -> Any:
        if isinstance(values, dict):
            return {**_FAMILIES.get(str(values.get("architecture", "ddpmpp")), {}), **values}
        return values

    @model_validator(mode="after")
    def _check(self) -> Self:
        if any(multiplier < 1 for multiplier in self.multipliers):
            raise ValueError(f"multipliers must be at least 1, not {list(self.multipliers)}")
        if self.architecture == "adm" and self.embedding != "positional":
            raise ValueError("adm has a positional embedding only; remove 'embedding'")
        if self.skip_mask is not None:
            names = encoder_outputs(2 ** (len(self.multipliers) + 1), len(self.multipliers), self.blocks)
            if len(self.skip_mask) != len(names):
                raise ValueError(
                    f"skip_mask has {len(self.skip_mask)} entries, but {len(self.multipliers)} resolutions"
                    f" with {self.blocks} blocks each have {len(names)} encoder outputs; give one entry for each"
                )
        return self

    @property
    def is_trained(self) -> bool:
        """Whether the model is a network that is trained, not the closed-form optimum of the training images."""
        return self.architecture != "optimum"

    def describe(self) -> str:
        """Return the model in words, for reports."""
        if not self.is_trained:
            return "closed-form optimum of the training images"
        name = {"ddpmpp": "DDPM++", "ncsnpp": "NCSN++", "adm": "ADM"}[self.architecture]
        widths = " ".join(str(self.channels * m) for m in self.multipliers)
        attention = " ".join(map(str, self.attention)) or "the coarsest only"
        mask = ""
        if self.skip_mask is not None:
            mask = ", skips " + "".join("1" if keep else "0" for keep in self.skip_mask)
        return (
            f"{name} U-Net, {self.preconditioning.upper()} preconditioning, widths {widths}, {self.blocks}"
            f" block(s) per resolution, attention at {attention}, {self.embedding} embedding,"
            f" dropout {self.dropout:g}{mask}"
        )


def _network(config: ModelConfig, image_channels: int, resolution: int, num_labels: int) -> UNet:
    shared: dict[str, Any] = {
        "resolution": resolution,
        "image_channels": image_channels,
        "num_labels": num_labels,
        "base_width": config.channels,
        **config.model_dump(include={"multipliers", "blocks", "attention", "dropout", "skip_mask"}),
    }
    if config.architecture == "adm":
        return DhariwalUNet(UNetSettings(**shared))
    if config.architecture == "ncsnpp":
        shared |= {"noise_multiplier": 2, "encoder": "residual", "taps": (1, 3, 3, 1)}
    return SongUNet(SongSettings(**shared, embedding=config.embedding))


def build_denoiser(
    config: ModelConfig, image_shape: tuple[int, int, int], num_labels: int = 0, seed: int = 0
) -> Preconditioned:
    """Build an untrained denoiser.

    Args:
        config: The model M.
        image_shape: (C, H, W) of the images; H = W, divisible by 2 ** (number of resolutions - 1).
        num_labels: Number of classes, 0 for an unconditional denoiser.
        seed: Seed of the starting weights; the global random state is left as it was.

    Raises:
        UserError: The images do not fit the network.
    """
    if not config.is_trained:
        raise UserError(
            "The optimum has no weights to train: it is made of the training images (diffmem generate --optimum DATA)."
        )
    image_channels, height, width = image_shape
    levels = len(config.multipliers)
    if height != width or height % 2 ** (levels - 1) or height < 2 ** (levels - 1):
        raise UserError(
            f"Images of {width}x{height} do not fit a U-Net of {levels} resolutions: it needs squares whose"
            " side is a multiple of"
            f" {2 ** (levels - 1)}. Resize the images, or give fewer model.multipliers."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _network(config, image_channels, height, num_labels)
    return Preconditioned(network, _PRECONDITIONING[config.preconditioning]())

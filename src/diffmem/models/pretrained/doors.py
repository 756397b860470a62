"""The trainers whose checkpoints are opened: who recognises a checkpoint, and who makes a denoiser of it.

To add one, write a module with `recognise(checkpoint)` and an opening function, and name both here: see docs/explanation/doors.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from diffmem.models.continuous import ContinuousDenoiser
from diffmem.models.discrete import DiscreteDenoiser
from diffmem.models.latent import LatentDenoiser
from diffmem.models.pretrained import (
    flow_matching,
    guided_diffusion,
    lucidrains,
    pytorch_ddpm,
    score_sde,
    torchcfm,
)
from diffmem.models.pretrained.answers import WantedShape
from diffmem.models.readings import MappedDenoiser

__all__ = ["DOORS", "Door", "Opened", "door_of"]

Opened = DiscreteDenoiser | ContinuousDenoiser | LatentDenoiser | MappedDenoiser
"""What doors make."""


class Opening(Protocol):
    """Makes a denoiser of a checkpoint, and says what a reader of its results must know."""

    def __call__(
        self,
        checkpoint: Mapping[str, Any],
        image_shape: WantedShape | None,
        settings: Mapping[str, Any] | None,
        weights: Any,
        beside: Path,
        device: torch.device | str,
    ) -> tuple[Opened, tuple[str, ...]]:
        """Open a checkpoint.

        Args:
            checkpoint: Nested dictionaries with tensors on the CPU.
            image_shape: (C, H, W) of the images, where the user says it; C may be none.
            settings: What the user says of what the file does not tell.
            weights: 'ema' or 'raw'.
            beside: The file.
            device: Where the denoiser computes.
        """


@dataclass(frozen=True)
class Door:
    """A trainer whose checkpoints are opened.

    Attributes:
        name: Of the layout, for `Origin.format`.
        recognise: Says whether a checkpoint is one of them.
        open: Opens it.
        choices: Its settings that have few values, with these: what the check against images tries in turn.
    """

    name: str
    recognise: Callable[[Mapping[str, Any]], bool]
    open: Opening
    choices: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


DOORS = (
    Door(
        "denoising-diffusion-pytorch checkpoint",
        lucidrains.recognise,
        lucidrains.open_lucidrains,
        lucidrains.CHOICES,
    ),
    Door("pytorch-ddpm checkpoint", pytorch_ddpm.recognise, pytorch_ddpm.open_pytorch_ddpm),
    Door(
        "improved-diffusion or guided-diffusion checkpoint",
        guided_diffusion.recognise,
        guided_diffusion.open_guided_diffusion,
        guided_diffusion.CHOICES,
    ),
    Door("torchcfm checkpoint", torchcfm.recognise, torchcfm.open_torchcfm, torchcfm.CHOICES),
    Door(
        "flow_matching checkpoint",
        flow_matching.recognise,
        flow_matching.open_flow_matching,
        flow_matching.CHOICES,
    ),
    Door("score_sde_pytorch checkpoint", score_sde.recognise, score_sde.open_score_sde, score_sde.CHOICES),
)


def door_of(checkpoint: object) -> Door | None:
    """Return who opens what a file holds, nested dictionaries with tensors; none if nobody does."""
    if not isinstance(checkpoint, Mapping):
        return None
    return next((door for door in DOORS if door.recognise(checkpoint)), None)

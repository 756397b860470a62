"""`diffmem model info`."""

from __future__ import annotations

from pathlib import Path

from diffmem.cli.options import NO_MODEL_OPTIONS, ModelOptions

__all__ = ["model_info"]


def model_info(path: Path, /, *, opening: ModelOptions = NO_MODEL_OPTIONS) -> None:
    """Say what was read from a model: its layout, its images, its noise levels, and what its results rest on.

    Nothing in the model is executed, and nothing is generated.

    Example: diffmem model info checkpoints/checkpoint-500

    Args:
        path: A run's folder (its last snapshot), a snapshot (.safetensors), an EDM network pickle or run folder, or a diffusers folder;
            or a checkpoint of another trainer; see docs/how-to/open-a-model.md.
    """
    from diffmem.models import open_model
    from diffmem.models.denoiser import model_text

    print(model_text(open_model(path, device="cpu", **opening.details())))

"""`diffmem model info`."""

from __future__ import annotations

from pathlib import Path

from diffmem.cli.options import ModelSettings, parse_model_settings, parse_shape

__all__ = ["model_info"]


def model_info(
    path: Path, /, *, shape: str | None = None, model_set: ModelSettings = None, allow_pickle: bool = False
) -> None:
    """Say what was read from a model: its layout, its images, its noise levels, and what its results rest on.

    Nothing in the model is executed, and nothing is generated.

    Example: diffmem model info checkpoints/checkpoint-500

    Args:
        path: A run's folder (its last snapshot), a snapshot (.safetensors), an EDM network pickle or run folder, or a diffusers folder;
            or a checkpoint of another trainer; see docs/how-to/open-a-model.md.
        shape: The images of a checkpoint that does not tell their size, CxHxW, for example 3x32x32.
        model_set: What a checkpoint does not tell, key=value; a message asks for it. May be repeated.
        allow_pickle: Read the weights of a diffusers folder from a pickle where there are no safetensors; nothing in it is executed.
    """
    from diffmem.models import open_model
    from diffmem.models.denoiser import model_text

    settings = parse_model_settings(model_set)
    print(model_text(open_model(path, parse_shape(shape), settings, device="cpu", allow_pickle=allow_pickle)))

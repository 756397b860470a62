"""What several commands share: choosing the device, telling warnings."""

from __future__ import annotations

import os
import sys
from typing import Annotated

from cyclopts import Parameter

from diffmem.distributed import under_torchrun
from diffmem.errors import UserError

__all__ = ["Settings", "bytes_in_words", "choose_device", "warn"]

Settings = Annotated[list[str] | None, Parameter(name="--set", negative="")]
"""The option `--set key=value`, which may be repeated."""


def choose_device(wanted: str | None) -> str:
    """Return the device to use: the wanted one, else CUDA where there is one, else the CPU.

    Under torchrun, each process on a machine has a GPU of its own: `cuda` means that one.

    Raises:
        UserError: The wanted device is unknown or absent, or one GPU was named for several processes.
    """
    import torch

    own = f"cuda:{os.environ['LOCAL_RANK']}" if under_torchrun() else "cuda"
    if wanted is None:
        return own if torch.cuda.is_available() else "cpu"
    kind = wanted.partition(":")[0]
    if kind not in ("cpu", "cuda"):
        raise UserError(f"Device {wanted!r} is not known; choose cpu, cuda or cuda:N.")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"Device {wanted!r} was requested, but torch finds no CUDA GPU here; use --device cpu."
        )
    if under_torchrun() and wanted == "cuda":
        return own
    if under_torchrun() and kind == "cuda" and int(os.environ["WORLD_SIZE"]) > 1:
        raise UserError(
            f"Device {wanted!r} names one GPU, but {os.environ['WORLD_SIZE']} processes run together, each with a GPU"
            " of its own; write --device cuda."
        )
    return wanted


def warn(text: str) -> None:
    """Tell a warning on standard error."""
    print(f"warning: {text}", file=sys.stderr)


def bytes_in_words(count: float) -> str:
    """Return a number of bytes as people say it: '512 B', '3.4 MB'."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"

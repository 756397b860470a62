"""What numbers were made with: versions of the software, and the device."""

from __future__ import annotations

import os
import platform

from diffmem.distributed import under_torchrun
from diffmem.errors import UserError
from diffmem.version import __version__

__all__ = ["choose_device", "has_bfloat16", "versions"]


def versions(device: str) -> dict[str, str]:
    """Return what the numbers were made with, by name.

    Args:
        device: Where they were computed: 'cpu', 'cuda' or 'cuda:N'.
    """
    import numpy as np
    import torch

    name = torch.cuda.get_device_name() if device.startswith("cuda") else f"{platform.machine()} CPU"
    return {
        "diffmem": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": name,
    }


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


def has_bfloat16() -> bool:
    """Return whether this machine's processor multiplies bfloat16 numbers itself (AVX512_BF16, AMX, ARM's BF16).

    Where it does not, torch computes with float32 and rounds: slower than float32 and less exact.
    """
    import torch

    if hasattr(torch.cpu, "get_capabilities"):
        return any(held is True and "bf16" in name for name, held in torch.cpu.get_capabilities().items())
    return bool(torch.cpu._is_avx512_bf16_supported())  # older versions answer only here

"""What numbers were made with: versions of the software, and the device."""

from __future__ import annotations

import platform

import diffmem

__all__ = ["versions"]


def versions(device: str) -> dict[str, str]:
    """Return what the numbers were made with, by name.

    Args:
        device: Where they were computed: 'cpu', 'cuda' or 'cuda:N'.
    """
    import numpy as np
    import torch

    name = torch.cuda.get_device_name() if device.startswith("cuda") else f"{platform.machine()} CPU"
    return {
        "diffmem": diffmem.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": name,
    }

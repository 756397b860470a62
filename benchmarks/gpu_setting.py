"""What the measurements of `gpu.py` share: how large they are, what one of them is, and the clock."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from diffmem.models import ModelConfig

__all__ = ["PRECISIONS", "Found", "Measurement", "Network", "Setting", "repeated", "synchronize"]

PRECISIONS = {"float32": "float32", "tf32": "TF32", "bf16": "bf16"}


@dataclass(frozen=True)
class Network:
    """A network of the paper, or a small one in its place, and the images that it is trained on."""

    name: str
    model: ModelConfig
    resolution: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of its images."""
        return 3, self.resolution, self.resolution


@dataclass(frozen=True)
class Setting:
    """How large the measurements are.

    Attributes:
        device: 'cuda' or 'cpu'.
        miniature: Everything small, to see that it works; the numbers then mean nothing.
    """

    device: str
    miniature: bool

    def __call__(self, full: int, small: int) -> int:
        """Return a size."""
        return small if self.miniature else full

    @property
    def seconds(self) -> float:
        """How long a measurement repeats its work, after a first time that does not count."""
        return 0.01 if self.miniature else 2.0

    def network(self, name: str, resolution: int, channels: int) -> Network:
        """Return DDPM++ of this width with the paper's attention: at half the resolution."""
        model = ModelConfig(channels=channels, attention=(resolution // 2,))
        if self.miniature:
            resolution = 8
            model = ModelConfig(channels=channels // 16, multipliers=(1, 2), blocks=1, attention=())
        return Network(name, model, resolution)

    def networks(self) -> dict[str, Network]:
        """Return the networks whose training is measured, by name."""
        sizes = (("32x32, width 128", 32, 128), ("8x8, width 128", 8, 128), ("32x32, width 256", 32, 256))
        return {name: self.network(name, resolution, channels) for name, resolution, channels in sizes}


@dataclass(frozen=True)
class Found:
    """A number that was measured.

    Attributes:
        value: In the measurement's unit.
        note: With what.
    """

    value: float
    note: str = ""


@dataclass(frozen=True)
class Measurement:
    """A row of the page.

    Attributes:
        key: Unique in the results.
        what: For people.
        unit: Of the number.
        work: Measures it.
        against: Key of the row that its ratio is to.
    """

    key: str
    what: str
    unit: str
    work: Callable[[], Found]
    against: str | None = None


def synchronize(device: str) -> None:
    """Wait until the device has done all that it was told."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def repeated(step: Callable[[], object], device: str, seconds: float, warm: int = 1) -> float:
    """Return the seconds that a step takes, on average over about so many seconds.

    Steps follow each other without waiting for the device: it would idle while the next one is prepared.
    """

    def timed(count: int) -> float:
        synchronize(device)
        begin = time.perf_counter()
        for _ in range(count):
            step()
        synchronize(device)
        return (time.perf_counter() - begin) / count

    for _ in range(warm):
        step()
    once = timed(1)
    return once if once > seconds else timed(min(1000, math.ceil(seconds / once)))

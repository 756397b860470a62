"""Random numbers of training as functions of (seed, position), so that a resumed run needs no stored state.

Each step draws from generators seeded with a hash of the run's seed, the stream's name and the images seen: stopping and
going on cannot change what is drawn, and no step depends on how many random numbers an earlier one used.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

__all__ = ["DataOrder", "stream_seed"]


def stream_seed(seed: int, stream: str, position: int) -> int:
    """Return a 63-bit seed that differs for every seed, stream and position."""
    digest = hashlib.blake2b(f"{seed}/{stream}/{position}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class DataOrder:
    """The order in which training images are seen, as a function of the number of images seen before.

    Args:
        size: Number of training images.
        seed: Seed of the shuffles.
        cyclic: One shuffle for ever, or a new one each epoch.
    """

    def __init__(self, size: int, seed: int, cyclic: bool) -> None:
        self.size, self.seed, self.cyclic = size, seed, cyclic
        self._epochs: dict[int, Tensor] = {}

    def _epoch(self, epoch: int) -> Tensor:
        epoch = 0 if self.cyclic else epoch
        if epoch not in self._epochs:
            self._epochs = {key: order for key, order in self._epochs.items() if key >= epoch - 1}
            rng = np.random.Generator(np.random.PCG64(stream_seed(self.seed, "order", epoch)))
            # Sorting random 64-bit keys is a uniform shuffle that no library release can redefine.
            keys = rng.bit_generator.random_raw(self.size)
            self._epochs[epoch] = torch.from_numpy(np.argsort(keys, kind="stable"))
        return self._epochs[epoch]

    def batch(self, seen: int, count: int) -> Tensor:
        """Return the indices (count,) of the images that follow the first `seen` ones."""
        parts, position = [], seen
        while position < seen + count:
            epoch, offset = divmod(position, self.size)
            part = self._epoch(epoch)[offset : offset + seen + count - position]
            parts.append(part)
            position += len(part)
        return torch.cat(parts)

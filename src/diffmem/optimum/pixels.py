"""The training images of an optimum as rows of whole grey levels, taken a block at a time."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from diffmem.data.images import ImageSet
from diffmem.distributed import world

__all__ = ["Pixels", "rows_of"]

CPU_ROWS = 1024  # larger blocks leave the cache
DOUBLE_ROWS = 256
CHUNK = 128  # values that a float32 product sums at a time: fewer round less, and take longer


def rows_of(images: ImageSet) -> Tensor:
    """Return the images as rows, uint8 (N, dim), without a copy; never to be written."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a read-only array
        return torch.from_numpy(images.images).reshape(len(images), -1)


class Pixels:
    """uint8 images (N, dim), in memory or in a memory map, with what error bounds need to know of them.

    Attributes:
        device: Where blocks are computed with.
        dim: Number of values of an image.
        centre: A vector c of whole numbers near the mean, float64 (dim,); q = image - c is exact in every type.
        norms: |q|^2, exact, float64 (N,).
        largest: The largest |image|.
        largest_square: The largest |q|^2.
        height: Rows of a block.
    """

    def __init__(
        self, images: ImageSet, device: torch.device, workspace_bytes: int, shared: bool = False
    ) -> None:
        self.device, self.dim = device, math.prod(images.shape)
        self._rows = rows_of(images)
        if device.type == "cuda" and 2 * self._rows.numel() <= torch.cuda.mem_get_info(device)[0]:
            self._rows = self._rows.to(device)
        self.stored_on = self._rows.device
        self.height = max(
            1, min(CPU_ROWS if device.type == "cpu" else 1 << 14, workspace_bytes // (16 * self.dim))
        )
        count = len(images)
        self.centre = self._rows[:: max(1, count // 256)].to(device).double().mean(0).round_()
        if shared:  # scores of several processes compare only if all have one centre
            self.centre = world().broadcast(self.centre.cpu()).to(device)
        self._offset = self.centre.float()
        self._single = torch.empty(self.height, self.dim, device=device)
        self._double = self.centre.new_empty(min(DOUBLE_ROWS, self.height), self.dim)
        self.norms = self.centre.new_empty(count)
        largest = 0.0
        for part in self.parts():
            rows = self.block(part).float()
            largest = max(largest, float(rows.square().sum(1, dtype=torch.float64).max()))
            rows = rows.sub_(self._offset).square_()
            self.norms[part] = rows.sum(1, dtype=torch.float64)
        self.largest, self.largest_square = math.sqrt(largest), float(self.norms.max())

    def __len__(self) -> int:
        return len(self._rows)

    def parts(self) -> Iterator[slice]:
        """Yield the blocks of all rows."""
        for at in range(0, len(self), self.height):
            yield slice(at, min(at + self.height, len(self)))

    def block(self, which: slice | Tensor) -> Tensor:
        """Return rows, uint8 (n, dim), on the device."""
        if isinstance(which, slice):
            return self._rows[which].to(self.device)
        # Copies whole rows; indexing by a tensor goes value by value.
        return self._rows.index_select(0, which.to(self.stored_on)).to(self.device)

    def norms_of(self, which: slice | Tensor) -> Tensor:
        """Return |q|^2 of rows."""
        return self.norms[which] if isinstance(which, slice) else self.norms[which.to(self.device)]

    def centred(self, which: slice | Tensor) -> Tensor:
        """Return rows q = image - c, float32 (n, dim); at most `height` rows share one buffer: use them before the next call."""
        block = self.block(which)
        if len(block) <= self.height:
            return self._single[: len(block)].copy_(block).sub_(self._offset)
        return block.float().sub_(self._offset)

    def products(self, vector: Tensor) -> Tensor:
        """Return the inner products of all rows with a vector, float64 (N,)."""
        out = torch.empty_like(self.norms)
        for part in self.parts():
            torch.mv(self.centred(part).double(), vector, out=out[part])
        return out

    @staticmethod
    def chunked_product(rows: Tensor, left: Tensor) -> Tensor:
        """Return rows (n, dim) times `left` (dim, B), float32 (n, B), from sums of `CHUNK` values."""
        count, dim = rows.shape
        chunks, done = dim // CHUNK, dim // CHUNK * CHUNK
        out = rows.new_zeros(count, left.shape[1])
        if chunks:
            parts = rows[:, :done].reshape(count, chunks, CHUNK).transpose(0, 1)
            torch.sum(torch.bmm(parts, left[:done].reshape(chunks, CHUNK, -1)), 0, out=out)
        if done < dim:
            out.addmm_(rows[:, done:], left[done:])
        return out

    def double_product(self, rows: Tensor, left: Tensor, out: Tensor) -> None:
        """Write rows (n, dim) times `left`, float64 (dim, B), into `out`, float64 (n, B)."""
        right = left.T  # this order is faster than the other
        for at in range(0, len(rows), DOUBLE_ROWS):
            part = rows[at : at + DOUBLE_ROWS]
            product = right @ self._double[: len(part)].copy_(part).T
            out[at : at + DOUBLE_ROWS] = product.T

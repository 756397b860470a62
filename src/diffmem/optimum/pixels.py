"""The training images of an optimum as rows of int8, and what error bounds need to know of them."""

from __future__ import annotations

import math
import os
import warnings

import torch
from torch import Tensor

from diffmem.data.images import ImageSet
from diffmem.integers import digits_of, integer_products
from diffmem.threads import dealt

__all__ = ["MIDDLE", "Pixels", "rows_of"]

MIDDLE = 128  # grey level that rows hold as 0
ALIGNED = 64  # bytes that rows start at a multiple of
NORM_DIGITS = 5  # bytes that hold |v|^2 of images of up to 10^7 values
WRITTEN = 2048  # rows that are prepared at a time
KEPT = 0.25  # of the memory of the machine, that the rows may take


def rows_of(images: ImageSet) -> Tensor:
    """Return the images as rows, uint8 (N, dim), without a copy; never to be written."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a read-only array
        return torch.from_numpy(images.images).reshape(len(images), -1)


class Pixels:
    """uint8 images (N, dim), in memory or in a memory map, as rows v = image - 128 of int8.

    A row goes on with a 1 and the digits of |v|^2, so that a product of weights with rows also gives their sum and the mean of
    |v|^2. The rows are kept if they take at most a quarter of the memory; otherwise they are made anew whenever they are needed.

    Args:
        images: The images.
        device: Where the rows are.
        order: Which image each row holds, int64 (N,); the images as they come, if none.

    Attributes:
        dim: Number of values of an image.
        products: How rows are multiplied.
        norms: |v|^2, exact, float64 (N,).
        longest: The largest |v|.
    """

    def __init__(self, images: ImageSet, device: torch.device, order: Tensor | None = None) -> None:
        self.device, self.dim = device, math.prod(images.shape)
        self.products = integer_products(device)
        self._images, self._order = rows_of(images), order
        count, width = len(images), -(-(self.dim + 1 + NORM_DIGITS) // ALIGNED) * ALIGNED
        self.width = width
        self._rows: Tensor | None = None
        if count * width <= KEPT * _memory_of(device):
            self._rows = torch.empty(count, width, dtype=torch.int8, device=device)
        self.norms = torch.empty(count, dtype=torch.float64, device=device)
        for _ in dealt(
            self._prepare, [slice(at, min(at + WRITTEN, count)) for at in range(0, count, WRITTEN)]
        ):
            pass
        self.longest = math.sqrt(float(self.norms.max())) if count else 0.0

    def _prepare(self, part: slice) -> None:
        rows = self._made(part)
        values = rows[:, : self.dim].float()
        # Up to 1,024 squares of bytes add up exactly in float32.
        squares = [torch.linalg.vecdot(some, some).double() for some in torch.split(values, 1024, 1)]
        self.norms[part] = torch.stack(squares).sum(0)
        if self._rows is not None:
            self._write_norms(rows, self.norms[part])
            self._rows[part] = rows

    def _write_norms(self, rows: Tensor, norms: Tensor) -> None:
        digits = digits_of(norms.long(), NORM_DIGITS, 8)
        rows[:, self.dim + 1 : self.dim + 1 + NORM_DIGITS] = digits

    def _made(self, which: slice | Tensor) -> Tensor:
        """Return rows, but for the digits of |v|^2, from the images."""
        if self._order is not None:
            which = self._order[which]
        if isinstance(which, Tensor):
            # Copies whole rows; indexing by a tensor goes value by value.
            images = self._images.index_select(0, which.to(self._images.device))
        else:
            images = self._images[which]
        images = images.to(self.device)
        rows = torch.zeros(len(images), self.width, dtype=torch.int8, device=self.device)
        torch.bitwise_xor(images.view(torch.int8), -MIDDLE, out=rows[:, : self.dim])
        rows[:, self.dim] = 1
        return rows

    def __len__(self) -> int:
        return len(self._images)

    def rows(self, which: slice | Tensor) -> Tensor:
        """Return rows, int8 (n, width): v, 1, the digits of |v|^2, and padding."""
        if self._rows is not None:
            return self._rows[which] if isinstance(which, slice) else self._rows.index_select(0, which)
        rows = self._made(which)
        self._write_norms(rows, self.norms[which])
        return rows

    def norms_of_sums(self, sums: Tensor) -> Tensor:
        """Return the sums of |v|^2 from those of the columns that hold its digits, float64 (width, B)."""
        total = torch.zeros_like(sums[0])
        for part in sums[self.dim + 1 : self.dim + 1 + NORM_DIGITS].flip(0):
            total = total.mul_(256).add_(part)
        return total


def _memory_of(device: torch.device) -> int:
    """Return the bytes of memory that a device has."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

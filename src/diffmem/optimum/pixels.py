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

__all__ = ["MARKS", "MIDDLE", "Pixels", "norms_of_marks", "rows_of"]

MIDDLE = 128  # grey level that rows hold as 0
MARKS = 16  # columns of a narrow product
NORM_DIGITS = 6  # bytes that hold |v|^2 of images of up to 8 10^9 values
WRITTEN = 2048  # rows that are prepared at a time
KEPT = 0.25  # of the memory of the machine, that the rows may take


def rows_of(images: ImageSet) -> Tensor:
    """Return the images as rows, uint8 (N, dim), without a copy; never to be written."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a read-only array
        return torch.from_numpy(images.images).reshape(len(images), -1)


class Pixels:
    """uint8 images (N, dim), in memory or in a memory map, as rows v = image - 128 of int8.

    The rows are kept if they take at most a quarter of the memory; otherwise they are made anew whenever they are needed.

    Args:
        images: The images.
        device: Where the rows are.
        order: Which image each row holds, int64 (N,); the images as they come, if none.

    Attributes:
        dim: Number of values of an image.
        products: How rows are multiplied.
        norms: |v|^2, exact, float64 (N,).
        marks: A 1 and the digits of |v|^2, the least significant first, int8 (N, 16): products of weights with them give the sum of the
            weights and that of weights times |v|^2.
        longest: The largest |v|.
    """

    def __init__(self, images: ImageSet, device: torch.device, order: Tensor | None = None) -> None:
        self.device, self.dim = device, math.prod(images.shape)
        self.products = integer_products(device)
        self._images, self._order = rows_of(images), order
        count = len(images)
        self._rows: Tensor | None = None
        if count * self.dim <= KEPT * _memory_of(device):
            self._rows = torch.empty(count, self.dim, dtype=torch.int8, device=device)
        self.norms = torch.empty(count, dtype=torch.float64, device=device)
        for _ in dealt(
            self._prepare, [slice(at, min(at + WRITTEN, count)) for at in range(0, count, WRITTEN)]
        ):
            pass
        self.longest = math.sqrt(float(self.norms.max())) if count else 0.0
        self.marks = torch.zeros(count, MARKS, dtype=torch.int8, device=device)
        self.marks[:, 0] = 1
        self.marks[:, 1 : 1 + NORM_DIGITS] = digits_of(self.norms.long(), NORM_DIGITS, 8)

    def _prepare(self, part: slice) -> None:
        rows = self._made(part)
        values = rows.float()
        # Up to 1,024 squares of bytes add up exactly in float32.
        squares = [torch.linalg.vecdot(some, some).double() for some in torch.split(values, 1024, 1)]
        self.norms[part] = torch.stack(squares).sum(0)
        if self._rows is not None:
            self._rows[part] = rows

    def _made(self, which: slice | Tensor) -> Tensor:
        """Return rows from the images."""
        if self._order is not None:
            which = self._order[which]
        if isinstance(which, Tensor):
            # Copies whole rows; indexing by a tensor goes value by value.
            images = self._images.index_select(0, which.to(self._images.device))
        else:
            images = self._images[which]
        return images.to(self.device).view(torch.int8) ^ -MIDDLE

    def __len__(self) -> int:
        return len(self._images)

    def grey(self, which: Tensor) -> Tensor:
        """Return rows as float64 (n, dim)."""
        return self.rows(which).double()

    def rows(self, which: slice | Tensor) -> Tensor:
        """Return rows, int8 (n, dim)."""
        if self._rows is None:
            return self._made(which)
        return self._rows[which] if isinstance(which, slice) else self._rows.index_select(0, which)


def norms_of_marks(sums: Tensor) -> Tensor:
    """Return the sums of |v|^2, (B,), from those of the marks, float64 (16, B)."""
    total = torch.zeros_like(sums[0])
    for part in sums[1 : 1 + NORM_DIGITS].flip(0):
        total = total.mul_(256).add_(part)
    return total


def _memory_of(device: torch.device) -> int:
    """Return the bytes of memory that a device has."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

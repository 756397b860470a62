"""Image arrays as rows of numbers, and as centred float32 blocks for matrix products."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffmem.errors import UserError

__all__ = [
    "CHUNK",
    "SUM",
    "UNIT",
    "Images",
    "Metric",
    "Rows",
    "array_of",
    "block_rows",
    "centre_of",
    "float64_norms",
    "full_precision",
    "padded_width",
    "rows_of",
    "squared_norms",
]

Images = NDArray[Any] | Tensor
Metric = Literal["euclidean", "cosine"]

CHUNK = 32  # blocks of references hold a multiple of this, where memory allows
UNIT = 2.0**-24  # unit roundoff of float32
SUM = 256  # terms of a float32 sum: its error grows with them, and 256 squares of differences of uint8 are exact
LARGEST_NORM = 1e18  # its square must be far from the end of float32's range
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def array_of(images: Any) -> Images:
    """Return the images of an `ImageSet`, or the array that was given."""
    array: Images = getattr(images, "images", images)
    return array


class Rows:
    """A read-only view of an image array as rows, taken a block at a time, without copying the array."""

    metric: Metric = "euclidean"

    def __init__(self, images: Images, name: str) -> None:
        if isinstance(images, np.ndarray):
            if any(stride < 0 for stride in images.strides):
                images = np.ascontiguousarray(images)
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", UserWarning
                )  # a read-only memory map: it is never written here
                with suppress(TypeError):  # a type that torch does not have
                    images = torch.from_numpy(images)
        if isinstance(images, np.ndarray) or images.dtype not in (torch.uint8, *FLOATS):
            raise UserError(f"{name} have type {images.dtype}; give uint8 or floating-point images.")
        if images.ndim < 2 or images.shape[1:].numel() == 0:
            raise UserError(
                f"{name} have shape {tuple(images.shape)}; "
                "give an array (N, ...) of images that are not empty."
            )
        self.images = images.detach()
        self.name = name
        self.shape = tuple(images.shape[1:])
        self.dim = images.shape[1:].numel()

    def __len__(self) -> int:
        return int(self.images.shape[0])

    def subset(self, which: Tensor) -> Rows:
        """Return some rows, copied."""
        return type(self)(self.images.index_select(0, which.to(self.images.device)), self.name)

    def part(self, start: int, stop: int) -> Rows:
        """Return the rows start..stop, not copied."""
        return type(self)(self.images[start:stop], self.name)

    @property
    def kind(self) -> str:
        """The type and shape of a row, in words."""
        return f"{str(self.images.dtype).removeprefix('torch.')} {tuple(self.shape)}"

    def fingerprint(self) -> str:
        """Return a SHA-256 of the type, the shape and every value."""
        digest = hashlib.sha256(f"{self.kind} {len(self)}".encode())
        for at in range(0, len(self), 1024):
            block = self.images[at : at + 1024].cpu().contiguous()
            digest.update(block.view(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @property
    def is_uint8(self) -> bool:
        """Whether the values are integers, so that every distance squared is one too."""
        return self.images.dtype == torch.uint8

    def take(self, which: slice | Tensor) -> Tensor:
        """Return some rows, (n, dim), in their own type and on their own device."""
        if isinstance(which, slice):
            return self.images[which].reshape(-1, self.dim)
        # Copies whole rows; indexing by a tensor goes value by value and takes six times as long.
        return self.images.index_select(0, which.to(self.images.device)).reshape(-1, self.dim)

    def fill(self, buffer: Tensor, start: int, stop: int, centre: Tensor) -> None:
        """Write rows start..stop minus `centre` into the float32 `buffer`, rounding once."""
        block = self.take(slice(start, stop)).to(buffer.device)
        self.subtract(block, centre, buffer[: stop - start, : self.dim])

    @staticmethod
    def subtract(block: Tensor, centre: Tensor, target: Tensor) -> None:
        """Write `block` minus `centre` into the float32 `target`, rounding once."""
        if (
            block.dtype == torch.float64
        ):  # the difference must be taken before rounding; in slices to save memory
            for at in range(0, len(block), 256):
                target[at : at + 256] = block[at : at + 256] - centre
        else:
            target.copy_(block).sub_(centre)


class UnitRows(Rows):
    """Rows scaled to length 1, in float64: squared distances between them are 2 - 2 cos."""

    metric: Metric = "cosine"

    def __init__(self, images: Images, name: str) -> None:
        super().__init__(images, name)
        for start in range(0, len(self), 1024):
            largest = super().take(slice(start, start + 1024)).abs().amax(1).double()
            if not bool(largest.isfinite().all()):
                raise UserError(f"{name} hold values that are not finite; check how they were made.")
            if bool((largest == 0).any()):
                row = start + int((largest == 0).nonzero()[0])
                raise UserError(
                    f"Row {row} of {name} is all zeros and has no direction to compare; leave it out."
                )

    @property
    def is_uint8(self) -> bool:
        """Whether the values are integers: no longer."""
        return False

    def take(self, which: slice | Tensor) -> Tensor:
        """Return some scaled rows, float64 (n, dim), on the device of the images."""
        rows = super().take(which).double()
        rows = rows / rows.abs().amax(
            1, keepdim=True
        )  # so that no square overflows; not in place: it may be a view
        host = rows.cpu().numpy()
        # numpy sums each row alone, in one order: a row's length does not depend on the rows beside it.
        lengths = np.sqrt(np.add.reduce(np.square(host), axis=1))
        return rows.div_(torch.from_numpy(lengths).to(rows.device)[:, None])


def rows_of(images: Images, name: str, metric: Metric) -> Rows:
    """Return images as the rows that a metric compares.

    Raises:
        UserError: The metric is unknown, or the images do not fit it.
    """
    if metric not in ("euclidean", "cosine"):
        raise UserError(f"metric = {metric!r} is unknown; choose 'euclidean' or 'cosine'.")
    return Rows(images, name) if metric == "euclidean" else UnitRows(images, name)


@contextmanager
def full_precision() -> Iterator[None]:
    """Make float32 matrix products true float32 (no TF32, no bfloat16); then restore the user's choice."""
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # the per-backend settings are in use, which do not mix with the older function
        modules: tuple[Any, ...] = (torch.backends.cuda, torch.backends.mkldnn)
        backends = [module.matmul for module in modules]
        chosen = [backend.fp32_precision for backend in backends]
        try:
            for backend in backends:
                backend.fp32_precision = "ieee"
            yield
        finally:
            for backend, value in zip(backends, chosen, strict=True):
                backend.fp32_precision = value
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def block_rows(dim: int, block_bytes: int) -> int:
    """Return the rows of a block, so that two float32 blocks and their product fit in `block_bytes`."""
    third = block_bytes / 3 / 4
    rows = int(min(third / padded_width(dim), third**0.5))
    return max(1, rows // CHUNK * CHUNK or rows)


def padded_width(dim: int) -> int:
    """Return the width of a buffer row: the image, one column for |r|^2, and zeros up to a multiple of 16."""
    return -(-(dim + 1) // 16) * 16


def centre_of(references: Rows, rows: int, exact: bool) -> Tensor:
    """Return a vector near the references' mean, (dim,): centred data make the error bound small.

    Any vector gives the same neighbours. For uint8 data it is rounded, so that centring makes no error.
    """
    step = max(1, len(references) // min(rows, 1024))
    mean = references.take(slice(None, None, step)).to(torch.float32).mean(0)
    if exact:
        mean = mean.round()
    if not bool((mean.abs() < 1e-3 * LARGEST_NORM).all()):
        mean = torch.zeros_like(mean)  # the norms will show which array has the bad value
    return mean


def squared_norms(buffer: Tensor, count: int, rows: Rows) -> Tensor:
    """Return float32 squared norms (count,) of a filled buffer, whose columns after the image are zero."""
    norms = torch.einsum("ij,ij->i", buffer[:count], buffer[:count])
    return _checked(norms, rows)


def float64_norms(block: Tensor, rows: Rows) -> Tensor:
    """Return float64 squared norms (n,) of centred float32 rows, exact for centred uint8 images."""
    norms = torch.zeros(len(block), dtype=torch.float64)
    for at in range(0, block.shape[1], SUM):
        part = block[:, at : at + SUM]
        norms += torch.linalg.vecdot(part, part)
    return _checked(norms, rows)


def _checked(norms: Tensor, rows: Rows) -> Tensor:
    if not bool((norms < LARGEST_NORM**2).all()):
        raise UserError(
            f"{rows.name} hold values that are not finite or above {LARGEST_NORM:g}; check how they were made."
        )
    return norms

"""Exact products of whole numbers of 8 bits, which processors and GPUs multiply many times faster than float32.

`torch._int_mm` multiplies int8 by int8 and adds in int32. Whether the result is right depends on the processor: without VNNI
instructions, pairs of products are added in 16 bits, which saturate, unless the second factor has 7 bits. A probe with
extreme values finds out what holds here, once per process and device.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffmem.threads import one_thread

__all__ = ["PIECE", "IntegerProducts", "digits_of", "integer_products", "largest_whole", "least_seconds"]

PIECE = 1 << 16  # terms of a sum in int32: 131,072 products of -128 with -128 overflow
EXACT_TERMS = 1 << 10  # terms of a sum of such products that float32 holds: 2^24
PROBE = (128, 1024, 64)
SLOW = 8.0  # where torch has no instructions for it, it is slower by far; anything less may be other work on the machine


@dataclass(frozen=True)
class IntegerProducts:
    """How products of int8 matrices are computed on a device; every way gives the same, exact result.

    Attributes:
        bits: Most bits of the values of the second factor, 8 or 7: digits of larger numbers are cut to it. The first factor
            always has 8.
        native: Whether integer instructions compute them, and not float32 ones.
    """

    bits: int
    native: bool

    def __call__(self, left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
        """Multiply two matrices.

        Args:
            left: Int8 (M, K); it may be a transposed view.
            right: Int8 (K, N) on the same device, values of at most `bits` bits: from -2^(bits - 1) to 2^(bits - 1) - 1.
            out: Where to write the product, int32 (M, N), if K is at most 65,536: memory that is used again is in the cache.

        Returns:
            Their product, exact, (M, N): int32 if K is at most 65,536, int64 above.
        """
        terms = left.shape[1]
        product = _native if self.native else emulated
        if terms <= PIECE:
            return product(left, right, out)
        total = torch.zeros(len(left), right.shape[1], dtype=torch.int64, device=left.device)
        for at in range(0, terms, PIECE):
            total += product(left[:, at : at + PIECE], right[at : at + PIECE], None)
        return total


def emulated(left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
    """Multiply int8 matrices, K at most 65,536, by float32 products of so few terms that nothing is rounded; int32 (M, N)."""
    total = left.new_empty(len(left), right.shape[1], dtype=torch.int32) if out is None else out
    total.zero_()
    for at in range(0, left.shape[1], EXACT_TERMS):
        total += (left[:, at : at + EXACT_TERMS].float() @ right[at : at + EXACT_TERMS].float()).int()
    return total


def _native(left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
    # The strides of a side of length 1 are arbitrary, and oneDNN reads them all the same.
    left, right = (
        each.clone(memory_format=torch.contiguous_format) if 1 in each.shape else each
        for each in (left, right)
    )
    if left.device.type != "cuda":
        return torch._int_mm(left, right) if out is None else torch._int_mm(left, right, out=out)
    # cuBLAS wants more than 16 rows, and the other sizes to be multiples of 8.
    rows, columns = len(left), right.shape[1]
    terms = -left.shape[1] % 8
    if terms or rows <= 16:
        left = torch.nn.functional.pad(left, (0, terms, 0, max(0, 32 - rows)))
    if terms or columns % 8:
        right = torch.nn.functional.pad(right, (0, -columns % 8, 0, terms))
    found = torch._int_mm(left, right)[:rows, :columns]
    return found if out is None else out.copy_(found)


def integer_products(device: torch.device | str = "cpu") -> IntegerProducts:
    """Return the fastest exact way on a device, as a probe finds it at the first call in a process."""
    return _probed(str(torch.device(device)))


@functools.cache
def _probed(device: str) -> IntegerProducts:
    rows, terms, columns = PROBE
    generator = torch.Generator("cpu").manual_seed(0)

    def drawn(count: int, length: int, low: int, high: int) -> Tensor:
        """Draw extremes, half of the rows nothing but one of them: sums of two neighbours are then as large as they get."""
        values = torch.where(
            torch.rand(count, length, generator=generator, device="cpu") < 0.5, low, high
        ).to(torch.int8)
        values[::4], values[1::4] = low, high
        return values.to(device)

    left = drawn(rows, terms, -128, 127)
    for bits in (8, 7):
        half = 1 << (bits - 1)
        right = drawn(columns, terms, -half, half - 1).T.contiguous()
        wide = left.T.contiguous().T  # transposed views may take another way
        expected = emulated(left, right)
        try:
            exact = all(torch.equal(_native(one, right), expected) for one in (left, wide))
        except (RuntimeError, NotImplementedError):
            break
        if exact:
            with one_thread():  # on a busy machine, threads would wait for each other
                slow = least_seconds(functools.partial(_native, left, right)) > SLOW * least_seconds(
                    functools.partial(emulated, left, right)
                )
            return IntegerProducts(8, False) if slow else IntegerProducts(bits, True)
    return IntegerProducts(8, False)


def least_seconds(product: Callable[[], Tensor], calls: int = 10) -> float:
    """Return the least time of a few calls."""
    taken = []
    for _ in range(calls):
        begin = time.perf_counter()
        found = product()
        if found.device.type == "cuda":
            torch.cuda.synchronize(found.device)
        taken.append(time.perf_counter() - begin)
    return min(taken)


def largest_whole(count: int, bits: int) -> int:
    """Return the largest size of whole numbers that `count` digits can always hold."""
    return ((1 << (bits - 1)) - 1) << (bits * (count - 1))


def digits_of(whole: Tensor, count: int, bits: int) -> Tensor:
    """Write whole numbers as digits between -2^(bits - 1) and 2^(bits - 1) - 1.

    Args:
        whole: Int32 or int64 (..., n), contiguous, of size at most `largest_whole(count, bits)`; it may be overwritten.
        count: Number of digits.
        bits: Of a digit, at most 8.

    Returns:
        Digits d_0, d_1, ..., the least significant first, with whole = sum over k of 2^(bits k) d_k: int8 (..., n, count).
    """
    half = 1 << (bits - 1)
    if bits == 8 and sys.byteorder == "little":
        # Digits are bytes, moved from 0..255 to -128..127, which carries over to the next one; the last keeps its sign.
        middle = sum(half << (8 * at) for at in range(count - 1))
        stored: Tensor = whole.add_(middle).bitwise_xor_(middle).view(torch.int8)
        return stored.view(*whole.shape, whole.element_size())[..., :count]
    found = []
    for _ in range(count - 1):
        low = (whole + half & 2 * half - 1) - half
        found.append(low.to(torch.int8))
        whole = (whole - low) >> bits
    return torch.stack([*found, whole.to(torch.int8)], -1)

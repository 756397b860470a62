"""Sums of images with posterior weights, which are written as whole numbers in digits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from diffmem.integers import PIECE, digits_of, largest_whole
from diffmem.optimum.pixels import MARKS, norms_of_marks
from diffmem.optimum.scores import ROWS, Scored, Source
from diffmem.optimum.sums import Sums
from diffmem.threads import even_parts, pulled

__all__ = ["LEVELS", "Precision", "weighted"]

GROUP = 16  # blocks at most in a product with weights, whose result is large
AT_ONCE = 2  # blocks that are exponentiated at once
LEAST = -64.0  # binary logits below are taken for it: what underflows is computed slowly


class Precision(NamedTuple):
    """How weights are computed: as floats of a kind, and then as whole numbers in some digits."""

    floats: torch.dtype
    whole: torch.dtype
    digits: int


LEVELS = {
    8: (
        Precision(torch.float32, torch.int32, 3),
        Precision(torch.float32, torch.int32, 4),
        Precision(torch.float64, torch.int64, 8),
    ),
    7: (
        Precision(torch.float32, torch.int32, 4),
        Precision(torch.float32, torch.int64, 5),
        Precision(torch.float64, torch.int64, 9),
    ),
}
"""Rising precision of weights, by the bits of a digit."""


def weighted(source: Source, found: Scored, gain: Tensor, precision: Precision) -> Sums:
    """Sum up the images of a source with their weights.

    Args:
        source: The images.
        found: Their scores, as floats of the precision's kind.
        gain: Binary logits per score, float64 (B,).
        precision: How weights are computed.
    """
    size, pixels, (_, kind, count) = len(gain), source.pixels, precision
    bits = pixels.products.bits
    scale = float(largest_whole(count, bits))
    blocks = len(found.tops)
    needed = (((found.tops - found.top) * gain).amax(1) > -math.log2(scale) - 2).tolist()
    runs = [
        run
        for part in even_parts(blocks, GROUP, fewest=2)
        for run in _runs([at for at in range(part.start, part.stop) if needed[at]])
    ]
    line = found.line(gain)

    def work(runs: Iterator[list[int]]) -> tuple[Tensor, Tensor]:
        rounding = torch.zeros_like(gain)
        total = gain.new_zeros(pixels.dim + MARKS, size)
        held = torch.zeros(len(total), size * count, dtype=torch.int32, device=gain.device)
        product = torch.empty_like(held)
        most = min(GROUP * ROWS, len(source))
        whole = torch.empty(most, size, dtype=kind, device=gain.device)
        logits = torch.empty(min(AT_ONCE * ROWS, most), size, dtype=precision.floats, device=gain.device)
        waiting = 0
        for run in runs:
            start, filled = run[0] * ROWS, 0
            for at in range(0, len(run), AT_ONCE):
                weights = found.logits(line, run[at : at + AT_ONCE], logits)
                weights.clamp_(min=LEAST).exp2_().mul_(scale)
                whole[filled : filled + len(weights)] = weights.add_(0.5)
                # Off by at most 1/2, and by no more than the weight itself.
                rounding += weights.sub_(0.5).clamp_(max=0.5).sum(0)
                filled += len(weights)
            digits = digits_of(whole[:filled], count, bits).reshape(filled, size * count)
            rows, marks = source.rows(start, start + filled), source.of(pixels.marks, start, start + filled)
            pixels.products(rows.T, digits, product[:-MARKS])
            pixels.products(marks.T, digits, product[-MARKS:])
            held += product
            waiting += filled
            if waiting + most > PIECE:
                _move(held, total, bits)
                waiting = 0
        _move(held, total, bits)
        return total, rounding

    (total, rounding), *others = pulled(work, runs)
    for other, more in others:
        total += other
        rounding += more
    total.div_(scale)
    sums = Sums.none(found.top, 0)
    sums.rows, marks = total[:-MARKS].T, total[-MARKS:]
    sums.mass, sums.norms = marks[0], norms_of_marks(marks)
    # Weights in blocks that were left out are at most 1/4.
    left = sum(min(ROWS, len(source) - at * ROWS) for at in range(blocks) if not needed[at])
    sums.rounding = (rounding + left / 4) / scale
    return sums


def _move(held: Tensor, total: Tensor, bits: int) -> None:
    """Add the sums of digits to the totals (n, B), and set them to 0."""
    digits = held.double().view(*total.shape, -1)  # of one type: mixed ones are added slowly
    for at in range(digits.shape[2]):
        total.add_(digits[:, :, at], alpha=float(1 << (bits * at)))
    held.zero_()


def _runs(numbers: list[int]) -> list[list[int]]:
    """Part ascending numbers into runs of successive ones."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs

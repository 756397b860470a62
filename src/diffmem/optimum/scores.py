"""The images that queries are compared with, and their scores block by block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from diffmem.optimum.pixels import Pixels
from diffmem.optimum.points import Points, Rounded
from diffmem.threads import even_parts, pulled

__all__ = ["ROWS", "Scored", "Source", "inner_products", "scored"]

ROWS = 512  # images of a block: its scores stay in the cache
PRODUCT = 8  # blocks in a product with points, at most
SAMPLE = 1024  # images of a sample


class Source(NamedTuple):
    """Images that are averaged over: a stretch of all, or some that were picked out.

    Attributes:
        pixels: All images.
        stretch: Where the stretch stands.
        picked: Where the images stand in the stretch, and their rows.
    """

    pixels: Pixels
    stretch: slice
    picked: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return self.stretch.stop - self.stretch.start if self.picked is None else len(self.picked[0])

    def rows(self, start: int, stop: int) -> Tensor:
        """Return the rows of some of them."""
        if self.picked is not None:
            return self.picked[1][start:stop]
        return self.pixels.rows(slice(self.stretch.start + start, self.stretch.start + stop))

    def of(self, values: Tensor, start: int, stop: int) -> Tensor:
        """Return what belongs to some of them, of values of all images."""
        values = values[self.stretch]
        return values[start:stop] if self.picked is None else values[self.picked[0][start:stop]]

    def sample(self) -> tuple[Tensor, Tensor]:
        """Return rows and |v|^2 of at most `SAMPLE` of them, evenly spread."""
        step = -(-len(self) // SAMPLE)
        part = slice(self.stretch.start, self.stretch.stop, step)
        return self.pixels.rows(part), self.pixels.norms[part]

    def pick(self, which: Tensor) -> Source:
        """Return some of them, int64 positions in the stretch."""
        return Source(self.pixels, self.stretch, (which, self.pixels.rows(which + self.stretch.start)))


class Scored(NamedTuple):
    """Scores of n images, less the best of their block of `ROWS`.

    Attributes:
        below: (n, B), at most 0.
        tops: The best of each block, float64 (blocks, B).
    """

    below: Tensor
    tops: Tensor

    @property
    def top(self) -> Tensor:
        """The best of all, (B,)."""
        return self.tops.amax(0)

    def scores(self) -> Tensor:
        """Return the scores, float64 (n, B)."""
        return self.below + self.tops.repeat_interleave(ROWS, 0)[: len(self.below)]

    def line(self, gain: Tensor) -> tuple[Tensor, Tensor]:
        """Return a and b of the binary logits a + b below, at most 0: of each block (blocks, B), and (B,).

        Args:
            gain: Binary logits per score, float64 (B,).
        """
        kind = self.below.dtype
        shifts = torch.where(self.tops == self.top, 0.0, (self.tops - self.top) * gain).to(kind)
        return shifts, gain.clamp(max=1e30).to(kind)  # in float32, infinity times 0 is not a number

    def logits(self, line: tuple[Tensor, Tensor], blocks: list[int], out: Tensor) -> Tensor:
        """Write the binary logits of successive blocks into memory for all of them; return them, (n, B)."""
        filled = 0
        for at in blocks:
            below = self.below[at * ROWS : (at + 1) * ROWS]
            torch.addcmul(line[0][at], below, line[1], out=out[filled : filled + len(below)])
            filled += len(below)
        return out[:filled]


def inner_products(source: Source, points: Points, digits: int) -> Tensor:
    """Return the inner products w.v of points, rounded to so many digits, with the images of a source, float64 (n, B)."""
    rounded = points.rounded(digits)
    out = torch.empty(len(source), len(rounded.error), dtype=torch.float64, device=rounded.error.device)
    zeros = torch.zeros(ROWS, dtype=torch.float64, device=out.device)

    def work(blocks: Iterator[slice]) -> None:
        products, values = rounded.buffers(ROWS, ROWS)
        for part in blocks:
            found = rounded.products(source.rows(part.start, part.stop), products)
            torch.mul(rounded.scores(found, zeros[: len(found)], values), 0.5, out=out[part])

    pulled(work, even_parts(len(source), ROWS))
    return out


def scored(source: Source, points: Rounded, kind: torch.dtype) -> Scored:
    """Compute the scores of the images of a source, and keep them as floats of a kind."""
    count, size, device = len(source), len(points.error), points.error.device
    below = torch.empty(count, size, dtype=kind, device=device)
    tops = torch.empty(-(-count // ROWS), size, dtype=torch.float64, device=device)

    def work(pieces: Iterator[slice]) -> None:
        products, values = points.buffers(min(PRODUCT * ROWS, count), ROWS)
        for piece in pieces:
            first, last = piece.start * ROWS, min(piece.stop * ROWS, count)
            norms = source.of(source.pixels.norms, first, last)
            found = points.products(source.rows(first, last), products)
            for at in range(piece.start, piece.stop):
                start, stop = at * ROWS, min((at + 1) * ROWS, count)
                part = slice(start - first, stop - first)
                scores = points.scores(found[part], norms[part], values)
                torch.amax(scores, 0, out=tops[at])
                below[start:stop] = scores.sub_(tops[at])

    pulled(work, even_parts(len(tops), PRODUCT, fewest=2))
    return Scored(below, tops)

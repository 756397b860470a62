"""The training images of an optimum, as its denoisers see them: whose average it is, and what an average may cost.

In grey levels, with w = 127.5 (x + 1) - c and q_i = image_i - c for any vector c of whole numbers, the logits are
(2 w . image_i - |q_i|^2) / (2 (127.5 sigma)^2) up to a constant of the query. Images are whole numbers below 256: no
copy of them is ever rounded, and |q_i|^2 is exact. Blocks of images pass through two stages:

1. Float32 products bound the score 2 w . image_i - |q_i|^2 from both sides (Higham 2002, "Accuracy and Stability of
   Numerical Algorithms", section 3.1, for any order of summation). Images that cannot reach the share `OMITTED` / N of
   the largest weight are left out: together they hold less than `OMITTED` of the mass.
2. Float64 products give the scores of the others. Where their bound exceeds `LOGIT_ERROR`, for natural images below
   sigma ~ 0.01, w is split into multiples of a power of two, whose products add up without any error, and a remainder
   so small that the errors of its products do not matter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor

from diffmem.data.images import ImageSet
from diffmem.distributed import world
from diffmem.errors import UserError
from diffmem.models.denoiser import checked_labels
from diffmem.optimum.directions import MOST, Directions
from diffmem.optimum.pixels import CPU_ROWS, Pixels
from diffmem.optimum.posterior import Batch, Sums

__all__ = ["References"]


class References:
    """What an `Optimum` and the trajectories that follow it share.

    Args:
        images: The training set.
        conditional: Whether a label restricts the mean to the images of that class.
        device: Where to compute.
        workspace: Bytes for a call.
        shared: Whether `images` are this process's share of the training set.

    Attributes:
        pixels: The images.
        members: Positions of the images of each class; of all processes' classes, where the images are shared.
        image_shape: (C, H, W) of the images.
        num_labels: Number of classes, 0 for none.
        workspace: Bytes for a call.
        shared: Whether several processes have a share of the images each.
    """

    def __init__(
        self, images: ImageSet, conditional: bool, device: torch.device, workspace: int, shared: bool
    ) -> None:
        if workspace < 1:
            raise UserError(f"The workspace must have at least 1 byte, not {workspace}.")
        if conditional and images.labels is None:
            raise UserError("A conditional optimum needs images with labels; these have none.")
        self.workspace, self.image_shape = workspace, images.shape
        self.num_labels = images.num_classes if conditional else 0
        self.pixels = Pixels(images, device, workspace, shared)
        self.members: dict[int, Tensor] = {}
        if conditional:
            labels = torch.tensor(images.labels)
            parts = torch.split(labels.argsort(stable=True), labels.bincount().tolist())
            where = self.pixels.stored_on
            self.members = {label: part.to(where) for label, part in enumerate(parts) if len(part)}
        self._directions: Directions | None = None
        self._counts = {-1: len(images), **{label: len(part) for label, part in self.members.items()}}
        self.shared = shared and world().size > 1
        if self.shared:
            counts: Counter[int] = Counter()
            for share in world().gather((self._counts, self.num_labels)):
                counts.update(share[0])
                self.num_labels = max(self.num_labels, share[1])
            self._counts = dict(counts)
            none = torch.zeros(0, dtype=torch.int64, device=self.pixels.stored_on)
            self.members |= {label: none for label in counts if label >= 0 and label not in self.members}

    def directions(self) -> Directions:
        """Return the bounds that `Following` leaves images out by, computed at the first call."""
        if self._directions is None:
            # A quarter of the workspace at most.
            most = max(1, min(MOST, self.workspace // 4 // (4 * len(self.pixels))))
            self._directions = Directions(self.pixels, most)
        return self._directions

    def count(self, label: int) -> int:
        """Return the number of images that queries with a label average over, -1 for no label; of all processes."""
        return self._counts[label]

    def grouped(self, labels: Tensor | None, count: int) -> list[tuple[int, Tensor]]:
        """Check the labels; return each of them, -1 for none, with the positions of its queries."""
        given = checked_labels(labels, count, self.num_labels)
        wanted: list[int] = torch.unique(given).tolist()
        for label in wanted:
            if label >= 0 and label not in self.members:
                raise UserError(f"No training image has label {label}, so there is no optimum for it.")
        return [(label, (given == label).nonzero()[:, 0]) for label in wanted]

    def batch(self, x: Tensor, sigma: Tensor, label: int) -> Batch:
        """Return queries x (B, dim) at noise levels sigma, float64 (B,), that average over the images of a label."""
        return Batch(self.pixels, self.members.get(label), self.count(label), x, sigma)

    def summed(self, batch: Batch, columns: int) -> Sums:
        """Return the sums over all images, those of the pixels for the first `columns` only."""
        sums = Sums(batch.beta, columns)
        for high, low, rows in self._relevant(batch):
            sums.add(high, low, rows[:, :columns])
        if self.shared:
            sums.combine()
        return sums

    def _relevant(self, batch: Batch) -> Iterator[tuple[Tensor, Tensor | float, Tensor]]:
        """Yield the images that matter to any query, by blocks: their `_scores` and their pixels, float64 (n, dim)."""
        members = batch.members
        count = len(self.pixels if members is None else members)
        dim, device = self.pixels.dim, self.pixels.device
        # Pixels as bytes (twice), float32 and float64; scores, logits and weights in float64, with temporaries.
        height = max(1, self.workspace // 2 // (14 * dim + 64 * len(batch.beta)))
        height = min(height, max(1, count), CPU_ROWS if device.type == "cpu" else 1 << 14)
        single = torch.empty(height, dim, device=device)
        double = torch.empty(height, dim, dtype=torch.float64, device=device)
        screen = True
        for at in range(0, count, height):
            part = slice(at, min(at + height, count))
            which = part if members is None else members[part]
            pixels, norms = self.pixels.block(which), self.pixels.norms_of(which)
            if screen:
                rows = single[: len(pixels)].copy_(pixels)
                keep = batch.possible(torch.addmm(norms.float().neg_(), batch.left, rows.T))
                screen = 2 * len(keep) < len(pixels)  # otherwise the next block can do without
                pixels, norms = pixels.index_select(0, keep), norms[keep]
            if len(pixels):
                rows = double[: len(pixels)].copy_(pixels)
                yield *self._scores(batch, rows, norms), rows

    @staticmethod
    def _scores(batch: Batch, rows: Tensor, norms: Tensor) -> tuple[Tensor, Tensor | float]:
        """Return 2 w . image - |q|^2 as a sum of two parts, float64 (B, n); the second is 0 if no w is split."""
        high = torch.addmm(norms.neg(), batch.high, rows.T)
        if batch.low is None:
            return high, 0.0
        low = torch.zeros_like(high)
        low[batch.split] = batch.low @ rows.T
        return high, low

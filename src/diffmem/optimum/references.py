"""The training images of an optimum: by classes, and in parts that several processes may hold."""

from __future__ import annotations

import math
from collections import Counter

import torch
from torch import Tensor

from diffmem.data.images import ImageSet
from diffmem.distributed import world
from diffmem.errors import UserError
from diffmem.models.denoiser import checked_labels
from diffmem.optimum.pixels import Pixels
from diffmem.optimum.points import Reference
from diffmem.optimum.sums import Sums

__all__ = ["References"]


class References:
    """The images that an `Optimum` averages over.

    Args:
        images: The training set.
        conditional: Whether a label restricts the mean to the images of that class.
        device: Where to compute.
        shared: Whether `images` are this process's share of the training set.

    Attributes:
        pixels: The images of this process, those of a class side by side.
        image_shape: (C, H, W) of the images.
        num_labels: Number of classes, 0 for none.
        longest: The largest length of a row of all processes.
        is_shared: Whether several processes have a share of the images each.
        extent: Root mean square length of a row of all processes, at least 1.
    """

    def __init__(self, images: ImageSet, conditional: bool, device: torch.device, shared: bool) -> None:
        if conditional and images.labels is None:
            raise UserError("A conditional optimum needs images with labels; these have none.")
        self.image_shape = images.shape
        self.num_labels = images.num_classes if conditional else 0
        order, self._stretches = None, {-1: slice(0, len(images))}
        if conditional:
            labels = torch.tensor(images.labels)
            order = labels.argsort(stable=True)
            ends = labels.bincount().cumsum(0).tolist()
            starts = [0, *ends]
            self._stretches |= {
                label: slice(start, end)
                for label, (start, end) in enumerate(zip(starts, ends, strict=False))
                if end > start
            }
        pixels = self.pixels = Pixels(images, device, order)
        self._counts = {label: part.stop - part.start for label, part in self._stretches.items()}
        self.is_shared = shared and world().size > 1
        self.longest, square = pixels.longest, float(pixels.norms.sum())
        if self.is_shared:
            shares = world().gather((self._counts, self.num_labels, self.longest, square))
            counts, numbers, lengths, squares = zip(*shares, strict=True)
            self._counts = dict(sum(map(Counter, counts), Counter()))
            self.num_labels, self.longest, square = max(numbers), max(lengths), sum(squares)
        self.extent = math.sqrt(max(1.0, square / self._counts[-1]))

    def count(self, label: int) -> int:
        """Return the number of images that queries with a label average over, -1 for no label; of all processes."""
        return self._counts[label]

    def stretches(self, label: int, most: int) -> list[slice]:
        """Return where this process's images of a label stand among its rows, in parts of at most `most`."""
        whole = self._stretches.get(label, slice(0, 0))
        return [slice(at, min(at + most, whole.stop)) for at in range(whole.start, whole.stop, most)]

    def grouped(self, labels: Tensor | None, count: int) -> list[tuple[int, Tensor]]:
        """Check the labels; return each of them, -1 for none, with the positions of its queries."""
        given = checked_labels(labels, count, self.num_labels)
        wanted: list[int] = torch.unique(given).tolist()
        for label in wanted:
            if label >= 0 and label not in self._counts:
                raise UserError(f"No training image has label {label}, so there is no optimum for it.")
        return [(label, (given == label).nonzero()[:, 0]) for label in wanted]

    # What processes that share the images find out together.

    def largest(self, here: float) -> float:
        """Return the largest value of all processes."""
        return max(world().gather(here)) if self.is_shared else here

    def nearest(self, reference: Reference) -> Reference:
        """Return the best reference of all processes for each query."""
        if not self.is_shared:
            return reference
        best, *others = world().gather(reference.to(torch.device("cpu")))
        for other in others:
            best = best.better(other)
        return best.to(self.pixels.device)

    def best(self, top: Tensor) -> Tensor:
        """Return the best score of all processes for each query, (B,)."""
        if not self.is_shared:
            return top
        return torch.stack(world().gather(top.cpu())).amax(0).to(top.device)

    def combined(self, parts: list[Sums], beta: Tensor) -> Sums:
        """Return the sums over the parts of all processes."""
        if self.is_shared:
            shares = world().gather([part.to(torch.device("cpu")) for part in parts])
            parts = [part.to(beta.device) for share in shares for part in share]
        total, *others = parts
        for other in others:
            total.add(other, beta)
        return total

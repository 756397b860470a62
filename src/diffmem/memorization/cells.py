"""Cells: the parts of image space that k-means finds on the training images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffmem.data.storage import parts
from diffmem.errors import UserError
from diffmem.memorization.neighbours.contents import content_keys, distinct, taken

__all__ = ["Cells"]

_FIT_VALUES = 1 << 25  # of the training images that the cells are fitted to: 128 MiB in float32
_FIT_LEAST = 256  # images are used even where each is very large
_PART_BYTES = 16 << 20


@dataclass(frozen=True, eq=False)
class Cells:
    """A partition of image space: an image belongs to the nearest of some centres, after a projection.

    Attributes:
        mean: Mean of the images that it was fitted to, float64 (D,).
        directions: Leading principal directions as columns, float64 (D, P); None if no projection was needed.
        centres: float64 (C, P) or (C, D), in ascending order of their first coordinates.
    """

    mean: NDArray[np.float64]
    directions: NDArray[np.float64] | None
    centres: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.centres)

    @classmethod
    def fit(cls, training: NDArray[Any], count: int = 3, *, components: int = 64, seed: int = 0) -> Cells:
        """Find cells by k-means (10 starts, Lloyd's algorithm) on the leading principal components.

        The result does not depend on the order of the images, up to rounding, and not at all on how often each occurs. Of
        large sets a part is used, 32 million values, chosen by content.

        Args:
            training: uint8 images or features in floating point, (N, ...), also memory-mapped.
            count: Number of cells.
            components: Principal components to use; rows that are no longer are used as they are.
            seed: Of the starts and of the randomized decomposition.

        Raises:
            UserError: There are fewer distinct images than cells, or a value is not finite.
        """
        if count < 1 or components < 1:
            raise UserError(
                f"{count} cells of {components} components cannot be made; choose 1 or more of each."
            )
        chosen = distinct(content_keys(training))
        if len(chosen) < count:
            raise UserError(
                f"{count} cells need at least {count} distinct training images, and there are {len(chosen)}; give more, or "
                "choose fewer cells."
            )
        dim = math.prod(training.shape[1:])
        some = chosen[: max(_FIT_LEAST, count, _FIT_VALUES // dim)]
        rows = taken(training, some).reshape(len(some), dim).astype(np.float32)
        if not np.isfinite(rows).all():
            raise UserError("The training images hold values that are not finite; check how they were made.")
        mean = rows.mean(0, dtype=np.float64)
        rows -= mean.astype(np.float32)

        from sklearn.cluster import KMeans
        from sklearn.decomposition import PCA
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # comes with scikit-learn

        directions = None
        if dim > components:
            most = min(components, len(rows))
            pca = PCA(most, svd_solver="randomized", random_state=seed).fit(rows)
            directions = pca.components_.T.astype(np.float64)
        projected = rows.astype(np.float64) if directions is None else rows @ directions
        # Sums over threads come in any order; one thread gives the same cells each time.
        with threadpool_limits(1, user_api="openmp"):
            centres = KMeans(count, n_init=10, random_state=seed).fit(projected).cluster_centers_
        return cls(mean, directions, centres[np.lexsort(centres.T[::-1])])

    def of(self, images: NDArray[Any]) -> NDArray[np.int64]:
        """Return the cell of each image, int64 (N,), 0 to C - 1; of equally near ones the lower.

        Raises:
            UserError: A value is not finite.
        """
        cells = np.empty(len(images), np.int64)
        for part in parts(len(images), 8 * len(self.mean), _PART_BYTES):
            rows = images[part].reshape(-1, len(self.mean)).astype(np.float64) - self.mean
            if not np.isfinite(rows).all():
                raise UserError("The images hold values that are not finite; check how they were made.")
            projected = rows if self.directions is None else rows @ self.directions
            # |p - c|^2 without |p|^2, which is the same for all centres
            distances = np.square(self.centres).sum(1) - 2 * projected @ self.centres.T
            cells[part] = distances.argmin(1)
        return cells

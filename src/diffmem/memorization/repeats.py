"""The ratio rule for training sets with near-copies: the second neighbour is the nearest one that shows another picture."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffmem.data.storage import parts
from diffmem.errors import UserError
from diffmem.memorization.criteria import RatioRule, ratio_of
from diffmem.memorization.neighbours.neighbours import Neighbours

__all__ = ["RepeatAwareRule"]

_BLOCK_BYTES = 32 << 20


@dataclass(frozen=True, eq=False)
class RepeatAwareRule:
    """An image is memorized if d1 < threshold * d(j), where j is the nearest training image that is no near-copy of the first.

    The ratio rule compares the two nearest training images. Where the training set holds an image and a near-copy of it
    (another frame, another compression), both are near to a generated copy, their ratio is near 1, and the rule misses it.
    Here a neighbour y is skipped if |y - y1| < threshold * m, where y1 is the nearest training image and m the median of the
    sample's `count` smallest distances: two training images that are as near to each other, compared with their surroundings, as
    a sample is to what it copies. There is no constant beside those of the ratio rule, and no unit.

    It flags all that the ratio rule flags. If all known neighbours are near-copies of the first, the farthest of them stands in
    for the one that is not known, so that at most `count` - 1 near-copies are skipped.

    Attributes:
        references: The training images among which neighbours were searched, in the order of their indices, uint8 (N, C, H, W).
        threshold: As of `RatioRule`, in (0, 1].
        count: Neighbours that are compared, at least 2.
    """

    references: NDArray[np.uint8]
    threshold: float = 1 / 3
    count: int = 50

    def __post_init__(self) -> None:
        RatioRule(self.threshold)  # refuses one out of range
        if self.count < 2:
            raise UserError(f"A ratio of {self.count} neighbour(s) compares nothing; look at 2 or more.")

    @property
    def name(self) -> str:
        """The rule with its constants."""
        return f"ratio<{self.threshold:.4f}/near-copies-passed-over/n={self.count}"

    def __call__(self, neighbours: Neighbours) -> NDArray[np.bool_]:
        """Return which images are memorized, bool (Q,).

        Raises:
            UserError: Fewer than `count` neighbours of each image are known.
        """
        return neighbours.distances[:, 0] < self.threshold * self._others(neighbours)

    def ratio(self, neighbours: Neighbours) -> NDArray[np.float64]:
        """Return d1 / d(j) of each image, float64 (Q,), in [0, 1]; 1 where both are zero.

        Raises:
            UserError: Fewer than `count` neighbours of each image are known.
        """
        nearest, other = neighbours.distances[:, 0], self._others(neighbours)
        return ratio_of(nearest, other, 1.0)

    def beyond(
        self, neighbours: Neighbours, pictures: NDArray[np.uint8], which: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the distance to the nearest training image that is neither a given picture nor a near-copy of it, float64 (Q,).

        Args:
            pictures: Images of the shape of the training images, which need not be among them, uint8 (M, C, H, W).
            which: The picture that each image is held against, int64 (Q,).

        Raises:
            UserError: Fewer than `count` neighbours of each image are known.
        """
        return self._beyond(neighbours, pictures, which, 0)

    def _others(self, neighbours: Neighbours) -> NDArray[np.float64]:
        """Return the distance to the nearest training image that is no near-copy of the first, float64 (Q,)."""
        return self._beyond(neighbours, self.references, neighbours.indices[:, 0], 1)

    def _beyond(
        self, neighbours: Neighbours, pictures: NDArray[np.uint8], which: NDArray[np.int64], first: int
    ) -> NDArray[np.float64]:
        distances, indices = neighbours.nearest(self.count), neighbours.indices[:, : self.count]
        reach = self.threshold * np.median(distances, axis=1)
        found = distances[:, -1].copy()
        active = np.arange(len(distances))
        for number in range(first, self.count - 1):
            if not len(active):
                break
            apart = self._apart(pictures, which[active], indices[active, number])
            is_other = apart >= reach[active]
            found[active[is_other]] = distances[active[is_other], number]
            active = active[~is_other]
        return found

    def _apart(
        self, pictures: NDArray[np.uint8], ones: NDArray[np.int64], others: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the distances of pairs of a picture and a reference."""
        result = np.empty(len(ones))
        for part in parts(len(ones), 4 * math.prod(self.references.shape[1:]), _BLOCK_BYTES):
            gap = pictures[ones[part]].astype(np.int32) - self.references[others[part]]
            rows = gap.reshape(len(gap), -1)
            result[part] = np.sqrt(np.einsum("qd,qd->q", rows, rows, dtype=np.float64))
        return result

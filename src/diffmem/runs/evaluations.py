"""The store of one run's evaluations: what was generated from each snapshot, its neighbours, and what follows from them.

For the snapshot after `seen` images a folder holds

- `<seen>.npz`: neighbours, labels and time: small, and enough for every rate at every threshold;
- `<seen>.images.npz`: the images, ten times as large or more, read for galleries and Frechet distances only;
- `<seen>.frechet.json`: Frechet distances to the training images, by the features that they are of.

The small file is written last and holds checksums of itself and of the images. The null, how near held-out images lie to the
training images, has a file of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffmem.data import ImageSet
from diffmem.distributed import world
from diffmem.errors import DiffmemError
from diffmem.files import atomic_path, is_whole, read_json, write_json
from diffmem.memorization import Neighbours, RatioRule, nearest_neighbours
from diffmem.memorization.features import Features
from diffmem.memorization.frechet import Moments, feature_moments, frechet_of_moments, too_few_images
from diffmem.memorization.rates import Rate
from diffmem.runs.records import Evaluation

__all__ = [
    "THRESHOLDS",
    "EvaluationStore",
    "FrechetRecord",
    "StoredEvaluation",
    "judged",
    "measure_null",
    "rates_by_threshold",
    "read_null",
    "store_frechet",
    "stored_frechet",
    "summary",
]

THRESHOLDS = {"0.2": 0.2, "0.25": 0.25, "0.333": 1 / 3, "0.4": 0.4, "0.5": 0.5}
"""The thresholds of d1 / d2 at which every evaluation is answered, by their names in results."""


def judged(neighbours: Neighbours, rule: RatioRule) -> Rate:
    """Return the share of images that a rule flags."""
    return Rate(int(rule(neighbours).sum()), len(neighbours))


def rates_by_threshold(neighbours: Neighbours, rate: Callable[[int, int], Rate] = Rate) -> dict[str, Rate]:
    """Return the share of images that the ratio rule flags, at each of `THRESHOLDS`.

    Args:
        rate: Makes a rate of (flagged, all).
    """
    return {
        name: rate(int(RatioRule(value)(neighbours).sum()), len(neighbours))
        for name, value in THRESHOLDS.items()
    }


@dataclass(frozen=True, eq=False)
class StoredEvaluation:
    """What was generated from one snapshot, and its neighbours in the training set.

    Attributes:
        seen: Images seen at the snapshot.
        neighbours: The two nearest distinct training images of each generated image; image i has seed i.
        labels: Class of each generated image, int64 (Q,); none without classes.
        seconds: Time spent on generating.
        images_sha256: Checksum of the generated images.
        images_path: Where they lie.
    """

    seen: int
    neighbours: Neighbours
    labels: NDArray[np.int64] | None
    seconds: float
    images_sha256: str
    images_path: Path

    @cached_property
    def images(self) -> NDArray[np.uint8]:
        """The generated images, uint8 (Q, C, H, W), read when they are first asked for.

        Raises:
            DiffmemError: Their file is missing or damaged.
        """
        if not self.images_path.is_file():
            raise DiffmemError(f"{self.images_path} is missing.")
        try:
            with np.load(self.images_path, allow_pickle=False) as held:
                images: NDArray[np.uint8] = held["images"]
        except Exception as error:  # a damaged archive raises errors of many kinds
            raise DiffmemError(f"{self.images_path} is damaged ({error}); it was not used.") from error
        if _digest({"images": images}) != self.images_sha256:
            raise DiffmemError(f"{self.images_path} is damaged: its checksum does not fit; it was not used.")
        return images


@dataclass(frozen=True)
class FrechetRecord:
    """A Frechet distance of one snapshot's images to the training images.

    Attributes:
        features: Key of the features that it is of.
        value: The squared distance; none if there are too few images for these features.
        note: Why there is none.
    """

    features: str
    value: float | None
    note: str | None = None


@dataclass(frozen=True)
class EvaluationStore:
    """The evaluations of one run with one sampler and number of images.

    Attributes:
        folder: Where they lie.
        samples: Images of each evaluation; none if each may have its own number.
        references: Number of training images; indices of neighbours are below it.
    """

    folder: Path
    samples: int | None
    references: int

    def path(self, seen: int) -> Path:
        """Return where the small file of a snapshot's evaluation lies."""
        return self.folder / f"{seen:010d}.npz"

    def images_path(self, seen: int) -> Path:
        """Return where its images lie."""
        return self.folder / f"{seen:010d}.images.npz"

    def write(
        self,
        seen: int,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64] | None,
        neighbours: Neighbours,
        seconds: float,
    ) -> None:
        """Write an evaluation: the images first, so that a small file says that all is there.

        Raises:
            DiffmemError: A file cannot be written.
        """
        with atomic_path(self.images_path(seen)) as temporary, temporary.open("wb") as stream:
            np.savez(stream, images=images)
        content: dict[str, NDArray[Any]] = {
            "seen": np.array(seen, dtype=np.int64),
            "distances": neighbours.distances,
            "indices": neighbours.indices,
            "labels": np.array([] if labels is None else labels, dtype=np.int64),
            "seconds": np.array(seconds, dtype=np.float64),
            "images_sha256": np.array(_digest({"images": images})),
        }
        with atomic_path(self.path(seen)) as temporary, temporary.open("wb") as stream:
            np.savez(stream, sha256=np.array(_digest(content)), **content)  # type: ignore[arg-type]

    def read(self, seen: int) -> StoredEvaluation:
        """Read an evaluation without its images.

        Raises:
            DiffmemError: It is missing, damaged, or of other samples or training images.
        """
        path = self.path(seen)
        if not path.is_file():
            raise DiffmemError(f"{path} is missing: this snapshot is not measured yet.")
        try:
            with np.load(path, allow_pickle=False) as held:
                content = {name: held[name] for name in held.files}
            checksum = str(content.pop("sha256"))
            if checksum != _digest(content):
                raise ValueError("its checksum does not fit")
            neighbours = Neighbours(content["distances"], content["indices"])
            if int(content["seen"]) != seen or self.samples not in (None, len(neighbours)):
                raise ValueError("it is the evaluation of another snapshot or number of samples")
            if neighbours.indices.max() >= self.references:
                raise ValueError("it is the evaluation of another training set")
            labels = content["labels"] if len(content["labels"]) else None
            return StoredEvaluation(
                seen=seen,
                neighbours=neighbours,
                labels=labels,
                seconds=float(content["seconds"]),
                images_sha256=str(content["images_sha256"]),
                images_path=self.images_path(seen),
            )
        except Exception as error:  # a damaged archive raises errors of many kinds
            raise DiffmemError(f"{path} is damaged ({error}); it was not used.") from error

    def is_whole(self, seen: int, warn: Callable[[str], None], *, images: bool = False) -> bool:
        """Whether an evaluation can be used.

        Args:
            seen: Images seen at the snapshot.
            warn: Warned of damaged files, which are to be made anew.
            images: Whether its images are needed too.
        """
        return is_whole(self.path(seen), lambda: self.read(seen).images if images else self.read(seen), warn)

    def _frechet_path(self, seen: int) -> Path:
        return self.folder / f"{seen:010d}.frechet.json"

    def frechet(self, seen: int, features: str) -> FrechetRecord:
        """Return a stored Frechet distance of the images that the evaluation is of.

        Args:
            seen: Images seen at the snapshot.
            features: Key of the features.

        Raises:
            DiffmemError: There is none, or the file is damaged.
        """
        path = self._frechet_path(seen)
        entry = _frechet_entries(path).get(features)
        if not isinstance(entry, dict) or entry.get("images_sha256") != self.read(seen).images_sha256:
            raise DiffmemError(f"{path} has no distance of {features} for these images.")
        value, note = entry.get("value"), entry.get("note")
        whole = isinstance(value, float) and value >= 0 and note is None
        if not whole and not (value is None and isinstance(note, str)):
            raise DiffmemError(f"{path} is damaged; it was not used.")
        return FrechetRecord(features, value, note)

    def write_frechet(self, seen: int, found: FrechetRecord) -> None:
        """Keep a Frechet distance beside its evaluation.

        Raises:
            DiffmemError: The evaluation is damaged, or the file cannot be written.
        """
        path = self._frechet_path(seen)
        try:
            entries = _frechet_entries(path)
        except DiffmemError:
            entries = {}  # a damaged file holds nothing that cannot be computed again
        entry = {
            "value": found.value,
            "note": found.note,
            "images_sha256": self.read(seen).images_sha256,
        }
        write_json(path, {**entries, found.features: entry})


def summary(
    seen: int,
    neighbours: Neighbours,
    rule: RatioRule,
    training_set: ImageSet,
    rate: Callable[[int, int], Rate] = Rate,
    frechet: FrechetRecord | None = None,
) -> Evaluation:
    """Return the numbers of an evaluation; thresholds are applied to the stored neighbours.

    Args:
        seen: Images seen at the snapshot.
        rule: What counts as memorized.
        rate: Makes a rate of (memorized, all).
        frechet: Its Frechet distance, if one was asked for.
    """
    flagged = rule(neighbours)
    return Evaluation(
        epoch=seen / len(training_set),
        images_seen=seen,
        memorized=rate(int(flagged.sum()), len(flagged)),
        mean_nearest_distance=float(neighbours.distances[:, 0].mean() / np.sqrt(np.prod(training_set.shape))),
        distinct_replicated=len(np.unique(neighbours.indices[flagged, 0])),
        at_thresholds=rates_by_threshold(neighbours, rate),
        frechet=None if frechet is None else frechet.value,
        frechet_of=None if frechet is None else frechet.features,
        frechet_note=None if frechet is None else frechet.note,
    )


def _frechet_entries(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    content = read_json(path)
    if not isinstance(content, dict):
        raise DiffmemError(f"{path} is damaged; it was not used.")
    return content


def _digest(content: Mapping[str, NDArray[Any]]) -> str:
    """Return the SHA-256 of arrays with their names, types and shapes."""
    digest = hashlib.sha256()
    for name in sorted(content):
        array = np.ascontiguousarray(content[name])
        digest.update(f"{name} {array.dtype.str} {array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def stored_frechet(store: EvaluationStore, seen: int, features: Features) -> FrechetRecord | None:
    """Return the Frechet distance of an evaluation's images, if it is stored; under torchrun the first process reads it."""

    def read() -> FrechetRecord | None:
        with suppress(DiffmemError):
            return store.frechet(seen, features.key)
        return None

    return world().from_main(read)


def store_frechet(
    store: EvaluationStore,
    seen: int,
    features: Features,
    training: NDArray[np.uint8],
    moments: Callable[[], Moments],
    warn: Callable[[str], None] = print,
) -> None:
    """Compute the Frechet distance of an evaluation's stored images to the training images, and store it.

    Under torchrun all processes call it, and the first computes.

    Args:
        store: Has the evaluation with its images.
        seen: Images seen at its snapshot.
        features: What the distance is of.
        training: The training images, uint8 (N, C, H, W).
        moments: Gives the moments of their features, where the numbers of images allow a distance.
        warn: Warned of numbers of images that are too small for the features.

    Raises:
        DiffmemError: The images are missing, or the features cannot be computed.
    """

    def compute() -> FrechetRecord:
        images = store.read(seen).images
        count = features.compute(training[:1]).shape[1]  # before all images go through a network
        problem = too_few_images(min(len(images), len(training)), count)
        value = None
        if problem is None:
            value = frechet_of_moments(feature_moments(images, features.compute), moments())
        found = FrechetRecord(features.key, value, problem)
        store.write_frechet(seen, found)
        return found

    found = world().from_main(compute)
    if found.note is not None:
        warn(f"{store.path(seen)}: no Frechet distance. {found.note}")


def read_null(path: Path) -> Neighbours | None:
    """Return the stored neighbours of the held-out images, of which only the distances are true; none without any.

    Raises:
        DiffmemError: The file is missing or damaged.
    """
    content = read_json(path)
    try:
        distances = np.array(content["distances"], dtype=np.float64).reshape(-1, 2)
        return Neighbours(distances, np.tile(np.arange(2), (len(distances), 1))) if len(distances) else None
    except (DiffmemError, KeyError, TypeError, ValueError) as error:
        raise DiffmemError(f"{path} is damaged ({error}); it was not used.") from error


def measure_null(
    path: Path,
    heldout: ImageSet | None,
    references: NDArray[np.uint8],
    *,
    device: torch.device | str,
    warn: Callable[[str], None],
) -> None:
    """Find the neighbours of the held-out images and keep their distances, unless it is done already.

    Args:
        path: File to write.
        heldout: The held-out images; those that are training images too say nothing about fresh ones and are left out.
        references: The distinct training images.
        warn: Warned of a damaged file that is made anew.
    """
    if world().from_main(lambda: is_whole(path, lambda: read_null(path), warn)):
        return
    distances: list[list[float]] = []
    if heldout is not None:
        found = nearest_neighbours(heldout.images, references, 2, device=device)
        distances = found.distances[found.distances[:, 0] > 0].tolist()
    if world().is_main:
        write_json(path, {"distances": distances})
    world().wait()

"""Events: groups of near-copies that hold a training image, each counted once and of the kind of its nearest pair."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Events", "Links", "count_events", "group_p_value", "groups_of"]

_SAMPLES, _HELDOUT, _TRAINING = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Links:
    """Images that a criterion flags, each beside the reference that it is compared with.

    Attributes:
        copied: int64 (n,).
        score: float64 (n,), smaller is nearer.
        own: Where the images are references themselves, which, int64 (n,); else empty.
    """

    copied: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    score: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    own: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))


@dataclass(frozen=True)
class Events:
    """Numbers of events by their kind, and of images in them.

    Attributes:
        samples: Events whose nearest pair is one of a sample.
        heldout: The same for held-out images.
        training: The same for pairs of training images.
        members: Samples, held-out and training images in each event, int64 (E, 3).
    """

    samples: int
    heldout: int
    training: int
    members: NDArray[np.int64]


def groups_of(references: int, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a group number for each reference, int64 (N,): references that pairs join are of one group.

    Args:
        references: N.
        pairs: Of references, int64 (n, 2).
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array(
        (np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(references, references)
    )
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def count_events(
    groups: NDArray[np.int64],
    samples: Links,
    heldout: Links,
    training: Links,
    weight: NDArray[np.int64] | None = None,
) -> Events:
    """Count events.

    Args:
        groups: Of the references: near-copies of each other are of one group.
        samples: Flagged samples.
        heldout: Flagged held-out images.
        training: Flagged references, each beside another reference.
        weight: How many images each flagged sample stands for, int64; one each if left out.
    """
    links = (samples, heldout, training)
    event = np.concatenate([groups[one.copied] for one in links])
    kind = np.repeat([_SAMPLES, _HELDOUT, _TRAINING], [len(one.copied) for one in links])
    score = np.concatenate([one.score for one in links])
    # Of equal scores, the one that is no sample counts: nothing is made of a tie.
    order = np.lexsort((-kind, score, event))
    first = np.ones(len(order), bool)
    first[1:] = np.diff(event[order]) != 0
    kinds = np.bincount(kind[order][first], minlength=3)
    held, position = np.unique(event, return_inverse=True)
    members = np.zeros((len(held), 3), np.int64)
    amount = np.ones(len(event), np.int64)
    if weight is not None:
        amount[: len(samples.copied)] = weight
    np.add.at(members, (position, kind), np.where(kind == _TRAINING, 0, amount))
    images = np.concatenate([*(one.copied for one in links), training.own])
    pairs = np.unique(
        np.stack([np.concatenate([event, groups[training.copied]])[: len(images)], images]), axis=1
    )
    np.add.at(members[:, _TRAINING], np.searchsorted(held, pairs[0]), 1)
    return Events(int(kinds[_SAMPLES]), int(kinds[_HELDOUT]), int(kinds[_TRAINING]), members)


def group_p_value(members: NDArray[np.int64], samples: int, heldout: int, training: int) -> float:
    """Return an upper bound of the chance of so many samples in groups of these sizes, where nothing is copied.

    Where one training image is copied by many samples, there is one event, however many they are. Given the sizes of the groups, which
    of their images are samples is a matter of the draw: of c images, each is a sample, a held-out or a training image with the
    probabilities of their numbers, given that one at least is a training image. The chance of as many samples in all groups together is
    bounded by Chernoff's inequality. This takes the samples to be independent, which those of a model with few modes are not.

    Args:
        members: As of `Events`; where training images are no null, their column is not used.
        samples: All samples, at least 1.
        heldout: All held-out images.
        training: All training images that are compared with each other; 0 where they are no null.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import bdtrc

    if not len(members):
        return 1.0
    count = int(members[:, _SAMPLES].sum())
    if not count:
        return 1.0
    if not training:
        total = count + int(members[:, _HELDOUT].sum())
        return float(bdtrc(count - 1, total, samples / (samples + heldout))) if heldout else 1.0
    total = samples + heldout + training
    s, h, t = samples / total, heldout / total, training / total
    sizes, times = np.unique(members.sum(axis=1), return_counts=True)
    size = sizes.astype(np.float64)
    norm = np.log(-np.expm1(size * np.log1p(-t)))

    def exponent(theta: float) -> float:
        grown = s * np.exp(theta)
        # log((a + t)^c - a^c) with a = s e^theta + h, without losing digits where t is small beside a.
        without_any = -size * np.log1p(t / (grown + h))
        moment = size * np.log(grown + h + t) + np.log(-np.expm1(without_any)) - norm
        return float((times * moment).sum() - theta * count)

    best = minimize_scalar(exponent, bounds=(0.0, 40.0), method="bounded")
    return float(np.exp(min(0.0, best.fun, exponent(0.0))))

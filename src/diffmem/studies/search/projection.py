"""What the rest of a search takes, in trainings and images: it is simulated with EMM anywhere that what is known leaves open."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from diffmem.studies.search.interval import emm_of_seed
from diffmem.studies.search.levels import Search, beside, hint_order
from diffmem.studies.search.simulation import search_level
from diffmem.studies.search.study import SearchStudy

__all__ = ["longest_hours", "simulate"]

_SLOPE = 2.0  # logits of R_mem for a doubling of N, as in the published curves
_ALIKE = 0.5  # standard deviation of ln EMM from one level to the next


def simulate(study: SearchStudy, times: int) -> dict[str, NDArray[np.float64]]:
    """Return for each level (times, seeds, 4): runs, images trained, images sampled, points sampled of what each search still takes."""
    recipe, names, known = study.recipe, list(study.levels), study.searches()
    found: dict[str, list[list[list[int]]]] = {name: [] for name in names}
    for number in range(times):
        rng = np.random.default_rng(number)
        logarithms: dict[int, float] = {}
        for index, parent in hint_order(len(names)):
            searches = known[names[index]]
            ends = np.log(_open(searches, recipe.sizes))
            if parent is None:
                logarithms[index] = rng.uniform(*ends)
            else:
                logarithms[index] = float(np.clip(logarithms[parent] + _ALIKE * rng.standard_normal(), *ends))
            hint = math.exp(logarithms[parent]) if parent is not None and recipe.search.hints else None
            found[names[index]].append(_simulated(study, searches, math.exp(logarithms[index]), hint, rng))
    return {name: np.array(rows, dtype=float) for name, rows in found.items()}


def _open(searches: list[Search], sizes: tuple[int, int]) -> tuple[float, float]:
    """Return the ends between which the EMM of a level may be, as far as its searches have come."""
    found = [search.found for search in searches if search.found is not None]
    low = max([sizes[0], *(one.below for one in found if one.below is not None)])
    high = min([sizes[1], *(one.above for one in found if one.above is not None)])
    return (low, high) if low < high else sizes  # seeds differ


def _simulated(
    study: SearchStudy, searches: list[Search], emm: float, hint: float | None, rng: np.random.Generator
) -> list[list[int]]:
    """Simulate the searches of all seeds of a level with this EMM, the first beginning at a hint; a row for each."""
    recipe, name = study.recipe, searches[0].level
    epochs, sampling = study.smallest_run(name).epochs, study.levels[name].sampling
    target = float(logit(1 - recipe.measure.epsilon))
    rows = []
    for search in searches:
        known = {} if search.found is None else search.found.outcomes
        rule = search.rule
        if not known:
            rule = recipe.size_rule(recipe.search.start if hint is None else beside(hint, recipe))
        replayed, trainings = search_level(
            lambda size: float(expit(target - _SLOPE * math.log2(size / emm))),
            rule,
            lambda size: recipe.stopping_rule(len(epochs), epochs[-1] * size, sampling),
            epochs,
            rng,
            known=known,
        )
        hint = emm_of_seed(replayed, rule).value or hint
        done = trainings.values()
        trained, sampled = sum(one.images_trained for one in done), sum(one.images_sampled for one in done)
        rows.append([len(done), trained, sampled, len(done) * len(epochs)])
    return rows


def longest_hours(study: SearchStudy, hours: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the hours of the trainings that must follow one another in each simulation: a search trains one size after the other,
    the first seed's is waited for by the others, and a level's by those that begin where it ended.

    Args:
        hours: Level -> (simulations, seeds).
    """
    names, ends = list(study.levels), dict[int, NDArray[np.float64]]()
    for index, parent in hint_order(len(names)):
        own = hours[names[index]]
        waited = ends[parent] if parent is not None and study.recipe.search.hints else 0.0
        ends[index] = waited + own[:, 0] + (own[:, 1:].max(axis=1) if own.shape[1] > 1 else 0.0)
    return np.asarray(np.max(list(ends.values()), axis=0))

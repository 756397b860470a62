"""The searches of a study, a level and a seed each: where each begins, how far it is, what it waits for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from diffmem.studies.records import EmmRecord
from diffmem.studies.search.choice import Outcome, Replay, SizeRule, replay
from diffmem.studies.search.interval import emm_of_seed, emm_of_seeds
from diffmem.studies.search.recipe import SearchRecipe

__all__ = ["Item", "Search", "beside", "follow", "hint_order"]


@dataclass(frozen=True, order=True)
class Item:
    """One training of a study."""

    level: str
    seed: int
    size: int


@dataclass(frozen=True)
class Search:
    """The search of one level with one seed, as far as it has come.

    Attributes:
        level: The level.
        seed: The seed.
        rule: How sizes are chosen, with the size it begins at.
        found: The replay; none while it waits for the search that says where to begin.
        emm: Its answer so far.
    """

    level: str
    seed: int
    rule: SizeRule
    found: Replay | None
    emm: EmmRecord

    @property
    def finished(self) -> bool:
        """Whether nothing more is to be trained."""
        return self.found is not None and self.found.status != "searching"

    @property
    def waiting(self) -> list[Item]:
        """What it waits for now."""
        return (
            [] if self.found is None else [Item(self.level, self.seed, size) for size in self.found.waiting]
        )


def hint_order(count: int) -> list[tuple[int, int | None]]:
    """Return (level, the level whose EMM says where to begin) by position, in an order in which hints come first.

    The middle level begins without a hint; then the middles of both halves begin where their nearest searched neighbour
    ended, and so on: neighbours are alike, and at each stage many levels can be searched at the same time.

    Args:
        count: Number of levels.
    """
    order: list[tuple[int, int | None]] = []
    stage = [(0, count)]
    while stage:
        before = [known for known, _ in order]
        halves = []
        for low, high in stage:
            if low < high:
                middle = (low + high - 1) // 2
                order.append((middle, min(before, key=_distance_to(middle), default=None)))
                halves += [(low, middle), (middle + 1, high)]
        stage = halves
    return order


def _distance_to(place: int) -> Callable[[int], tuple[int, int]]:
    return lambda other: (abs(other - place), other)


def follow(recipe: SearchRecipe, outcome: Callable[[Item], Outcome | None]) -> dict[str, list[Search]]:
    """Return the searches of all levels as far as outcomes are known; a function of the outcomes alone.

    Args:
        recipe: The study.
        outcome: What a training says; none if it is not known yet.

    Returns:
        Level -> the searches of its seeds, in the recipe's order.
    """
    names, found = list(recipe.levels), dict[str, list[Search]]()
    own = None if recipe.search.start is None else float(recipe.search.start)
    order = hint_order(len(names)) if recipe.search.hints else [(i, None) for i in range(len(names))]
    for index, parent in order:
        begin, known = own, True
        if parent is not None:
            hint = found[names[parent]]
            known = all(search.finished for search in hint)
            begin = _hint(_level_emm(hint, recipe), recipe, own) if known else None
        found[names[index]] = _seeds_of(names[index], recipe, begin, known, outcome)
    return {name: found[name] for name in names}


def _seeds_of(
    level: str,
    recipe: SearchRecipe,
    begin: float | None,
    known: bool,
    outcome: Callable[[Item], Outcome | None],
) -> list[Search]:
    searches: list[Search] = []
    for seed in recipe.seeds:
        here, ready = begin, known
        if searches and known:  # later seeds begin where the first one ended
            ready = searches[0].finished
            here = _hint(searches[0].emm, recipe, begin) if ready else None
        rule = recipe.size_rule(here)
        if not ready:
            unknown = EmmRecord(status="unfinished", epsilon=recipe.measure.epsilon)
            searches.append(Search(level, seed, rule, None, unknown))
            continue
        replayed = replay(rule, _of(level, seed, outcome))
        searches.append(Search(level, seed, rule, replayed, emm_of_seed(replayed, rule)))
    return searches


def _of(level: str, seed: int, outcome: Callable[[Item], Outcome | None]) -> Callable[[int], Outcome | None]:
    return lambda size: outcome(Item(level, seed, size))


def _level_emm(searches: list[Search], recipe: SearchRecipe) -> EmmRecord:
    return emm_of_seeds(
        {search.seed: search.emm for search in searches}, searches[0].rule, recipe.search.confidence
    )


def _hint(emm: EmmRecord, recipe: SearchRecipe, otherwise: float | None) -> float | None:
    """Return where a search begins whose neighbour has this EMM: just below it, so that both sides bracket it."""
    smallest, largest = recipe.sizes
    if emm.status == "above largest":
        return float(largest)
    if emm.status == "below smallest":
        return float(smallest)
    if emm.value is None:
        return otherwise
    return beside(emm.value, recipe)


def beside(emm: float, recipe: SearchRecipe) -> float:
    """Return a size so far below an EMM that this size and the next bracket it as narrowly as is asked for."""
    return emm / math.sqrt(recipe.size_rule(None).ratio)

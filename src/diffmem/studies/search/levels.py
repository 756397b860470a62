"""The searches of a study, a level and a seed each: where each begins, how far it is, what it waits for;
and its decisions in words: what each training showed, and what was done next because of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest

from diffmem.runs.records import RunRecord
from diffmem.studies.records import EmmRecord, LogEntry
from diffmem.studies.search.choice import Outcome, Replay, SizeRule, replay
from diffmem.studies.search.interval import emm_of_seed, emm_of_seeds
from diffmem.studies.search.recipe import SearchRecipe

__all__ = ["Item", "Search", "beside", "decision_log", "follow", "hint_order"]


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
        return self.found is not None and self.found.status != "unfinished"

    @property
    def waiting(self) -> list[Item]:
        """What it waits for now."""
        if self.found is None or self.found.waiting is None:
            return []
        return [Item(self.level, self.seed, self.found.waiting)]

    @property
    def items(self) -> list[Item]:
        """Every training that was chosen so far."""
        return [Item(self.level, self.seed, size) for size, _ in self.found.steps] if self.found else []


def hint_order(count: int) -> list[tuple[int, int | None]]:
    """Return (level, the level whose EMM says where to begin) by position, in an order in which hints come first.

    The middle level begins without a hint; then the middles of both halves begin where their nearest searched neighbour
    ended, and so on: neighbours are alike, and at each stage many levels can be searched at the same time.
    """
    order: list[tuple[int, int | None]] = []
    stage = [(0, count)]
    while stage:
        before = [known for known, _ in order]
        halves = []
        for low, high in stage:
            if low < high:
                middle = (low + high - 1) // 2
                distances = [(abs(known - middle), known) for known in before]
                order.append((middle, min(distances)[1] if distances else None))
                halves += [(low, middle), (middle + 1, high)]
        stage = halves
    return order


def follow(recipe: SearchRecipe, outcome: Callable[[Item], Outcome | None]) -> dict[str, list[Search]]:
    """Return the searches of all levels as far as outcomes are known; a function of the outcomes alone.

    Args:
        outcome: What a training says; none if it is not known yet.

    Returns:
        Level -> the searches of its seeds, in the recipe's order.
    """
    names, found = list(recipe.levels), dict[str, list[Search]]()
    order = hint_order(len(names)) if recipe.search.hints else [(i, None) for i in range(len(names))]
    for index, parent in order:
        name, group = names[index], list[Search]()
        hints = [] if parent is None else found[names[parent]]
        start = None if recipe.search.start is None else float(recipe.search.start)
        for seed in recipe.seeds:
            group.append(_search(recipe, name, seed, hints, start, outcome))
            hints, start = group[:1], group[0].rule.start  # later seeds begin where the first one ended
        found[name] = group
    return {name: found[name] for name in names}


def _search(
    recipe: SearchRecipe,
    level: str,
    seed: int,
    hints: list[Search],
    start: float | None,
    outcome: Callable[[Item], Outcome | None],
) -> Search:
    """Follow one search, which waits for its hints and begins where they ended; without a number of theirs, at `start`."""
    if not all(search.finished for search in hints):
        unknown = EmmRecord(status="unfinished", epsilon=recipe.measure.epsilon)
        return Search(level, seed, recipe.size_rule(None), None, unknown)
    if hints:
        start = _hint(level_emm(hints, recipe), recipe, start)
    rule = recipe.size_rule(start)
    found = replay(rule, lambda size: outcome(Item(level, seed, size)))
    return Search(level, seed, rule, found, emm_of_seed(found, rule))


def level_emm(searches: list[Search], recipe: SearchRecipe) -> EmmRecord:
    """Return EMM of a level from the searches of its seeds."""
    return emm_of_seeds(
        {search.seed: search.emm for search in searches}, searches[0].rule, recipe.search.confidence
    )


def _hint(emm: EmmRecord, recipe: SearchRecipe, otherwise: float | None) -> float | None:
    """Return where a search begins whose neighbour has this EMM: just below it, so that both sides bracket it."""
    if emm.status == "above largest":
        return float(recipe.sizes[1])
    if emm.status == "below smallest":
        return float(recipe.sizes[0])
    return otherwise if emm.value is None else beside(emm.value, recipe)


def beside(emm: float, recipe: SearchRecipe) -> float:
    """Return a size so far below an EMM that this size and the next bracket it as narrowly as is asked for."""
    return emm / math.sqrt(recipe.size_rule(None).ratio)


def decision_log(searches: list[Search], records: Mapping[Item, RunRecord]) -> list[LogEntry]:
    """Return the decisions of one level's searches, in order.

    Args:
        records: What each training did and says.
    """
    entries = []
    for search in searches:
        seed = f"seed {search.seed}, " if len(searches) > 1 else ""
        for text in _decisions(search, records):
            entries.append(LogEntry(level=search.level, text=f"{seed}{text}."))
    return entries


def _decisions(search: Search, records: Mapping[Item, RunRecord]) -> Iterator[str]:
    if search.found is None:
        yield "waits for the search that says where to begin"
        return
    steps = search.found.steps
    start = "the smallest size"
    if search.rule.start is not None:
        start = "where the recipe, a neighbouring level or the first seed says"
    yield f"begins with N = {steps[0][0]:,} ({start})"
    for (size, _), following in zip_longest(steps, steps[1:]):
        record = records[Item(search.level, search.seed, size)]
        if record.verdict == "unfinished":
            yield f"N = {size:,}: not decided yet"
        elif following is not None:
            yield f"{_found_text(record)}; next {following[0]:,}, {following[1]}"
        elif search.finished:
            yield f"{_found_text(record)}; {_end_text(search)}"
        else:
            yield _found_text(record)


def _found_text(record: RunRecord) -> str:
    early = ""
    if record.stopped == "decided" and record.epochs_trained < record.epochs:
        early = f"; stopped at {record.epochs_trained / record.epochs:.0%} of the epochs"
    return f"N = {record.size:,}: {record.why}: {record.verdict}{early}"


def _end_text(search: Search) -> str:
    emm, rule = search.emm, search.rule
    return {
        "above largest": f"even the largest size memorizes, EMM is above {rule.largest:,}",
        "below smallest": f"even the smallest size does not, EMM is below {rule.smallest:,}",
        "not monotone": "a smaller size certainly does not memorize while a larger one does, EMM is not one number",
    }.get(emm.status, f"EMM is between {emm.low or 0:,.0f} and {emm.high or 0:,.0f}")

"""The decisions of a search in words: what each training showed, and what was done next because of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import zip_longest

from diffmem.studies.search.levels import Search
from diffmem.studies.search.records import LogEntry, SizeRecord

__all__ = ["decision_log"]


def decision_log(
    searches: list[Search], records: Mapping[tuple[str, int, int], SizeRecord]
) -> list[LogEntry]:
    """Return the decisions of one level's searches, in order.

    Args:
        records: (level, seed, size) -> what that training did and says.
    """
    entries = []
    for search in searches:
        seed = f"seed {search.seed}, " if len(searches) > 1 else ""
        for text in _decisions(search, records):
            entries.append(LogEntry(level=search.level, text=f"{seed}{text}."))
    return entries


def _decisions(search: Search, records: Mapping[tuple[str, int, int], SizeRecord]) -> Iterator[str]:
    if search.found is None:
        yield "waits for the search that says where to begin"
        return
    steps = search.found.steps
    start = "the smallest size"
    if search.rule.start is not None:
        start = "where the recipe, a neighbouring level or the first seed says"
    yield f"begins with N = {steps[0][0]:,} ({start})"
    for (size, _), following in zip_longest(steps, steps[1:]):
        record = records[search.level, search.seed, size]
        if record.verdict == "unfinished":
            yield f"N = {size:,}: not decided yet"
        elif following is not None:
            yield f"{_found_text(record)}; next {following[0]:,}, {following[1]}"
        elif search.finished:
            yield f"{_found_text(record)}; {_end_text(search)}"
        else:
            yield _found_text(record)


def _found_text(record: SizeRecord) -> str:
    early = ""
    if record.stopped == "decided" and record.epochs_trained < record.epochs:
        early = f"; stopped at {record.epochs_trained / record.epochs:.0%} of the epochs"
    return f"N = {record.size:,}: {record.why}: {record.verdict}{early}"


def _end_text(search: Search) -> str:
    emm = search.emm
    if emm.status == "above largest":
        return f"even the largest size memorizes, EMM is above {search.rule.largest:,}"
    if emm.status == "below smallest":
        return f"even the smallest size does not, EMM is below {search.rule.smallest:,}"
    if emm.status == "not monotone":
        return "a smaller size certainly does not memorize while a larger one does, EMM is not one number"
    return f"EMM is between {emm.low:,.0f} and {emm.high:,.0f}"

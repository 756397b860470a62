"""The report of a search: its page, with galleries of the runs that decide."""

from __future__ import annotations

from collections.abc import Callable

from diffmem.reports.folder import ReportPaths
from diffmem.studies.search.levels import Item
from diffmem.studies.search.records import SearchResult
from diffmem.studies.search.report.page import write_search_report
from diffmem.studies.search.study import SearchStudy

__all__ = ["write_search"]

_MOST_GALLERIES = 24


def write_search(study: SearchStudy, result: SearchResult, warn: Callable[[str], None]) -> ReportPaths:
    """Write the report of a search as it is now into its folder.

    Args:
        study: Has the images.
        result: What is known.
        warn: Called with what is said of images that are missing or damaged.

    Raises:
        DiffmemError: A file cannot be written.
    """
    shown: list[Item] = []
    for level in result.levels:
        bracket = level.emm.bracket or ()
        first = sorted(level.runs, key=lambda run: (run.size not in bracket, run.size, run.seed))
        most = max(2, _MOST_GALLERIES // len(result.levels))
        shown += [Item(level.name, run.seed, run.size) for run in first[:most]]
    examples = []
    for item in sorted(shown, key=lambda item: (list(study.levels).index(item.level), item.size, item.seed)):
        example = study.example(item, warn=warn)
        if example is not None:
            seed = f", seed {item.seed}" if len(result.seeds) > 1 else ""
            title = f"{item.level}, N = {item.size:,}{seed}"
            examples.append(example.titled(title))
    return write_search_report(result, examples, study.folder)

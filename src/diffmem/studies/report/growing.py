"""The page of a study that is being worked on, written again as more of it is known."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from diffmem.errors import DiffmemError
from diffmem.progress import Progress
from diffmem.studies.records import StudyRecord
from diffmem.studies.report.page import Examples, examples_of, write_study

__all__ = ["growing_report"]

_SECONDS_TO_THE_FIRST = 2.0
_TIMES_ITS_TIME = 10.0  # between two pages, so that they take a tenth of one core at most


class _Study(Examples, Protocol):
    @property
    def folder(self) -> Path: ...

    def result(self, device: str = "cpu", *, so_far: bool = False) -> StudyRecord: ...


def growing_report(study: _Study, device: str, progress: Progress) -> Progress:
    """Return a progress that also writes the study's report now and then, where more was measured than the last one shows.

    Args:
        study: What is worked on.
        device: Where it computes, for the record.
        progress: What is reported is passed on to it.
    """
    due, shown = time.monotonic() + _SECONDS_TO_THE_FIRST, 0

    def report(done: float, total: float, note: str = "") -> None:
        nonlocal due, shown
        progress(done, total, note)
        begin = time.monotonic()
        if begin < due:
            return
        # The report at the end will say what is wrong; a page in between must not end hours of training.
        with suppress(DiffmemError):
            result = study.result(device, so_far=True)
            measured = sum(len(run.evaluations) for run in result.runs)
            if measured > shown and not result.finished:
                write_study(result, examples_of(study, result, lambda text: None), study.folder)
                shown = measured
        now = time.monotonic()
        due = now + max(_SECONDS_TO_THE_FIRST, _TIMES_ITS_TIME * (now - begin))

    return report

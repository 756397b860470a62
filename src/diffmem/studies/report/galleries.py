"""The report of a study on a grid: its page, with galleries of the most and the least memorized run."""

from __future__ import annotations

from diffmem.reports.folder import ReportPaths
from diffmem.studies.records import StudyResult
from diffmem.studies.report.page import write_report
from diffmem.studies.study import Study

__all__ = ["write_study"]


def write_study(study: Study, result: StudyResult) -> ReportPaths:
    """Write the report of a study into its folder.

    Args:
        study: Has the images.
        result: What was found.

    Raises:
        DiffmemError: A file cannot be written.
    """
    by_rate = sorted(result.runs, key=lambda run: run.peak.memorized.value)
    shown = [("Most memorized", by_rate[-1]), ("Least memorized", by_rate[0])][: len(by_rate)]
    examples = [study.example(run.run_id).titled(title) for title, run in shown]
    return write_report(result, examples, study.folder)

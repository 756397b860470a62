"""The page of a study that is being worked on."""

import pytest
from studies_builders import tiny_recipe

from diffmem.errors import DiffmemError
from diffmem.studies import emm
from diffmem.studies.grid import GridStudy
from diffmem.studies.records import StudyRecord
from diffmem.studies.report import growing
from diffmem.studies.report.growing import growing_report


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(emm, "_REPLICATES", 50)
    monkeypatch.setattr(growing, "_SECONDS_TO_THE_FIRST", 0.0)
    monkeypatch.setattr(growing, "_TIMES_ITS_TIME", 0.0)


def test_the_page_shows_more_as_more_is_measured_and_progress_is_passed_on(tmp_path, monkeypatch):
    shown, passed, write = [], [], growing.write_study

    def written(result, examples, folder):
        assert not result.finished
        assert len(examples) == len(result.runs)
        if not shown:
            write(result, examples, folder)  # drawing takes its time: once
        shown.append(sum(len(run.evaluations) for run in result.runs))

    monkeypatch.setattr(growing, "write_study", written)
    study = GridStudy(tiny_recipe("sizes=[4]"), tmp_path)
    study.execute(progress=growing_report(study, "cpu", lambda done, *_: passed.append(done)))
    assert passed[-1] == max(passed) > 0
    assert shown[:2] == [1, 2]  # the first picture comes with the first evaluation
    assert not StudyRecord.model_validate_json((tmp_path / "report.json").read_text()).finished
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_a_page_that_cannot_be_written_does_not_end_the_work(tmp_path, monkeypatch):
    tried = []

    def refuse(*given):
        tried.append(given)
        raise DiffmemError("the disk is full")

    monkeypatch.setattr(growing, "write_study", refuse)
    study = GridStudy(tiny_recipe("sizes=[4]"), tmp_path)
    study.execute(progress=growing_report(study, "cpu", lambda *given: None))
    assert tried
    assert study.result().finished

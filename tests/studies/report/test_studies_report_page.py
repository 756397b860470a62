"""The page, the table and the folder of a report."""

from __future__ import annotations

import base64
import re

import pytest
from page_parser import Page, check_loads_nothing
from reports_study import make_gallery, make_result, make_run
from rich.console import Console

from diffmem.errors import DiffmemError
from diffmem.reports.text import rate_text, size_text
from diffmem.studies.records import EmmRecord, StudyRecord
from diffmem.studies.report.page import render_study, write_study
from diffmem.studies.report.tables import study_tables


@pytest.fixture(scope="module")
def source():
    return render_study(make_result(), [make_gallery(), make_gallery(3, 3, 16, "512 images")])


@pytest.fixture(scope="module")
def page(source):
    return Page(source)


def test_the_page_loads_nothing_from_elsewhere(source, page):
    check_loads_nothing(source, page)


def test_the_embedded_pictures_load_nothing_either(page):
    images = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 4
    vector = [base64.b64decode(one.split(",")[1]).decode() for one in images if "svg+xml" in one]
    assert len(vector) == 2
    for svg in vector:
        assert not re.search(r"(href|src)=\"(?!#)", svg)


def test_every_picture_has_an_alternative_text_that_tells_its_numbers(page):
    texts = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert all(len(text) > 40 for text in texts)
    assert "47 [41, 55]" in texts[0]
    assert "16 images 99." in texts[1]


def test_the_page_holds_every_size_and_every_rate(page, result):
    for run in result.runs:
        assert size_text(run.size) in page.words
        assert rate_text(run.null) in page.words
        for evaluation in run.evaluations:
            assert rate_text(evaluation.memorized) in page.words


def test_the_page_tells_the_finding_the_protocol_and_the_versions(page, result):
    assert "EMM is about 47 training images (95% interval 41 to 55)" in page.words
    (level,) = result.levels
    for part in (
        result.title,
        level.data,
        level.model,
        level.training,
        level.sampling,
        result.protocol,
        "torch 2.6.0",
    ):
        assert part in page.words
    assert "the crossing lies between 32 and 48 images." in page.words
    assert "less than 1/3 of" in page.words
    assert "out of 1,000 images per evaluation" in page.words


def test_the_page_fits_a_phone_and_says_its_language(page):
    assert ("html", {"lang": "en"}) in page.tags
    assert any(attributes.get("name") == "viewport" for tag, attributes in page.tags if tag == "meta")


def test_ids_are_unique(page):
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


@pytest.mark.usefixtures("undrawn")
def test_hostile_text_is_escaped():
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    result = make_result(
        sizes=(16,), title=evil, data=evil, model=evil, protocol=evil, notes=[evil], versions={evil: evil}
    )
    page = Page(render_study(result, [make_gallery(title=evil)]))
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert all(attributes["src"].startswith("data:image/") for tag, attributes in page.tags if tag == "img")
    assert evil in page.words


@pytest.mark.usefixtures("undrawn")
def test_template_marks_in_a_title_are_text():
    assert "{{ 7 * 7 }}" in Page(render_study(make_result(sizes=(16,), title="{{ 7 * 7 }}"))).words


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("status", "words"),
    [("above largest", "EMM is above 512"), ("below smallest", "EMM is below 16")],
)
def test_an_emm_outside_the_sizes_is_told_in_words(status, words):
    page = Page(render_study(make_result(sizes=(16, 512), emm=EmmRecord(status=status))))
    assert words in page.words


def test_a_study_without_runs_has_a_page_without_figures():
    page = Page(render_study(make_result(runs=[], emm=EmmRecord(status="no runs"))))
    assert "No training has finished yet" in page.words
    assert not [tag for tag, _ in page.tags if tag in ("img", "table")]


@pytest.mark.usefixtures("undrawn")
def test_warnings_come_before_the_numbers():
    words = Page(render_study(make_result(runs=[make_run(16, null=None)], notes=["One seed only."]))).words
    assert words.index("One seed only.") < words.index("Every run")
    assert "no null rate" in words
    assert "none held out" in words


@pytest.mark.usefixtures("undrawn")
def test_seeds_are_shown_only_where_there_are_several():
    def headings(result):
        text = render_study(result)
        return text[text.index("Every run") : text.index("Every evaluation")]

    assert ">Seed<" in headings(make_result(runs=[make_run(16, seed) for seed in (0, 1)]))
    assert ">Seed<" not in headings(make_result(sizes=(16, 32)))


def test_the_method_of_the_interval_stands_apart_from_the_sentence():
    assert " (clopper-pearson)." in render_study(make_result(sizes=(16, 32)))


def test_rows_hold_the_peak_and_the_end():
    run = make_run(128, duplicates=2)
    result = make_result(runs=[run])
    columns = study_tables(result)[0].columns
    row = [str(cell) for column in columns for cell in column.cells]
    peak, last = rate_text(run.peak.memorized), f"{100 * run.last.memorized.value:.1f}%"
    copied = f"{run.peak.distinct_replicated} of 126"
    assert row == ["128", peak, "2,000", last, "0.2%", copied, "7 min 02 s"]
    page = render_study(result)
    assert all(f"<td>{cell}</td>" in page for cell in (peak, "2,000", copied, "7 min 02 s"))
    assert f"<td>{rate_text(run.last.memorized)}</td>" in page


def test_the_terminal_table_fits_80_columns(result):
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(*study_tables(result))
    text = console.export_text()
    assert "EMM at 90%: 47 [41, 55]" in text
    assert "…" not in text
    for run in result.runs:
        assert rate_text(run.peak.memorized) in text


def test_marks_in_a_title_do_not_style_the_terminal():
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(*study_tables(make_result(sizes=(16,), title="[bold]x[/bold] [/]")))
    assert "[bold]x[/bold] [/]" in console.export_text()


@pytest.mark.usefixtures("undrawn")
def test_the_report_folder_is_complete_and_its_json_reads_back(result, tmp_path):
    galleries = [make_gallery(), make_gallery(title="../../16 / images"), make_gallery()]
    paths = write_study(result, galleries, tmp_path / "report")
    assert StudyRecord.model_validate_json(paths.json.read_text()) == result
    assert paths.html.read_text() == render_study(result, galleries)
    names = [path.name for path in paths.figures]
    assert names[:2] == ["rmem_vs_size.png", "rmem_vs_epochs.png"]
    assert names[2] == "gallery_16-training-images-epoch-4-000.png"
    assert names[3] == "gallery_16-images.png"
    assert len(set(names)) == 5
    written = {path.name for path in (tmp_path / "report").iterdir()}
    assert written == {"report.html", "report.json", *names}


def test_a_report_without_runs_writes_no_pictures(tmp_path):
    paths = write_study(make_result(runs=[], emm=EmmRecord(status="no runs")), [], tmp_path)
    assert paths.figures == ()
    assert paths.html.exists()


def test_a_nan_is_told_and_nothing_is_written(tmp_path):
    with pytest.raises(DiffmemError, match="NaN"):
        write_study(make_result(seconds=float("nan")), [], tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("undrawn")
def test_a_report_that_is_written_again_leaves_no_galleries_of_the_one_before(tmp_path):
    write_study(make_result(), [make_gallery(title="before"), make_gallery(title="both")], tmp_path)
    write_study(make_result(), [make_gallery(title="both"), make_gallery(title="after")], tmp_path)
    assert sorted(path.name for path in tmp_path.glob("gallery_*")) == [
        "gallery_after.png",
        "gallery_both.png",
    ]

"""The page of a search and its folder."""

from __future__ import annotations

import base64
import re
from dataclasses import replace

import numpy as np
import pytest
from page_parser import Page, check_loads_nothing
from reports_search import (
    empty_search,
    estimated,
    make_search,
    make_search_level,
    make_training,
    many_levels,
    numeric_search,
    small_search,
    troubled_search,
    unfinished_search,
)
from reports_study import make_gallery

from diffmem.errors import DiffmemError
from diffmem.reports.gallery import gallery_text
from diffmem.reports.text import rate_text
from diffmem.studies.records import LogEntry, StudyRecord
from diffmem.studies.report import page as search_page
from diffmem.studies.report.page import render_study, write_study
from diffmem.studies.report.text import level_answer, warnings_of


@pytest.fixture(scope="module")
def source():
    return render_study(make_search(), [make_gallery(), make_gallery(3, 3, 16, "8x8, N = 84")])


@pytest.fixture(scope="module")
def page(source):
    return Page(source)


def noisy_gallery(number, side=32):
    """Images that a PNG cannot make small."""
    random = np.random.default_rng(number)
    images = random.integers(0, 256, (3, 8, 3, side, side), dtype=np.uint8)
    return replace(
        make_gallery(8, 3, side, f"level {number}"), generated=images[0], nearest=images[1], second=images[2]
    )


def test_the_page_loads_nothing_from_elsewhere(source, page):
    check_loads_nothing(source, page)


def test_the_embedded_pictures_load_nothing_either(page):
    images = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 6
    vectors = [base64.b64decode(one.split(",")[1]).decode() for one in images if "svg+xml" in one]
    assert len(vectors) == 4
    for svg in vectors:
        assert not re.search(r"(href|src)=\"(?!#|data:image/)", svg)


def test_every_picture_has_an_alternative_text_that_tells_its_numbers(page):
    texts = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert all(len(text) > 40 for text in texts)
    assert "8x8: 96 [88, 106], the paper 1,068" in texts[0]
    assert "24 images 93.4% at epoch 2,500 (memorized)" in texts[1]
    assert "24 images 93.4% at epoch 2,500" in texts[2]
    assert "8x8 17%" in texts[3]


def test_the_answer_comes_first(page):
    words = page.words
    places = [
        words.index(part)
        for part in (
            "By resolution, EMM goes from about 96",
            "EMM is about 96 training images (95% interval 88 to 106). The paper: 1,068.",
            "Before you use these numbers",
            "Results by level",
            "R_mem over training-set size and epochs",
            "R_mem over training ",
            "Cost against a fixed grid",
            "Every run",
            "Decision log",
            "What the samples look like",
            "How to read this page Copy",
        )
    ]
    assert places == sorted(places)


def test_the_page_holds_every_run(page):
    for level in make_search().levels:
        for run in level.runs:
            assert run.run_id in page.words
            assert rate_text(run.peak.memorized) in page.words
            assert rate_text(run.null) in page.words
            assert run.why in page.words
    assert "2,500 of 4,000" in page.words


@pytest.mark.usefixtures("undrawn")
def test_the_decision_log_stands_level_by_level_in_its_order():
    log = [
        LogEntry(level="4x4", text="Second level, first line."),
        LogEntry(level="8x8", text="N = 96, epoch 1,400: R_mem in [0.93, 0.99] after 220 images: memorized."),
        LogEntry(level="", text="The study began."),
        LogEntry(level="8x8", text="The next size is 128."),
    ]
    words = Page(render_study(small_search(log=log))).words
    places = [words.index(log[index].text) for index in (2, 1, 3, 0)]
    assert places == sorted(places)
    assert "8x8 (2 entries)" in words
    assert "4x4 (1 entry)" in words


@pytest.mark.usefixtures("undrawn")
def test_a_long_log_and_a_long_table_are_folded():
    def opened(result):
        return [attributes for tag, attributes in Page(render_study(result)).tags if tag == "details"]

    line = LogEntry(level="8x8", text="The next size is 128.")
    assert "open" in opened(empty_search().model_copy(update={"log": [line] * 30}))[0]
    assert "open" not in opened(empty_search().model_copy(update={"log": [line] * 31}))[0]
    for count in (30, 31):
        runs = [make_training("8x8", 64, 96, seed=seed, points=0) for seed in range(count)]
        table = opened(make_search([make_search_level("8x8", runs=runs)], log=[]))[0]
        assert ("open" in table) == (count == 30)


def test_ids_are_unique_and_the_page_says_its_language(page):
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert ("html", {"lang": "en"}) in page.tags
    assert any(attributes.get("name") == "viewport" for tag, attributes in page.tags if tag == "meta")


@pytest.mark.usefixtures("undrawn")
def test_hostile_text_is_escaped():
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7 * 7 }}$x$"
    run = make_training(evil, 64, 96, incidents=[evil]).model_copy(
        update={"run_id": evil, "why": evil, "folder": evil}
    )
    level = make_search_level(evil, runs=[run], emm=estimated(96, notes=[evil], method=evil)).model_copy(
        update={"data": evil, "model": evil, "training": evil, "sampling": evil, "settings": {evil: evil}}
    )
    result = make_search(
        [level, make_search_level("8x8", sizes=(64,))], title=evil, factor=evil, protocol=evil,
        log=[LogEntry(level=evil, text=evil)], versions={evil: evil}, notes=[evil],
    )  # fmt: skip
    page = Page(render_study(result, [make_gallery(title=evil)]))
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert all(attributes["src"].startswith("data:image/") for tag, attributes in page.tags if tag == "img")
    assert page.words.count(evil) > 12


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "search", [troubled_search, unfinished_search, pytest.param(numeric_search, marks=pytest.mark.slow)]
)
def test_every_kind_of_answer_is_on_its_page(search):
    result = search()
    words = Page(render_study(result)).words
    for level in result.levels:
        assert level_answer(level, result) in words
    for warning in warnings_of(result):
        assert warning.replace("\u00a0", " ") in words
    assert all(
        incident in words for level in result.levels for run in level.runs for incident in run.incidents
    )


def test_a_search_without_runs_has_a_page_without_figures():
    page = Page(render_study(empty_search()))
    assert "No training has finished yet" in page.words
    assert not [tag for tag, _ in page.tags if tag in ("img", "table")]


def test_a_search_whose_first_run_has_no_point_yet_has_a_page():
    run = make_training("8x8", 64, 96, points=0, null=None)
    level = make_search_level("8x8", runs=[run], finished=False, emm=unfinished_search().levels[2].emm)
    page = Page(render_study(make_search([level])))
    assert "not measured yet" in page.words
    assert len([tag for tag, _ in page.tags if tag == "img"]) == 2


def test_galleries_that_do_not_fit_are_left_in_the_folder_and_the_page_says_so(monkeypatch, tmp_path):
    galleries = [noisy_gallery(number) for number in range(4)]
    bare = len(render_study(empty_search()).encode())
    one = len(render_study(empty_search(), galleries[:1]).encode()) - bare
    most = bare + round(2.6 * one)
    monkeypatch.setattr(search_page, "MOST_BYTES", most)
    paths = write_study(empty_search(), galleries, tmp_path)
    page = Page(paths.html.read_text())
    shown = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert shown == [gallery_text(galleries[0]), gallery_text(galleries[2])]
    assert paths.html.stat().st_size <= most
    assert "2 more pictures are beside this page" in page.words
    assert len(list(tmp_path.glob("gallery_*.png"))) == 4


def test_galleries_of_which_none_fits_are_named_too(monkeypatch):
    monkeypatch.setattr(search_page, "MOST_BYTES", 1000)
    page = Page(render_study(empty_search(), [make_gallery()]))
    assert "1 more picture is beside this page" in page.words


@pytest.mark.usefixtures("undrawn")
def test_many_galleries_are_folded():
    page = Page(render_study(empty_search(), [make_gallery(1)] * 6))
    assert len([tag for tag, _ in page.tags if tag == "img"]) == 6
    assert "Show 2 more" in page.words


@pytest.mark.slow
def test_twelve_levels_with_fifteen_galleries_each_stay_below_5_megabytes():
    page = render_study(many_levels(), [noisy_gallery(number) for number in range(60)])
    assert 3_000_000 < len(page.encode()) < 5_000_000


@pytest.mark.usefixtures("undrawn")
def test_the_report_folder_is_complete_and_its_json_reads_back(tmp_path):
    result, galleries = (
        small_search(),
        [make_gallery(), make_gallery(title="../../16 / images"), make_gallery()],
    )
    paths = write_study(result, galleries, tmp_path / "report")
    assert StudyRecord.model_validate_json(paths.json.read_text()) == result
    assert paths.html.read_text() == render_study(result, galleries)
    names = [path.name for path in paths.figures]
    assert names[:4] == ["emm.png", "rmem_surface.png", "learning_curves.png", "cost.png"]
    assert names[4:] == [
        "gallery_16-training-images-epoch-4-000.png",
        "gallery_16-images.png",
        "gallery_16-training-images-epoch-4-000-3.png",
    ]
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"report.html", "report.json", *names}


def test_a_report_without_runs_writes_no_pictures(tmp_path):
    paths = write_study(empty_search(), [], tmp_path)
    assert paths.figures == ()
    assert paths.html.exists()


def test_a_nan_is_told_and_nothing_is_written(tmp_path):
    with pytest.raises(DiffmemError, match="NaN"):
        write_study(make_search(seconds=float("nan")), [], tmp_path)
    assert list(tmp_path.iterdir()) == []

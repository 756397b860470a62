"""The page of all levels of a grid: what is drawn, that it stands alone, that its record reads back."""

from __future__ import annotations

import re

import pytest
from page_parser import Page
from reports_drawn import boxes_of, overlaps
from reports_study import make_grid, make_grid_level, make_run

from diffmem.studies.records import EmmRecord, StudyRecord
from diffmem.studies.report.curves import curves_figure
from diffmem.studies.report.emm_figure import emm_by_level
from diffmem.studies.report.figures import rmem_against_size
from diffmem.studies.report.page import render_study, write_study

ESTIMATED = EmmRecord(status="estimated", value=40, low=32, high=48)


def make_level(name, emm=ESTIMATED, **fields):
    return make_grid_level(name, emm=emm, **fields)


def lines(figure):
    return {line.get_label(): line for line in figure.axes[0].lines}


@pytest.mark.parametrize("draw", [emm_by_level, rmem_against_size, curves_figure])
def test_no_two_texts_lie_on_each_other(draw):
    levels = [make_level(name, sizes=(16, 32, 64, 128, 256), seeds=(0, 1)) for name in ("8", "16", "32")]
    figure = draw(make_grid(*levels))
    figure.canvas.draw()
    assert overlaps(boxes_of(figure)) == []


def test_over_epochs_every_level_has_its_panel_and_every_size_its_mean_of_seeds():
    level = make_level("8", seeds=(0, 1))
    figure = curves_figure(make_grid(level, make_level("16", sizes=(16,))))
    assert [axes._left_title.get_text() for axes in figure.axes] == ["channels = 8", "channels = 16"]
    line = next(line for line in figure.axes[0].lines if line.get_label() == "64")
    ends = [100 * run.last.memorized.value for run in level.runs if run.size == 64]
    assert line.get_ydata()[-1] == pytest.approx(sum(ends) / 2)
    assert line.get_xdata()[0] == 125  # not the evaluation before training


def test_every_level_has_a_curve_of_its_own_colour_named_in_the_legend():
    figure = rmem_against_size(make_grid(make_level("8"), make_level("16")))
    found = lines(figure)
    assert found["channels = 8"].get_color() != found["channels = 16"].get_color()
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["null rate (held-out images)", "channels = 8", "channels = 16"]
    assert found["channels = 8"].get_ydata()[0] == 100 * make_run(16).peak.memorized.value


def test_with_several_seeds_the_line_runs_through_their_means_and_runs_are_not_in_the_legend():
    level = make_level("8", seeds=(0, 1))
    found = lines(rmem_against_size(make_grid(level, make_level("16"))))
    rates = [100 * run.peak.memorized.value for run in level.runs if run.size == 16]
    assert found["channels = 8"].get_ydata()[0] == pytest.approx(sum(rates) / 2)


def test_a_level_without_runs_is_named_beside_the_others():
    none = make_level("none", sizes=(), emm=EmmRecord(status="no runs"))
    grid = make_grid(make_level("true"), none, factor="labels")
    assert "none" not in lines(rmem_against_size(grid))
    assert "none. EMM is not known yet" in Page(render_study(grid)).words


def test_emm_is_drawn_at_its_level():
    figure = emm_by_level(make_grid(make_level("8"), make_level("16")))
    spots = [
        (line.get_xdata()[0], line.get_ydata()[0]) for line in figure.axes[0].lines if line.get_gid() == "EMM"
    ]
    assert spots == [(8.0, 40.0), (16.0, 40.0)]


def test_the_page_answers_for_every_level_and_loads_nothing_from_elsewhere():
    evil = "<script>alert(1)</script>"
    source = render_study(make_grid(make_level("8"), make_level(evil, sizes=(16,)), title=evil))
    page = Page(source)
    for name in ("8", evil):
        assert f"{name}. EMM is about 40 training images (95% interval 32 to 48)" in page.words
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 3  # EMM, R_mem by size, R_mem by epoch
    assert all(one["src"].startswith("data:image/") and len(one["alt"]) > 40 for one in images)
    assert not {"script", "link", "iframe", "a"} & {tag for tag, _ in page.tags}
    assert not re.search(r"https?://", source)
    for run in (make_run(16), make_run(64)):
        assert run.run_id in page.words


def test_without_runs_the_page_says_so_and_the_record_reads_back(tmp_path):
    grid = make_grid(make_level("8", sizes=(), emm=EmmRecord(status="no runs")))
    paths = write_study(grid, [], tmp_path)
    assert "No training has finished yet" in Page(paths.html.read_text()).words
    assert StudyRecord.model_validate_json(paths.json.read_text()) == grid
    assert paths.figures == ()

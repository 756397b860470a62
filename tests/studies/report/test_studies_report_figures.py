from __future__ import annotations

import io
import re
from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from reports_study import make_result, make_run

from diffmem.errors import UserError
from diffmem.reports.figures import figure_svg, spread_labels
from diffmem.reports.html import png_bytes
from diffmem.studies.records import EmmRecord
from diffmem.studies.report.curves import curves_figure
from diffmem.studies.report.figures import rmem_against_size

DRAWINGS = [rmem_against_size, curves_figure]


def text_of(figure):
    axes = figure.axes[0]
    legend = [text.get_text() for one in figure.legends for text in one.get_texts()]
    return [text.get_text() for text in axes.texts] + legend


def line_called(figure, label):
    return next(line for line in figure.axes[0].lines if line.get_label().startswith(label))


def test_the_peaks_are_drawn_in_percent_against_size(result):
    line = line_called(rmem_against_size(result), "peak")
    assert line.get_xdata().tolist() == [run.size for run in result.runs]
    assert line.get_ydata().tolist() == [100 * run.peak.memorized.value for run in result.runs]


def test_the_ends_of_training_and_the_null_rate_have_their_curves(result):
    figure = rmem_against_size(result)
    assert line_called(figure, "end").get_ydata().tolist() == [
        100 * run.last.memorized.value for run in result.runs
    ]
    assert line_called(figure, "null").get_ydata().tolist() == [100 * run.null.value for run in result.runs]


def test_a_study_without_null_rates_draws_none():
    figure = rmem_against_size(make_result(runs=[make_run(size, null=None) for size in (16, 32)]))
    assert not any("null" in word for word in text_of(figure))


def test_emm_and_the_line_of_epsilon_are_named(result):
    words = text_of(rmem_against_size(result))
    assert "EMM 47 [41, 55]" in words
    assert "90%" in words


@pytest.mark.parametrize(
    ("status", "words"), [("above largest", "EMM above 512"), ("below smallest", "EMM below 16")]
)
def test_an_emm_outside_the_sizes_is_told_in_words(status, words):
    assert words in text_of(rmem_against_size(make_result(emm=EmmRecord(status=status))))


def test_the_size_axis_is_logarithmic_and_its_numbers_do_not_collide(result):
    figure = rmem_against_size(result)
    figure.canvas.draw()
    axis = figure.axes[0].xaxis
    assert figure.axes[0].get_xscale() == "log"
    boxes = [label.get_window_extent() for label in axis.get_ticklabels() if label.get_text()]
    assert len(boxes) >= 5
    assert all(a.x1 < b.x0 for a, b in pairwise(boxes))


def test_several_seeds_have_a_point_each_and_a_line_through_their_means():
    runs = [make_run(size, seed) for size in (32, 64) for seed in (0, 4)]
    figure = rmem_against_size(make_result(runs=runs))
    means = [
        np.mean([100 * run.peak.memorized.value for run in runs if run.size == size]) for size in (32, 64)
    ]
    assert line_called(figure, "peak").get_ydata() == pytest.approx(means)
    assert any(len(line.get_xdata()) == 4 for line in figure.axes[0].lines)


def test_every_size_has_its_curve_over_epochs_named_at_its_end(result):
    figure = curves_figure(result)
    words = text_of(figure)
    for run in result.runs:
        assert f"N = {run.size}" in words
    curves = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 6]
    assert len(curves) == len(result.runs)
    assert curves[0].get_ydata().tolist() == [
        100 * one.memorized.value for one in result.runs[0].evaluations[1:]
    ]


def test_labels_at_the_line_ends_do_not_overlap():
    runs = [make_run(size, middle=5) for size in (64, 80, 96, 112, 128, 256, 512, 1024)]
    figure = curves_figure(make_result(runs=runs))
    figure.canvas.draw()
    labels = [text for text in figure.axes[0].texts if text.get_text().startswith("N = ")]
    # The box of the text alone: the extent of an annotation includes its line.
    from matplotlib.text import Text

    boxes = sorted((Text.get_window_extent(label) for label in labels), key=lambda box: box.y0)
    assert len(boxes) == 8
    assert all(a.y1 <= b.y0 + 1 for a, b in pairwise(boxes))


@given(st.lists(st.floats(0, 100), min_size=1, max_size=15), st.floats(0.1, 6))
def test_spread_labels_keep_their_order_and_their_distance(values, gap):
    places = spread_labels(values, gap)
    order = np.argsort(values, kind="stable")
    assert (np.diff(np.array(places)[order]) >= gap - 1e-9).all()
    assert min(places) >= -1e-9
    assert max(places) <= 100 + 1e-9


def test_labels_with_room_stay_where_they_are():
    assert spread_labels([50.0, 10.0, 90.0], 5) == [50, 10, 90]


@pytest.mark.parametrize("draw", DRAWINGS)
def test_a_single_run_works(draw):
    content = png_bytes(draw(make_result(sizes=(47,))))
    assert np.array(Image.open(io.BytesIO(content))).std() > 0


@pytest.mark.parametrize("draw", DRAWINGS)
def test_nothing_to_draw_is_a_users_mistake(draw):
    with pytest.raises(UserError, match=r"nothing to draw|no curve to draw"):
        draw(make_result(runs=[]))


def test_a_study_evaluated_only_before_training_has_no_curve():
    run = make_run(16)
    run = run.model_copy(update={"evaluations": run.evaluations[:1]})
    with pytest.raises(UserError, match="after epoch 0"):
        curves_figure(make_result(runs=[run]))


@pytest.mark.parametrize("draw", DRAWINGS)
def test_svg_is_deterministic_and_refers_to_nothing_outside(draw, result):
    first, second = figure_svg(draw(result)), figure_svg(draw(result))
    assert first == second
    assert first.startswith("<svg")
    assert not re.search(r"(href|src)\s*=\s*[\"'](?!#)", first)
    assert "url(http" not in first
    assert "date" not in first.lower()


def test_drawing_leaves_the_global_state_of_matplotlib_alone(result):
    before = dict(mpl.rcParams)
    figure_svg(curves_figure(result))
    assert dict(mpl.rcParams) == before


def test_pictures_are_png_at_160_dots_per_inch(result):
    picture = Image.open(io.BytesIO(png_bytes(rmem_against_size(result))))
    assert picture.format == "PNG"
    assert picture.size == (7 * 160, int(4.4 * 160))

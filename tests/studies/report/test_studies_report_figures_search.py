"""The figures of a search: what is drawn of EMM, cost, surface and learning curves."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from reports_drawn import boxes_of, intervals, overlaps, wanted, words
from reports_search import (
    empty_search,
    make_search,
    make_search_level,
    make_training,
    many_levels,
    numeric_search,
    one_level,
    troubled_search,
    unfinished_search,
)

from diffmem.errors import UserError
from diffmem.reports.level_rows import short_names
from diffmem.studies.records import EmmRecord
from diffmem.studies.report.curves import curves_figure, curves_text
from diffmem.studies.report.emm_figure import emm_by_level
from diffmem.studies.report.figures import cost_figure
from diffmem.studies.report.surface import surface_figure, surface_text

FIGURES = [emm_by_level, cost_figure, surface_figure, curves_figure]
SEARCHES = [
    troubled_search,
    *(
        pytest.param(one, marks=pytest.mark.slow)
        for one in (make_search, numeric_search, unfinished_search, one_level)
    ),
]


@cache
def drawn(draw, search=make_search):
    """A figure that no test changes."""
    return draw(search())


def marks(axes, gid):
    return [line for line in axes.lines if line.get_gid() == gid]


def spots(axes, gid):
    return [(line.get_xdata()[0], line.get_ydata()[0]) for line in marks(axes, gid)]


def cells(axes, gid="cell"):
    return [patch for patch in axes.patches if isinstance(patch, Rectangle) and patch.get_gid() == gid]


def legend_of(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


@pytest.mark.parametrize("draw", FIGURES)
@pytest.mark.parametrize("search", SEARCHES)
def test_no_two_texts_lie_on_each_other(draw, search):
    figure = draw(search())
    figure.canvas.draw()
    assert overlaps(boxes_of(figure)) == []


@pytest.mark.slow
@pytest.mark.parametrize("draw", FIGURES)
def test_twelve_levels_with_long_names_leave_room_for_each_other(draw):
    figure = draw(many_levels())
    figure.canvas.draw()
    assert overlaps(boxes_of(figure)) == []
    width, height = figure.get_size_inches() * figure.dpi
    assert all(box.x0 >= 0 and box.x1 <= width + 1 for _, box in boxes_of(figure))
    assert all(box.y0 >= 0 and box.y1 <= height + 1 for _, box in boxes_of(figure))


def test_emm_stands_in_the_row_of_its_level_with_the_papers_value_hollow_beside_it():
    axes = drawn(emm_by_level).axes[0]
    assert spots(axes, "EMM") == [(96, 0), (190, 1), (420, 2)]
    assert spots(axes, "paper") == [(1068, 0), (7000, 2)]
    assert all(line.get_markerfacecolor() == "white" for line in marks(axes, "paper"))
    assert axes.get_xscale() == "log"
    assert words(axes) == ["96 [88, 106]", "190 [175, 209]", "420 [386, 462]"]


def test_the_interval_of_emm_is_drawn():
    axes = emm_by_level(one_level()).axes[0]
    bars = [tuple(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2]
    assert bars == [pytest.approx((0.92 * 96, 1.1 * 96))]


def test_levels_that_are_numbers_have_a_logarithmic_axis():
    axes = emm_by_level(numeric_search()).axes[0]
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert spots(axes, "EMM") == [(1, 60), (2, 75), (5, 110), (10, 180)]
    assert spots(axes, "paper") == [(1, 900), (10, 2100)]
    assert "above 512" in words(axes)


def test_an_emm_beyond_the_sizes_is_an_arrow_out_of_them():
    figure = emm_by_level(troubled_search())
    arrows = [text for text in figure.axes[0].texts if getattr(text, "arrow_patch", None) is not None]
    assert sorted((arrow.xy[0], arrow.get_position()[0] > 0) for arrow in arrows) == [
        (16, False),
        (5000, True),
    ]
    assert "outside the allowed sizes" in legend_of(figure)
    assert "outside the allowed sizes" not in legend_of(drawn(emm_by_level))


def test_what_is_no_single_number_has_no_point_and_a_dashed_span():
    axes = emm_by_level(unfinished_search()).axes[0]
    assert spots(axes, "EMM") == [(96, 0)]
    dashed = [line for line in axes.lines if line.is_dashed()]
    assert [tuple(line.get_xdata()) for line in dashed] == [(64, 320)]
    assert words(axes)[2:] == ["unfinished", "no runs yet"]


def test_an_end_that_is_not_known_yet_is_an_arrow_within_the_sizes_allowed():
    level = make_search_level("8x8", emm=EmmRecord(status="unfinished", low=64), finished=False)
    axes = emm_by_level(make_search([level])).axes[0]
    [arrow] = [text for text in axes.texts if getattr(text, "arrow_patch", None) is not None]
    assert arrow.xy[0] == 64
    assert arrow.get_position()[0] > 0
    low, high = axes.get_xlim()
    assert low < 16
    assert high > 5000


def test_every_seed_has_its_own_mark():
    axes = emm_by_level(many_levels(2)).axes[0]
    values = [list(line.get_xdata()) for line in marks(axes, "seeds")]
    assert values == [pytest.approx([0.94 * emm, emm]) for emm in (60, 95)]


def test_a_level_whose_answer_begins_a_search_has_its_words_and_nothing_else():
    figure = emm_by_level(empty_search())
    assert words(figure.axes[0]) == ["no runs yet"] * 2
    assert spots(figure.axes[0], "EMM") == []


def test_a_cut_name_keeps_the_words_that_tell_it_from_the_others():
    names = [
        f"skip connections kept at the {place} place, random labels, Fourier embedding"
        for place in ("1st", "12th")
    ]
    cut = short_names(names, 22)
    assert cut == [f"skip connections kept\nat the {place} place, …" for place in ("1st", "12th")]
    assert short_names(names, 14) == ["… kept at the\n1st place, …", "… kept at the\n12th place, …"]


def test_names_differ_by_their_beginning_or_their_end_or_not_at_all():
    long = "with skip connections kept at every place, random labels"
    assert [name[:3] for name in short_names([f"a1 {long}", f"b2 {long}"], 20)] == ["a1 ", "b2 "]
    assert [name[-2:] for name in short_names([f"{long} a1", f"{long} b2"], 20)] == ["a1", "b2"]
    assert short_names([long], 20)[0].startswith("with skip")
    assert len(set(short_names([long, f"{long} and more"], 20))) == 2


@given(
    st.lists(st.text("abc $", min_size=1, max_size=90).filter(str.strip), min_size=1, max_size=6),
    st.integers(8, 40),
)
def test_short_names_have_at_most_two_lines_of_so_many_letters(names, letters):
    for name, short in zip(names, short_names(names, letters), strict=True):
        lines = short.replace(r"\$", "$").split("\n")
        assert len(lines) <= 2
        assert max(map(len, lines)) <= letters
        if len(name) <= letters:
            assert lines == [" ".join(name.split())]


def test_the_cost_is_drawn_in_percent_of_the_grids_with_sampling_apart():
    result = make_search()
    axes = drawn(cost_figure).axes[0]
    trained, sampled = cells(axes, "training"), cells(axes, "sampling")
    costs = [level.cost for level in result.levels] + [result.cost]
    assert [bar.get_width() for bar in trained] == pytest.approx(
        [100 * cost.images_trained / cost.grid_units for cost in costs]
    )
    assert [bar.get_x() + bar.get_width() for bar in sampled] == pytest.approx([17.0] * 4)
    assert [bar.get_width() for bar in cells(axes, "grid")] == [100] * 4
    assert words(axes)[-1].startswith("17%: 15.7 M of 92.")


def test_the_cost_of_an_unfinished_level_is_so_far():
    texts = words(cost_figure(unfinished_search()).axes[0])
    assert [text.endswith("so far") for text in texts] == [False, True, True, True, True]


def test_a_cost_above_the_grids_fits_its_axis():
    axes = cost_figure(make_search([make_search_level("8x8", share=1.7)])).axes[0]
    bar = cells(axes, "sampling")[0]
    assert bar.get_x() + bar.get_width() == pytest.approx(170)
    assert axes.get_xlim()[1] > 170


def test_the_surface_has_a_cell_for_every_point_in_the_colour_of_its_rate():
    result = make_search()
    for axes, level in zip(drawn(surface_figure).axes, result.levels, strict=False):
        rates = [point.memorized.value for run in level.runs for point in run.evaluations]
        found = cells(axes)
        assert len(found) == len(rates)
        for cell, rate in zip(found, rates, strict=True):
            red, _, blue = cell.get_facecolor()[:3]
            assert (red > blue) == (rate >= 1 - result.epsilon)


def test_what_was_not_trained_is_an_empty_outline():
    result = make_search()
    axes = drawn(surface_figure).axes[0]
    stopped = [run for run in result.levels[0].runs if run.epochs_trained < run.epochs]
    outlines = cells(axes, "not trained")
    assert len(outlines) == len(stopped) == 3
    assert all(not patch.get_fill() for patch in outlines)


def test_certain_and_undecided_points_are_signed():
    result = make_search()
    texts = words(drawn(surface_figure).axes[0])
    verdicts = [point.verdict for run in result.levels[0].runs for point in run.evaluations]
    assert texts.count("•") == verdicts.count("at least")
    assert texts.count("?") == verdicts.count("undecided")


def test_epochs_that_differ_by_a_rounding_are_one_row():
    first = make_training("8x8", 48, 96)
    points = [
        point.model_copy(update={"epoch": 1.007 * point.epoch})
        for point in make_training("8x8", 120, 96).evaluations
    ]
    other = make_training("8x8", 120, 96).model_copy(update={"evaluations": points, "epochs": 4028.0})
    axes = surface_figure(make_search([make_search_level("8x8", runs=[first, other])])).axes[0]
    bottoms = sorted({round(cell.get_y(), 6) for cell in cells(axes)})
    assert len(bottoms) == len(other.evaluations) > len(first.evaluations)


def test_the_cells_of_a_column_leave_no_gap_and_stay_inside_the_panel():
    runs = [make_training("8x8", 48, 96), make_training("8x8", 120, 96)]
    sparse = runs[1].model_copy(update={"evaluations": runs[1].evaluations[::3]})
    axes = surface_figure(make_search([make_search_level("8x8", runs=[runs[0], sparse])])).axes[0]
    for place in {cell.get_x() for cell in cells(axes)}:
        column = [cell for cell in [*cells(axes), *cells(axes, "not trained")] if cell.get_x() == place]
        tops = [cell.get_y() + cell.get_height() for cell in column]
        assert [cell.get_y() for cell in column] == pytest.approx([axes.get_ylim()[0], *tops[:-1]])
        assert tops[-1] == pytest.approx(axes.get_ylim()[1])


def test_emm_is_a_line_between_the_columns_that_bracket_it():
    result = make_search()
    axes = drawn(surface_figure).axes[0]
    sizes = [run.size for run in result.levels[0].runs]
    [line] = marks(axes, "EMM")
    assert sizes.index(96) < line.get_xdata()[0] < sizes.index(108)
    assert marks(surface_figure(troubled_search()).axes[0], "EMM") == []


def test_seeds_of_one_size_stand_side_by_side_under_one_number():
    result = many_levels(1)
    axes = surface_figure(result).axes[0]
    labels = [text.get_text() for text in axes.get_xticklabels()]
    assert labels == list(dict.fromkeys(str(run.size) for run in result.levels[0].runs))
    assert len({round(cell.get_x(), 6) for cell in cells(axes)}) == len(result.levels[0].runs)


def test_a_level_without_a_measurement_has_no_panel():
    titles = [axes._left_title.get_text() for axes in curves_figure(unfinished_search()).axes]
    assert [title for title in titles if title] == ["8x8", "6x6"]


def test_every_training_has_its_curve_with_its_intervals_and_its_size():
    result = make_search()
    figure = drawn(curves_figure)
    for axes, level in zip(figure.axes, result.levels, strict=False):
        curves = {line.get_gid(): line for line in axes.lines if line.get_gid()}
        assert set(curves) == {run.run_id for run in level.runs}
        for run in level.runs:
            line = curves[run.run_id]
            assert line.get_xdata().tolist() == [point.epoch for point in run.evaluations]
            assert line.get_ydata().tolist() == [100 * point.memorized.value for point in run.evaluations]
            assert f"N = {run.size}" in words(axes)
            assert {wanted(point.memorized) for point in run.evaluations} <= intervals(axes)


def test_the_verdict_is_told_by_colour_and_marker():
    result = make_search()
    axes = drawn(curves_figure).axes[0]
    looks = {}
    for run in result.levels[0].runs:
        line = next(line for line in axes.lines if line.get_gid() == run.run_id)
        looks.setdefault(run.verdict, set()).add((to_hex(line.get_color()), line.get_marker()))
    assert {verdict: len(found) for verdict, found in looks.items()} == dict.fromkeys(looks, 1)
    assert (
        len(set.union(*looks.values()))
        == len({marker for found in looks.values() for _, marker in found})
        == 3
    )


def test_a_point_at_epoch_0_is_left_out():
    run = make_search().levels[0].runs[0]
    first = run.evaluations[0].model_copy(update={"epoch": 0.0})
    level = make_search_level(
        "8x8", runs=[run.model_copy(update={"evaluations": [first, *run.evaluations[1:]]})]
    )
    axes = curves_figure(make_search([level])).axes[0]
    line = next(line for line in axes.lines if line.get_gid() == run.run_id)
    assert line.get_xdata().tolist() == [point.epoch for point in run.evaluations[1:]]


@pytest.mark.parametrize("draw", [surface_figure, curves_figure])
def test_before_the_first_measurement_there_is_nothing_to_draw(draw):
    with pytest.raises(UserError, match="no curve to draw"):
        draw(empty_search())


@pytest.mark.parametrize("search", [numeric_search, make_search])
def test_a_search_for_a_single_answer_out_of_reach_is_drawn(search):
    levels = [
        level.model_copy(update={"emm": EmmRecord(status="above largest"), "published": None})
        for level in search().levels
    ]
    axes = emm_by_level(make_search(levels)).axes[0]
    assert spots(axes, "EMM") == []
    assert sum(text.startswith("above") for text in words(axes)) == len(levels)


def test_the_words_of_surface_and_curves_tell_their_numbers():
    result = unfinished_search()
    assert "24 images 93.4% at epoch 2,500 (memorized)" in surface_text(result)
    assert "180 images 65.6% at epoch 1,500" in curves_text(result)
    assert "2x2: nothing measured yet" in surface_text(result)
    assert "2x2: nothing measured yet" in curves_text(result)

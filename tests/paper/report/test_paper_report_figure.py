"""What the two panels of an experiment show, and that they can be read."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from reports_drawn import boxes_of, curve, curves, intervals, overlaps, panels, wanted, words
from reports_experiment import (
    CLASSES,
    EXPERIMENTS,
    LABELS,
    by_classes,
    by_epochs,
    by_epochs_unknown,
    by_labels,
    by_mask_resolution,
    by_single_mask,
    by_size,
    by_weight_decay,
    make_curve,
    make_experiment,
    make_level,
    mask,
    of_catalogue,
    resolution_masks,
)

from diffmem.errors import UserError
from diffmem.paper.experiment import experiment_names
from diffmem.paper.report.figure import experiment_figure, figure_text
from diffmem.reports.curves import looks
from diffmem.reports.figures import figure_svg
from diffmem.reports.level_axis import mask_of


@pytest.fixture(scope="module")
def drawn():
    """Every experiment drawn once."""
    made = {}

    def figure(name):
        if name not in made:
            made[name] = experiment_figure(EXPERIMENTS[name]())
            made[name].canvas.draw()
        return made[name]

    return figure


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_no_two_texts_overlap_and_none_leaves_the_picture(drawn, name):
    figure = drawn(name)
    boxes = boxes_of(figure)
    assert len(boxes) > 20
    for text, box in boxes:
        assert box.x0 >= 0, text
        assert box.x1 <= figure.bbox.x1, text
        assert box.y0 >= 0, text
        assert box.y1 <= figure.bbox.y1, text
    assert overlaps(boxes) == []


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_both_panels_have_the_same_percent_axis_and_their_headings(drawn, name):
    left, right = panels(drawn(name))
    assert left.get_ylim() == right.get_ylim()
    assert left.get_title(loc="left") == "This run (cpu scale)"
    assert right.get_title(loc="left") == "Paper (Gu et al.)"
    assert "90%" in words(left)
    assert "90%" in words(right)


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if "epochs" not in name])
def test_every_run_has_its_interval_and_so_has_every_null_rate(drawn, name):
    found = intervals(panels(drawn(name))[0])
    for run in EXPERIMENTS[name]().runs:
        assert wanted(run.peak.memorized) in found
        assert wanted(run.null) in found


@pytest.mark.parametrize("name", ["by_epochs", "by_epochs_of_seeds", "by_epochs_unknown"])
def test_every_evaluation_has_its_interval_as_a_band(drawn, name):
    left = panels(drawn(name))[0]
    corners = {
        (round(float(x), 6), round(float(y), 6))
        for one in left.collections
        if isinstance(one, PolyCollection)
        for path in one.get_paths()
        for x, y in path.vertices
    }
    for run in EXPERIMENTS[name]().runs:
        for one in run.evaluations:
            if one.epoch > 0:
                low, high = wanted(one.memorized)
                assert {(one.epoch, low), (one.epoch, high)} <= corners


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_level_has_the_same_colour_and_marker_in_both_panels(drawn, name):
    left, right = (curves(axes) for axes in panels(drawn(name)))
    for label in left.keys() & right.keys():
        assert left[label].get_color() == right[label].get_color()
        assert left[label].get_marker() == right[label].get_marker()
    if name != "by_epochs_unknown":
        assert left.keys() & right.keys()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_exactly_the_papers_known_points_are_drawn(drawn, name):
    result = EXPERIMENTS[name]()
    right = panels(drawn(name))[1]
    shown = sorted(float(y) for line in curves(right).values() for y in line.get_ydata() if y == y)
    known = sorted(
        float(percent) for one in result.published for percent in one.percent if percent is not None
    )
    assert shown == known


def test_the_papers_points_stand_at_its_own_sizes():
    right = panels(experiment_figure(by_labels()))[1]
    for label, points in LABELS.items():
        line = curve(right, label)
        assert line.get_xdata().tolist() == list(points)
        assert line.get_ydata().tolist() == list(points.values())


def test_a_level_that_stands_for_another_of_the_paper_is_named_so():
    assert "8x8 (paper: 32x32)" in curves(panels(experiment_figure(by_size()))[0])


def test_several_seeds_are_faint_points_and_the_line_runs_through_their_means():
    result = by_labels()
    left = panels(experiment_figure(result))[0]
    runs = result.levels[0].runs
    faint = curve(left, "runs of unconditional")
    assert faint.get_ydata().tolist() == [100 * run.peak.memorized.value for run in runs]
    assert faint.get_alpha() < 0.5
    line = curve(left, "unconditional")
    assert line.get_xdata().tolist() == [32, 64, 128, 256]
    means = [
        np.mean([100 * run.peak.memorized.value for run in runs if run.size == size])
        for size in (32, 64, 128, 256)
    ]
    assert line.get_ydata() == pytest.approx(means)


def test_one_seed_has_no_faint_points():
    left = panels(experiment_figure(by_size()))[0]
    assert not any(line.get_label().startswith("runs of") for line in left.lines)


def test_over_epochs_the_mean_of_seeds_is_drawn_where_all_were_evaluated():
    result = by_epochs(seeds=(0, 1))
    level = result.levels[1]
    short = level.runs[1].model_copy(update={"evaluations": level.runs[1].evaluations[:-1]})
    levels = [result.levels[0], level.model_copy(update={"runs": [level.runs[0], short]})]
    left = panels(experiment_figure(result.model_copy(update={"levels": levels})))[0]
    assert curve(left, "unique labels").get_xdata().tolist() == [125, 250, 500, 1000, 2000]


def test_a_level_that_is_unknown_says_so_in_its_place():
    right = panels(experiment_figure(by_weight_decay()))[1]
    unknown = [text for text in right.texts if text.get_text() == "unknown"]
    assert [text.xy[0] for text in unknown] == list(range(1, 9))
    points = [point for line in curves(right).values() for point in line.get_xydata().tolist()]
    assert {x for x, y in points if y == y} == {0.0}


def test_single_unknown_points_are_listed_below_the_papers_panel():
    right = panels(experiment_figure(by_classes()))[1]
    below = " ".join(right.get_xlabel().split())
    assert "Unknown: 500, 1000 at N = 1,000 and 2,000; 2, 5, 20 at N = 5,000" in below
    result = by_size()
    published = [*result.published[1:], make_curve("32x32", {500: None, 1000: 92.1})]
    right = panels(experiment_figure(result.model_copy(update={"published": published})))[1]
    assert "Unknown: 32x32 at 500" in right.get_xlabel()


@pytest.mark.parametrize("make", [by_size, by_classes, by_epochs, by_single_mask])
def test_where_nothing_is_published_the_panel_says_what_the_paper_found(make):
    result = make()
    unknown = [one.model_copy(update={"percent": [None] * len(one.percent)}) for one in result.published]
    for published in (unknown, []):
        right = panels(experiment_figure(result.model_copy(update={"published": published})))[1]
        assert not curves(right)
        told = " ".join(" ".join(words(right)).split())
        assert "The paper's numbers for this are unknown." in told
        assert f"What it found: {result.finding}" in told


def test_levels_that_are_numbers_over_a_wide_range_have_a_logarithmic_axis():
    left, right = panels(experiment_figure(by_classes()))
    assert left.get_xscale() == right.get_xscale() == "log"
    assert curve(right, "N = 5,000 (paper only)").get_xdata().tolist() == list(CLASSES)


def test_no_line_of_the_paper_runs_across_an_unknown_point():
    line = curve(panels(experiment_figure(by_classes()))[1], "N = 5,000 (paper only)")
    values = dict(line.get_xydata().tolist())
    assert [x for x, y in values.items() if y != y] == [2, 5, 20]  # NaN parts a line
    published = [make_curve("a", {500: 99.0, 1000: None, 2000: 61.0})]
    for form in ("size", "epochs"):
        figure = experiment_figure(make_experiment("x", form, [make_level("a", sizes=(64,))], published))
        xs, ys = curve(panels(figure)[1], "a" if form == "size" else "N = 64").get_data()
        assert list(xs) == [500, 1000, 2000]
        assert np.isnan(ys).tolist() == [False, True, False]


def test_sizes_that_stand_for_each_other_share_an_entry():
    left, right = panels(experiment_figure(by_classes()))
    assert set(curves(left)) == {"N = 64 (paper: 1,000)", "N = 128 (paper: 2,000)"}
    assert set(curves(right)) == {*curves(left), "N = 5,000 (paper only)"}


def test_levels_of_the_paper_that_were_not_run_keep_their_place():
    left, _ = panels(experiment_figure(by_classes()))
    assert [text.xy[0] for text in left.texts if text.get_text() == "not run"] == [500, 1000]


def test_a_line_joins_numbers_and_not_categories(drawn):
    joined = curves(panels(drawn("by_weight_decay"))[0]).values()
    apart = curves(panels(drawn("by_embedding"))[0]).values()
    assert {line.get_linestyle() for line in joined} == {"-"}
    assert {line.get_linestyle() for line in apart} == {"None"}


def test_a_line_stops_where_a_level_is_no_number():
    names = ["none", "random (C = 1)", "random (C = 2)", "unique"]
    levels = [make_level(name, sizes=(64,)) for name in names]
    published = [make_curve(name, {64: 50.0}) for name in names]
    for axes in panels(experiment_figure(make_experiment("x", "level", levels, published))):
        line = curve(axes, "N = 64")
        assert [x for x, y in line.get_xydata().tolist() if y != y] == [0.5, 2.5]
        assert line.get_linestyle() == "-"


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["cpu", "smoke"])
@pytest.mark.parametrize("name", experiment_names())
def test_every_experiment_of_the_catalogue_can_be_read(name, scale, tmp_path):
    result = of_catalogue(name, scale, tmp_path)
    figure = experiment_figure(result)
    figure.canvas.draw()
    assert overlaps(boxes_of(figure)) == []
    names = {level.paper_name for level in result.levels}
    assert names & {one.level for one in result.published} or not result.published


def squares(axes, which):
    points = next(one.get_offsets() for one in axes.collections if one.get_gid() == which)
    return [(round(float(x)), float(y)) for x, y in points]


def test_every_mask_is_a_column_of_nine_squares_filled_where_a_skip_is_kept():
    figure = experiment_figure(by_mask_resolution())
    for axes in figure.axes[2:]:
        kept, dropped = squares(axes, "kept skips"), squares(axes, "dropped skips")
        rows = sorted({y for _, y in kept + dropped})
        assert len(rows) == 9
        for place, name in enumerate(resolution_masks()):
            filled = [rows.index(y) for x, y in kept if x == place]
            assert filled == [index for index, on in enumerate(mask_of(name)) if on]
            assert sum(x == place for x, _ in kept + dropped) == 9


def test_squares_do_not_touch(drawn):
    figure = drawn("by_mask_resolution")
    axes = figure.axes[2]
    side = np.sqrt(axes.collections[0].get_sizes()[0]) * figure.dpi / 72
    places = axes.transData.transform([(0, 0), (1, 1)])
    assert side < abs(places[1, 0] - places[0, 0])
    assert side < abs(places[1, 1] - places[0, 1])


def test_masks_are_grouped_by_resolution_whatever_their_order():
    result = by_single_mask()
    mixed = result.model_copy(
        update={"levels": [result.levels[index] for index in (8, 0, 4, 7, 1, 3, 6, 2, 5)]}
    )
    figure = experiment_figure(mixed)
    assert [mark for mark in words(figure.axes[0]) if mark != "90%"] == [
        "highest resolution",
        "middle",
        "lowest",
    ]
    kept = sorted(squares(figure.axes[2], "kept skips"))
    heights = [y for _, y in kept]
    assert max(heights[:3]) < min(heights[3:6])
    assert max(heights[3:6]) < min(heights[6:])


def test_masks_of_another_length_and_names_that_are_no_masks_are_drawn():
    levels = [
        make_level(mask(1, length=4), mask(1), sizes=(64,)),
        make_level("all", mask(*range(1, 10)), sizes=(64,)),
    ]
    figure = experiment_figure(make_experiment("masks", "masks", levels, [make_curve(mask(1), {64: 50.0})]))
    assert len(squares(figure.axes[2], "dropped skips")) == 3
    assert "all" in words(figure.axes[2])


def test_long_names_of_many_levels_do_not_overlap():
    names = [f"a rather long name of level {index}" for index in range(22)]
    levels = [make_level(name, sizes=(64,)) for name in names]
    published = [make_curve(name, {64: 50.0}) for name in names]
    figure = experiment_figure(make_experiment("long", "level", levels, published))
    figure.canvas.draw()
    assert overlaps(boxes_of(figure)) == []


@pytest.mark.parametrize("count", [1, 7, 8, 22])
def test_looks_differ_in_colour_and_neighbours_in_marker_too(count):
    found = looks(count)
    assert len({str(look.colour) for look in found}) == count
    assert all(a.marker != b.marker for a, b in pairwise(found))


@pytest.mark.parametrize("name", ["by_labels", "by_epochs", "by_mask_resolution"])
def test_svg_is_deterministic_and_refers_to_nothing_outside(name):
    first, second = (figure_svg(experiment_figure(EXPERIMENTS[name]())) for _ in range(2))
    assert first == second
    assert not re.search(r"(href|src)\s*=\s*[\"'](?!#)", first)


def test_nothing_to_draw_is_a_users_mistake():
    with pytest.raises(UserError, match="no finished runs"):
        experiment_figure(make_experiment("empty", "size", [make_level("a", sizes=())], []))
    result = by_epochs_unknown()
    level = result.levels[0]
    runs = [run.model_copy(update={"evaluations": run.evaluations[:1]}) for run in level.runs]
    early = level.model_copy(update={"runs": runs})
    with pytest.raises(UserError, match="after epoch 0"):
        experiment_figure(result.model_copy(update={"levels": [early]}))


def test_a_level_without_runs_says_that_it_was_not_run():
    levels = [make_level("a", sizes=(64,)), make_level("b", sizes=())]
    left = panels(experiment_figure(make_experiment("half", "level", levels, [])))[0]
    assert "not run" in words(left)


def test_dollar_signs_in_names_are_letters():
    levels = [make_level("$x^$ of $", sizes=(64,)), make_level("$y", sizes=(64,))]
    published = [make_curve("$y", {64: None}), make_curve("$x^$ of $", {64: 12.0})]
    for form in ("level", "size", "epochs"):
        figure = experiment_figure(make_experiment("$a_$", form, levels, published, factor="$f^$"))
        assert figure_svg(figure).startswith("<svg")


def test_the_figure_in_words_holds_its_numbers():
    told = figure_text(by_size())
    assert "8x8 (paper: 32x32): here 92.4%, 53.6%, 11.9%, 1.5%; paper 99.2%, 92.1%, 61.0%, 17.1%" in told
    assert "paper unknown" in figure_text(by_epochs_unknown())

import re

import numpy as np
import pytest
from parameters import slow
from PIL import Image
from reports_drawn import overlaps
from reports_gap import SIGMAS, boxes_of, make_gap, make_run, printed
from undrawn import undrawn_figures

from diffmem.errors import UserError
from diffmem.optimum.gap_records import GapResult
from diffmem.optimum.report.gap_figure import (
    gap_figure,
    loss_figure,
    position_figure,
    scatter_figure,
    side_by_side,
)
from diffmem.optimum.report.gap_write import gap_notes, gap_table, write_gap
from diffmem.reports.figures import figure_svg


@pytest.fixture(scope="module")
def result():
    return make_gap()


def curve(axes, label):
    return next(line for line in axes.lines if line.get_label() == label)


def test_distances_are_drawn_in_grey_levels(result):
    run = result.runs[1]
    figure = gap_figure([run])
    for axes, kind in zip(figure.axes, ("training", "heldout", "trajectory"), strict=True):
        points = run.curve(kind).points
        for label, name in (("optimum", "to_optimum"), ("Gaussian", "to_gaussian")):
            wanted = [127.5 * getattr(point, name).value ** 0.5 for point in points]
            line = curve(axes, f"model to {label} of its training images")
            assert line.get_ydata().tolist() == pytest.approx(wanted)
            assert line.get_xdata().tolist() == SIGMAS


def test_a_copying_and_a_generalizing_run_stand_side_by_side_with_their_rates():
    figure = gap_figure([make_run(0.1, 245), make_run(0.9, 1)])
    left, right = figure.axes[:2]
    assert "R_mem 98.0%" in left.get_title(loc="left")
    assert "R_mem 0.4%" in right.get_title(loc="left")
    for axes, nearer, farther in ((left, "optimum", "Gaussian"), (right, "Gaussian", "optimum")):
        near, far = (
            curve(axes, f"model to {one} of its training images").get_ydata() for one in (nearer, farther)
        )
        assert (near < far).all()
    assert left.get_ylim() == right.get_ylim()
    assert left.get_ylim()[1] >= 127.5 * 0.9 * 0.3**0.5 * 0.9


def test_losses_are_drawn_with_their_least_value(result):
    run = result.runs[2]
    (axes,) = loss_figure([run]).axes
    floor = axes.get_ylim()[0]
    for label, name in (("training images", "loss"), ("training images: exact minimum", "optimum_loss")):
        wanted = [getattr(point, name).value for point in run.curve("training").points]
        drawn = curve(axes, label).get_ydata()
        assert [y for y in drawn if y > floor] == pytest.approx([y for y in wanted if y > floor])
        assert all(y < floor for y, value in zip(drawn, wanted, strict=True) if value == 0)


@pytest.mark.parametrize(
    "runs",
    [
        slow([make_run(0.2, 200)]),
        [make_run(0.2)],
        [make_run(0.2, heldout=False)],
        [make_run(0.1, 250), make_run(0.4, heldout=False), make_run(0.5, 3), make_run(0.9, 0)],
        slow([make_run(0.0, 250), make_run(1.0, 0)]),
    ],
    ids=["one", "not measured", "not held out", "four", "ends"],
)
def test_texts_do_not_overlap(runs):
    for figure in (gap_figure(runs), loss_figure(runs), position_figure(runs)):
        figure.canvas.draw()
        assert overlaps(boxes_of(figure)) == []


def test_many_runs_are_represented_by_some_that_span_their_rates():
    runs = [make_run(0.1, rate, seed=rate) for rate in range(0, 250, 10)]
    chosen = side_by_side([*runs, make_run(0.5)])
    assert [run.rmem.count for run in chosen] == [240, 160, 80, 0]
    few = [make_run(0.5), *runs[:2]]
    assert side_by_side(few) == [runs[1], runs[0], few[0]]


def test_positions_are_drawn_inside_their_band(result):
    figure = position_figure(result.runs)
    for axes, kind in zip(figure.axes[:3], ("training", "heldout", "trajectory"), strict=True):
        assert len(axes.lines) == len(result.runs)
        for line, run in zip(axes.lines, result.runs, strict=True):
            low, high = run.curve(kind).band
            assert low <= min(line.get_xdata())
            assert max(line.get_xdata()) <= high


def test_the_scatter_holds_every_measured_run_and_the_correlation(result):
    figure = scatter_figure([*result.runs, make_run(0.5)], result.correlations)
    figure.canvas.draw()
    assert overlaps(boxes_of(figure)) == []
    axes = figure.axes[0]
    drawn = sorted(
        point
        for line in axes.lines
        if line.get_linestyle() == "None"
        for point in zip(line.get_xdata(), line.get_ydata(), strict=True)
    )
    wanted = sorted((run.curve("training").position.value, 100 * run.rmem.value) for run in result.runs)
    np.testing.assert_allclose(drawn, wanted, atol=1e-9)
    assert f"Spearman {result.correlations[0].value:+.2f}" in axes.get_title(loc="left")


def test_nothing_to_draw_is_a_users_mistake():
    for draw in (gap_figure, loss_figure, position_figure):
        with pytest.raises(UserError, match="no runs to draw"):
            draw([])
    with pytest.raises(UserError, match="No run has been measured"):
        scatter_figure([make_run(0.5)], [])


def test_the_folder_holds_numbers_and_pictures(result, tmp_path):
    result = result.model_copy(update={"runs": result.runs[:2]})
    paths = write_gap(result, tmp_path / "deep")
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == sorted(path.name for path in paths)
    assert GapResult.model_validate_json((tmp_path / "deep" / "gap.json").read_text()) == result
    for name in ("side_by_side", "losses", "position", "vs_rmem"):
        assert np.array(Image.open(tmp_path / "deep" / f"gap_{name}.png")).std() > 0
    few = result.model_copy(update={"runs": result.runs[:1], "correlations": []})
    with undrawn_figures():
        assert not [path for path in write_gap(few, tmp_path / "few") if "vs_rmem" in path.name]


def test_drawings_are_deterministic(result):
    assert figure_svg(gap_figure(result.runs[:1])) == figure_svg(gap_figure(result.runs[:1]))


def test_the_table_fits_a_terminal(result):
    text = printed(
        gap_table(result.model_copy(update={"runs": [*result.runs, make_run(0.5, heldout=False)]}))
    )
    assert "…" not in text
    assert text.count("±") == 3 * 6 + 2
    assert "not measured" in text
    assert re.search(r"96\.0% \[92\.8, 98\.1\]", text)


def test_what_is_missing_is_said(result):
    notes = "\n".join(gap_notes(result))
    assert "Spearman -1.00" in notes
    assert "note" not in notes
    bare = result.model_copy(update={"runs": [make_run(0.5, heldout=False)], "correlations": []})
    notes = "\n".join(gap_notes(bare))
    assert "1 of 1 runs have no held-out images" in notes
    assert "not known for 1 of 1 runs" in notes

import re

import numpy as np
import pytest
from parameters import slow
from PIL import Image
from reports_drawn import overlaps
from reports_gap import boxes_of, make_curves, printed

from diffmem.optimum.curves import OptimumCurves
from diffmem.optimum.report.figure import collapse_text, optimum_figure, optimum_table, write_optimum
from diffmem.reports.figures import figure_svg


@pytest.fixture(scope="module")
def curves():
    return make_curves()


def test_the_curves_are_drawn_as_they_are(curves):
    weights, numbers, dimensions = optimum_figure(curves).axes
    own = next(line for line in weights.lines if line.get_label() == "own image, mean")
    shown = {point.sigma: point for point in curves.points}
    for sigma, value in zip(own.get_xdata(), own.get_ydata(), strict=True):
        assert value == pytest.approx(100 * shown[sigma].own_weight.value)
    mean = next(line for line in numbers.lines if line.get_label() == "mean")
    assert mean.get_ydata().tolist() == pytest.approx(
        [shown[x].effective_number.value for x in mean.get_xdata()]
    )
    assert dimensions.lines[0].get_ydata().tolist() == pytest.approx(
        [shown[x].dimension.value for x in own.get_xdata()]
    )


def test_the_measured_and_the_predicted_collapse_are_named_with_their_numbers(curves):
    words = "\n".join(text.get_text() for text in optimum_figure(curves).axes[0].get_legend().get_texts())
    collapse = curves.collapse
    assert (
        f"own weight falls through 1/2: {collapse.measured:.3g} [{collapse.low:.3g}, {collapse.high:.3g}]"
        in words
    )
    assert f"predicted from all eigenvalues: {collapse.spectrum:.3g}" in words
    assert f"predicted from one dimension: {collapse.isotropic:.3g}" in words


def test_noise_levels_at_which_nothing_happens_are_left_out(curves):
    low, high = optimum_figure(curves).axes[0].get_xlim()
    assert low > 10 * curves.points[0].sigma
    assert high > curves.points[-1].sigma
    assert low < curves.collapse.measured / 2


@pytest.mark.parametrize(
    "settings",
    [
        slow({}),
        {"conditional": True},
        {"sigmas": [1.0]},
        slow({"sigmas": [0.5, 2.0]}),
        {"count": 1},
        slow({"count": 2}),
    ],
    ids=str,
)
def test_texts_do_not_overlap_and_every_set_can_be_drawn(settings, tmp_path):
    result = make_curves(**settings)
    figure = optimum_figure(result)
    figure.canvas.draw()
    assert overlaps(boxes_of(figure)) == []
    paths = write_optimum(result, tmp_path / "deep")
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == sorted(path.name for path in paths)
    assert np.array(Image.open(tmp_path / "deep" / "optimum.png")).std() > 0
    assert OptimumCurves.model_validate_json((tmp_path / "deep" / "optimum.json").read_text()) == result
    assert "sigma" in printed(optimum_table(result))


def test_the_svg_is_deterministic_and_refers_to_nothing_outside(curves):
    first, second = figure_svg(optimum_figure(curves)), figure_svg(optimum_figure(curves))
    assert first == second
    assert not re.search(r"(href|src)\s*=\s*[\"'](?!#)", first)


def test_the_table_fits_a_terminal_and_holds_the_intervals(curves):
    text = printed(optimum_table(curves))
    assert "…" not in text
    rows = [line for line in text.splitlines() if re.match(r"\s*[\d.]+ +[\d.]+%", line)]
    assert 5 <= len(rows) <= 20
    assert all(re.search(r"\[[\d.]+, [\d.]+\]", row) for row in rows)


def test_the_collapse_is_told_in_words():
    words = collapse_text(make_curves().collapse)
    assert "falls through 1/2 at sigma" in words
    assert "from all eigenvalues" in words
    assert "n = 60" in words
    alone = collapse_text(make_curves(count=1).collapse)
    assert "not at these noise levels" in alone
    assert "no two distinct images" in alone

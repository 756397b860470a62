"""When training begins to copy, as a figure and in words."""

import io

import numpy as np
import pytest
from onset_curves import Truth
from reports_drawn import boxes_of, overlaps
from reports_study import make_grid, make_grid_level, make_result, make_run
from rich.console import Console

from diffmem.console import rendered
from diffmem.reports.figures import figure_svg
from diffmem.studies.onset import Curve, onset, onset_of_runs
from diffmem.studies.report.onset_figure import onset_by_level
from diffmem.studies.report.onset_text import (
    exponent_text,
    onset_headline,
    onset_notes,
    onset_rows,
    onset_table,
    time_text,
)
from diffmem.studies.report.page import render_study
from diffmem.studies.report.tables import study_tables

SIZES = (64, 128, 256, 512)


def runs(seeds=2, *, short=(), frechet=True):
    truth, rng, found = Truth(6.0, 1.0, 0.1, 3.0), np.random.default_rng(2), []
    for size in SIZES:
        for seed in range(seeds):
            curve, _ = truth.run(size, seed, rng, 2**0.5, 500, 1_000 if size in short else 20_000)
            best = [(seen, abs(np.log(seen / 6000))) for seen, *_ in curve.points] if frechet else []
            found.append(Curve(size, seed, curve.points, best))
    return found


def drawn(record):
    level = make_grid_level(sizes=(64,), onset=record)
    return onset_by_level(make_grid(level))


@pytest.fixture(scope="module")
def record():
    return onset(runs(short=(512,)))


def test_each_line_and_the_least_frechet_distance_have_a_law_and_a_point_for_each_size_that_is_known(record):
    axes = drawn(record).axes[0]
    points = [line for line in axes.lines if line.get_marker() in "os^D" and len(line.get_xdata()) == 1]
    known = [
        size
        for times in [*record.lines, record.best_frechet]
        for size in times.sizes
        if size.value and size.high
    ]
    assert sorted((line.get_xdata()[0], line.get_ydata()[0]) for line in points) == sorted(
        (size.size, size.value) for size in known
    )
    assert len(axes.collections) == 4  # a band each


def test_a_size_that_is_open_at_one_side_is_an_arrow_from_the_end_that_is_known(record):
    columns = [*record.lines, record.best_frechet]
    wanted = [
        (size.size, size.low or size.high)
        for times in columns
        for size in times.sizes
        if None in (size.low, size.high)
    ]
    arrows = [text for text in drawn(record).axes[0].texts if text.arrow_patch is not None]
    assert [arrow.xyann for arrow in arrows] == wanted
    assert (512, record.lines[2].sizes[-1].low) in wanted


def test_every_time_and_band_lies_within_the_axes(record):
    axes = drawn(record).axes[0]
    low, high = axes.get_ylim()
    ends = [end for line in record.lines for size in line.sizes for end in (size.low, size.high) if end]
    assert low < min(ends)
    assert max(ends) < high


def test_the_legend_names_the_exponents(record):
    texts = [text.get_text() for text in drawn(record).axes[0].get_legend().get_texts()]
    exponent = record.lines[0].growth.exponent
    assert texts[0] == rf"1% copies, $N^{{{exponent.value:.2f}}}$ [{exponent.low:.2f}, {exponent.high:.2f}]"
    assert texts[-1].startswith("least Frechet distance, ")


def studied(*names):
    """A grid whose levels know when they begin to copy."""
    runs = [make_run(size, seed) for size in (16, 32, 64) for seed in (0, 1)]
    return make_grid(*(make_grid_level(name, runs=runs, onset=onset_of_runs(runs)) for name in names))


@pytest.mark.usefixtures("undrawn")
def test_a_page_has_the_figure_the_answer_and_the_table():
    page = render_study(studied("base"))
    assert "When training begins to copy" in page
    assert "A training on 64 images reaches" in page
    assert "Epochs until training copies" in page


@pytest.mark.usefixtures("undrawn")
def test_every_level_has_a_panel_an_answer_and_a_line_in_the_terminal():
    result = studied("16", "32")
    assert [axes.get_title(loc="left") for axes in onset_by_level(result).axes] == [
        "channels = 16",
        "channels = 32",
    ]
    page = render_study(result)
    assert page.count("A training on 64 images reaches") >= 2
    shown = rendered(*study_tables(result))
    assert "channels = 32: A training on 64 images reaches" in " ".join(shown.split())


@pytest.mark.usefixtures("undrawn")
def test_a_study_that_goes_on_has_no_such_section():
    page = render_study(make_result())
    assert "begins to copy" not in page


@pytest.mark.parametrize("curves", [runs(), runs(seeds=1)[:1], [Curve(64, 0, [(640, 10.0, 0, 500)])]])
def test_texts_do_not_overlap_and_the_figure_can_be_drawn(curves):
    figure = drawn(onset(curves))
    figure.canvas.draw()
    assert overlaps(boxes_of(figure)) == []
    assert figure_svg(figure).startswith("<svg")


def test_times_are_given_in_epochs_with_their_interval_or_the_end_that_is_known(record):
    sizes = record.lines[2].sizes
    assert time_text(sizes[-1]).startswith("after ")
    whole = sizes[0]
    assert time_text(whole) == f"{whole.value / 64:,.0f} [{whole.low / 64:,.0f}, {whole.high / 64:,.0f}]"
    assert time_text(whole.model_copy(update={"low": None})) == f"before {whole.high / 64:,.0f}"
    assert (
        time_text(whole.model_copy(update={"value": None}))
        == f"{whole.low / 64:,.0f} to {whole.high / 64:,.0f}"
    )
    assert time_text(whole.model_copy(update={"low": None, "high": None})) == "–"


def test_the_answer_says_until_when_the_largest_size_may_be_trained_and_how_that_grows(record):
    text = onset_headline(record)
    growth = record.lines[0].growth
    assert text.startswith("A training on 512 images reaches 1% copies after about ")
    assert f"grows as N^{growth.exponent.value:.2f}" in text


def test_the_answer_is_of_a_line_that_chance_does_not_come_near():
    flagged = [Curve(one.size, one.seed, one.points, null=0.01) for one in runs()]
    assert "reaches 10% copies" in onset_headline(onset(flagged))


def test_without_a_law_the_answer_is_the_time_of_the_largest_size_and_why_there_is_none():
    of_two = onset(runs(seeds=1, frechet=False)[:2])
    assert onset_headline(of_two).startswith("A training on 128 images reaches 1% copies after ")
    assert onset_headline(of_two).endswith("; how that time grows with the number of images cannot be told.")
    record = onset(runs(seeds=1, frechet=False)[:1])
    assert onset_headline(record).startswith("A training on 64 images reaches 1% copies after ")
    assert "grows" not in onset_headline(record)  # nobody asks for a law of one size
    assert onset_notes(record)[0] == (
        "Cannot tell how it grows: a time between two evaluations is known of 1 run of 1 size, and 3 runs of 2 sizes are needed."
    )


def test_without_runs_it_says_so():
    record = onset([])
    assert "no evaluations" in onset_headline(record)
    assert onset_notes(record) == ["Cannot tell: no run has been evaluated."]


def test_the_table_has_a_row_for_each_size_and_the_exponents_last(record):
    head, rows = onset_rows(record)
    assert head == ["N", "1% copies", "10% copies", "90% copies", "least Frechet distance"]
    assert [row[0] for row in rows] == ["64", "128", "256", "512", "exponent"]
    assert rows[-1][2] == exponent_text(record.lines[1].growth)


def test_the_table_fits_a_terminal(record):
    stream = io.StringIO()
    Console(file=stream, width=100).print(onset_table(record, "wide"))
    shown = stream.getvalue()
    assert "of wide" in shown
    assert "…" not in shown

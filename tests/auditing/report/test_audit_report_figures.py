"""The figures and galleries of an audit."""

from __future__ import annotations

import warnings

import pytest
from audit_examples import AUDITS, copies_found, none_found, three_found
from audit_pages import blobs, make_images

from diffmem.auditing.report.figures import (
    FALSE_ALARMS,
    PowerColumn,
    copied_figure,
    distance_figure,
    power_figure,
    power_panels,
)
from diffmem.auditing.report.gallery import (
    HEAD,
    LEFT,
    TOP,
    display_text,
    gallery_figure,
    worst_gallery,
)
from diffmem.errors import UserError
from diffmem.reports.html import png_bytes


@pytest.mark.parametrize("name", [name for name in AUDITS if name != "without training images"])
def test_histograms_have_labels_a_threshold_and_fit(name):
    figure = distance_figure(AUDITS[name]())
    assert [axes.get_xlabel() != "" and axes.get_ylabel() != "" for axes in figure.axes] == [True, True]
    assert [text.get_text() for text in figure.axes[0].texts] == ["copy below 1/3"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        png_bytes(figure, 40)


def test_three_copies_of_ten_thousand_are_marked_and_inside_the_axis():
    result = three_found()
    for axes, places in zip(
        distance_figure(result).axes,
        ([one.ratio for one in result.copies.worst], [one.rms for one in result.copies.worst]),
        strict=True,
    ):
        marks = next(line for line in axes.lines if line.get_label() == "flagged")
        assert list(marks.get_xdata()) == places
        assert axes.get_yscale() == "log"
        assert axes.get_ylim()[0] < 1 / 10_000


def test_without_matches_nothing_is_marked():
    assert all(
        line.get_label() != "flagged" for axes in distance_figure(none_found()).axes for line in axes.lines
    )


def test_every_cell_of_power_has_its_number_and_false_alarms_have_a_row():
    result = copies_found()
    axes = power_figure(result).axes[0]
    kinds = len(result.criteria[0].power)
    assert len(axes.texts) == len(result.criteria) * (kinds + 1)
    assert axes.get_yticklabels()[-1].get_text() == FALSE_ALARMS
    assert "0.65%" in [text.get_text() for text in axes.texts]
    assert axes.get_ylabel()


def test_bars_are_as_long_as_images_are_copied():
    result = copies_found()
    axes = copied_figure(result).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [one.times for one in result.copies.most_copied]
    assert axes.get_xlabel()
    assert axes.get_ylabel()


def test_a_gallery_shows_fifty_matches_with_their_numbers():
    result = copies_found()
    figure = gallery_figure(make_images(result)["worst"])
    words = [text.get_text() for text in figure.axes[0].texts]
    assert "7 → 12" in words
    assert "ratio 0.02\nRMS 0.8" in words
    assert sum(word.startswith("ratio") for word in words) == 50
    assert sum(word == "sample" for word in words) == 5


def test_a_gallery_shows_the_pixels_themselves():
    worst = make_images(copies_found(1))["worst"]
    canvas = gallery_figure(worst).axes[0].images[0].get_array()
    enlarged = worst.samples[0].transpose(1, 2, 0).repeat(3, 0).repeat(3, 1)
    top, left = TOP + HEAD, LEFT
    assert (canvas[top : top + 96, left : left + 96] == enlarged).all()


@pytest.mark.slow
def test_large_images_are_shrunk_and_the_page_says_so():
    worst = make_images(copies_found(50), (3, 256, 256))["worst"]
    assert len(png_bytes(gallery_figure(worst), 100)) < 3_000_000
    assert display_text((3, 256, 256)).startswith("Images of 256 x 256 pixels are shrunk to 96 x 96")
    assert display_text((1, 28, 28)) == "Images of 28 x 28 pixels are enlarged 3 times, pixel by pixel."
    assert display_text((3, 300, 1)).startswith("Images of 300 x 1 pixels are shrunk to 96 x 1 ")


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 300, 4), (1, 5, 200)])
def test_images_of_every_shape_can_be_shown(shape):
    galleries = make_images(copies_found(2), shape, near=2)
    assert all(png_bytes(gallery_figure(galleries[name]), 100) for name in ("worst", "near"))


def test_images_that_do_not_fit_together_are_refused():
    one = blobs(2, (3, 8, 8), 0)
    with pytest.raises(UserError, match="uint8 of the shape"):
        worst_gallery(copies_found(2).copies.worst, one, one[:1], one)
    with pytest.raises(UserError, match="2 images, and words above 3 and below 3"):
        worst_gallery(three_found().copies.worst, one, one, one)
    with pytest.raises(UserError, match=r"must have the shape \(n, 1 or 3, H, W\), not \(0, 3, 8, 8\)"):
        worst_gallery([], one[:0], one[:0], one[:0])


def test_panels_of_power_stand_side_by_side_and_name_their_rows_once():
    result = copies_found()
    columns = [PowerColumn(one.title, one.power, None) for one in result.criteria[:2]]
    first, second = power_panels([("one", columns), ("two", columns[:1])]).axes
    assert first.get_title(loc="left") == "one"
    assert first.get_yticklabels()[0].get_text() == "exact copy"
    assert second.get_yticklabels()[0].get_text() == ""
    assert first.texts[-1].get_text() == "–"

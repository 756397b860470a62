from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from reports_study import make_gallery

from diffmem.errors import UserError
from diffmem.memorization.examples import Example
from diffmem.reports.gallery import gallery_figure, gallery_text


def text_of(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def pixels_of(figure):
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=80)
    return np.array(Image.open(stream).convert("RGB"))


def test_copies_are_marked_by_a_word_and_a_frame_each(gallery):
    figure = gallery_figure(gallery)
    copies = sum(ratio < 1 / 3 for ratio in gallery.ratios)
    assert copies == 3
    assert sum("copy" in word for word in text_of(figure)) == copies
    assert sum(patch.get_linewidth() > 2 for patch in figure.axes[0].patches) == copies


def test_a_ratio_at_the_threshold_is_no_copy():
    gallery = replace(make_gallery(2), ratios=[1 / 3, float("nan")])
    assert gallery.copies == [False, False]
    assert "–" in text_of(gallery_figure(gallery))
    assert "no ratio" in gallery_text(gallery)


def test_every_ratio_is_below_its_column(gallery):
    words = "\n".join(text_of(gallery_figure(gallery)))
    for ratio in gallery.ratios:
        assert f"{ratio:.2f}" in words


def test_the_reader_is_told_that_nothing_was_selected(gallery):
    caption = gallery_figure(gallery).get_supxlabel()
    assert caption.startswith("First 8 seeds, not selected.")
    assert "below 1/3 is a copy" in caption


def test_samples_that_were_selected_are_not_said_to_be_the_first(gallery):
    caption = gallery_figure(
        replace(gallery, selection="The 8 of 200 samples whose ratio is smallest")
    ).get_supxlabel()
    assert caption.startswith("The 8 of 200 samples whose ratio is smallest. Below each")


@pytest.mark.parametrize(("channels", "side", "n"), [(1, 8, 8), (3, 32, 8), (3, 16, 1), (1, 28, 16)])
def test_grey_and_colour_images_of_any_size_are_drawn(channels, side, n):
    gallery = make_gallery(n, channels, side)
    figure = gallery_figure(gallery)
    assert len(figure.axes[0].images) == 3 * n
    assert all(image.get_interpolation() == "nearest" for image in figure.axes[0].images)


def test_pixels_are_drawn_with_their_own_grey_levels_without_smoothing():
    image = np.array([[0, 60], [120, 255]], dtype=np.uint8)[None, None]
    picture = pixels_of(gallery_figure(Example("x", image, image, image, np.array([0.9]), 1 / 3)))
    squares = [(picture == level).all(axis=2).sum() for level in (60, 120)]
    assert min(squares) > 1000
    assert abs(squares[0] - squares[1]) < 0.1 * squares[0]


def test_a_hostile_title_is_drawn_as_it_is():
    title = r"$\undefined{ <b>"
    figure = gallery_figure(make_gallery(title=title))
    assert pixels_of(figure).std() > 0


@pytest.mark.parametrize("n", [1, 3, 8, 16])
def test_the_title_and_the_caption_stay_inside_the_picture(n):
    gallery = make_gallery(n, title="A long title " * 12)
    selected = replace(gallery, selection=f"The {n} of 1,000,000 samples whose ratio is smallest")
    for figure in map(gallery_figure, (gallery, selected)):
        check_texts_inside(figure)


def check_texts_inside(figure):
    figure.canvas.draw()
    for text in figure.texts:
        box = text.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert 0 <= box.y0 < box.y1 <= figure.bbox.y1
    assert len(figure.texts) == 2


def test_alternative_text_counts_the_copies(gallery):
    assert "8 generated images" in gallery_text(gallery)
    assert "3 are copies" in gallery_text(gallery)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ratios": [0.1]}, "8 images but 1 ratios"),
        ({"generated": np.zeros((8, 1, 8, 8), dtype=np.float32)}, "must be uint8, not float32"),
        ({"nearest": np.zeros((7, 1, 8, 8), dtype=np.uint8)}, "nearest has"),
        ({"generated": np.zeros((8, 2, 8, 8), dtype=np.uint8)}, "1 or 3"),
        ({"generated": np.zeros((8, 8, 8), dtype=np.uint8)}, "1 or 3"),
    ],
)
def test_images_that_do_not_fit_are_refused(gallery, change, message):
    with pytest.raises(UserError, match=message):
        replace(gallery, **change)

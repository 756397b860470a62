"""The page of a search as a browser shows it, without a network."""

from __future__ import annotations

import io
import re
from itertools import groupby

import numpy as np
import pytest
from browser import installed, open_browser
from PIL import Image
from reports_search import make_search, unfinished_search
from reports_study import make_gallery

from diffmem.studies.report.page import write_study


def screenshot(page):
    if installed() is None:
        pytest.skip("no browser is installed: make browser")
    with open_browser() as browser:
        shown = browser.show(page.as_uri(), 1100, screenshot="whole")
    return np.asarray(Image.open(io.BytesIO(shown.screenshot)).convert("RGB"))


def near(pixels, colour, within=12):
    """Which pixels have about this colour."""
    wanted = np.array([int(colour[index : index + 2], 16) for index in (1, 3, 5)])
    return (np.abs(pixels.astype(int) - wanted) <= within).all(axis=-1)


def blocks(pixels):
    """How many bands of rows hold something, parted by white rows."""
    filled = (pixels.min(axis=-1) < 200).any(axis=1)
    return sum(found for found, _ in groupby(filled.tolist()))


@pytest.mark.slow
def test_a_browser_without_network_shows_the_whole_page(tmp_path):
    paths = write_study(make_search(), [make_gallery()], tmp_path / "report")
    assert not re.search(r"https?://", paths.html.read_text())
    pixels = screenshot(paths.html)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 500
    assert blocks(pixels) > 40
    # The mark beside the answer, points of EMM, cells above and below the line: figures and style sheet were drawn.
    assert near(pixels[:400], "#0072B2").sum() > 300
    for colour in ("#0072B2", "#F0A038", "#0B3C6F", "#A34700"):
        assert near(pixels, colour).sum() > 300, colour
    assert (near(pixels, "#1B1B1B").any(axis=1)).sum() > 300


@pytest.mark.slow
def test_a_browser_shows_the_page_of_an_unfinished_search(tmp_path):
    paths = write_study(unfinished_search(), [], tmp_path / "report")
    pixels = screenshot(paths.html)
    assert blocks(pixels) > 30
    assert near(pixels, "#0072B2").sum() > 300


@pytest.mark.slow
def test_a_page_whose_pictures_are_gone_would_be_noticed(tmp_path):
    paths = write_study(make_search(), [], tmp_path / "report")
    stripped = tmp_path / "stripped.html"
    stripped.write_text(re.sub(r'<img src="[^"]*"', '<img src=""', paths.html.read_text()))
    pixels = screenshot(stripped)
    assert near(pixels, "#F0A038").sum() == 0

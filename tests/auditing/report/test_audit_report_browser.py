"""The page of an audit as a browser shows it."""

from __future__ import annotations

import pytest
from audit_examples import copies_found, none_found
from audit_pages import render_audit
from browser import installed, open_browser

CELL = "0.03% [0.01, 0.09], 12 of 10,000"
TITLE = "Nearer than the training image's own neighbour (AuthPct)"


def widest_table(columns=9):
    """A table of criteria at its widest."""
    heads = "".join(f'<th scope="col">Null: share of images {number}</th>' for number in range(columns))
    cells = f"<td>{CELL}</td>" * (columns - 3)
    row = f'<tr><th scope="row">{TITLE}</th><td class="left finding">cannot tell</td>{cells}<td class="left">supporting</td></tr>'
    return (
        '<section aria-labelledby="criteria"><div class="scroll"><table><thead><tr>'
        f"{heads}</tr></thead><tbody>{row * 3}</tbody></table></div></section>"
    )


def scrolling(html, tmp_path):
    """Which boxes of the page, and the page itself, are wider than what a window of 1,200 pixels shows of them."""
    if installed() is None:
        pytest.skip("no browser is installed: make browser")
    page = tmp_path / "page.html"
    page.write_text(html)
    with open_browser() as browser:
        shown = browser.show(page.as_uri(), 1200)
    return shown.boxes + ["page"] * (shown.wider > 0)


@pytest.mark.slow
@pytest.mark.parametrize("make", [copies_found, none_found])
def test_the_table_of_criteria_fits_a_window_of_1200_pixels(tmp_path, make):
    html = render_audit(make())
    assert 'aria-labelledby="criteria"' in html
    assert scrolling(html.replace("</main>", widest_table() + "</main>"), tmp_path) == []


@pytest.mark.slow
def test_a_table_that_is_too_wide_would_be_noticed(tmp_path):
    html = render_audit(none_found()).replace("</main>", widest_table(30) + "</main>")
    assert len(scrolling(html, tmp_path)) == 1

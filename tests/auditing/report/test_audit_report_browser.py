"""The page of an audit as a browser shows it."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from audit_builders import render_audit
from audit_examples import copies_found, none_found

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CELL = "0.03% [0.01, 0.09], 12 of 10,000"
TITLE = "Nearer than the training image's own neighbour (AuthPct)"
PROBE = """<script>document.title = [innerWidth, ...[document.documentElement,
...document.querySelectorAll("[aria-labelledby=criteria] .scroll")].map(one => one.scrollWidth - one.clientWidth)].join(" ")</script>"""


def browser():
    for name in BROWSERS:
        path = shutil.which(name)
        if path is not None:
            return path
    return pytest.skip(
        f"no headless browser is installed; one of {', '.join(BROWSERS)} would measure the page"
    )


def widest_table(columns=9):
    """A table of criteria at its widest."""
    heads = "".join(f'<th scope="col">Null: share of images {number}</th>' for number in range(columns))
    cells = f"<td>{CELL}</td>" * (columns - 3)
    row = f'<tr><th scope="row">{TITLE}</th><td class="left finding">cannot tell</td>{cells}<td class="left">supporting</td></tr>'
    return (
        '<section aria-labelledby="criteria"><div class="scroll"><table><thead><tr>'
        f"{heads}</tr></thead><tbody>{row * 3}</tbody></table></div></section>"
    )


def overflow(html, tmp_path):
    """Return by how many pixels the page and each table of criteria are wider than what a window of 1,200 shows of them."""
    page = tmp_path / "page.html"
    page.write_text(html.replace("</body>", PROBE + "</body>"))
    done = subprocess.run(
        [
            browser(),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=1200,3000",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search("<title>(1200 [^<]*)</title>", done.stdout)
    assert found, done.stderr[-2000:]
    return [int(word) for word in found[1].split()[1:]]


@pytest.mark.slow
@pytest.mark.parametrize("make", [copies_found, none_found])
def test_the_table_of_criteria_fits_a_window_of_1200_pixels(tmp_path, make):
    html = render_audit(make())
    assert 'aria-labelledby="criteria"' in html
    page, *tables = overflow(html.replace("</main>", widest_table() + "</main>"), tmp_path)
    assert page == 0
    assert len(tables) >= 2
    assert set(tables) == {0}


@pytest.mark.slow
def test_a_table_that_is_too_wide_would_be_noticed(tmp_path):
    html = render_audit(none_found()).replace("</main>", widest_table(30) + "</main>")
    assert overflow(html, tmp_path)[-1] > 0

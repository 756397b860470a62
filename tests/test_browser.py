"""Every kind of report in a real browser: at the widths of a phone and of a desk, light and dark, without a network.

`make browser` installs one. The short run shows each kind at both widths with pictures of one pixel; the slow one draws them, in all cases.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from audit_builders import make_audit, make_matches
from audit_examples import cannot_tell, copies_found, full_audit, none_found
from audit_pages import make_images, render_audit
from browser import installed, open_browser
from reports_experiment import by_labels, many_levels
from reports_gap import make_curves, make_gap
from reports_search import make_search, unfinished_search
from reports_study import make_gallery, make_result
from undrawn import undrawn_figures

import diffmem
from diffmem.auditing.report.several import write_several
from diffmem.auditing.several import folders_of, several
from diffmem.data import ImageSet
from diffmem.memorization.neighbours.groups import near_duplicates
from diffmem.optimum.report.figure import write_optimum
from diffmem.optimum.report.gap_write import write_gap
from diffmem.paper.report.page import write_experiment
from diffmem.reports.duplicates import write_duplicates
from diffmem.studies.report.page import write_study

PHONE, DESK = 400, 1200


def study(folder):
    return write_study(make_result(), [make_gallery()], folder).html


def search(folder):
    return write_study(make_search(), [make_gallery()], folder).html


def unfinished(folder):
    return write_study(unfinished_search(), [], folder).html


def audit(folder, make=full_audit):
    result = make()
    folder.mkdir()
    page = folder / "audit.html"
    page.write_text(render_audit(result, make_images(result)))
    return page


def several_models(folder):
    audits = [make_audit(), make_audit(matches=make_matches(40))]
    names = [Path("a-rather-long-name-of-a-checkpoint-step-000100.pt"), Path("step-200.pt")]
    return write_several(several(folders_of(names, False), audits), folder)


def prompts(folder):
    digits = diffmem.open_images("digits")
    train = replace(
        digits.take(range(200), "train"),
        captions=tuple(f"digit number {at}" for at in range(200)),
        repeats=np.repeat([16, 1], [20, 180]),
    )
    folder.mkdir()
    listed = folder / "prompts.txt"
    listed.write_text("".join(f"digit number {at // 2}\n" for at in range(80)))
    samples = replace(train.take([at // 2 for at in range(80)], "samples"), captions=None)
    base = replace(digits.take(range(300, 380), "base"), names=samples.names)
    heldout = digits.take(range(800, 1600), "held out")
    diffmem.audit(train, samples=samples, heldout=heldout, prompts=listed, base_samples=base).save(folder)
    return folder / "audit.html"


def experiment(folder):
    return write_experiment(by_labels(), [], folder).html


def long_experiment(folder):
    return write_experiment(many_levels(), [], folder).html


def gap(folder):
    return write_gap(make_gap(), folder)[1]


def optimum(folder):
    return write_optimum(make_curves(), folder)[1]


def duplicates(folder):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 200, (12, 1, 8, 8), dtype=np.uint8).repeat(3, axis=0)
    pixels[1::3] += 1
    names = tuple(
        f"a/rather/long/path/to/one/of/the/images/in/a/set-{index}.png" for index in range(len(pixels))
    )
    images = ImageSet(pixels, np.arange(len(pixels)) % 4, names)
    (page,) = [
        path
        for path in write_duplicates("set.npz", images, near_duplicates(pixels, 2), folder)
        if path.suffix == ".html"
    ]
    return page


KINDS = {
    "study": study,
    "search": search,
    "unfinished search": unfinished,
    "audit": audit,
    "audit, copies found": lambda folder: audit(folder, copies_found),
    "audit, none found": lambda folder: audit(folder, none_found),
    "audit, cannot tell": lambda folder: audit(folder, cannot_tell),
    "audits of several models": several_models,
    "audit by prompts": prompts,
    "experiment": experiment,
    "experiment of many levels": long_experiment,
    "gap": gap,
    "optimum": optimum,
    "duplicates": duplicates,
}
WIDE = ("study", "search", "unfinished search", "experiment", "audits of several models")
"""Kinds with a table that scrolls in its own box also at a desk."""

SHORT = ("study", "search", "audit", "experiment", "gap", "optimum", "duplicates")


@pytest.fixture(scope="module")
def browser():
    if installed() is None:
        pytest.skip("no browser is installed; `make browser` does it, as root on Debian or Ubuntu")
    with open_browser() as one:
        yield one


@pytest.fixture(scope="module")
def page_of(tmp_path_factory):
    """Return a function that makes the page of a kind, drawn or not, once."""
    made = {}

    def make(kind, drawn):
        if (kind, drawn) not in made:
            with nullcontext() if drawn else undrawn_figures():
                made[kind, drawn] = KINDS[kind](tmp_path_factory.mktemp("pages") / "report")
        return made[kind, drawn]

    return make


def check(shown):
    assert shown.requests == []
    assert shown.errors == []
    assert shown.wider == 0
    assert shown.faint == []
    assert shown.pictures["broken"] == 0
    assert len(shown.text) > 200


@pytest.mark.parametrize("kind", SHORT)
def test_a_page_is_readable_at_both_widths_and_loads_nothing(browser, page_of, kind):
    address = page_of(kind, drawn=False).as_uri()
    check(browser.show(address, PHONE, dark=True))
    check(browser.show(address, DESK))


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("kind", KINDS)
def test_a_page_with_its_pictures_is_readable_in_every_case(browser, page_of, kind, width, dark):
    shown = browser.show(page_of(kind, drawn=True).as_uri(), width, dark)
    check(shown)
    assert shown.pictures["all"] > 0
    if width == DESK and kind not in WIDE:
        assert shown.boxes == []


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextmanager
def served(folder):
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}/"
        server.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize(
    "page", ["index", "results", "reference/api", "reference/commands", "reference/schemas/audit"]
)
def test_a_page_of_the_site_is_readable_and_asks_its_own_server_alone(browser, page, width, dark):
    site = Path(__file__).parents[1] / "site"
    if not (site / "index.html").is_file():
        pytest.skip("the site is not built: make docs")
    with served(site) as address:
        shown = browser.show(f"{address}{page}.html", width, dark)
        assert [asked for asked in shown.requests if not asked.startswith(address)] == []
    assert shown.errors == []
    assert shown.wider == 0
    assert shown.pictures["broken"] == 0
    assert len(shown.text) > 1000


SPOILT = {
    "requests": '<img src="https://example.org/a.png" alt="from elsewhere">',
    "errors": "<script>console.error('wrong')</script>",
    "wider": '<div style="width: 2000px; height: 1px"></div>',
    "faint": '<p style="color: #ddd; background: #eee">faint</p>',
}


@pytest.mark.parametrize("what", SPOILT)
def test_what_is_wrong_with_a_page_is_noticed(browser, tmp_path, what):
    page = tmp_path / "page.html"
    page.write_text(
        f"<!doctype html><title>spoilt</title><body style='background: #fff'><p>A page.</p>{SPOILT[what]}"
    )
    assert getattr(browser.show(page.as_uri(), DESK), what)


def test_a_page_without_fault_passes(browser, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><title>sound</title><body style='background: #fff'><p>{'word ' * 50}")
    check(browser.show(page.as_uri(), PHONE))

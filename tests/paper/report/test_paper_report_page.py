"""The page, the table and the folder of an experiment."""

from __future__ import annotations

import re

import pytest
from page_parser import Page
from PIL import Image
from reports_experiment import (
    EXPERIMENTS,
    by_classes,
    by_epochs,
    by_labels,
    by_mask_resolution,
    by_size,
    make_curve,
    make_experiment,
    make_level,
)
from reports_study import make_gallery, make_rate, make_run
from rich.console import Console

from diffmem.errors import DiffmemError
from diffmem.paper.records import ClaimRecord, ExperimentResult
from diffmem.paper.report.page import render_experiment, write_experiment
from diffmem.paper.report.text import (
    SCALE_WORDS,
    emm_rows,
    experiment_rows,
    experiment_table,
    lead,
    paper_text,
    verdict_text,
)
from diffmem.reports.text import rate_text, sentence
from diffmem.studies.records import EmmRecord
from diffmem.studies.report.method import method_text
from diffmem.studies.report.tables import rates_text
from diffmem.studies.report.text import warnings_of


def terminal(result):
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(experiment_table(result))
    return console.export_text()


@pytest.fixture(scope="module")
def source():
    return render_experiment(by_labels(), [make_gallery(), make_gallery(3, 3, 16, "512 images")])


@pytest.fixture(scope="module")
def page(source):
    return Page(source)


def test_one_rate_has_its_interval_and_several_have_their_mean_and_the_span_of_all():
    one, two = make_rate(0.5, 100), make_rate(0.6, 100)
    assert rates_text([one]) == rate_text(one) == "50.0% [40.2, 59.8]"
    assert rates_text([one, two]) == "55.0% [40.2, 69.6]"


def test_the_papers_number_names_its_size_where_that_is_another():
    result = by_size()
    assert paper_text(result, result.levels[0], 64) == "92.1% at 1,000"
    assert paper_text(result, result.levels[0], 300) == "unknown"
    same = make_experiment("x", "size", [make_level("a")], [make_curve("a", {64: 92.1, 128: None})])
    assert paper_text(same, same.levels[0], 64) == "92.1%"
    assert paper_text(same, same.levels[0], 128) == "unknown"


def test_over_epochs_the_papers_number_is_its_peak():
    result = by_epochs()
    assert paper_text(result, result.levels[1], 256) == "65.5% at 11,900"
    nothing = result.model_copy(update={"published": []})
    assert paper_text(nothing, nothing.levels[1], 256) == "unknown"


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        ("shown", "The CPU scale shows this: 3 of 4."),
        ("opposite", "The CPU scale shows the opposite: 3 of 4."),
        ("cannot tell", "The CPU scale shows neither this nor the opposite: 3 of 4."),
    ],
)
def test_verdicts_are_plain_sentences(verdict, words):
    claim = ClaimRecord(claim="a", verdict=verdict, numbers="3 of 4")
    assert verdict_text(by_size(), claim) == words


def test_a_verdict_without_numbers_is_a_sentence_too():
    claim = ClaimRecord(claim="a", verdict="shown", numbers="")
    smoke = by_size().model_copy(update={"scale": "smoke"})
    assert verdict_text(smoke, claim) == "The smoke scale shows this."


def test_sentences_begin_with_a_capital_and_end_once():
    assert sentence("fewer classes, more copies") == "Fewer classes, more copies."
    assert sentence("Done.") == "Done."
    assert sentence(" digits ", capital=False) == "digits."
    assert sentence("") == ""


@pytest.mark.parametrize("scale", ["paper", "cpu", "smoke"])
def test_the_first_line_tells_the_scale_and_the_data(scale):
    words = lead(by_size().model_copy(update={"scale": scale}))
    assert words == f"{SCALE_WORDS[scale]} Data: scikit-learn digits, 8x8, 1 channel, class-balanced."


def test_data_that_differ_by_level_are_told_where_it_is_said_how_it_was_made():
    levels = [make_level("a", data="digits at 8x8"), make_level("b", data="digits at 6x6")]
    result = make_experiment("x", "size", levels, [])
    assert lead(result).endswith("Data: digits at 8x8 (and 1 more, one per level: see below).")
    assert ("Data", ["a: digits at 8x8", "b: digits at 6x6"]) in method_text(result)
    assert "b: digits at 6x6" in Page(render_experiment(result)).words


def test_warnings_name_the_levels_that_they_hold_for():
    levels = [
        make_level(name, emm=EmmRecord(status="no runs", notes=notes))
        for name, notes in (("a", ["Both."]), ("b", ["Both.", "Only here."]))
    ]
    result = make_experiment("x", "size", levels, [], notes=["Said first."])
    assert warnings_of(result) == ["Said first.", "Both.", "b: Only here."]


def test_the_page_begins_with_the_scale_and_the_stand_in(page):
    result = by_labels()
    words = page.words
    places = [words.index(part) for part in (result.title + " CPU", lead(result), result.notes[0], "Numbers")]
    assert places == sorted(places)


def test_the_page_tells_each_claim_its_verdict_and_its_numbers(page):
    result = by_labels()
    assert result.finding in page.words
    for claim in result.claims:
        assert f"{claim.claim}: {claim.verdict} {verdict_text(result, claim)}" in page.words


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("name", ["by_labels", "by_classes", "by_epochs_of_seeds", "by_mask_resolution"])
def test_the_page_holds_every_rate_and_every_published_number(name):
    result = EXPERIMENTS[name]()
    words = Page(render_experiment(result)).words
    for row in experiment_rows(result):
        for part in (row.level, row.peak, row.last, row.null, row.paper):
            assert part in words
    for run in result.runs:
        assert rate_text(run.peak.memorized) in words
        assert run.run_id in words
    for _, _, emm in emm_rows(result):
        assert emm in words


def test_the_page_says_unknown_where_the_paper_is_unknown(page):
    assert page.words.count("unknown") == 3  # each level at 32 images


def test_emm_stands_once_per_level(source):
    table = source[source.index("<tbody>") : source.index("</tbody>")]
    for _, _, emm in emm_rows(by_labels()):
        assert table.count(f"<td>{emm}</td>") == 1


def test_the_page_tells_how_it_was_made(page):
    result = by_labels()
    level = result.levels[0]
    for part in (
        level.model,
        level.training,
        level.sampling,
        result.protocol,
        "torch 2.6.0",
        "less than 1/3",
    ):
        assert part in page.words


def test_the_page_loads_nothing_from_elsewhere(source, page):
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 3
    assert all(one["src"].startswith("data:image/") and len(one["alt"]) > 40 for one in images)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert not re.search(r"https?://", source)
    assert "{%" not in source


def test_hostile_text_is_escaped():
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    levels = [make_level(evil, sizes=(64,), data=evil, model=evil)]
    claim = ClaimRecord(claim=evil, verdict="shown", numbers=evil)
    result = make_experiment(
        evil, "level", levels, [make_curve(evil, {64: 1.0})],
        title=evil, factor=evil, finding=evil, notes=[evil], claims=[claim], versions={evil: evil},
    )  # fmt: skip
    page = Page(render_experiment(result, [make_gallery(title=evil)]))
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert all(one["src"].startswith("data:image/") for tag, one in page.tags if tag == "img")
    assert evil in page.words


@pytest.mark.parametrize("form", ["size", "level", "epochs", "masks"])
def test_without_runs_the_page_says_so_and_there_is_no_figure(form, tmp_path):
    level = make_level("a", sizes=(), emm=EmmRecord(status="no runs"))
    result = make_experiment("x", form, [level], [], claims=[])
    paths = write_experiment(result, [], tmp_path)
    page = Page(paths.html.read_text())
    assert "No training has finished yet" in page.words
    assert "No claim of the paper was checked here." in page.words
    assert paths.figures == ()
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "result.json"}


@pytest.mark.usefixtures("undrawn")
def test_the_folder_is_complete_and_its_json_reads_back(tmp_path):
    result = by_mask_resolution()
    paths = write_experiment(result, [make_gallery()], tmp_path / "deep" / "folder")
    assert ExperimentResult.model_validate_json(paths.json.read_text()) == result
    assert paths.html.read_text() == render_experiment(result, [make_gallery()])
    names = [path.name for path in paths.figures]
    assert names == ["figure.png", "gallery_16-training-images-epoch-4-000.png"]
    assert Image.open(paths.figures[0]).format == "PNG"
    assert {path.name for path in (tmp_path / "deep" / "folder").iterdir()} == {
        "report.html",
        "result.json",
        *names,
    }


def test_a_nan_is_told_and_nothing_is_written(tmp_path):
    with pytest.raises(DiffmemError, match="NaN"):
        write_experiment(by_size().model_copy(update={"seconds": float("nan")}), [], tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_terminal_table_fits_80_columns_and_holds_every_peak(name):
    result = EXPERIMENTS[name]()
    text = terminal(result)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for row in experiment_rows(result):
        assert row.peak in text
        assert row.paper in text
    joined = " ".join(text.split())
    for claim in result.claims:
        assert f"{claim.claim}: {verdict_text(result, claim)}" in joined


def test_the_terminal_table_names_emm_where_there_are_several_sizes():
    assert "unconditional: 36 [33, 41]" in terminal(by_labels())
    assert "EMM:" not in terminal(by_mask_resolution())
    assert "EMM:" in terminal(by_classes())


def test_the_terminal_table_counts_seeds():
    assert "3 seeds each" in terminal(by_labels())
    level = make_level("a", sizes=(64,), seeds=(0, 1))
    changed = level.model_copy(update={"runs": [*level.runs, make_run(128, 0)]})
    uneven = make_experiment("x", "size", [changed], [])
    text = terminal(uneven)
    assert "seeds" in text.splitlines()[3]
    assert "Several seeds" in text
    assert "seeds" not in terminal(by_size())


@pytest.mark.usefixtures("undrawn")
def test_runs_without_held_out_images_have_no_null_rate():
    level = make_level("a", sizes=(64,))
    changed = level.model_copy(update={"runs": [make_run(64, null=None)]})
    result = make_experiment("x", "size", [changed], [])
    assert experiment_rows(result)[0].null == "none held out"
    assert "–" in terminal(result)
    assert "null rate (held-out images)" not in render_experiment(result)


def test_marks_in_names_do_not_style_the_terminal():
    text = terminal(make_experiment("x", "level", [make_level("[red]x[/red]")], [], title="[bold]t[/]"))
    assert "[red]x[/red]" in text
    assert "[bold]t[/]" in text


@pytest.mark.usefixtures("undrawn")
def test_the_page_shows_other_thresholds_coverage_and_distances_of_every_run():
    made = make_run(100)
    peak = made.peak.model_copy(
        update={
            "at_thresholds": {"0.2": make_rate(0.111, 1000), "0.5": make_rate(0.777, 1000)},
            "frechet": 12.25,
            "frechet_of": "pixels",
        }
    )
    level = make_level("a")
    changed = level.model_copy(update={"runs": [made.model_copy(update={"evaluations": [peak]})]})
    told = render_experiment(make_experiment("x", "size", [changed], []))
    for part in ("&lt; 0.2", "&lt; 0.5", "11.1%", "77.7%", f"<td>{peak.distinct_replicated:,}</td>"):
        assert part in told
    assert "Frechet distance (pixels)" in told
    assert "<td>12.25</td>" in told
    assert "Frechet" not in render_experiment(by_labels())

"""A search on the terminal: its answers, and its runs as they go on."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from reports_search import (
    empty_search,
    make_search,
    make_search_level,
    many_levels,
    troubled_search,
    unfinished_search,
)
from rich.console import Console

from diffmem.reports.text import rate_text
from diffmem.studies.report.tables import level_table, watch_table


def status(note, done, total, seconds_left):
    return SimpleNamespace(note=note, done=done, total=total, seconds_left=seconds_left)


LIVE = {
    "6x6-180-0": status("sampling", 1700.0, 4000.0, 75.0),
    "4x4-300-0": status("training", 10.0, 4000.0, None),
}


def shown(table, width=80):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def cells(table):
    return [
        [str(cell) for cell in row] for row in zip(*(column.cells for column in table.columns), strict=True)
    ]


@pytest.mark.parametrize(
    "search", [make_search, unfinished_search, troubled_search, empty_search, lambda: many_levels(3)]
)
def test_the_tables_fit_80_columns(search):
    for table in (level_table(search()), watch_table(search(), {})):
        text = shown(table)
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= 80


def test_every_level_has_its_emm_its_paper_value_its_runs_and_its_cost():
    assert cells(level_table(make_search())) == [
        ["8x8", "96 [88, 106]", "1,068", "7", "17%"],
        ["6x6", "190 [175, 209]", "–", "7", "17%"],
        ["4x4", "420 [386, 462]", "7,000", "7", "17%"],
    ]


def test_an_unfinished_search_says_so():
    text = " ".join(shown(level_table(unfinished_search())).split())
    assert "The search is not finished." in text
    assert "unfinished, 64 to 320 so far" in text
    assert "not finished" not in shown(level_table(make_search()))


def test_the_runs_in_work_come_first_with_what_they_do():
    rows = cells(watch_table(unfinished_search(), LIVE))
    assert rows[0] == ["6x6", "180", "0", "1,700/4,000", "65.6% [43.8, 87.5]", "sampling", "1 min 15 s"]
    assert rows[1] == ["4x4", "300", "0", "10/4,000", "–", "training", "–"]


def test_the_other_runs_show_what_was_decided():
    result = unfinished_search()
    rows = cells(watch_table(result, LIVE))[2:]
    runs = [run for level in result.levels for run in level.runs if run.run_id not in LIVE]
    assert [row[5] for row in rows] == [run.verdict for run in runs] + ["no runs yet"]
    assert [row[4] for row in rows[:-1]] == [rate_text(run.peak.memorized) for run in runs]


def test_an_unfinished_run_that_nobody_works_on_waits():
    rows = cells(watch_table(unfinished_search(), {}))
    assert [row[5] for row in rows if row[0] in ("6x6", "4x4")] == [
        "memorized",
        "waiting",
        "not memorized",
        "waiting",
    ]


def test_the_record_counts_where_the_worker_is_not_further():
    live = {"6x6-180-0": status("starting", 0.0, 4000.0, None)}
    assert cells(watch_table(unfinished_search(), live))[0][3] == "1,500/4,000"
    live = {"6x6-180-0": status("starting", 0.0, 0.0, None)}  # before it knows how much there is
    assert cells(watch_table(unfinished_search(), live))[0][3] == "1,500/4,000"


def test_a_run_that_has_no_record_yet_is_shown_by_its_id():
    live = {"0123abcd": status("starting", 1.0, 4.0, 5.0)}
    assert cells(watch_table(empty_search(), live))[0] == [
        "0123abcd",
        "–",
        "–",
        "25%",
        "–",
        "starting",
        "5 s",
    ]


def test_marks_in_names_do_not_style_the_terminal():
    result = make_search([make_search_level("[bold]x[/]")], title="[red]t[/red] [/]", factor="[i]f[/i]")
    for table in (level_table(result), watch_table(result, {})):
        text = shown(table, 140)
        assert "[red]t[/red] [/]" in text
        assert "[bold]x[/]" in text
        assert "[i]f[/i]" in text

import json
import re
from pathlib import Path

import numpy as np
import pytest
from audit_builders import make_audit, make_matches

from diffmem.auditing.prompts.captions import captions_record
from diffmem.auditing.prompts.records import rates_of_captions
from diffmem.auditing.report.several import rows_of, several_figure, several_table, write_several
from diffmem.auditing.report.text import fine_rate
from diffmem.auditing.several import folders_of, several
from diffmem.memorization.rates import Rate

AUDITS = [make_audit(), make_audit(matches=make_matches(40))]
FOUND = several(folders_of([Path("a.pt"), Path("b&.pt")], False), AUDITS)


def test_every_model_has_a_row_with_the_rates_of_each_criterion_that_decides():
    heads, rows = rows_of(FOUND)
    assert len(heads) == 2 + 2 * len(FOUND.models[0].criteria)
    assert [row[:2] for row in rows] == [["a.pt", "None found"], ["b&.pt", "Copies found"]]
    assert any(cell.startswith("0.40% [") for cell in rows[1])
    assert {len(row) for row in rows} == {len(heads)}
    assert several_table(FOUND).row_count == 2


def test_each_rate_is_drawn_with_its_interval():
    panels = several_figure(FOUND).axes
    assert len(panels) == len(FOUND.models[0].criteria)
    for axes, each in zip(panels, FOUND.models[1].criteria, strict=True):
        drawn = [one.lines[0].get_ydata()[0] for one in axes.containers]
        assert 100 * each.flagged.value == pytest.approx(drawn[2])


@pytest.mark.usefixtures("undrawn")
def test_the_page_links_to_every_report_and_escapes_names(tmp_path):
    page = write_several(FOUND, tmp_path).read_text()
    assert re.findall(r'href="([^"]*)"', page) == ["1-a.pt/audit.html", "2-b%26.pt/audit.html"]
    assert "b&amp;.pt" in page
    assert "b&.pt" not in page
    assert json.loads((tmp_path / "audit.json").read_text())["schema_version"] == "diffmem-audit-several/1"


@pytest.mark.usefixtures("undrawn")
def test_further_rates_are_columns_and_lines_of_a_panel_of_their_own(tmp_path):
    rates = [{"one kind": Rate(at, 40), "another": Rate(0, 40)} for at in (0, 30)]
    found = several(["1-a", "2-b"], AUDITS, rates)
    heads, rows = rows_of(found)
    at = heads.index("one kind")
    assert (rows[1][at], rows[1][at + 1]) == (fine_rate(Rate(30, 40)), fine_rate(Rate(0, 40)))
    panels = several_figure(found).axes
    assert len(panels) == len(several_figure(FOUND).axes) + 1
    lines = [one.lines[0].get_ydata().tolist() for one in panels[0].containers]
    assert lines == [[0, 75], [0, 0]]
    assert [one.get_text() for one in panels[0].get_legend().get_texts()] == ["one kind", "another"]
    assert found.sentence in write_several(found, tmp_path).read_text()


@pytest.mark.usefixtures("undrawn")
def test_the_criterion_of_captions_has_a_picture_of_its_own_with_the_copying_models_on_a_coloured_ground(
    tmp_path,
):
    records, rates = [], []
    for count in (0, 12):
        model = np.full((80, 4), 2.0)
        model[:count] = 0.1
        known = np.repeat(np.arange(80), 4), ["train"] * 40 + ["control"] * 40
        repeats = [64] * 20 + [1] * 20 + [None] * 40
        records.append(captions_record((model.ravel(), np.full(320, 2.0)), *known, repeats))
        rates.append(rates_of_captions(records[-1]))
    found = several(["1-a", "2-b"], AUDITS, rates, records)
    levels, beside = several_figure(found).axes
    assert [one.get_text() for one in levels.get_legend().get_texts()] == [
        "Copies found", "Captions seen 64 times an epoch", "Captions seen 1 time an epoch",
    ]  # fmt: skip
    assert [one.lines[0].get_ydata().tolist() for one in levels.containers] == [[0, 60], [0, 0]]
    assert [one.lines[0].get_ydata().tolist() for one in beside.containers] == [[0, 30], [0, 0], [0, 0]]
    ground = levels.patches[0].get_extents().transformed(levels.transData.inverted())
    assert (round(ground.x0, 6), round(ground.x1, 6)) == (0.5, 1.5)
    heads, rows = rows_of(found)
    assert heads[2] == "By captions"
    assert rows[0][2] == "not found, p = 1"
    assert rows[1][2].startswith("copies, p = ")
    table = several_table(found)
    assert [next(iter(column.cells)).plain for column in table.columns][2] == "0 of 40 training captions"
    page = write_several(found, tmp_path).read_text()
    assert "nearer to the image of the caption than 0.5 of its distance" in page

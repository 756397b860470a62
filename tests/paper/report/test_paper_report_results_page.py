"""The Markdown page of all experiments."""

from __future__ import annotations

import re

import pytest
from reports_experiment import EXPERIMENTS, by_labels, by_size, make_experiment, make_level
from reports_study import make_run

from diffmem.errors import UserError
from diffmem.paper.records import ClaimRecord
from diffmem.paper.report.results_page import markdown_table, results_page
from diffmem.paper.report.text import SCALE_WORDS, emm_rows, experiment_rows, several_sizes, verdict_text
from diffmem.reports.text import sentence
from diffmem.studies.onset import onset_of_runs
from diffmem.studies.records import EmmRecord
from diffmem.text import duration_text

COMMAND = "diffmem reproduce all --all-levels --scale cpu"
NAMES = [name for name in EXPERIMENTS if name != "by_epochs_of_seeds"]  # its name on the page is taken


@pytest.fixture(scope="module")
def results():
    return [EXPERIMENTS[name]() for name in NAMES]


@pytest.fixture(scope="module")
def page(results):
    return results_page(results, {one.name: f"pictures/{one.name}.png" for one in results}, COMMAND)


def section(page, result):
    return next(part for part in page.split("\n## ") if part.startswith(f"{result.name}: "))


def cells(line):
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def tables(text):
    found, rows = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            rows.append(cells(line))
        elif rows:
            found.append(rows)
            rows = []
    return found


def test_the_opening_tells_scale_hardware_time_seeds_and_intervals(results, page):
    opening = page.split("## Summary")[0]
    assert SCALE_WORDS["cpu"] in opening
    assert "device cpu" in opening
    runs = {run.run_id: run for result in results for run in result.runs}  # experiments share them
    assert f"{len(runs)} training runs in {len(results)} experiments" in opening
    assert "3 different seeds (0, 1, 2)" in opening
    spent = sum(run.training_seconds + run.sampling_seconds for run in runs.values())
    assert f"took {duration_text(spent)} of training and sampling" in opening
    assert "95% intervals (Clopper-Pearson; 1,000 images per evaluation)" in opening
    assert "1/3 of the distance" in opening
    assert f"```console\n{COMMAND}\n```" in opening


def test_the_summary_has_a_row_per_claim(results, page):
    rows = tables(page)[0]
    assert rows[0] == ["Experiment", "What the paper found", "Here", "Numbers"]
    wanted = [[claim.claim, claim.verdict, claim.numbers] for result in results for claim in result.claims]
    assert [row[1:] for row in rows[2:]] == wanted


def test_the_summary_counts_its_verdicts_and_says_what_they_mean(results, page):
    summary = page.split("## Summary")[1].split("\n## ")[0]
    verdicts = [claim.verdict for result in results for claim in result.claims]
    counts = [f"{verdicts.count(one)} {one}" for one in ("shown", "opposite", "cannot tell")]
    assert f"Of {len(verdicts)} findings of the paper: {', '.join(counts)}." in summary
    assert "At this scale a verdict neither proves nor disproves the finding at the paper's own." in summary
    large = [result.model_copy(update={"scale": "paper"}) for result in results]
    assert "the paper's own" not in results_page(large, {}, COMMAND)


def test_the_opening_says_how_small_the_runs_are():
    result = by_size().model_copy(update={"size_ratio": 50.0})
    sizes = [run.size for run in result.runs]
    opening = results_page([result], {}, COMMAND).split("## Summary")[0]
    assert f"Training sets have {min(sizes):,} to {max(sizes):,} images, trainings " in opening
    assert f"stand for the paper's {50 * min(sizes):,} to {50 * max(sizes):,} images." in opening


def test_links_of_the_summary_lead_to_headings(page):
    headings = re.findall(r"^## (.+)$", page, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    links = re.findall(r"\]\(#([^)]+)\)", page)
    assert len(links) == len(NAMES)
    assert set(links) <= anchors


def test_an_experiment_without_claims_has_its_finding_in_the_summary():
    result = by_size().model_copy(update={"claims": []})
    assert tables(results_page([result], {}, COMMAND))[0][2][1:] == [result.finding, "not checked", ""]


def test_each_section_holds_every_number_with_its_interval_beside_the_papers(results, page):
    for result in results:
        rows = tables(section(page, result))[0][2:]
        for row, wanted in zip(rows, experiment_rows(result), strict=True):
            assert row[0] == wanted.level
            assert row[1] == f"{wanted.size:,}"
            assert row[-4:] == [wanted.peak, wanted.paper, wanted.last, wanted.null]


def test_each_section_holds_emm_where_there_are_several_sizes(results, page):
    for result in results:
        found = tables(section(page, result))[1:]
        assert len(found) == several_sizes(result)
        if found:
            assert found[0][2:] == [list(row) for row in emm_rows(result)]


def test_each_section_has_its_figure_its_finding_its_verdicts_and_its_notes(results, page):
    for result in results:
        text = section(page, result)
        assert f"](pictures/{result.name}.png)" in text
        assert result.finding in text
        assert "- The digits of scikit-learn stand in for CIFAR-10." in text
        for claim in result.claims:
            assert f"- {sentence(claim.claim)} {verdict_text(result, claim)}" in text


def test_a_finding_that_the_scale_does_not_show_is_said_plainly():
    claim = ClaimRecord(claim="wider, more copies", verdict="cannot tell", numbers="the intervals overlap")
    page = results_page([by_size().model_copy(update={"claims": [claim]})], {}, COMMAND)
    assert (
        "- Wider, more copies. The CPU scale shows neither this nor the opposite: the intervals overlap."
        in page
    )


def test_the_page_has_no_html_and_no_path_of_a_machine(page):
    assert not re.search(r"<[a-zA-Z/!]", page)
    assert not re.search(r"(?<![\w.\]/])/(home|tmp|root|work|usr|Users)/", page)
    assert "runs/" not in page


def test_columns_line_up_in_a_terminal(page):
    for block in re.findall(r"(?:^\|.*\n)+", page.split("## Summary")[1], flags=re.MULTILINE)[1:]:
        assert len({len(line) for line in block.splitlines()}) == 1


def test_the_same_results_make_the_same_page(results, page):
    assert results_page(results, {one.name: f"pictures/{one.name}.png" for one in results}, COMMAND) == page


def test_an_experiment_without_a_picture_has_none():
    assert "![" not in results_page([by_labels()], {}, COMMAND)


def test_a_picture_name_with_a_space_is_one_address():
    assert "](my%20pictures/a.png)" in results_page([by_size()], {"fig2_dim": "my pictures/a.png"}, COMMAND)


@pytest.mark.parametrize(
    "picture", ["/home/me/a.png", "C:\\a.png", "~/a.png", "https://a.b/c.png", "\\\\a\\b"]
)
def test_pictures_must_be_relative(picture):
    with pytest.raises(UserError, match="not relative"):
        results_page([by_size()], {"fig2_dim": picture}, COMMAND)


def test_nothing_to_show_and_names_given_twice_are_users_mistakes():
    with pytest.raises(UserError, match="no results"):
        results_page([], {}, COMMAND)
    with pytest.raises(UserError, match="'fig2_dim' is given twice"):
        results_page([by_size(), by_size()], {}, COMMAND)


def test_an_experiment_over_epochs_tells_when_training_begins_to_copy_beside_what_others_found():
    runs = [make_run(size, seed) for size in (16, 32, 64) for seed in (0, 1)]
    level = make_level("a", sizes=(64,)).model_copy(update={"onset": onset_of_runs(runs)})
    over_epochs = make_experiment("fig1_d", "epochs", [level], [], factor="training-set size")
    text = section(results_page([over_epochs], {}, COMMAND, {"fig1_d": "p/fig1_d_onset.png"}), over_epochs)
    assert "](p/fig1_d_onset.png)" in text
    head, *rows = next(table for table in tables(text) if "10% copies" in table[0])
    assert (head[0], rows[-1][0]) == ("N", "exponent")
    ten = level.onset.lines[1].growth.exponent
    assert rows[-1][2] == f"{ten.value:.2f} [{ten.low:.2f}, {ten.high:.2f}]"
    assert "The paper gives no exponent. Others find" in text
    by_level = over_epochs.model_copy(update={"form": "level"})
    assert "exponent" not in section(results_page([by_level], {}, COMMAND), by_level)


def test_an_experiment_without_runs_says_so():
    level = make_level("a", sizes=(), emm=EmmRecord(status="no runs"))
    page = results_page([make_experiment("x", "level", [level], [], claims=[])], {}, COMMAND)
    assert page.count("No training has finished yet.") == 2


def test_where_many_levels_differ_one_is_named_and_the_others_are_counted():
    levels = [make_level(f"{width}", sizes=(64,), model=f"U-Net of width {width}") for width in range(8)]
    page = results_page([make_experiment("x", "level", levels, [], factor="width")], {}, COMMAND)
    assert "- Model: 0: U-Net of width 0; 7 more, by width" in page


def test_marks_in_a_cell_do_not_break_the_table_or_make_links():
    text = markdown_table(["a", "b"], [["x|y", "[z](w)\nnew"], ["<b>*c*</b>", "`d`"]])
    assert tables(text)[0][2:] == [["x\\|y", "[z]\\(w) new"], ["\\<b>\\*c\\*\\</b>", "\\`d\\`"]]


def test_a_wide_column_is_not_padded():
    lines = markdown_table(["a", "b"], [["x" * 50, "1"], ["y", "2"]]).splitlines()
    assert lines[3] == "| y |   2 |"

"""Audits in words, on the terminal and as numbers."""

from __future__ import annotations

import io

import pytest
from audit_builders import make_audit, rate
from audit_examples import AUDITS, copies_found, full_audit, three_found
from rich.console import Console

from diffmem.auditing.report.text import (
    chance_text,
    deciding_first,
    fine_percent,
    fine_rate,
    number_text,
    print_audit,
    ratio_threshold,
)


def printed(result, width=80):
    text = io.StringIO()
    print_audit(result, Console(file=text, width=width))
    return text.getvalue().splitlines()


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (0.0, "0%"),
        (1.0, "100%"),
        (0.0003, "0.03%"),
        (0.000003, "0.0003%"),
        (1.4e-7, "0.000014%"),
        (0.9997, "99.97%"),
        (0.999999, "above 99.99%"),
        (0.5, "50.00%"),
    ],
)
def test_a_share_is_never_rounded_to_none_or_to_all(share, words):
    assert fine_percent(share) == words


def test_a_rate_has_its_interval():
    assert fine_rate(rate(3, 10_000)) == "0.03% [0.0062, 0.09]"


@pytest.mark.parametrize("name", AUDITS)
def test_the_first_line_on_the_terminal_is_the_verdict_whole(name):
    result = AUDITS[name]()
    assert printed(result)[0] == result.verdict.sentence


@pytest.mark.parametrize("name", AUDITS)
def test_all_other_lines_fit_80_columns(name):
    assert max(len(line) for line in printed(AUDITS[name]())[1:]) <= 80


def test_the_table_says_what_every_criterion_found_by_sign_and_word():
    text = "\n".join(printed(three_found()))
    assert "▲ copies" in text
    assert "✓ none" in text
    assert "3 of 10,000" in text
    assert "(s)" in text


def test_deciding_criteria_come_first():
    result = copies_found()
    turned = result.model_copy(update={"criteria": result.criteria[::-1]})
    assert [row.role for row in deciding_first(turned.criteria)] == ["deciding"] * 4 + ["supporting"] * 2


def test_a_criterion_without_a_null_says_so():
    audit = make_audit(nulls=0)
    assert chance_text(audit.criteria[0]) == "–"
    assert "no null" in "\n".join(printed(audit))


def test_the_threshold_is_that_of_the_protocol_and_none_without_the_rule():
    assert ratio_threshold(copies_found()) == pytest.approx(1 / 3, abs=1e-3)
    assert ratio_threshold(AUDITS["without training images"]()) is None


def test_markup_in_names_is_printed_as_it_is():
    result = copies_found(notes=["[bold]a[/bold] [/x]"])
    assert "[bold]a[/bold] [/x]" in "\n".join(printed(result))


def test_membership_warnings_and_refusals_are_on_the_terminal():
    text = " ".join(" ".join(printed(full_audit())).split())
    assert "Brightness alone tells the sets apart" in text
    assert "pia: the model has no noise levels" in text


def test_nested_values_are_put_in_words():
    assert number_text([1, 2.5]) == "1, 2.5"
    assert number_text(None) == "none"
    assert number_text({"a": 1234}) == "a: 1,234"
    assert number_text(rate(1, 4)).startswith("25.00% [")

"""The help that the program itself prints."""

import re

import pytest
from cli_builders import caller

import diffmem

VERBS = [
    ["quickstart"],
    ["data", "build"],
    ["data", "info"],
    ["train"],
    ["generate"],
    ["measure"],
    ["study"],
    ["report"],
    ["doctor"],
]


@pytest.fixture
def call(capsys):
    return caller(capsys)


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_the_help_of_every_verb_has_an_example_that_calls_it(call, verb):
    told = call(*verb, "--help")
    assert told.code == 0
    assert re.search(rf"Example: diffmem {' '.join(verb)}\b", told.out)
    assert told.err == ""


def test_the_help_of_an_audit_begins_with_what_most_people_need_and_names_no_option_twice(call):
    panels = re.split(r"╭─ (.*?) ─+╮", call("audit", "--help").out)[1:]
    options = [re.findall(r"^│ (--[\w-]+)", text, re.MULTILINE) for text in panels[1::2]]
    assert panels[0] == "Parameters"
    assert options[0] == [
        "--train",
        "--heldout",
        "--samples",
        "--model",
        "--out",
        "--private",
        "--target",
        "--title",
    ]
    assert "Text-to-image models and prompts" in panels
    assert max(map(len, options)) < 10
    named = [option for group in options for option in group]
    assert len(set(named)) == len(named) > 30


def test_help_names_every_verb_and_version_is_the_package_s(call):
    told = call("--help")
    for verb in VERBS:
        assert verb[0] in told.out
    assert call("--version").out.strip() == diffmem.__version__
    assert call().code == 0

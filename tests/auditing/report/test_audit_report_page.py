"""The page of an audit."""

from __future__ import annotations

import re

import pytest
from audit_builders import copies_of, make_criterion, make_match
from audit_examples import AUDITS, cannot_tell, copies_found, full_audit, none_found, private_found
from audit_pages import make_images, render_audit
from page_parser import Page, check_loads_nothing
from undrawn import undrawn_figures

from diffmem.auditing.report.text import fine_percent, fine_rate

SKIPPED = {"distances", "edges", "shape", "private", "confidence", "images"}


@pytest.fixture(scope="module")
def full():
    result = full_audit()
    with undrawn_figures():
        source = render_audit(result, make_images(result))
    return result, source, Page(source)


def forms(number):
    """The ways in which a number may stand on the page."""
    if isinstance(number, int):
        return {f"{number:,}", str(number)}
    return {f"{number:.{digits}f}" for digits in (1, 2, 3)} | {
        fine_percent(number).strip("%") if 0 <= number <= 1 else "",
        *(f"{number:.{digits}g}" for digits in (2, 3, 4, 6)),
    }


def numbers_of(value, path=()):
    if isinstance(value, dict):
        for key, one in value.items():
            if key not in SKIPPED:
                yield from numbers_of(one, (*path, key))
    elif isinstance(value, list | tuple):
        for at, one in enumerate(value):
            yield from numbers_of(one, (*path, at))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value


def test_every_number_of_the_record_is_on_the_page(full):
    result, _, page = full
    tokens = set(re.findall(r"-?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?", page.words))
    tokens |= {token.rstrip(",") for token in tokens}
    missing = [
        (path, number) for path, number in numbers_of(result.model_dump()) if not forms(number) & tokens
    ]
    assert missing == []


def test_the_counts_of_the_histograms_are_on_the_page(full):
    result, _, page = full
    for record in result.distances:
        for count in [*record.samples, *record.null]:
            assert not count or f"{count:,}" in page.words


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("name", AUDITS)
def test_every_page_is_whole_loads_nothing_and_begins_with_its_verdict(name):
    result = AUDITS[name]()
    source = render_audit(result)
    page = Page(source)
    check_loads_nothing(source, page)
    words = page.words
    assert result.verdict.sentence in words
    assert words.index(result.verdict.sentence) < 250
    for line in (*result.verdict.reasons, *result.verdict.missing, *result.limitations, *result.notes):
        assert " ".join(line.split()) in words
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


@pytest.mark.usefixtures("undrawn")
def test_the_verdicts_differ_by_word_and_shape():
    pages = [render_audit(one()) for one in (copies_found, none_found, cannot_tell)]
    for page, word in zip(pages, ("Copies found", "None found", "Cannot tell"), strict=True):
        assert f'<p class="word">{word}</p>' in page
    shapes = [page[page.index("<svg") : page.index("</svg>")] for page in pages]
    assert len(set(shapes)) == 3


def test_every_picture_has_an_alternative_text_with_its_numbers(full):
    result, _, page = full
    texts = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert len(texts) == 6
    assert all(len(text) > 60 for text in texts)
    assert "sample 7 copies training image 12: ratio 0.020, 0.80 grey levels apart" in texts[1]
    assert "number 12 by 6 samples" in texts[3]
    assert f"exact copy {fine_percent(result.criteria[1].power[0].detected.value)}" in texts[4]


def test_membership_warnings_stand_before_its_numbers_and_refusals_are_told(full):
    result, _, page = full
    words = page.words
    assert words.index("Brightness alone tells the sets apart") < words.index(
        fine_rate(result.membership.attacks[0].tpr)
    )
    assert "Not all was measured" in words
    assert "pia: the model has no noise levels" in words


@pytest.mark.usefixtures("undrawn")
def test_a_private_page_has_no_name_and_no_gallery():
    result = private_found()
    source = render_audit(result, make_images(result))
    page = Page(source)
    texts = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert len(texts) == 3
    assert source.count("data:image") == 3
    assert not any(text.startswith("Samples") for text in texts)
    assert "secret" not in source
    assert "made-" not in source
    assert "person-" not in source
    assert "no images, no names" in page.words
    assert result.copies.worst[0].training_hash in page.words


@pytest.mark.usefixtures("undrawn")
def test_hostile_text_is_escaped():
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7 * 7 }}$x$"
    match = make_match(0, sample_name=evil, training_name=evil, variant=evil, criteria=[evil])
    result = full_audit()
    bad = make_criterion(
        evil, evil, evil, "deciding", 0, flagged=1, samples=100, null_flagged=0, nulls=50, finding="copies", distinct=1, notes=[evil]
    )  # fmt: skip
    inputs = [one.model_copy(update={"source": evil, "steps": [evil]}) for one in result.inputs]
    result = result.model_copy(
        update={
            "title": evil, "notes": [evil], "limitations": [evil], "criteria": [bad], "inputs": inputs, "versions": {evil: evil},
            "copies": copies_of([match, match]), "verdict": result.verdict.model_copy(update={"sentence": evil, "reasons": [evil]}),
            "model": result.model.model_copy(update={"source": evil, "notes": [evil]}),
        }
    )  # fmt: skip
    source = render_audit(result, make_images(result))
    page = Page(source)
    check_loads_nothing(source, page)
    assert "49" not in re.findall(r"\{\{|\b49\b(?= \}\})", source)
    assert page.words.count("{{ 7 * 7 }}") >= 10


@pytest.mark.usefixtures("undrawn")
def test_text_without_matches_says_that_none_is_flagged():
    assert "No sample is flagged by a deciding criterion." in Page(render_audit(none_found())).words


@pytest.mark.usefixtures("undrawn")  # the bytes of the pictures are compared where the folder is written
def test_the_same_audit_gives_the_same_page():
    result = copies_found(5)
    assert render_audit(result, make_images(result)) == render_audit(result, make_images(result))

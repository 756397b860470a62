from pathlib import Path

import pytest
from audit_builders import make_audit, make_matches, make_model

from diffmem.auditing.several import SeveralResult, folders_of, several
from diffmem.errors import UserError

CLEAN, COPIES = make_audit(), make_audit(matches=make_matches(40))


def test_folders_are_numbered_and_a_private_one_names_no_file():
    models = [Path("a/model.pt"), Path("b/model.pt")]
    assert folders_of(models, private=False) == ["1-model.pt", "2-model.pt"]
    assert folders_of(models, private=True) == ["1-model", "2-model"]
    assert folders_of(models * 5, private=True)[0] == "01-model"


def test_the_worst_verdict_is_the_exit_code():
    unknown = CLEAN.verdict.model_copy(update={"verdict": "cannot tell", "exit_code": 4})
    told = CLEAN.model_copy(update={"verdict": unknown})
    for audits, code in (([CLEAN, CLEAN], 0), ([told, CLEAN], 4), ([CLEAN, COPIES, told], 3)):
        assert several(folders_of([Path("m")] * len(audits), False), audits).exit_code == code


def test_the_record_holds_what_decides_and_reads_back():
    audits = [one.model_copy(update={"model": make_model()}) for one in (CLEAN, COPIES)]
    found = several(["1-a", "2-b"], audits)
    assert [one.name for one in found.models] == ["a", "b"]
    for one, audit in zip(found.models, audits, strict=True):
        assert one.criteria == [each for each in audit.criteria if each.role == "deciding"]
        assert one.verdict == audit.verdict
    assert SeveralResult.model_validate_json(found.model_dump_json()) == found


def test_an_audit_of_one_model_does_not_pass_for_this_record():
    with pytest.raises((UserError, ValueError)):
        SeveralResult.model_validate(CLEAN.model_dump())


@pytest.mark.parametrize(
    ("verdicts", "sentence"),
    [
        ("nn", "In none of 2 models copies are found."),
        ("nc", "In none of 2 models copies are found; of 1 of them it cannot be told."),
        ("ff", "In the order given, copies are found first in a."),
        (
            "nncfn",
            "In the order given, copies are found first in d; the last before it in which none are found is b; of 1 before it that cannot"
            " be told.",
        ),
    ],
)
def test_the_first_of_an_order_that_copies_is_said_with_what_is_known_before(verdicts, sentence):
    names = {"n": "none found", "c": "cannot tell", "f": "copies found"}
    audits = [
        CLEAN.model_copy(update={"verdict": CLEAN.verdict.model_copy(update={"verdict": names[one]})})
        for one in verdicts
    ]
    assert (
        several([f"{at}-{'abcde'[at - 1]}" for at in range(1, len(verdicts) + 1)], audits).sentence
        == sentence
    )

from pathlib import Path

import numpy as np
import pytest
from audit_builders import make_audit, make_matches, make_model

from diffmem.auditing.prompts.captions import captions_record
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


def test_models_of_one_name_are_told_apart_by_their_numbers():
    assert [one.name for one in several(["1-a", "2-a"], [CLEAN, COPIES]).models] == ["1-a", "2-a"]


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


def curve(copying):
    """Epochs of a text-to-image model, of each how many of 100 training captions copy always; the verdicts are those of the captions."""
    records = []
    for count in copying:
        model = np.full((200, 4), 2.0)
        model[:count] = 0.1
        groups, repeats = ["train"] * 100 + ["control"] * 100, [1] * 100 + [None] * 100
        known = np.repeat(np.arange(200), 4), groups, repeats
        records.append(captions_record((model.ravel(), np.full(800, 2.0)), *known))
    unknown = CLEAN.verdict.model_copy(update={"verdict": "cannot tell", "exit_code": 4})
    audits = [COPIES if one.found else CLEAN.model_copy(update={"verdict": unknown}) for one in records]
    names = [f"{at}-epoch-{at}" for at in range(1, len(audits) + 1)]
    return several(names, audits, (), records)


@pytest.mark.parametrize(
    ("copying", "first", "last_without", "start"),
    [
        ([0, 1, 8, 20], "epoch-3", "epoch-2", "In the order given, copies are found first in epoch-3 and in the one after it. The last"),
        ([0, 9, 9, 9], "epoch-2", "epoch-1", "In the order given, copies are found first in epoch-2 and in all 2 after it. The last"),
        ([0, 0, 9], "epoch-3", "epoch-2", "In the order given, copies are found first in epoch-3. The last without is epoch-2: of 100"),
        ([9, 9], "epoch-1", None, "In the order given, copies are found in epoch-1, the first, and in all after it."),
        ([0, 9, 0], None, None, "Copies are not found in epoch-3, the last in the order given"),
        ([9, 0, 9], "epoch-3", "epoch-2", "In the order given, copies are found first in epoch-3. The last without is epoch-2"),
    ],
)  # fmt: skip
def test_the_first_copying_epoch_is_that_before_which_the_test_from_the_last_backwards_ends(
    copying, first, last_without, start
):
    found = curve(copying)
    assert (found.first_copying, found.last_without) == (first, last_without)
    assert found.sentence.startswith(start)
    assert SeveralResult.model_validate_json(found.model_dump_json()) == found


def test_a_model_that_copies_before_one_that_does_not_is_named_by_itself():
    assert curve([9, 0, 9]).sentence.endswith(". By themselves, copies are found in epoch-1, too.")
    assert "in 4 of 5 audits once 1.7% of these samples copy" in curve([0, 9]).sentence

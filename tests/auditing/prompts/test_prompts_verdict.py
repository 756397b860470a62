import numpy as np
import pytest
from scipy.stats import binomtest

from diffmem.auditing.prompts.captions import captions_record
from diffmem.auditing.prompts.records import FollowsRecord, GroupRecord, PairedRecord, ShareRecord
from diffmem.auditing.prompts.verdict import verdict_by_prompt
from diffmem.auditing.records import EXIT_CODES, VerdictRecord
from diffmem.auditing.significance import upper_bound
from diffmem.memorization.rates import Rate

SHOWN = FollowsRecord(nearer=40, farther=0, p_value=1e-12, follows=True)
"""Samples that depend on their prompts."""


def beside(copied, prompts, more, fewer):
    """The base model's answers to the same prompts."""
    share = ShareRecord(value=copied / prompts, low=0, high=1, prompts=prompts)
    p_value = float(binomtest(more, more + fewer, alternative="greater").pvalue) if more + fewer else 1.0
    return PairedRecord(copied=Rate(copied, prompts), share=share, more=more, fewer=fewer, p_value=p_value)


def group(name, prompts, copied=0, samples=4, base=None):
    share = ShareRecord(value=copied / prompts, low=0, high=1, prompts=prompts)
    return GroupRecord(
        group=name, prompts=prompts, samples=samples * prompts, copied=Rate(copied, prompts), own=None, share=share,
        base=base, bound=upper_bound(copied, prompts),
    )  # fmt: skip


def verdict(word="none found"):
    return VerdictRecord(
        verdict=word, exit_code=EXIT_CODES[word], sentence="As by samples.", reasons=[], missing=["m"]
    )


def test_samples_of_few_prompts_clear_nothing_however_many_they_are():
    found = verdict_by_prompt(verdict(), [group("train", 50, samples=1000)], 0.01, SHOWN)
    assert (found.verdict, found.exit_code) == ("cannot tell", 4)
    assert found.sentence == (
        "Cannot tell: of training captions, no prompt of 50 copies, which excludes a share of 5.82% only; to exclude 1.00% takes 299"
        " prompts without copies."
    )
    assert found.missing[1:] == ["m"]


def test_enough_prompts_clear_with_the_bound_over_prompts():
    found = verdict_by_prompt(verdict(), [group("train", 300), group("control", 5)], 0.01, SHOWN)
    assert (found.verdict, found.exit_code) == ("none found", 0)
    assert "1,200 samples of 300 prompts, the share of such prompts is below 0.99%" in found.sentence


def test_training_captions_are_not_diluted_by_other_prompts():
    groups = [group("train", 20), group("new", 5000), group("control", 5000)]
    assert verdict_by_prompt(verdict(), groups, 0.01, SHOWN).verdict == "cannot tell"
    assert verdict_by_prompt(verdict(), groups[1:], 0.01, SHOWN).verdict == "none found"
    assert verdict_by_prompt(verdict(), groups[2:], 0.01, SHOWN).verdict == "cannot tell"


@pytest.mark.parametrize("word", ["copies found", "cannot tell"])
def test_what_the_samples_show_stands(word):
    found = verdict_by_prompt(verdict(word), [group("train", 1000)], 0.01, SHOWN)
    assert (found.verdict, found.sentence, found.missing) == (word, "As by samples.", ["m"])
    few = verdict_by_prompt(verdict(word), [group("train", 20, samples=1000)], 0.01, SHOWN)
    assert any("299 prompts without copies exclude 1.00%" in text for text in few.missing) is (
        word == "cannot tell"
    )


def test_samples_of_which_it_cannot_be_asked_whether_they_depend_on_their_prompts_clear_nothing():
    one_seed = [group("train", 1000, samples=1)]
    found = verdict_by_prompt(verdict(), one_seed, 0.01, None)
    assert (found.verdict, found.missing[0]) == (
        "cannot tell",
        "Give two seeds or more to at least 20 prompts.",
    )
    assert verdict_by_prompt(verdict("copies found"), one_seed, 0.01, None).verdict == "copies found"


def test_samples_that_do_not_depend_on_their_prompts_clear_nothing():
    groups = [group("train", 1000)]
    coin = FollowsRecord(nearer=20, farther=20, p_value=0.56, follows=False)
    found = verdict_by_prompt(verdict(), groups, 0.01, coin)
    assert found.verdict == "cannot tell"
    assert "in 20 of 40 cases (p = 0.56). Is this the list of these samples?" in found.sentence
    assert verdict_by_prompt(verdict(), groups, 0.01, SHOWN).verdict == "none found"
    assert verdict_by_prompt(verdict("copies found"), groups, 0.01, coin).verdict == "copies found"


def test_what_the_base_model_shows_as_often_is_no_finding():
    train = group("train", 100, 30, base=beside(28, 100, 6, 4))
    control = group("control", 100, 15, base=beside(15, 100, 2, 2))
    found = verdict_by_prompt(verdict("copies found"), [train, control], 0.01, SHOWN)
    assert (found.verdict, found.exit_code) == ("cannot tell", 4)
    assert "30 of 100 prompts copy, with the base model 28 (p = 0.38)" in found.sentence
    assert found.reasons[0] == "As by samples."
    assert (
        verdict_by_prompt(verdict("copies found"), [train, control], 0.01, SHOWN, exact=True).verdict
        == "copies found"
    )


@pytest.mark.parametrize(
    "base",
    [
        pytest.param(beside(6, 100, 17, 0), id="more than the base model"),
        pytest.param(beside(0, 100, 4, 0), id="a base model that copies nothing"),
        pytest.param(None, id="no base model"),
    ],
)
def test_copies_that_the_base_model_does_not_explain_stay_found(base):
    groups = [
        group("train", 100, 23, base=base),
        group("control", 100, 2, base=base and beside(2, 100, 1, 1)),
    ]
    assert verdict_by_prompt(verdict("copies found"), groups, 0.01, SHOWN).verdict == "copies found"


def by_captions(copying):
    """100 training and 100 held-out captions of four seeds; of the former so many copy always, with the base model none does."""
    model = np.full((200, 4), 2.0)
    model[:copying] = 0.1
    groups, repeats = ["train"] * 100 + ["control"] * 100, [1] * 100 + [None] * 100
    return captions_record((model.ravel(), np.full(800, 2.0)), np.repeat(np.arange(200), 4), groups, repeats)


@pytest.mark.parametrize("word", EXIT_CODES)
def test_copies_by_the_criterion_of_captions_are_found_whatever_the_usual_ones_say(word):
    found = verdict_by_prompt(verdict(word), [group("train", 100)], 0.01, SHOWN, by_captions(6))
    assert (found.verdict, found.exit_code) == ("copies found", 3)
    assert found.sentence.startswith(
        "Copies found: of 100 training captions, 6 bring their images back (24 of 400 samples; with the base model 0; 0 of 100 captions of"
        " held-out images do; p = "
    )
    assert ("By the usual criteria: As by samples." in found.reasons) == (word == "copies found")
    assert "24 samples copy here alone and 0 with the base model alone (p = 6e-08)" in " ".join(found.reasons)


def test_where_captions_bring_nothing_back_the_reasons_say_what_would_have_been_found():
    found = verdict_by_prompt(verdict(), [group("train", 300)], 0.01, SHOWN, by_captions(0))
    assert found.verdict == "none found"
    assert "It finds copies in 4 of 5 audits where 1.7% of the samples" in found.reasons[0]


def test_the_usual_criteria_beside_the_base_model_have_one_percent_of_the_risk():
    base = beside(20, 100, 12, 4)
    assert 0.01 < base.p_value < 0.05
    train = group("train", 100, 28, base=base)
    assert verdict_by_prompt(verdict("copies found"), [train], 0.01, SHOWN).verdict == "cannot tell"
    train = group("train", 100, 32, base=beside(20, 100, 14, 2))
    assert verdict_by_prompt(verdict("copies found"), [train], 0.01, SHOWN).verdict == "copies found"

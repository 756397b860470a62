import pytest

from diffmem.auditing.prompts.records import FollowsRecord, GroupRecord, ShareRecord
from diffmem.auditing.prompts.verdict import prompts_needed, verdict_by_prompt
from diffmem.auditing.records import EXIT_CODES, VerdictRecord
from diffmem.auditing.significance import upper_bound
from diffmem.memorization.rates import Rate


def group(name, prompts, copied=0, samples=4):
    share = ShareRecord(value=copied / prompts, low=0, high=1, prompts=prompts)
    return GroupRecord(
        group=name, prompts=prompts, samples=samples * prompts, copied=Rate(copied, prompts), own=None, share=share,
        bound=upper_bound(copied, prompts),
    )  # fmt: skip


def verdict(word="none found"):
    return VerdictRecord(
        verdict=word, exit_code=EXIT_CODES[word], sentence="As by samples.", reasons=[], missing=["m"]
    )


@pytest.mark.parametrize(("target", "needed"), [(0.05, 59), (0.01, 299), (0.005, 598)])
def test_so_many_prompts_without_copies_exclude_a_share(target, needed):
    assert prompts_needed(target) == needed
    assert upper_bound(0, needed) <= target < upper_bound(0, needed - 1)


def test_samples_of_few_prompts_clear_nothing_however_many_they_are():
    found = verdict_by_prompt(verdict(), [group("train", 50, samples=1000)], 0.01)
    assert (found.verdict, found.exit_code) == ("cannot tell", 4)
    assert found.sentence == (
        "Cannot tell: of training captions, no prompt of 50 copies, which excludes a share of 5.82% only; to exclude 1.00% takes 299"
        " prompts without copies."
    )
    assert found.missing[1:] == ["m"]


def test_enough_prompts_clear_with_the_bound_over_prompts():
    found = verdict_by_prompt(verdict(), [group("train", 300), group("control", 5)], 0.01)
    assert (found.verdict, found.exit_code) == ("none found", 0)
    assert "1,200 samples of 300 prompts, the share of such prompts is below 0.99%" in found.sentence


def test_training_captions_are_not_diluted_by_other_prompts():
    groups = [group("train", 20), group("new", 5000), group("control", 5000)]
    assert verdict_by_prompt(verdict(), groups, 0.01).verdict == "cannot tell"
    assert verdict_by_prompt(verdict(), groups[1:], 0.01).verdict == "none found"
    assert verdict_by_prompt(verdict(), groups[2:], 0.01).verdict == "cannot tell"


@pytest.mark.parametrize("word", ["copies found", "cannot tell"])
def test_what_the_samples_show_stands(word):
    found = verdict_by_prompt(verdict(word), [group("train", 1000)], 0.01)
    assert (found.verdict, found.sentence) == (word, "As by samples.")


def test_samples_that_do_not_depend_on_their_prompts_clear_nothing():
    groups = [group("train", 1000)]
    coin = FollowsRecord(nearer=20, farther=20, p_value=0.56, follows=False)
    found = verdict_by_prompt(verdict(), groups, 0.01, coin)
    assert found.verdict == "cannot tell"
    assert "in 20 of 40 cases (p = 0.56). Is this the list of these samples?" in found.sentence
    follows = FollowsRecord(nearer=40, farther=0, p_value=1e-12, follows=True)
    assert verdict_by_prompt(verdict(), groups, 0.01, follows).verdict == "none found"
    assert verdict_by_prompt(verdict("copies found"), groups, 0.01, coin).verdict == "copies found"

import pytest

from diffmem.auditing.records import (
    ChanceTest,
    CopiesRecord,
    CopyingRecord,
    CriterionRecord,
    PowerRecord,
    SpaceRecord,
)
from diffmem.auditing.significance import upper_bound
from diffmem.auditing.verdict import (
    Circumstances,
    format_test,
    limitations,
    verdict_of,
    verdict_without_training,
)
from diffmem.memorization.rates import Rate

SPACE = SpaceRecord(
    protocol="pixel-l2/uint8",
    shape=(1, 8, 8),
    training_images=600,
    distinct_images=600,
    null_heldout=500,
    null_training=0,
    deduplicated=False,
    disagree=[],
    heldout_overlap=0,
    heldout_near=0.0,
    heldout_copied=0,
)
NOTHING = CopiesRecord(samples=0, distinct=0, most_copied=[], worst=[])
COPYING = CopyingRecord(
    protocol="c_t",
    c_t=-9.0,
    interval=(-10.0, -8.0),
    z=-12.0,
    nearer=0.7,
    nearer_interval=(0.65, 0.75),
    detectable_share=0.1,
    conclusion="copying",
)
LEVEL = 0.001


def chance(events, others, strictness=1 / 3, p_value=0.5, test="fresh"):
    return ChanceTest(
        test=test,
        strictness=strictness,
        flagged=events,
        events=events,
        others=others,
        share=0.5,
        p_value=p_value,
        level=LEVEL,
    )


def criterion(finding, key="ratio", count=0, null=0, role="deciding", power=1.0, notes=(), tests=None):
    p_value = LEVEL / 10 if finding == "copies" else 0.5
    usual = [chance(count, null, p_value=p_value)] if role == "deciding" else []
    return CriterionRecord(
        key=key,
        title=f"The {key}",
        protocol=key,
        role=role,
        exact_only=key == "identical",
        threshold=1 / 3,
        strictness=None if finding == "not usable" else 1 / 3,
        matches=count,
        flagged=Rate(count, 1000),
        null=Rate(null, 500),
        null_heldout=Rate(null, 500),
        null_training=None,
        tests=usual if tests is None else tests,
        bound=upper_bound(count, 1000),
        distinct=min(count, 3),
        finding=finding,
        notes=list(notes),
        power=[PowerRecord(key="exact", kind="exact copies", detected=Rate(int(200 * power), 200))],
    )


def judge(*criteria, space=SPACE, copies=NOTHING, **around):
    return verdict_of(criteria, copies, space, 0.01, Circumstances(**around))


def test_copies_by_one_deciding_criterion_are_copies_found_with_exit_code_3():
    found = judge(
        criterion("none"), criterion("copies", "repeats", 40), criterion("not usable", "adaptive", 70, 60)
    )
    assert (found.verdict, found.exit_code) == ("copies found", 3)
    assert "40 of 1,000 samples" in found.sentence
    assert "40 different training images by the criterion 'The repeats'" in found.sentence


def test_the_sentence_is_of_the_criterion_that_finds_most_beyond_chance():
    found = judge(criterion("copies", count=100), criterion("copies", "adaptive", 300, 250))
    assert "100 of 1,000 samples" in found.sentence


def test_the_sentence_is_of_a_strictness_at_which_copies_are_found():
    tests = [chance(90, 80), chance(13, 0, 1 / 10, LEVEL / 100), chance(5, 0, 1 / 20, LEVEL)]
    found = judge(criterion("copies", count=90, null=80, tests=tests))
    assert found.sentence.startswith("Copies found: 13 of 1,000 samples (1.30% [")
    assert "copy 13 different training images" in found.sentence


def test_many_samples_of_one_image_are_copies_of_one_training_image():
    groups = chance(40, 0, p_value=LEVEL / 10, test="groups")
    found = judge(criterion("copies", count=40, tests=[groups]).model_copy(update={"distinct": 1}))
    assert "copy 1 training image by" in found.sentence


def test_the_rate_of_the_null_stands_beside_the_headline_where_it_is_not_near_zero():
    assert "; false-positive rate 12.00% [" in judge(criterion("copies", count=300, null=60)).sentence
    assert "false-positive rate" not in judge(criterion("copies", count=300)).sentence
    assert "; false-positive rate 0.60% [" in judge(criterion("none", count=3, null=3)).sentence


def test_copies_by_a_supporting_criterion_alone_decide_nothing():
    assert (
        judge(criterion("none"), criterion("copies", "near", 40, role="supporting")).verdict == "none found"
    )


@pytest.mark.parametrize(
    "around",
    [
        {"problems": ["the samples are noise."]},
        {"problems": ["the model has seen the held-out images."], "same_pictures": 3},
        {"elsewhere": ["7 of 9 samples copy training images under another reading."]},
        {"same_pictures": 2, "heldout_needed": 1000},
        {"said": ["a remark"], "given": 1200},
        {"copying": COPYING},
    ],
)
def test_copies_found_outrank_every_reason_not_to_judge(around):
    found = judge(
        criterion("copies", count=40), criterion("cannot tell", "repeats", 2, notes=["?"]), **around
    )
    assert (found.verdict, found.exit_code) == ("copies found", 3)
    for problem in around.get("problems", ()):
        assert problem in found.missing


def test_copies_under_another_reading_are_copies_found_whatever_the_problems():
    elsewhere = ["60 of 300 samples copy training images under another reading.", "so do 5 of 300."]
    found = judge(
        criterion("none"), elsewhere=elsewhere, problems=["the samples are noise."], same_pictures=1
    )
    assert (found.verdict, found.exit_code) == ("copies found", 3)
    assert found.sentence == f"Copies found: {elsewhere[0]}"
    assert found.reasons[0] == elsewhere[1]


def test_samples_that_cannot_be_judged_are_not_cleared_and_the_gravest_reason_is_the_headline():
    found = judge(criterion("none"), problems=["all are black.", "the sets were swapped."], same_pictures=1)
    assert (found.verdict, found.exit_code) == ("cannot tell", 4)
    assert found.sentence == "Cannot tell: all are black."
    assert found.missing[0] == "the sets were swapped."


def test_where_no_sample_can_be_judged_there_are_no_criteria_and_no_verdict():
    found = judge(problems=["400 of 400 samples are one constant image."])
    assert (found.verdict, found.exit_code) == ("cannot tell", 4)
    assert judge().verdict == "cannot tell"


def test_samples_that_are_all_but_identical_are_not_cleared_and_the_null_images_needed_are_said():
    found = judge(criterion("none"), same_pictures=2, heldout_needed=12_000)
    assert (found.verdict, found.exit_code) == ("cannot tell", 4)
    assert "2 samples are nearly identical to training images" in found.sentence
    assert any("12,000 held-out images" in line for line in found.missing)
    alone = judge(criterion("none"), same_pictures=1)
    assert "1 sample is nearly identical to a training image" in alone.sentence
    assert not any("held-out" in line for line in alone.missing)


def test_a_clean_audit_says_the_bound_and_ends_with_code_0():
    found = judge(criterion("none"), criterion("not usable", "adaptive", 70, 60))
    assert (found.verdict, found.exit_code) == ("none found", 0)
    assert "below 0.30% at 95% confidence" in found.sentence
    assert any("not usable in these data" in reason for reason in found.reasons)


def test_a_clean_audit_of_repeats_says_how_many_different_samples_were_judged():
    found = judge(criterion("none"), given=1700)
    assert "with 1,000 different samples (of 1,700 given)" in found.sentence


def test_the_bound_is_that_of_the_criterion_that_excludes_least():
    found = judge(criterion("none"), criterion("none", "repeats", 3, 2))
    assert f"below {upper_bound(3, 1000):.2%}" in found.sentence
    assert any("Look at the flagged samples" in reason for reason in found.reasons)


def test_one_criterion_that_cannot_tell_leaves_the_audit_open_with_code_4_and_says_what_is_missing():
    found = judge(criterion("none"), criterion("cannot tell", "repeats", 2, notes=["give more"]))
    assert (found.verdict, found.exit_code) == ("cannot tell", 4)
    assert found.missing == ["give more"]
    assert "2 of 1,000 samples look like copies" in found.sentence


def test_criteria_of_which_none_is_usable_cannot_tell():
    found = judge(criterion("not usable", count=70, null=60))
    assert found.verdict == "cannot tell"
    assert "--features" in found.missing[0]


def test_identity_alone_clears_nobody_where_every_other_criterion_flags_too_many_by_chance():
    found = judge(criterion("none", "identical"), criterion("not usable", count=70, null=60))
    assert found.verdict == "cannot tell"
    assert "every deciding criterion but identity flags too many" in found.sentence


def test_identity_alone_clears_nobody_where_it_is_all_there_is():
    found = judge(criterion("none", "identical"), criterion("none", "near", role="supporting"))
    assert found.verdict == "cannot tell"
    assert "with so few training images" in found.sentence


def test_criteria_that_do_not_see_planted_copies_cannot_tell():
    found = judge(criterion("none", "identical"), criterion("none", power=0.2))
    assert found.verdict == "cannot tell"
    assert "positive controls" in found.sentence


def test_a_criterion_that_does_not_see_planted_copies_sets_no_bound():
    found = judge(criterion("none"), criterion("none", "repeats", 9, 8, power=0.2))
    assert "below 0.30% at 95% confidence" in found.sentence


def test_a_shift_towards_the_training_images_is_said_and_decides_nothing():
    found = judge(criterion("none"), copying=COPYING)
    assert found.verdict == "none found"
    assert any("C_T" in reason for reason in found.reasons)


def test_what_is_said_stands_beside_every_verdict():
    for around in ({}, {"problems": ["x"]}, {"same_pictures": 1}, {"elsewhere": ["x"]}):
        assert "a remark" in judge(criterion("none"), said=["a remark"], **around).missing
    assert "a remark" in judge(criterion("copies", count=40), said=["a remark"]).missing


def test_without_held_out_images_it_is_said_that_they_would_show_more():
    space = SPACE.model_copy(update={"null_heldout": 0, "null_training": 600})
    assert "--heldout" in judge(criterion("none"), space=space).missing[-1]
    assert not judge(criterion("none")).missing


def test_without_training_images_nothing_can_be_told():
    found = verdict_without_training(["a reason"])
    assert (found.verdict, found.exit_code) == ("cannot tell", 4)
    assert "--train" in found.missing[0]


def test_a_test_is_told_by_its_events_and_its_p_value():
    assert format_test(chance(13, 0, p_value=3e-8)) == "13 events against 0, p = 3e-08"
    assert format_test(chance(1, 2, p_value=0.4)) == "1 event against 2, p = 0.4"


@pytest.mark.parametrize(
    ("space", "transforms", "features", "words", "count"),
    [
        (SPACE, "flip", True, "parts of images", 3),
        (SPACE, None, False, "--transforms", 5),
        (SPACE.model_copy(update={"null_training": 600}), "flip", True, "--deduplicated", 4),
    ],
)
def test_limitations_name_what_was_not_done(space, transforms, features, words, count):
    lines = limitations(space, transforms, features)
    assert len(lines) == count
    assert words in " ".join(lines)

import pytest

from diffmem.auditing.records import (
    CopiesRecord,
    CopyingRecord,
    CriterionRecord,
    PowerRecord,
    SpaceRecord,
)
from diffmem.auditing.significance import chance_of, upper_bound
from diffmem.auditing.verdict import limitations, verdict_of, verdict_without_training
from diffmem.memorization import Rate
from diffmem.memorization.records import rate_record

SPACE = SpaceRecord(
    protocol="pixel-l2/uint8",
    shape=(1, 8, 8),
    training_images=600,
    distinct_images=600,
    null_source="heldout",
    null_images=500,
    heldout_overlap=0,
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


def criterion(finding, key="ratio", count=0, null=0, role="deciding", power=1.0, notes=()):
    return CriterionRecord(
        key=key,
        title=f"The {key}",
        protocol=key,
        role=role,
        flagged=rate_record(Rate(count, 1000)),
        null=rate_record(Rate(null, 500)),
        chance=chance_of(count, 1000, null, 500),
        bound=upper_bound(count, 1000),
        distinct=min(count, 3),
        finding=finding,
        notes=list(notes),
        power=[
            PowerRecord(key="exact", kind="exact copies", detected=rate_record(Rate(int(200 * power), 200)))
        ],
    )


def judge(*criteria, copying=None, copies=NOTHING):
    return verdict_of(criteria, copies, SPACE, copying, 0.01)


def test_copies_by_one_deciding_criterion_are_copies_found_with_exit_code_3():
    found = judge(
        criterion("none"), criterion("copies", "repeats", 40), criterion("not usable", "adaptive", 70, 60)
    )
    assert (found.verdict, found.exit_code) == ("copies found", 3)
    assert "40 of 1,000 samples" in found.sentence
    assert "3 different training images" in found.sentence


def test_the_sentence_is_of_the_criterion_that_finds_most_beyond_chance():
    found = judge(criterion("copies", count=100), criterion("copies", "adaptive", 300, 120))
    assert "100 of 1,000 samples" in found.sentence


def test_copies_by_a_supporting_criterion_alone_decide_nothing():
    assert (
        judge(criterion("none"), criterion("copies", "near", 40, role="supporting")).verdict == "none found"
    )


def test_a_clean_audit_says_the_bound_and_ends_with_code_0():
    found = judge(criterion("none"), criterion("not usable", "adaptive", 70, 60))
    assert (found.verdict, found.exit_code) == ("none found", 0)
    assert "below 0.30% at 95% confidence" in found.sentence
    assert any("not usable in these data" in reason for reason in found.reasons)


def test_the_bound_is_that_of_the_criterion_that_excludes_least():
    found = judge(criterion("none"), criterion("none", "repeats", 3, 2))
    assert f"below {upper_bound(3, 1000):.2%}" in found.sentence


def test_one_criterion_that_cannot_tell_leaves_the_audit_open_with_code_4_and_says_what_is_missing():
    found = judge(criterion("none"), criterion("cannot tell", "repeats", 2, notes=["give more"]))
    assert (found.verdict, found.exit_code) == ("cannot tell", 4)
    assert found.missing == ["give more"]
    assert "2 of 1,000 samples look like copies" in found.sentence


def test_criteria_of_which_none_is_usable_cannot_tell():
    found = judge(criterion("not usable", count=70, null=60))
    assert found.verdict == "cannot tell"
    assert "--features" in found.missing[0]


def test_criteria_that_do_not_see_planted_copies_cannot_tell():
    found = judge(criterion("none", power=0.2))
    assert found.verdict == "cannot tell"
    assert "planted" in found.sentence


def test_a_shift_towards_the_training_images_is_said_and_decides_nothing():
    found = judge(criterion("none"), copying=COPYING)
    assert found.verdict == "none found"
    assert any("C_T" in reason for reason in found.reasons)


def test_without_training_images_nothing_can_be_told():
    found = verdict_without_training(["a reason"])
    assert (found.verdict, found.exit_code) == ("cannot tell", 4)
    assert "--train" in found.missing[0]


@pytest.mark.parametrize(
    ("space", "transforms", "features", "words", "count"),
    [
        (SPACE, "flip", True, "parts of images", 3),
        (SPACE, None, False, "--transforms", 5),
        (SPACE.model_copy(update={"null_source": "training, leave one out"}), "flip", True, "stand in", 4),
    ],
)
def test_limitations_name_what_was_not_done(space, transforms, features, words, count):
    lines = limitations(space, transforms, features)
    assert len(lines) == count
    assert words in " ".join(lines)

import numpy as np
from criteria_tools import TRAINING, noisy

from diffmem.auditing.criteria import Batch
from diffmem.auditing.criteria.changed import CHANGED, CHANGED_NEIGHBOURS, Changed
from diffmem.memorization import RepeatAwareRule, Transforms, variant_neighbours

CHANGES = Transforms(True, 1)


def batch(samples):
    found = variant_neighbours(samples, TRAINING, CHANGED_NEIGHBOURS, transforms=CHANGES)
    return Batch(samples, {CHANGED: found.neighbours})


def test_it_is_the_rule_that_passes_near_copies_over_in_the_window_that_shifts_leave():
    samples = np.concatenate([TRAINING[:20, :, :, ::-1], noisy(TRAINING[20:60], 20)])
    criterion, found = Changed(TRAINING, transforms=CHANGES), batch(samples)
    rule = RepeatAwareRule(CHANGES.window(TRAINING), 1 / 3, CHANGED_NEIGHBOURS)
    scores = criterion(found)
    np.testing.assert_array_equal(scores.score, rule.ratio(found.neighbours[CHANGED]))
    np.testing.assert_array_equal(criterion.flags(scores), rule(found.neighbours[CHANGED]))


def test_mirrored_copies_are_flagged_at_every_step_and_traced():
    criterion = Changed(TRAINING, transforms=CHANGES)
    scores = criterion(batch(TRAINING[:20, :, :, ::-1]))
    assert criterion.flags(scores, len(criterion.strictness) - 1).all()
    assert scores.copied.tolist() == list(range(20))
    assert not scores.distance.any()


def test_its_distances_run_over_the_window():
    criterion = Changed(TRAINING, transforms=CHANGES)
    assert (criterion.values, criterion.space) == (36, CHANGED)
    assert criterion.rule.startswith("flip+shift1/ratio<0.3333/near-copies-passed-over/n=10/")
    assert "flip+shift1" in criterion.title

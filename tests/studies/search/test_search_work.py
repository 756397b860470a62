import numpy as np
import pytest

from diffmem.memorization import Neighbours, RatioRule
from diffmem.studies.search.work import Parts, counts_of


@pytest.fixture
def parts(tmp_path):
    return Parts(tmp_path, references=10)


def append(parts, seen, start, ratios):
    distances = np.array([[ratio, 1.0] for ratio in ratios])
    indices = np.tile([3, 4], (len(ratios), 1))
    images = np.full((len(ratios), 1, 2, 2), start, dtype=np.uint8)
    parts.store(seen).write(start, images, None, Neighbours(distances, indices), 1.5)


def counts(parts, seen, rule, warn=None):
    return counts_of(parts.read(seen, warn), rule)


def test_the_parts_of_a_point_add_up_and_the_threshold_is_applied_when_they_are_read(parts):
    append(parts, 100, 0, [0.1, 0.5, 0.9])
    append(parts, 100, 3, [0.2, 0.25])
    assert counts(parts, 100, RatioRule(1 / 3)) == (3, 5)
    assert counts(parts, 100, RatioRule(0.15)) == (1, 5)
    assert counts(parts, 200, RatioRule(1 / 3)) == (0, 0)
    assert [len(part.neighbours) for part in parts.read(100)] == [3, 2]
    assert parts.read(100)[1].images[0, 0, 0, 0] == 3


def test_what_lies_behind_a_gap_does_not_count(parts):
    append(parts, 100, 0, [0.1, 0.5])
    append(parts, 100, 3, [0.2])
    assert counts(parts, 100, RatioRule(1 / 3)) == (1, 2)


def test_a_damaged_part_is_told_removed_and_made_anew(parts):
    append(parts, 100, 0, [0.1, 0.5])
    append(parts, 100, 2, [0.2])
    path = parts.store(100).path(0)
    path.write_bytes(path.read_bytes()[:-40])
    assert counts(parts, 100, RatioRule(1 / 3)) == (0, 0)
    assert path.exists()  # only looked at
    told = []
    assert counts(parts, 100, RatioRule(1 / 3), told.append) == (0, 0)
    assert len(told) == 1
    assert "damaged" in told[0]
    assert not path.exists()
    append(parts, 100, 0, [0.1, 0.5])
    assert counts(parts, 100, RatioRule(1 / 3), told.append) == (2, 3)

"""Which number of the paper stands beside which run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reports_experiment import (
    by_classes,
    by_labels,
    by_mask_resolution,
    by_size,
    make_curve,
    make_experiment,
    make_level,
    mask,
)

from diffmem.paper.report.match import (
    mask_group,
    paper_points,
    published_at,
    size_pairs,
    slots_of,
)
from diffmem.reports.level_axis import mask_of, numbers_of
from diffmem.studies.report.tables import sizes_of


def test_unknown_points_are_absent():
    result = make_experiment("x", "size", [make_level("a")], [make_curve("a", {2000: None, 1000: 92.1})])
    assert paper_points(result, "a") == [(1000, 92.1)]
    assert paper_points(result, "b") == []


def test_curves_of_one_level_are_read_together():
    published = [make_curve("a", {1000: 92.2}), make_curve("a", {1000: 91.5})]
    result = make_experiment("x", "size", [make_level("a", sizes=(1000,))], published)
    assert published_at(result, "a", 1000) == [(1000, 91.5), (1000, 92.2)]


def test_a_size_finds_the_papers_through_their_ratio():
    assert published_at(by_size(), "32x32", 64) == [(1000, 92.1)]
    assert published_at(by_size(), "32x32", 128) == [(2000, 61.0)]
    assert published_at(by_size(), "32x32", 300) == []
    assert published_at(by_size(), "no such level", 64) == []


@given(
    st.sampled_from([500, 1000, 2000, 3000, 4000, 5000, 8000, 16000]),
    st.floats(1, 50),
)
def test_a_size_that_was_scaled_down_and_rounded_finds_its_own(size, ratio):
    known = dict.fromkeys([500, 1000, 2000, 3000, 4000, 5000, 8000, 16000], 50.0)
    ours = round(size / ratio)
    result = make_experiment(
        "x", "size", [make_level("a", sizes=())], [make_curve("a", known)], size_ratio=ratio
    )
    assert published_at(result, "a", ours) == [(size, 50.0)]


def test_sizes_pair_up_and_those_of_the_paper_alone_come_last():
    assert [(pair.ours, pair.paper) for pair in size_pairs(by_classes())] == [
        (64, 1000),
        (128, 2000),
        (None, 5000),
    ]


def test_each_level_and_size_has_its_runs_by_seed():
    found = [(level.name, size, [run.seed for run in runs]) for level, size, runs in sizes_of(by_labels())]
    assert found[:2] == [("unconditional", 32, [0, 1, 2]), ("unconditional", 64, [0, 1, 2])]
    assert len(found) == 12


@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        (["0", "1e-5", "2e-2"], [0, 1e-5, 2e-2]),
        (["C = 1", "C = 1,000"], [1, 1000]),
        (["8x8", "16x16"], None),
        (["true labels", "random labels"], None),
        (["1 class", "2 blocks"], None),
        (["positional, 2 blocks", "positional, 4 blocks"], [2, 4]),
        ([mask(1), mask(2)], None),
    ],
)
def test_levels_are_numbers_where_their_names_differ_in_one(names, numbers):
    assert numbers_of(names) == numbers


def test_masks_are_read_and_other_names_are_not():
    assert mask_of("1,0, 1") == (True, False, True)
    assert mask_of("[1,0]") == (True, False)
    assert mask_of("1") is None
    assert mask_of("1,2,0") is None
    assert mask_of("all") is None


def test_a_mask_belongs_to_the_resolution_of_all_its_skips():
    assert [mask_group(mask(*kept)) for kept in ((1,), (2, 3), (4, 6), (9,), (3, 4), ())] == [
        1,
        1,
        2,
        3,
        0,
        0,
    ]
    assert mask_group("1,0,0") == 0


def test_levels_of_the_paper_alone_take_their_place_among_numbers():
    names = [slot.paper_name for slot in slots_of(by_classes())]
    assert names == ["1", "2", "5", "10", "20", "50", "100", "500", "1000"]
    levels = [make_level(name) for name in ("0.9", "0.5", "0")]
    result = make_experiment("x", "level", levels, [make_curve("0.7", {64: 50.0})])
    assert [(slot.paper_name, slot.name) for slot in slots_of(result)] == [
        ("0.9", "0.9"),
        ("0.7", ""),
        ("0.5", "0.5"),
        ("0", "0"),
    ]


def test_numbers_ascend_where_the_usual_level_was_given_first():
    levels = [make_level(here, paper) for here, paper in (("16", "512"), ("4", "128"), ("28", "896"))]
    result = make_experiment("x", "level", levels, [make_curve("512", {1000: 92.1})])
    assert [slot.name for slot in slots_of(result)] == ["4", "16", "28"]


def test_levels_that_are_no_numbers_stand_as_the_paper_has_them():
    published = [make_curve(name, {64: 1.0}) for name in ("none", "C = 1", "C = 500", "unique")]
    levels = [make_level(name) for name in ("none", "unique", "C = 1")]
    slots = slots_of(make_experiment("x", "level", levels, published))
    assert [(slot.paper_name, slot.name) for slot in slots] == [
        ("none", "none"),
        ("C = 1", "C = 1"),
        ("C = 500", ""),
        ("unique", "unique"),
    ]


def test_masks_stand_together_by_resolution():
    groups = [mask_group(slot.paper_name) for slot in slots_of(by_mask_resolution())]
    assert groups == [0] + [1] * 7 + [2] * 7 + [3] * 7

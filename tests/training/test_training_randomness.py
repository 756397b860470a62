"""The order of the images as a function of the seed and the position."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffmem.training.randomness import DataOrder, stream_seed

BOTH = pytest.mark.parametrize("cyclic", [True, False])


@BOTH
def test_each_epoch_sees_each_image_once(cyclic):
    sequence = DataOrder(50, 3, cyclic).batch(0, 500).reshape(10, 50)
    assert torch.equal(sequence.sort(1).values, torch.arange(50).expand(10, 50))


def test_a_cyclic_order_is_the_same_in_each_epoch():
    sequence = DataOrder(50, 3, cyclic=True).batch(0, 500).reshape(10, 50)
    assert torch.equal(sequence, sequence[:1].expand(10, 50))


def test_a_shuffled_order_differs_in_each_epoch():
    sequence = DataOrder(50, 3, cyclic=False).batch(0, 500).reshape(10, 50)
    assert len({tuple(epoch) for epoch in sequence.tolist()}) == 10


def test_a_batch_larger_than_the_set_repeats_images():
    chosen = DataOrder(5, 0, cyclic=True).batch(3, 13)
    assert torch.bincount(chosen, minlength=5).sum() == 13
    assert set(torch.bincount(chosen, minlength=5).tolist()) == {2, 3}


def test_a_single_image_is_always_next():
    assert DataOrder(1, 0, cyclic=False).batch(7, 3).tolist() == [0, 0, 0]


@given(st.data(), st.integers(1, 20), st.booleans(), st.integers(0, 100))
def test_however_a_sequence_is_cut_its_parts_join_to_the_same(data, size, cyclic, start):
    counts = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=6))
    whole = DataOrder(size, 9, cyclic).batch(start, sum(counts))
    order, position, parts = DataOrder(size, 9, cyclic), start, []
    for count in counts:
        parts.append(order.batch(position, count))
        position += count
    assert torch.equal(torch.cat(parts), whole)


@BOTH
def test_going_back_gives_the_same_order_again(cyclic):
    order = DataOrder(7, 1, cyclic)
    first = order.batch(0, 7)
    order.batch(700, 7)
    assert torch.equal(order.batch(0, 7), first)


@BOTH
def test_the_order_neither_reads_nor_moves_the_global_generators(cyclic):
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    first = DataOrder(20, 4, cyclic).batch(0, 60)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])
    torch.manual_seed(1)
    assert torch.equal(DataOrder(20, 4, cyclic).batch(0, 60), first)


def test_seeds_have_orders_of_their_own():
    orders = {tuple(DataOrder(20, seed, cyclic=True).batch(0, 20).tolist()) for seed in range(20)}
    assert len(orders) == 20


def test_every_image_is_as_likely_to_come_first():
    firsts = [int(DataOrder(4, seed, cyclic=True).batch(0, 1)) for seed in range(4000)]
    assert np.abs(np.bincount(firsts, minlength=4) - 1000).max() < 5 * np.sqrt(4000 * 0.25 * 0.75)


GOLDEN_CYCLIC = [9, 8, 2, 0, 5, 4, 7, 6, 1, 3]
GOLDEN_SECOND = [7, 5, 3, 8, 9, 0, 1, 4, 2, 6]
GOLDEN_SEED = 361206712910097578


def test_the_order_of_a_seed_never_changes():
    """Golden values of the first version of this package: runs of all later versions see the same images."""
    assert DataOrder(10, 1024, cyclic=True).batch(0, 10).tolist() == GOLDEN_CYCLIC
    assert DataOrder(10, 1024, cyclic=False).batch(0, 20).tolist() == GOLDEN_CYCLIC + GOLDEN_SECOND


def test_the_seed_of_a_stream_never_changes():
    """Golden values of the first version of this package."""
    assert stream_seed(1024, "noise", 512) == GOLDEN_SEED


@given(st.integers(0, 2**40), st.sampled_from(["noise", "dropout", "order"]), st.integers(0, 2**50))
def test_seeds_of_streams_are_non_negative_numbers_of_63_bits(seed, stream, position):
    assert 0 <= stream_seed(seed, stream, position) < 2**63


def test_seeds_of_streams_differ_by_seed_name_and_position():
    triples = [(s, name, p) for s in range(20) for name in ("noise", "dropout") for p in range(20)]
    assert len({stream_seed(*triple) for triple in triples}) == len(triples)

"""Masks that follow from seed, step, image, layer and value: as random as drawn ones, and the same for every split."""

from __future__ import annotations

import math
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffmem.models.networks.dropout import Dropout, set_masks

SHAPE = (32, 8, 8)  # (C, H, W)
VALUES = math.prod(SHAPE)


def masks(layers, seed, first=0, last=16, probability=0.13, shape=SHAPE):
    """Which values are kept, bool (layers, images, C, H, W), read off the layers' outputs."""
    made = [Dropout(probability).train() for _ in range(layers)]
    set_masks(made, seed, first, last)
    return torch.stack([layer(torch.ones(last - first, *shape)) != 0 for layer in made])


@pytest.mark.parametrize("probability", [0.05, 0.13, 0.5, 0.9])
def test_values_are_dropped_with_the_given_probability(probability):
    kept = masks(4, 12345, 0, 64, probability)
    spread = math.sqrt(probability * (1 - probability) / kept.numel())
    assert abs(kept.double().mean() - (1 - probability)) < 4 * spread + 1 / 2**16


def test_the_number_of_kept_values_of_an_image_is_binomial():
    probability = 0.13
    counts = masks(8, 99, 0, 128, probability).flatten(2).sum(2).double().flatten()
    expected = VALUES * probability * (1 - probability)
    assert counts.var() == pytest.approx(expected, rel=4 * math.sqrt(2 / len(counts)))


def test_every_place_of_an_image_is_dropped_equally_often():
    probability = 0.3
    kept = masks(16, 7, 0, 256, probability).double().flatten(0, 1).flatten(1)
    images = len(kept)
    variance = probability * (1 - probability) / images
    assert kept.mean(0).var() == pytest.approx(variance, rel=4 * math.sqrt(2 / VALUES))
    assert (kept.mean(0) - 0.7).abs().max() < 5.5 * math.sqrt(variance)


def test_masks_of_images_layers_and_steps_are_independent():
    probability = 0.5  # where correlations show best
    steps = [masks(6, step * 0x9E3779B97F4A7C15 % 2**63, 0, 16, probability) for step in range(1, 5)]
    signs = (
        torch.stack(steps).double().flatten(0, 2).flatten(1) * 2 - 1
    )  # one row for each (step, layer, image)
    rows = len(signs)
    scores = (signs @ signs.T / math.sqrt(VALUES))[~torch.eye(rows, dtype=torch.bool)]
    assert scores.std() == pytest.approx(1, abs=0.02)
    assert scores.abs().max() < 5.5


def test_values_of_an_image_are_independent_of_each_other():
    signs = masks(16, 3, 0, 256, 0.5).double().flatten(0, 1).flatten(1) * 2 - 1
    scores = (signs.T @ signs / math.sqrt(len(signs)))[~torch.eye(VALUES, dtype=torch.bool)]
    assert scores.std() == pytest.approx(1, abs=0.02)
    assert scores.abs().max() < 6.5


def test_neighbouring_seeds_images_and_layers_have_other_masks():
    base = masks(2, 1000, 0, 2)
    assert not torch.equal(base[0], base[1])
    assert not torch.equal(base[:, 0], base[:, 1])
    for seed in (1001, 1000 + 2**32, 1000 + 2**62):
        assert not torch.equal(masks(2, seed, 0, 2), base)


@given(st.integers(0, 2**63 - 1), st.integers(1, 12), st.data())
def test_a_part_of_the_batch_has_the_masks_of_the_whole(seed, batch, data):
    # trap 15: what a process drops must not depend on how many share the batch
    first = data.draw(st.integers(0, batch - 1))
    last = data.draw(st.integers(first + 1, batch))
    whole = masks(2, seed, 0, batch, shape=(4, 3, 3))
    assert torch.equal(masks(2, seed, first, last, shape=(4, 3, 3)), whole[:, first:last])


def test_kept_values_are_scaled_to_keep_the_mean_and_gradients_follow_the_mask():
    layer = Dropout(0.25).train()
    set_masks([layer], 5, 0, 3)
    x = torch.randn(3, *SHAPE, requires_grad=True)
    y = layer(x)
    kept = y != 0
    torch.testing.assert_close(y, torch.where(kept, x / 0.75, 0))
    y.sum().backward()
    torch.testing.assert_close(x.grad, kept / 0.75)


def test_the_layout_in_memory_does_not_matter():
    layer = Dropout(0.5).train()
    set_masks([layer], 5, 0, 3)
    x = torch.randn(3, *SHAPE)
    assert torch.equal(layer(x), layer(x.to(memory_format=torch.channels_last)))


def test_half_precision_stays_half_precision_with_the_same_mask():
    layer = Dropout(0.13).train()
    set_masks([layer], 5, 0, 2)
    x = torch.ones(2, *SHAPE)
    half = layer(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, layer(x).bfloat16())


@pytest.mark.parametrize("layer", [Dropout(0.5).eval(), Dropout(0.0).train()])
def test_nothing_is_dropped_in_evaluation_or_with_probability_zero(layer):
    set_masks([layer], 5, 0, 2)
    x = torch.randn(2, *SHAPE)
    assert layer(x) is x


def test_masks_use_no_generator_and_without_them_torchs_is_used():
    layer = Dropout(0.5).train()
    x = torch.ones(2, *SHAPE)
    torch.manual_seed(0)
    assert not torch.equal(layer(x), layer(x))
    set_masks([layer], 5, 0, 2)
    before = torch.random.get_rng_state()
    assert torch.equal(layer(x), layer(x))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_layers_have_the_same_masks_without_graph_breaks_or_recompilation():
    layer, plain = Dropout(0.13).train(), Dropout(0.13).train()
    with torch._dynamo.config.patch(error_on_recompile=True):
        compiled = torch.compile(layer, fullgraph=True)
        for seed in range(3):
            set_masks([layer], seed, 0, 2)
            set_masks([plain], seed, 0, 2)
            x = torch.randn(2, *SHAPE)
            torch.testing.assert_close(compiled(x), plain(x))

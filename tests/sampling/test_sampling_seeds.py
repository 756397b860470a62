from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffmem.errors import UserError
from diffmem.sampling.seeds import SeededNoise, latents_for_seeds, random_labels

SHAPE = (3, 4, 5)


def draws(seeds):
    latents, generators = latents_for_seeds(seeds, SHAPE)
    labels = random_labels(generators, 10)
    noise = SeededNoise(generators)
    return latents, labels, noise(latents), noise(latents)


@settings(max_examples=25)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=6, unique=True), st.randoms())
def test_a_seed_gives_the_same_numbers_in_every_batch_and_order(seeds, random):
    shuffled = list(seeds)
    random.shuffle(shuffled)
    together = draws(shuffled)
    for seed in seeds:
        position = shuffled.index(seed)
        for alone, batch in zip(draws([seed]), together, strict=True):
            assert torch.equal(alone[0], batch[position])


def test_latents_are_the_float32_stream_of_a_generator_with_the_seed():
    latents, _ = latents_for_seeds([7], SHAPE)
    expected = torch.randn(SHAPE, generator=torch.Generator().manual_seed(7), dtype=torch.float32)
    assert latents.dtype == torch.float64
    assert torch.equal(latents[0], expected.double())


def test_seeds_are_taken_modulo_two_to_the_32():
    assert torch.equal(latents_for_seeds([5], SHAPE)[0], latents_for_seeds([5 + 2**32], SHAPE)[0])
    assert torch.equal(latents_for_seeds([-1], SHAPE)[0], latents_for_seeds([2**32 - 1], SHAPE)[0])


def test_different_seeds_give_different_latents():
    latents, _ = latents_for_seeds(range(100), SHAPE)
    assert len(torch.unique(latents.flatten(1), dim=0)) == 100


def test_latents_are_standard_normal():
    latents, _ = latents_for_seeds(range(2000), (3, 8, 8))
    n = latents.numel()
    assert abs(latents.mean()) < 5 / n**0.5
    assert abs(latents.var() - 1) < 5 * (2 / n) ** 0.5


def test_labels_are_uniform():
    _, generators = latents_for_seeds(range(4000), (1, 2, 2))
    counts = torch.bincount(random_labels(generators, 4), minlength=4)
    assert counts.sum() == 4000
    # Each count is binomial(4000, 1/4) with standard deviation 27.4.
    assert (counts - 1000).abs().max() < 5 * 27.4


def test_noise_changes_from_call_to_call():
    latents, _, first, second = draws([0, 1])
    assert not torch.equal(first, second)
    assert first.shape == latents.shape
    assert first.dtype == torch.float64


def test_noise_for_another_batch_size_is_refused():
    _, generators = latents_for_seeds([0, 1], SHAPE)
    with pytest.raises(ValueError, match="3 images but there are 2"):
        SeededNoise(generators)(torch.zeros(3, *SHAPE))


def test_no_seeds_is_a_users_mistake():
    with pytest.raises(UserError, match="no seeds"):
        latents_for_seeds([], SHAPE)


def test_labels_without_classes_are_a_users_mistake():
    _, generators = latents_for_seeds([0], SHAPE)
    with pytest.raises(UserError, match="unconditional"):
        random_labels(generators, 0)

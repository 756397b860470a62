from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optimum_tools import DATA, SHAPE, formula, image_set, noisy, random_pixels, smooth_pixels
from parameters import few

from diffmem.errors import UserError
from diffmem.models import Denoiser
from diffmem.optimum.optimum import Optimum
from diffmem.sampling import SamplerConfig, generate
from diffmem.sampling.samplers import sample_latents

FOLLOWED = {
    **DATA,
    "smooth images": smooth_pixels(3000),
    "many copies": smooth_pixels(300).repeat(10, axis=0),
}
SAMPLERS = {
    "Heun": SamplerConfig(),
    "Euler": SamplerConfig(steps=30, solver="euler"),
    "midpoint": SamplerConfig(alpha=0.5),
    "stochastic": SamplerConfig(S_churn=20.0),
    "variance preserving": SamplerConfig(schedule="vp", scaling="vp"),
}


class Compared:
    """A denoiser that follows, and compares every answer with that of the optimum."""

    def __init__(self, optimum):
        self.optimum, self.follower = optimum, optimum.follow()
        self.sigma_min, self.sigma_max = optimum.sigma_min, optimum.sigma_max
        self.image_shape, self.num_labels, self.device = (
            optimum.image_shape,
            optimum.num_labels,
            optimum.device,
        )
        self.apart, self.calls = 0.0, 0

    def __call__(self, x, sigma, labels=None):
        found = self.follower(x, sigma, labels)
        self.apart = max(self.apart, float((found - self.optimum(x, sigma, labels)).abs().max()))
        self.calls += 1
        return found


def latents(count, shape=SHAPE, seed=0):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fresh_noise(seed=7):
    generator = torch.Generator().manual_seed(seed)
    return lambda x: torch.randn(x.shape, generator=generator, dtype=x.dtype)


@pytest.mark.parametrize("config", SAMPLERS.values(), ids=SAMPLERS.keys())
@pytest.mark.parametrize("pixels", few(FOLLOWED.values(), 4), ids=FOLLOWED.keys())
def test_every_answer_along_a_trajectory_is_that_of_the_optimum(pixels, config):
    compared = Compared(Optimum(image_set(pixels)))
    sample_latents(compared, latents(9), None, config, fresh_noise())
    assert compared.calls >= 30
    assert compared.apart < 1e-6


@given(
    st.lists(st.tuples(st.floats(0.002, 80), st.integers(0, 3)), min_size=1, max_size=8), st.integers(0, 1000)
)
@settings(max_examples=40)
def test_unrelated_points_are_answered_rightly_too(points, seed):
    pixels = smooth_pixels(400)
    optimum = Optimum(image_set(pixels))
    follower = optimum.follow()
    for at, (sigma, kind) in enumerate(points):
        levels = torch.full((5,), sigma, dtype=torch.float64)
        if kind == 0:
            x = noisy(pixels, sigma, 5, seed + at)
        elif kind == 1:
            x = sigma * latents(5, seed=seed + at)
        elif kind == 2:
            x = torch.from_numpy(pixels[seed % 300 : seed % 300 + 5] / 127.5 - 1)
        else:
            x, levels = torch.zeros(5, *SHAPE, dtype=torch.float64), levels / torch.arange(1, 6)
        torch.testing.assert_close(follower(x, levels), optimum(x, levels), atol=2e-5, rtol=0)


def test_at_low_noise_each_query_is_answered_by_its_certificate():
    optimum = Optimum(image_set(random_pixels(2000)))
    seen = []
    sample_latents(
        optimum, latents(8), None, SamplerConfig(), callback=lambda *_: seen.append(optimum.work.certified)
    )
    # Five steps, of which the last calls once.
    assert seen[-1] - seen[-6] == 8 * (2 * 4 + 1)
    assert optimum.work.calls == 35
    assert optimum.work.queries == 280


def test_labels_are_followed_by_themselves():
    pixels, labels = smooth_pixels(900), np.array([0, 1, 3] * 300)
    compared = Compared(Optimum(image_set(pixels, labels), conditional=True))
    wanted = torch.tensor([0, 1, 3, 3, -1, 0, -1])
    sample_latents(compared, latents(7), wanted, SamplerConfig())
    assert compared.apart < 1e-6
    assert compared.optimum.work.certified > 0


def test_other_labels_or_another_number_of_queries_start_anew():
    pixels, labels = smooth_pixels(60), np.arange(60) % 2
    optimum = Optimum(image_set(pixels, labels), conditional=True)
    follower = optimum.follow()
    for wanted in (torch.tensor([0, 1, 1]), torch.tensor([1, 1, 1]), None, torch.tensor([0])):
        x = noisy(pixels, 0.05, 3 if wanted is None else len(wanted))
        torch.testing.assert_close(follower(x, 0.05, wanted), optimum(x, 0.05, wanted), atol=1e-6, rtol=0)


def test_a_query_that_is_not_finite_spoils_no_other():
    pixels = smooth_pixels(500)
    optimum = Optimum(image_set(pixels))
    follower = optimum.follow()
    for sigma in (40.0, 2.0, 0.3, 0.1, 0.05):
        x = noisy(pixels, sigma)
        good = optimum(x, sigma)
        x[2, 0, 0, 0] = math.nan
        if sigma < 10:
            x[4, 0, 0, 0] = math.inf
        found = follower(x, sigma)
        assert not found[2].isfinite().any()
        torch.testing.assert_close(found[[0, 1, 3, 5]], good[[0, 1, 3, 5]], atol=1e-6, rtol=0)


def test_samples_are_those_of_the_optimum_that_does_not_follow():
    optimum = Optimum(image_set(random_pixels(500, (3, 8, 8))))

    class Unfollowed:
        sigma_min, sigma_max, image_shape, num_labels = 0.0, math.inf, (3, 8, 8), 0
        device = torch.device("cpu")

        def __call__(self, x, sigma, labels=None):
            return optimum(x, sigma, labels)

    assert np.array_equal(generate(optimum, range(40)).images, generate(Unfollowed(), range(40)).images)


def test_the_formula_itself_agrees_at_extreme_levels():
    pixels = smooth_pixels(200)
    follower = Optimum(image_set(pixels)).follow()
    for sigma in (math.inf, 1e6, 80.0, 1.0, 0.002, 1e-6):
        x = noisy(pixels, min(sigma, 100.0))
        mean = torch.from_numpy((pixels / 127.5 - 1).mean(0)).expand_as(x)
        expected = formula(x, sigma, pixels)[1] if sigma < math.inf else mean
        torch.testing.assert_close(follower(x, sigma), expected, atol=2e-6, rtol=0)


def test_it_is_a_denoiser_with_results_of_the_optimums_type():
    follower = Optimum(image_set(random_pixels(20))).follow()
    assert isinstance(follower, Denoiser)
    for sigma in (1.0, 0.01, 0.005):
        assert follower(noisy(random_pixels(20), sigma).float(), sigma).dtype == torch.float32
    assert follower(noisy(random_pixels(20), 1.0), 1.0).dtype == torch.float64
    assert follower(torch.zeros(0, *SHAPE), 1.0).shape == (0, *SHAPE)
    assert (follower.sigma_min, follower.sigma_max, follower.num_labels) == (0.0, math.inf, 0)


def test_bad_arguments_are_refused_as_by_the_optimum():
    follower = Optimum(image_set(random_pixels(5))).follow()
    with pytest.raises(UserError, match="positive"):
        follower(torch.zeros(2, *SHAPE), 0.0)
    with pytest.raises(UserError, match="shape"):
        follower(torch.zeros(2, 1, 2, 2), 1.0)
    with pytest.raises(UserError, match="unconditional"):
        follower(torch.zeros(2, *SHAPE), 1.0, torch.tensor([0, 0]))

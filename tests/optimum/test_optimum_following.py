from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optimum_tools import DATA, SHAPE, formula, image_set, noisy, random_pixels, smooth_pixels

from diffmem.errors import UserError
from diffmem.models import Denoiser
from diffmem.optimum import bundle, directions
from diffmem.optimum.optimum import Following, Optimum
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

    def __init__(self, optimum, follower=None):
        self.optimum, self.follower = optimum, follower or optimum.follow()
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
@pytest.mark.parametrize("pixels", FOLLOWED.values(), ids=FOLLOWED.keys())
def test_every_answer_along_a_trajectory_is_that_of_the_optimum(pixels, config):
    compared = Compared(Optimum(image_set(pixels)))
    sample_latents(compared, latents(9), None, config, fresh_noise())
    assert compared.calls >= 30
    assert compared.apart < 1e-5


@pytest.mark.parametrize("name", ["distinct images", "smooth images", "many copies"])
def test_so_it_is_where_small_changes_of_the_mean_are_sketched(monkeypatch, name):
    monkeypatch.setattr(bundle, "LARGE", 0)
    monkeypatch.setattr(directions, "MOST", 16)
    seen = []
    small = bundle.Bundle._small

    def spy(*words):
        sketch = small(*words)
        seen.append(sketch is not None)
        return sketch

    monkeypatch.setattr(bundle.Bundle, "_small", spy)
    optimum = Optimum(image_set(FOLLOWED[name]))
    compared = Compared(optimum)
    sample_latents(compared, latents(16), None, SamplerConfig())
    assert any(seen)
    assert not all(seen)
    assert compared.apart < 2 * optimum.evaluations.rounding
    assert compared.apart < 2e-5
    assert optimum.evaluations.rounding < 3e-3


@pytest.mark.parametrize("tolerance", [1e-3, 1e-9])
def test_images_that_are_left_out_move_an_answer_by_no_more_than_the_tolerance(tolerance):
    optimum = Optimum(image_set(smooth_pixels(3000)))
    compared = Compared(optimum, optimum.follow(tolerance))
    sample_latents(compared, latents(16), None, SamplerConfig())
    assert compared.apart < 2 * tolerance + 2 * optimum.evaluations.rounding


def test_a_larger_tolerance_computes_less():
    pairs = []
    for tolerance in (1e-9, 1e-6, 1e-2):
        optimum = Optimum(image_set(smooth_pixels(3000)))
        sample_latents(optimum.follow(tolerance), latents(16), None, SamplerConfig())
        pairs.append(optimum.evaluations.computed)
    assert pairs[0] > pairs[1] > pairs[2]


@given(
    st.lists(st.tuples(st.floats(0.002, 80), st.integers(0, 3)), min_size=1, max_size=8), st.integers(0, 1000)
)
@settings(max_examples=40, deadline=None)
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
        torch.testing.assert_close(follower(x, levels), optimum(x, levels), atol=1e-5, rtol=0)


def test_at_low_noise_each_query_is_answered_by_one_image_without_a_pass():
    optimum = Optimum(image_set(random_pixels(2000)))
    follower = optimum.follow()
    tally, seen = optimum.evaluations, []

    def spy(done, steps, x, sigma):
        seen.append((tally.passes, tally.bounded, tally.computed))

    sample_latents(follower, latents(8), None, SamplerConfig(), callback=spy)
    # Seven steps, of which the last calls once.
    assert seen[-1][:2] == seen[-7][:2]
    assert seen[-1][2] - seen[-7][2] == 8 * (2 * 6 - 1)
    assert tally.asked == 35 * 8 * 2000
    assert tally.computed < 0.65 * tally.asked
    assert tally.certified == 8 * 12


def test_copies_are_answered_from_certificates_that_name_all_of_them():
    optimum = Optimum(image_set(random_pixels(300).repeat(3, axis=0)))
    tally, seen = optimum.evaluations, []
    sample_latents(
        optimum.follow(),
        latents(8),
        None,
        SamplerConfig(),
        callback=lambda *_: seen.append((tally.passes, tally.computed)),
    )
    assert seen[-1][0] == seen[-6][0]
    assert seen[-1][1] - seen[-6][1] == 3 * 8 * (2 * 5 - 1)


def test_samples_are_those_of_the_optimum_that_does_not_follow():
    optimum = Optimum(image_set(random_pixels(500, (3, 8, 8))))

    class Unfollowed:
        sigma_min, sigma_max, image_shape, num_labels = 0.0, math.inf, (3, 8, 8), 0
        device = torch.device("cpu")

        def __call__(self, x, sigma, labels=None):
            return optimum(x, sigma, labels)

    assert np.array_equal(generate(optimum, range(40)).images, generate(Unfollowed(), range(40)).images)
    assert optimum.evaluations.calls == 35


def test_labels_are_followed_by_themselves():
    pixels, labels = smooth_pixels(900), np.array([0, 1, 3] * 300)
    compared = Compared(Optimum(image_set(pixels, labels), conditional=True))
    wanted = torch.tensor([0, 1, 3, 3, -1, 0, -1])
    sample_latents(compared, latents(7), wanted, SamplerConfig())
    assert compared.apart < 1e-5
    assert compared.optimum.evaluations.asked == 35 * (5 * 300 + 2 * 900)


def test_other_labels_or_another_number_of_queries_start_anew():
    pixels, labels = smooth_pixels(60), np.arange(60) % 2
    optimum = Optimum(image_set(pixels, labels), conditional=True)
    follower = optimum.follow()
    for wanted in (torch.tensor([0, 1, 1]), torch.tensor([1, 1, 1]), None, torch.tensor([0])):
        x = noisy(pixels, 3.0, 3 if wanted is None else len(wanted))
        torch.testing.assert_close(follower(x, 3.0, wanted), optimum(x, 3.0, wanted), atol=1e-5, rtol=0)


@pytest.mark.parametrize("workspace", [32 * 700 * 2 * 3, 32 * 700 * 2 + 5, 1 << 28])
def test_a_small_workspace_follows_fewer_queries_at_a_time(workspace):
    optimum = Optimum(image_set(smooth_pixels(700)), workspace_bytes=workspace)
    compared = Compared(optimum)
    assert isinstance(compared.follower, Following)
    sample_latents(compared, latents(7), None, SamplerConfig())
    assert compared.apart < 1e-5


def test_a_workspace_without_room_for_one_trajectory_leaves_the_optimum_as_it_is():
    optimum = Optimum(image_set(smooth_pixels(700)), workspace_bytes=32 * 700)
    assert optimum.follow() is optimum


def test_a_query_that_is_not_finite_spoils_no_other():
    pixels = smooth_pixels(500)
    optimum = Optimum(image_set(pixels))
    follower = optimum.follow()
    for sigma in (40.0, 20.0, 2.0, 0.5, 0.3, 0.1):
        x = noisy(pixels, sigma)
        good = optimum(x, sigma)
        x[2, 0, 0, 0] = math.nan
        if sigma < 10:
            x[4, 0, 0, 0] = math.inf
        found = follower(x, sigma)
        assert not found[2].isfinite().any()
        torch.testing.assert_close(found[[0, 1, 3, 5]], good[[0, 1, 3, 5]], atol=1e-5, rtol=0)


def test_the_formula_itself_agrees_at_extreme_levels():
    pixels = smooth_pixels(200)
    follower = Optimum(image_set(pixels)).follow()
    for sigma in (math.inf, 1e6, 80.0, 1.0, 0.002, 1e-6):
        x = noisy(pixels, min(sigma, 100.0))
        expected = (
            formula(x, sigma, pixels)[1]
            if sigma < math.inf
            else torch.from_numpy((pixels / 127.5 - 1).mean(0)).expand_as(x)
        )
        torch.testing.assert_close(follower(x, sigma), expected, atol=1e-5, rtol=0)


def test_the_type_of_a_result_is_that_of_the_optimum():
    pixels = random_pixels(20)
    follower = Optimum(image_set(pixels)).follow()
    assert isinstance(follower, Denoiser)
    assert follower(noisy(pixels, 1.0).float(), 1.0).dtype == torch.float32
    assert follower(noisy(pixels, 1.0), 1.0).dtype == torch.float64
    assert follower(torch.zeros(0, *SHAPE), 1.0).shape == (0, *SHAPE)
    assert (follower.sigma_min, follower.sigma_max, follower.num_labels) == (0.0, math.inf, 0)


@pytest.mark.parametrize("tolerance", [0.0, -1.0, 0.1, math.nan])
def test_a_tolerance_out_of_range_is_refused(tolerance):
    with pytest.raises(UserError, match="tolerance must be above 0"):
        Optimum(image_set(random_pixels(5))).follow(tolerance)


def test_bad_arguments_are_refused_as_by_the_optimum():
    follower = Optimum(image_set(random_pixels(5))).follow()
    with pytest.raises(UserError, match="positive"):
        follower(torch.zeros(2, *SHAPE), 0.0)
    with pytest.raises(UserError, match="shape"):
        follower(torch.zeros(2, 1, 2, 2), 1.0)
    with pytest.raises(UserError, match="unconditional"):
        follower(torch.zeros(2, *SHAPE), 1.0, torch.tensor([0, 0]))


def test_float32_products_of_less_precision_are_not_used():
    pixels = smooth_pixels(600)
    optimum = Optimum(image_set(pixels))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        compared = Compared(optimum)
        sample_latents(compared, latents(4), None, SamplerConfig())
    finally:
        torch.set_float32_matmul_precision(before)
    assert compared.apart < 1e-5

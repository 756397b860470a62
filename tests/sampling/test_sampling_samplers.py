from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from parameters import few

from diffmem.errors import UserError
from diffmem.models.denoiser import Denoiser
from diffmem.sampling.config import SamplerConfig
from diffmem.sampling.samplers import sample_latents
from diffmem.sampling.seeds import SeededNoise, latents_for_seeds


class Analytic:
    """A denoiser in closed form that counts its evaluations."""

    num_labels = 0
    device = torch.device("cpu")

    def __init__(self, function, shape=(1, 4, 4), sigma_min=0.0, sigma_max=math.inf):
        self.function, self.image_shape = function, shape
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self.calls = []

    def __call__(self, x, sigma, labels=None):
        sigma = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1, 1, 1)
        self.calls.append(sigma.max().item())
        assert not torch.is_grad_enabled()
        return self.function(x, sigma)


S = 0.5


def gaussian(**fields):
    """The denoiser of data from N(0, S^2 I)."""
    return Analytic(lambda x, sigma: x * S**2 / (S**2 + sigma**2), **fields)


def exact(latents, top, sigma):
    return latents * top * math.sqrt((S**2 + sigma**2) / (S**2 + top**2))


def error_before_the_last_step(config):
    """The largest error at sigma_min: the jump from there to zero is a first-order step of its own."""
    latents, _ = latents_for_seeds([0], (1, 4, 4))
    states = []
    sample_latents(
        gaussian(), latents, None, config, callback=lambda done, steps, x, sigma: states.append((x, sigma))
    )
    x, sigma = states[-2]
    return (x - exact(latents, config.sigma_max, sigma)).abs().max().item()


GRIDS = [("linear", "none"), ("ve", "none"), ("vp", "vp"), ("vp", "none"), ("linear", "vp"), ("ve", "vp")]


@pytest.mark.parametrize(("schedule", "scaling"), GRIDS)
@pytest.mark.parametrize(
    ("solver", "alpha", "order"), [("euler", 1, 1), ("heun", 1, 2), ("heun", 0.5, 2), ("heun", 0.7, 2)]
)
@pytest.mark.parametrize("discretization", few(["edm", "ve"], 1))
def test_the_error_falls_with_the_order_of_the_solver(
    schedule, scaling, solver, alpha, order, discretization
):
    steps = [128, 256, 512]
    errors = [
        error_before_the_last_step(
            SamplerConfig(
                solver=solver,
                alpha=alpha,
                steps=n + 1,
                sigma_min=0.02,
                sigma_max=20,
                schedule=schedule,
                scaling=scaling,
                discretization=discretization,
            )
        )
        for n in steps
    ]
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    if alpha == 1:
        assert slope == pytest.approx(order, abs=0.15)
    else:  # the leading error of some midpoint rules happens to vanish on this equation
        assert slope > order - 0.15


@pytest.mark.parametrize(("schedule", "scaling"), GRIDS)
@pytest.mark.parametrize("discretization", ["edm", "vp", "ve", "iddpm"])
def test_every_combination_ends_at_the_closed_solution(schedule, scaling, discretization):
    latents, _ = latents_for_seeds(range(4), (1, 4, 4))
    # The iddpm levels are sparse near zero, where the other schedules are dense.
    steps = 700 if discretization == "iddpm" else 150
    config = SamplerConfig(steps=steps, discretization=discretization, schedule=schedule, scaling=scaling)
    tops = []

    def first(x, sigma):
        tops.append(sigma.max().item())
        return x * S**2 / (S**2 + sigma**2)

    x = sample_latents(Analytic(first), latents, None, config)
    torch.testing.assert_close(x, exact(latents, tops[0], 0.0), rtol=2e-2, atol=1e-3)


def test_the_default_sampler_is_the_papers_algorithm_one():
    latents, _ = latents_for_seeds([3], (1, 4, 4))
    i = torch.arange(18, dtype=torch.float64)
    t = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    t = torch.cat([t, torch.zeros(1, dtype=torch.float64)])
    denoise = gaussian().function
    x = latents * t[0]
    for now, after in itertools.pairwise(t):
        d = (x - denoise(x, now)) / now
        euler = x + (after - now) * d
        if after > 0:
            x = x + (after - now) * (d + (euler - denoise(euler, after)) / after) / 2
        else:
            x = euler
    torch.testing.assert_close(
        sample_latents(gaussian(), latents, None, SamplerConfig()), x, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("schedule", ["linear", "ve", "vp"])
@pytest.mark.parametrize("steps", [1, 2, 18])
def test_heun_evaluates_two_steps_minus_one_times(schedule, steps):
    denoiser = gaussian()
    config = SamplerConfig(steps=steps, schedule=schedule)
    sample_latents(denoiser, torch.randn(2, 1, 4, 4), None, config)
    assert len(denoiser.calls) == config.evaluations == 2 * steps - 1


def test_euler_evaluates_once_per_step():
    denoiser = gaussian()
    sample_latents(denoiser, torch.randn(2, 1, 4, 4), None, SamplerConfig(solver="euler", steps=7))
    assert len(denoiser.calls) == 7


@pytest.mark.parametrize("churn", [0, 40])
def test_the_denoiser_is_only_asked_inside_its_range(churn):
    denoiser = gaussian(sigma_min=0.01, sigma_max=30)
    latents, generators = latents_for_seeds(range(2), (1, 4, 4))
    sample_latents(denoiser, latents, None, SamplerConfig(S_churn=churn), SeededNoise(generators))
    assert max(denoiser.calls) <= 30 * (1 + 1e-12)
    assert min(denoiser.calls) >= 0.01 * (1 - 1e-12)


def test_the_two_point_distribution_ends_on_one_of_its_points():
    # Data +a or -a with equal chance: D = a tanh(<a, x> / sigma^2).
    point = torch.linspace(-0.9, 0.9, 16, dtype=torch.float64).reshape(1, 1, 4, 4)

    def denoise(x, sigma):
        return point * torch.tanh((point * x).sum(dim=(1, 2, 3), keepdim=True) / sigma**2)

    latents, _ = latents_for_seeds(range(200), (1, 4, 4))
    x = sample_latents(Analytic(denoise), latents, None, SamplerConfig())
    side = (point * latents).sum(dim=(1, 2, 3), keepdim=True).sign()
    torch.testing.assert_close(x, side * point, rtol=0, atol=1e-9)
    assert 60 < (side > 0).sum() < 140


@pytest.mark.parametrize(("schedule", "scaling"), [("linear", "none"), ("vp", "vp")])
def test_fresh_noise_preserves_the_gaussian_marginal(schedule, scaling):
    config = SamplerConfig(steps=64, S_churn=20, S_min=0.05, S_max=50, schedule=schedule, scaling=scaling)
    latents, generators = latents_for_seeds(range(256), (1, 8, 8))
    x = sample_latents(gaussian(), latents, None, config, SeededNoise(generators))
    n = x.numel()
    assert abs(x.mean()) < 5 * S / n**0.5
    assert x.var() / S**2 == pytest.approx(1, abs=5 * (2 / n) ** 0.5 + 0.01)
    deterministic = sample_latents(gaussian(), latents, None, config.model_copy(update={"S_churn": 0.0}))
    correlation = torch.corrcoef(torch.stack([x.flatten(), deterministic.flatten()]))[0, 1]
    assert correlation < 0.5


def test_fresh_noise_is_added_only_between_s_min_and_s_max():
    latents, generators = latents_for_seeds([0], (1, 4, 4))
    calls = []

    def noise(x):
        calls.append(1)
        return SeededNoise(generators)(x)

    config = SamplerConfig(
        steps=5, discretization="ve", sigma_min=0.01, sigma_max=100, S_churn=1, S_min=0.05, S_max=50
    )
    sample_latents(gaussian(), latents, None, config, noise)  # levels 100, 10, 1, 0.1, 0.01
    assert len(calls) == 3


def test_the_noise_level_is_raised_by_gamma():
    denoiser = gaussian()
    latents, generators = latents_for_seeds([0], (1, 4, 4))
    config = SamplerConfig(steps=2, sigma_min=1, sigma_max=10, S_churn=0.5)
    sample_latents(denoiser, latents, None, config, SeededNoise(generators))
    assert denoiser.calls == pytest.approx([10 * 1.25, 1, 1.25])
    denoiser.calls.clear()
    sample_latents(
        denoiser, latents, None, config.model_copy(update={"S_churn": 90.0}), SeededNoise(generators)
    )
    assert denoiser.calls == pytest.approx([10 * math.sqrt(2), 1, math.sqrt(2)])


def test_a_stochastic_sampler_without_noise_is_a_users_mistake():
    with pytest.raises(UserError, match="SeededNoise"):
        sample_latents(gaussian(), torch.randn(1, 1, 4, 4), None, SamplerConfig(S_churn=1))


def test_the_state_is_float64_where_the_denoiser_answers_in_float32():
    seen = []

    def denoise(x, sigma):
        seen.append(x.dtype)
        return (x * S**2 / (S**2 + sigma**2)).float()

    x = sample_latents(Analytic(denoise), torch.randn(1, 1, 4, 4), None, SamplerConfig())
    assert x.dtype == torch.float64
    assert set(seen) == {torch.float64}


def test_labels_and_a_level_per_image_reach_the_denoiser():
    seen = []

    class Recording(Analytic):
        def __call__(self, x, sigma, labels=None):
            seen.append((tuple(sigma.shape), labels.tolist()))
            return x * 0

    sample_latents(Recording(None), torch.randn(3, 1, 4, 4), torch.tensor([4, 0, 2]), SamplerConfig(steps=3))
    assert seen == [((3,), [4, 0, 2])] * 5


@pytest.mark.parametrize(("schedule", "scaling"), GRIDS)
def test_the_callback_sees_the_unscaled_state_of_every_step(schedule, scaling):
    latents, _ = latents_for_seeds([0], (1, 4, 4))
    config = SamplerConfig(steps=100, schedule=schedule, scaling=scaling)
    seen = []
    x = sample_latents(gaussian(), latents, None, config, callback=lambda *args: seen.append(args))
    assert [done for done, *_ in seen] == list(range(1, 101))
    assert seen[-1][3] == 0
    torch.testing.assert_close(seen[-1][2], x)
    _, _, state, sigma = seen[49]
    torch.testing.assert_close(state, exact(latents, 80, sigma), rtol=2e-2, atol=1e-3)


def test_the_analytic_denoiser_is_a_denoiser():
    assert isinstance(gaussian(), Denoiser)

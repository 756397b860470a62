"""The processes of score-based models: networks that know the optimum answer with it, at every level."""

from __future__ import annotations

import math

import pytest
import torch
from optimum_tools import SHAPE, image_set, random_pixels

from diffmem.models.continuous import ContinuousDenoiser
from diffmem.models.sde import sub_variance_preserving, variance_exploding, variance_preserving
from diffmem.optimum.optimum import Optimum

BETAS = (0.1, 20.0)
FIRST = 19.9e-10 / 4 + 0.1e-5 / 2  # -ln m at t = 1e-5
SIGMAS = (0.02, 0.1, 0.5, 2.0, 20.0)


@pytest.fixture(scope="module")
def optimum():
    return Optimum(image_set(random_pixels(12))).refined()


def queries(sigma):
    generator = torch.Generator().manual_seed(0)
    clean = torch.from_numpy(random_pixels(12)[:4]).double() / 127.5 - 1
    return clean + sigma * torch.randn(4, *SHAPE, generator=generator, dtype=torch.float64)


def signal(t):
    """m(t), from the integral of the noise rate."""
    return (-(BETAS[1] - BETAS[0]) * t**2 / 4 - BETAS[0] * t / 2).exp()


def noise_of(optimum, spread):
    """A network that predicts the noise of x_t = m y + s n exactly, told 999 t."""

    def network(x_t, time, labels=None):
        m = signal(time.double() / 999).view(-1, 1, 1, 1)
        s = spread(m)
        clean = optimum(x_t.double() / m, (s / m).flatten())
        return (x_t.double() - m * clean) / s

    return network


def score_of(optimum, sigma_of, unit=False, scaled=True):
    """A network that predicts the score of x = y + sigma n exactly, times sigma if it is scaled."""

    def network(x, time, labels=None):
        sigma = sigma_of(time.double())
        clean = (optimum(2 * x.double() - 1, 2 * sigma) + 1) / 2 if unit else optimum(x.double(), sigma)
        return (clean - x.double()) / sigma.view(-1, 1, 1, 1) ** (1 if scaled else 2)

    return network


def same(time):
    return time


def labelled(time):
    """The level of a label of 100, 0 the highest."""
    return 50 * (0.01 / 50) ** (time / 99)


CASES = {
    "VP": (variance_preserving(*BETAS), lambda one: noise_of(one, lambda m: (1 - m**2).sqrt()), False),
    "sub-VP": (sub_variance_preserving(*BETAS), lambda one: noise_of(one, lambda m: 1 - m**2), False),
    "VE, images in [-1, 1]": (variance_exploding(0.01, 50), lambda one: score_of(one, same), False),
    "VE, images in [0, 1]": (variance_exploding(0.005, 50), lambda one: score_of(one, same, True), True),
    "VE, not scaled": (
        variance_exploding(0.01, 50, scaled=False), lambda one: score_of(one, same, scaled=False), False,
    ),
    "VE of 100 labels": (variance_exploding(0.01, 50, labels=100), lambda one: score_of(one, labelled), False),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_network_that_knows_the_optimum_answers_with_it(optimum, name):
    process, network_of, unit = CASES[name]
    network = network_of(optimum)
    for sigma in SIGMAS:
        x, level = queries(sigma), torch.full((4, 1, 1, 1), sigma, dtype=torch.float64)
        state, level = ((x + 1) / 2, level / 2) if unit else (x, level)
        skip, out, scale, time = process.coefficients(level)
        made = skip * state + out * network(scale * state, time.flatten())
        made = 2 * made - 1 if unit else made
        torch.testing.assert_close(made, optimum(x, sigma), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_the_denoiser_of_such_a_network_is_the_optimum(optimum, name):
    process, network_of, unit = CASES[name]
    process = type(process)(
        process.text, process.coefficients, process.sigma_min, process.sigma_max, unit_range=unit
    )
    denoiser = ContinuousDenoiser(network_of(optimum), process, SHAPE)
    for sigma in SIGMAS[1:-1]:
        x = queries(sigma)
        wanted = optimum(x, sigma)
        error = (denoiser(x.float(), sigma).double() - wanted).norm() / wanted.norm()
        assert error < 1e-6  # float32 images and times


@pytest.mark.parametrize(
    ("process", "first", "last"),
    [
        (variance_preserving(*BETAS), math.sqrt(math.expm1(2 * FIRST)), math.sqrt(math.expm1(10.05))),
        (sub_variance_preserving(*BETAS), 2 * math.sinh(FIRST), 2 * math.sinh(5.025)),
        (variance_exploding(0.01, 50), 0.01, 50),
    ],
)
def test_levels_are_those_of_the_trained_times(process, first, last):
    assert process.sigma_min == pytest.approx(first, rel=1e-9)
    assert process.sigma_max == pytest.approx(last, rel=1e-12)
    times = process.coefficients(
        torch.tensor([process.sigma_min, process.sigma_max], dtype=torch.float64)
    ).time
    if process.text.startswith("VE"):
        assert times.tolist() == [0.01, 50]
    else:
        torch.testing.assert_close(
            times / 999, torch.tensor([1e-5, 1.0], dtype=torch.float64), rtol=1e-9, atol=0
        )


def test_labels_of_ve_count_from_the_highest_level():
    process = variance_exploding(0.01, 50, labels=1000)
    levels = torch.tensor([50, 0.01], dtype=torch.float64)
    torch.testing.assert_close(process.coefficients(levels).time, torch.tensor([0, 999], dtype=torch.float64))


def test_a_constant_noise_rate_is_no_special_case():
    process = variance_preserving(2.0, 2.0)
    sigma = torch.tensor([1.0], dtype=torch.float64)
    assert float(process.coefficients(sigma).time) == pytest.approx(999 * math.log(2) / 2)

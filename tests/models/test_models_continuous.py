"""Denoisers of networks that know a continuous time: the optimum, pushed through the inverse of each head, comes back."""

import math

import numpy as np
import pytest
import torch

from diffmem.data import ImageSet
from diffmem.errors import UserError
from diffmem.models.continuous import (
    Coefficients,
    ContinuousDenoiser,
    ContinuousProcess,
    edm,
    straight_flow,
    trigonometric_flow,
)
from diffmem.optimum.optimum import Optimum

SHAPE = (1, 3, 3)
IMAGES = ImageSet(
    np.random.default_rng(0).integers(0, 256, (6, *SHAPE), dtype=np.uint8), None, tuple(map(str, range(6)))
)
OPTIMUM = Optimum(IMAGES)
SIGMA_DATA = 0.5


def optimum(x, sigma):
    """D* at one level for each image, float64."""
    return torch.cat([OPTIMUM(one[None], float(level)) for one, level in zip(x, sigma, strict=True)]).double()


def column(values):
    return values[:, None, None, None]


def edms_network(x, time, labels):
    """F of EDM's Table 1 with D* as D: the level is exp(4 time), the input x / sqrt(sigma^2 + sigma_data^2)."""
    sigma = (4 * time.double()).exp()
    total = column(sigma.square() + SIGMA_DATA**2)
    noisy = x.double() * total.sqrt()
    skip, out = SIGMA_DATA**2 / total, column(sigma) * SIGMA_DATA / total.sqrt()
    return ((optimum(noisy, sigma) - skip * noisy) / out).float()


def straight_network(x, time, labels):
    """The velocity y - n, with y = D* and n = (x_t - t y) / (1 - t)."""
    t = time.double()
    clean = optimum(x.double() / column(t), (1 - t) / t)
    return (clean - (x.double() - column(t) * clean) / column(1 - t)).float()


def trigonometric_network(x, time, labels):
    """The derivative in t of sin(pi t / 2) y + cos(pi t / 2) n, with y = D* and n = (x_t - sin y) / cos."""
    angle = math.pi / 2 * time.double()
    sine, cosine = column(angle.sin()), column(angle.cos())
    clean = optimum(x.double() / sine, 1 / angle.tan())
    noise = (x.double() - sine * clean) / cosine
    return (math.pi / 2 * (cosine * clean - sine * noise)).float()


def unit_network(x, time, labels):
    """The optimum of the same images in [0, 1], at the level that it is told."""
    return ((optimum(2 * x.double() - 1, 2 * time.double()) + 1) / 2).float()


IN_UNITS = ContinuousProcess(
    "the clean image", lambda sigma: Coefficients(0.0, 1.0, 1.0, sigma), 0.01, 50, unit_range=True
)
HEADS = {
    "edm": (edms_network, edm(SIGMA_DATA)),
    "straight": (straight_network, straight_flow()),
    "trigonometric": (trigonometric_network, trigonometric_flow()),
    "unit_range": (unit_network, IN_UNITS),
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("sigma", [0.05, 0.4, 1.0, 3.0, 40.0])
def test_the_optimum_through_the_inverse_of_a_head_is_the_optimum(head, sigma):
    network, process = HEADS[head]
    denoiser = ContinuousDenoiser(network, process, SHAPE)
    clean = torch.tensor(IMAGES.images[:4]).double() / 127.5 - 1
    x = clean + sigma * torch.randn(
        4, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    wanted = OPTIMUM(x, sigma)
    made = denoiser(x, sigma)
    assert made.dtype == torch.float32
    assert float((made - wanted).norm() / wanted.norm()) < 1e-6


def test_each_image_of_a_batch_has_its_own_level():
    denoiser = ContinuousDenoiser(straight_network, straight_flow(), SHAPE)
    x, levels = torch.randn(3, *SHAPE), torch.tensor([0.1, 1.0, 10.0])
    apart = torch.cat([denoiser(x[i : i + 1], levels[i]) for i in range(3)])
    torch.testing.assert_close(denoiser(x, levels), apart)


@pytest.mark.parametrize(("process", "half"), [(straight_flow(), 1 / 3), (trigonometric_flow(), None)])
def test_what_the_network_is_shown_has_the_path_as_its_law(process, half):
    time = process.coefficients(torch.tensor([2.0], dtype=torch.float64)).time
    scale = process.coefficients(torch.tensor([2.0], dtype=torch.float64)).scale
    if half is not None:
        assert float(time) == pytest.approx(half)
        assert float(scale) == pytest.approx(half)
    else:
        assert float(scale) == pytest.approx(math.sin(math.pi / 2 * float(time)))
        assert 2.0 * float(scale) == pytest.approx(math.cos(math.pi / 2 * float(time)))


def test_levels_outside_of_the_trained_ones_are_refused_and_units_count():
    denoiser = ContinuousDenoiser(unit_network, IN_UNITS, SHAPE)
    assert (denoiser.sigma_min, denoiser.sigma_max) == (0.02, 100.0)
    x = torch.zeros(1, *SHAPE)
    denoiser(x, 0.02)
    denoiser(x, 100.0)
    for sigma in (0.019, 101.0):
        with pytest.raises(UserError, match=r"outside of 0\.02 to 100"):
            denoiser(x, sigma)


def shown(**options):
    seen = []

    def network(x, time, labels):
        seen.append(labels)
        return torch.zeros_like(x)

    return ContinuousDenoiser(network, straight_flow(), SHAPE, **options), seen


def test_no_label_is_the_class_that_stands_for_it():
    denoiser, seen = shown(num_labels=3, null_label=3)
    x = torch.zeros(2, *SHAPE)
    denoiser(x, 1.0)
    denoiser(x, 1.0, torch.tensor([2, -1]))
    assert [labels.tolist() for labels in seen] == [[3, 3], [2, 3]]


def test_a_network_that_knows_no_missing_label_needs_labels():
    denoiser, _ = shown(num_labels=3)
    x = torch.zeros(2, *SHAPE)
    for labels in (None, torch.tensor([0, -1]), torch.tensor([0, 3])):
        with pytest.raises(UserError, match=r"0\.\.2"):
            denoiser(x, 1.0, labels)
    with pytest.raises(UserError, match="unconditional"):
        shown()[0](x, 1.0, torch.tensor([0, 1]))


def test_it_says_what_it_is():
    denoiser, _ = shown()
    assert "velocity of straight paths" in repr(denoiser)
    assert denoiser.independent_noise

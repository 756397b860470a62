"""Denoisers of networks that know a continuous time: the optimum, pushed through the inverse of each head, comes back."""

import math
from itertools import pairwise

import pytest
import torch
from continuous_builders import (
    IMAGES,
    OPTIMUM,
    SHAPE,
    SIGMA_DATA,
    edms_network,
    straight_network,
    trigonometric_network,
    unit_network,
)

from diffmem.errors import UserError
from diffmem.models.continuous import (
    Coefficients,
    ContinuousDenoiser,
    ContinuousProcess,
    edm,
    straight_flow,
    trigonometric_flow,
)
from diffmem.sampling import SamplerConfig, sample_latents

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


@pytest.mark.parametrize(
    ("network", "process"),
    [(straight_network, straight_flow()), (trigonometric_network, trigonometric_flow())],
)
def test_the_sampler_ends_where_following_the_velocity_from_noise_to_images_ends(network, process):
    """As the trainers do: x_0 = n, dx = v dt to t = 1, here by steps of the midpoint rule."""
    noise = torch.randn(6, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    config = SamplerConfig(steps=40, sigma_min=process.sigma_min, sigma_max=process.sigma_max)
    made = sample_latents(ContinuousDenoiser(network, process, SHAPE), noise, None, config)
    times = torch.linspace(0, 1, 61, dtype=torch.float64).clamp(1e-4, 1 - 1e-4)
    x = noise
    for start, stop in pairwise(times):
        half = (stop - start) / 2
        middle = x + half * network(x, start.expand(6), None).double()
        x = x + 2 * half * network(middle, (start + half).expand(6), None).double()
    known = torch.tensor(IMAGES.images).double() / 127.5 - 1
    assert float((made - x).abs().max()) < 0.02
    assert float(torch.cdist(made.flatten(1), known.flatten(1)).amin(1).max()) < 1e-3


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

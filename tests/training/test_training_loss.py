"""The losses by hand, their weights, and the distributions of their noise levels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from diffmem.models.preconditioning import EDM, VE, VP
from diffmem.training.trainer import denoising_loss

KINDS = pytest.mark.parametrize("kind", [VP(), VE(), EDM()], ids=["vp", "ve", "edm"])
# The largest distance of two distribution functions that n samples of the same one exceed once in 10,000 times.
SAMPLES = 200_000
ALLOWED = math.sqrt(math.log(2 / 1e-4) / 2 / SAMPLES)


def levels(kind, **more):
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(SAMPLES, generator=generator)
    normal = torch.randn(SAMPLES, generator=generator)
    return kind.noise_levels(uniform, normal, **more).double().numpy()


def test_vp_draws_its_time_uniformly_from_1e_5_to_1():
    sigma = levels(VP())
    time = (np.sqrt(0.1**2 + 2 * 19.9 * np.log1p(sigma**2)) - 0.1) / 19.9
    assert stats.kstest(time, stats.uniform(1e-5, 1 - 1e-5).cdf).statistic < ALLOWED


def test_vp_covers_its_range_of_noise_from_the_first_uniform_number_to_the_last():
    ends = VP().noise_levels(torch.tensor([0.0, 1.0]), torch.zeros(2)).tolist()
    assert ends == pytest.approx(
        [
            math.sqrt(math.expm1(19.9 / 2 + 0.1)),
            math.sqrt(math.expm1(19.9 / 2 * 1e-10 + 0.1e-5)),
        ],
        rel=1e-2,  # 1 - (1 - 1e-5) has two digits left in float32
    )


def test_ve_draws_noise_levels_log_uniformly_from_0_02_to_100():
    logarithm = np.log(levels(VE()))
    span = stats.uniform(math.log(0.02), math.log(100 / 0.02))
    assert stats.kstest(logarithm, span.cdf).statistic < ALLOWED
    ends = VE().noise_levels(torch.tensor([0.0, 0.5, 1.0]), torch.zeros(3)).tolist()
    assert ends == pytest.approx([0.02, math.sqrt(2), 100], rel=1e-5)


@pytest.mark.parametrize(("mean", "deviation"), [(-1.2, 1.2), (0.3, 0.5)])
def test_edm_draws_log_normal_noise_levels(mean, deviation):
    sigma = levels(EDM(), p_mean=mean, p_std=deviation)
    assert stats.kstest(np.log(sigma), stats.norm(mean, deviation).cdf).statistic < ALLOWED
    assert np.median(sigma) == pytest.approx(math.exp(mean), rel=0.02)
    assert sigma.mean() == pytest.approx(math.exp(mean + deviation**2 / 2), rel=0.02)


def test_edm_defaults_are_those_of_karras_et_al():
    np.testing.assert_array_equal(levels(EDM()), levels(EDM(), p_mean=-1.2, p_std=1.2))


def test_weights_are_those_of_karras_et_al_table_1():
    sigma = torch.tensor([0.02, 0.5, 1.0, 80.0], dtype=torch.float64)
    for kind in (VP(), VE()):
        torch.testing.assert_close(kind.loss_weight(sigma), 1 / sigma**2)
    torch.testing.assert_close(EDM().loss_weight(sigma), 1 / sigma**2 + 1 / 0.5**2)


@KINDS
def test_the_loss_sums_over_pixels_and_averages_over_the_batch(kind):
    images = torch.arange(12.0).reshape(2, 1, 2, 3) / 10
    noise, sigma = torch.ones(2, 1, 2, 3), torch.tensor([0.5, 2.0])
    weights = [4 + 4 * isinstance(kind, EDM), 0.25 + 4 * isinstance(kind, EDM)]

    def unchanged(x, level, labels):
        return x  # so that the error is the noise times sigma: six pixels of sigma² each

    expected = (weights[0] * 6 * 0.25 + weights[1] * 6 * 4.0) / 2
    assert denoising_loss(unchanged, kind, images, sigma, noise, None).item() == pytest.approx(expected)


@KINDS
def test_a_denoiser_sees_the_image_plus_sigma_times_the_noise_with_its_label(kind):
    images, noise = torch.randn(2, 3, 2, 2), torch.randn(2, 3, 2, 2)
    sigma, labels = torch.tensor([0.5, 20.0]), torch.tensor([4, 1])

    def check(x, level, given):
        torch.testing.assert_close(x[0], images[0] + 0.5 * noise[0])
        torch.testing.assert_close(x[1], images[1] + 20 * noise[1])
        assert torch.equal(level, sigma)
        assert torch.equal(given, labels)
        return x

    denoising_loss(check, kind, images, sigma, noise, labels)


@KINDS
def test_the_exact_denoiser_of_a_single_image_has_no_loss(kind):
    image = torch.rand(1, 3, 4, 4) * 2 - 1
    batch = image.expand(16, -1, -1, -1)
    sigma = kind.noise_levels(torch.rand(16), torch.randn(16))

    def exact(x, level, labels):
        return batch  # the only image that any noisy one can come from

    assert denoising_loss(exact, kind, batch, sigma, torch.randn(batch.shape), None).item() == 0

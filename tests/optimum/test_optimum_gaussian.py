from __future__ import annotations

import numpy as np
import pytest
import torch

from diffmem.data.images import ImageSet
from diffmem.errors import UserError
from diffmem.models import Denoiser
from diffmem.optimum.gaussian import GaussianDenoiser, GaussianMixtureDenoiser, covariance_spectrum
from diffmem.optimum.optimum import Optimum
from diffmem.sampling import SamplerConfig, latents_for_seeds, sample_latents

SIGMAS = [0.002, 0.05, 0.4, 3.0, 80.0]
SHAPE = (1, 2, 3)


def image_set(count, shape=SHAPE, labels=None, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)
    return ImageSet(pixels, labels, tuple(map(str, range(count))))


def gaussian(seed=0, dim=6):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(dim, dim, generator=generator, dtype=torch.float64) * 0.4
    return torch.randn(SHAPE, generator=generator, dtype=torch.float64) * 0.3, root @ root.T


def points(count=5, scale=1.0, seed=9):
    return scale * torch.randn(
        count, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def wiener(mean, covariance, x, sigma):
    """The formula by a linear solve, without eigenvalues."""
    rows = (x - mean).flatten(1)
    matrix = covariance + sigma**2 * torch.eye(len(covariance), dtype=torch.float64)
    return mean + (covariance @ torch.linalg.solve(matrix, rows.T)).T.reshape(x.shape)


def one_number(value):
    return torch.as_tensor(value, dtype=torch.float64).reshape(-1, 1, 1, 1)


def quadrature(x, sigma, weights, means, spreads):
    """E[y | y + sigma n = x] for a mixture of normal y on a line, by sums over a fine grid around the mass of the integrand."""
    total = np.square(sigma) + np.square(spreads)
    posterior_means = means + np.square(spreads) / total * (x - means)
    widths = sigma * spreads / np.sqrt(total)
    grid = np.sort(
        np.concatenate(
            [m + w * np.linspace(-12, 12, 40001) for m, w in zip(posterior_means, widths, strict=True)]
        )
    )
    log_prior = np.logaddexp.reduce(
        np.log(weights / spreads)[:, None] - np.square((grid - means[:, None]) / spreads[:, None]) / 2
    )
    log = log_prior - np.square((x - grid) / sigma) / 2
    density = np.exp(log - log.max())
    mass = (density[1:] + density[:-1]) * np.diff(grid)
    return (mass * (grid[1:] + grid[:-1]) / 2).sum() / mass.sum()


@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_gaussian_denoiser_is_the_wiener_filter(sigma):
    mean, covariance = gaussian()
    x = points(scale=max(sigma, 1))
    found = GaussianDenoiser(mean, covariance)(x, sigma)
    torch.testing.assert_close(found, wiener(mean, covariance, x, sigma), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("count", [1, 2, 5, 6, 7, 40])
@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_gaussian_of_images_has_their_mean_and_covariance(count, sigma):
    images = image_set(count)
    y = torch.from_numpy(images.images / 127.5 - 1).flatten(1)
    covariance = (
        torch.from_numpy(np.cov(y.numpy(), rowvar=False, bias=True))
        if count > 1
        else torch.zeros(6, 6).double()
    )
    x = points(scale=max(sigma, 1))
    found = GaussianDenoiser.from_images(images)
    torch.testing.assert_close(
        found(x, sigma), wiener(y.mean(0).reshape(SHAPE), covariance, x, sigma), rtol=1e-9, atol=1e-9
    )
    spectrum = covariance_spectrum(images)
    torch.testing.assert_close(spectrum, found.variances, rtol=1e-9, atol=1e-12)
    assert len(spectrum) == min(count - 1, 6)
    torch.testing.assert_close(spectrum.sum(), covariance.trace(), rtol=1e-9, atol=1e-12)


def test_blocks_of_images_do_not_change_the_moments(monkeypatch):
    images = image_set(50)
    whole = GaussianDenoiser.from_images(images).variances
    monkeypatch.setattr("diffmem.optimum.gaussian._BLOCK_BYTES", 8 * 6 * 7)
    assert torch.equal(GaussianDenoiser.from_images(images).variances, whole)


def test_at_no_noise_it_is_the_identity_on_the_support_and_at_much_noise_the_mean():
    images = image_set(4)
    y = torch.from_numpy(images.images / 127.5 - 1)
    denoiser = GaussianDenoiser.from_images(images)
    inside = (y * torch.tensor([0.5, 0.2, 0.2, 0.1], dtype=torch.float64).reshape(-1, 1, 1, 1)).sum(
        0, keepdim=True
    )
    torch.testing.assert_close(denoiser(inside, 1e-7), inside, rtol=0, atol=1e-10)
    torch.testing.assert_close(denoiser(points(), 1e7), y.mean(0).expand(5, *SHAPE), rtol=0, atol=1e-10)


def test_no_affine_map_denoises_the_images_better():
    # E |D - y|^2 over images and noise of an affine map A x + b in closed form.
    images, sigma = image_set(9), 0.5
    y = torch.from_numpy(images.images / 127.5 - 1).flatten(1)
    denoiser = GaussianDenoiser.from_images(images)
    zero = denoiser(torch.zeros(1, *SHAPE, dtype=torch.float64), sigma).flatten()
    units = torch.eye(6, dtype=torch.float64).reshape(6, *SHAPE)
    matrix = (denoiser(units, sigma).flatten(1) - zero).T

    def loss(a, b):
        return ((y @ a.T + b - y).square().sum(1).mean() + sigma**2 * a.square().sum()).item()

    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        change = 0.01 * torch.randn(6, 7, generator=generator, dtype=torch.float64)
        assert loss(matrix + change[:, :6], zero + change[:, 6]) > loss(matrix, zero)


def test_each_class_has_its_own_gaussian_and_no_label_that_of_all():
    labels = np.array([0, 0, 0, 2, 2, 2, 2, 2])
    images = image_set(8, labels=labels)
    denoiser = GaussianDenoiser.from_images(images, conditional=True)
    assert denoiser.num_labels == 3
    x, sigma = points(4), torch.tensor([0.1, 0.3, 1.0, 2.0])
    found = denoiser(x, sigma, torch.tensor([2, 0, -1, 2]))
    for row, label in enumerate([2, 0, None, 2]):
        part = images if label is None else images.take(np.flatnonzero(labels == label), "a class")
        alone = GaussianDenoiser.from_images(part)(x[row : row + 1], sigma[row : row + 1])
        torch.testing.assert_close(found[row : row + 1], alone, rtol=0, atol=1e-12)
    torch.testing.assert_close(denoiser(x, sigma), GaussianDenoiser.from_images(images)(x, sigma))
    with pytest.raises(UserError, match="No image has label 1"):
        denoiser(x, 1.0, torch.tensor([1, 1, 1, 1]))


@pytest.mark.parametrize("sigma", [0.05, 0.4, 2.0])
def test_a_mixture_on_a_line_agrees_with_quadrature(sigma):
    weights, means, spreads = (
        np.array([0.2, 0.5, 0.3]),
        np.array([-0.8, 0.1, 0.9]),
        np.array([0.05, 0.3, 0.1]),
    )
    isotropic = GaussianMixtureDenoiser(
        torch.tensor(weights), one_number(means), variances=torch.tensor(spreads**2)
    )
    full = GaussianMixtureDenoiser(
        torch.tensor(weights), one_number(means), torch.tensor(spreads**2).reshape(3, 1, 1)
    )
    for value in (-2.0, -0.3, 0.45, 1.5):
        wanted = quadrature(value, sigma, weights, means, spreads)
        for denoiser in (isotropic, full):
            assert denoiser(one_number(value), sigma).item() == pytest.approx(wanted, abs=1e-8)


@pytest.mark.parametrize("sigma", [0.002, 0.1, 1.0, 80.0])
def test_a_mixture_of_points_is_the_optimum(sigma):
    images = image_set(30)
    y = torch.from_numpy(images.images / 127.5 - 1)
    x = y[:5] + sigma * points()
    mixture = GaussianMixtureDenoiser(torch.ones(30), y, variances=0.0)
    torch.testing.assert_close(mixture(x, sigma), Optimum(images)(x, sigma), rtol=0, atol=1e-5)
    almost = GaussianMixtureDenoiser(torch.ones(30), y, torch.eye(6).double().expand(30, 6, 6) * 1e-14)
    torch.testing.assert_close(almost(x, sigma), mixture(x, sigma), rtol=0, atol=1e-6)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_a_mixture_of_one_component_is_the_wiener_filter(sigma):
    mean, covariance = gaussian()
    x = points(scale=max(1, sigma))
    mixture = GaussianMixtureDenoiser(torch.ones(1), mean[None], covariance[None])
    torch.testing.assert_close(mixture(x, sigma), GaussianDenoiser(mean, covariance)(x, sigma))
    round_one = GaussianMixtureDenoiser(torch.ones(1), mean[None], variances=0.3)
    matrix = 0.3 * torch.eye(6, dtype=torch.float64)
    torch.testing.assert_close(round_one(x, sigma), wiener(mean, matrix, x, sigma))


def test_full_and_isotropic_components_agree_and_flat_ones_are_allowed():
    centres, x = points(4, seed=1), points(6, seed=2)
    spreads, weights = torch.tensor([0.1, 0.2, 0.4, 0.0]), torch.tensor([1.0, 2.0, 0.0, 3.0])
    matrices = spreads.double()[:, None, None] * torch.eye(6, dtype=torch.float64)
    for sigma in SIGMAS:
        one = GaussianMixtureDenoiser(weights, centres, variances=spreads.double())(x, sigma)
        other = GaussianMixtureDenoiser(weights, centres, matrices)(x, sigma)
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_nothing_overflows(sigma):
    mixture = GaussianMixtureDenoiser(torch.tensor([1.0, 1e-300]).double(), points(2), variances=1e-9)
    for x in (points(), points(scale=1e3), points(scale=1e-12)):
        assert torch.isfinite(mixture(x, sigma)).all()


def test_a_mixture_at_much_noise_returns_its_mean():
    mixture = GaussianMixtureDenoiser(torch.tensor([1.0, 3.0]), points(2), variances=0.1)
    mean = (points(2) * torch.tensor([0.25, 0.75]).reshape(2, 1, 1, 1)).sum(0)
    torch.testing.assert_close(mixture(points(), 1e8), mean.expand(5, *SHAPE), rtol=0, atol=1e-8)


def references():
    mean, covariance = gaussian()
    return {
        "gaussian": GaussianDenoiser(mean, covariance),
        "of images": GaussianDenoiser.from_images(image_set(4)),
        "mixture": GaussianMixtureDenoiser(torch.ones(2), points(2), variances=0.1),
        "full mixture": GaussianMixtureDenoiser(torch.ones(1), mean[None], covariance[None]),
    }


@pytest.mark.parametrize("name", references())
def test_they_are_denoisers_of_either_precision(name):
    denoiser, x = references()[name], points()
    assert isinstance(denoiser, Denoiser)
    assert (denoiser.image_shape, denoiser.num_labels, denoiser.device.type) == (SHAPE, 0, "cpu")
    double = denoiser(x, 0.5)
    assert double.dtype == torch.float64
    single = denoiser(x.float(), torch.tensor(0.5))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-5)
    one_by_one = torch.cat(
        [denoiser(x[i : i + 1], level) for i, level in enumerate([0.1, 1.0, 2.0, 3.0, 4.0])]
    )
    torch.testing.assert_close(denoiser(x, torch.tensor([0.1, 1.0, 2.0, 3.0, 4.0]).double()), one_by_one)


def test_sampling_a_gaussian_gives_its_moments():
    mean, covariance = gaussian()
    denoiser = GaussianDenoiser(mean, covariance)
    latents, _ = latents_for_seeds(range(4000), SHAPE)
    made = sample_latents(denoiser, latents, None, SamplerConfig(steps=60)).flatten(1)
    torch.testing.assert_close(made.mean(0), mean.flatten(), rtol=0, atol=0.06)
    torch.testing.assert_close(made.T.cov(), covariance, rtol=0, atol=0.08)


GOOD = {"x": points(), "sigma": 1.0, "labels": None}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"x": points()[:, :, :1]}, "not \\(B, "),
        ({"sigma": 0.0}, "must be positive, not 0"),
        ({"sigma": torch.tensor([1.0, float("nan"), 1, 1, 1])}, "must be positive, not nan"),
        ({"sigma": torch.ones(3)}, "3 noise levels for 5 images"),
        ({"labels": torch.zeros(5, dtype=torch.int64)}, "unconditional"),
    ],
)
@pytest.mark.parametrize("name", references())
def test_a_wrong_call_is_a_users_mistake(name, wrong, words):
    given = {**GOOD, **wrong}
    with pytest.raises(UserError, match=words):
        references()[name](given["x"], given["sigma"], given["labels"])


def test_wrong_labels_are_a_users_mistake():
    denoiser = GaussianDenoiser.from_images(image_set(4, labels=np.arange(4) % 2), conditional=True)
    with pytest.raises(UserError, match=r"Label 2 is outside 0\.\.1"):
        denoiser(points(), 1.0, torch.tensor([0, 1, 2, 0, 0]))
    with pytest.raises(UserError, match="3 labels for 5 images"):
        denoiser(points(), 1.0, torch.tensor([0, 1, 1]))
    with pytest.raises(UserError, match="have none"):
        GaussianDenoiser.from_images(image_set(4), conditional=True)


def test_a_wrong_gaussian_is_a_users_mistake():
    mean, covariance = gaussian()
    with pytest.raises(UserError, match="have shapes"):
        GaussianDenoiser(mean, covariance[:5, :5])
    with pytest.raises(UserError, match="symmetric"):
        GaussianDenoiser(mean, covariance.triu())
    with pytest.raises(UserError, match="no negative eigenvalues"):
        GaussianDenoiser(mean, -covariance)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({}, "either covariances or variances"),
        ({"variances": 1.0, "covariances": torch.zeros(2, 6, 6)}, "either covariances or variances"),
        ({"variances": 1.0, "weights": torch.ones(3)}, "have shapes"),
        ({"variances": 1.0, "weights": torch.tensor([1.0, -1.0])}, "0 or more and not all 0"),
        ({"variances": 1.0, "weights": torch.zeros(2)}, "0 or more and not all 0"),
        ({"variances": -1.0}, "0 or more, not -1"),
        ({"variances": torch.ones(3)}, "one for each of its 2 components"),
        ({"covariances": torch.zeros(2, 5, 5)}, r"not \(2, 6, 6\)"),
    ],
)
def test_a_wrong_mixture_is_a_users_mistake(wrong, words):
    given = {"weights": torch.ones(2), "means": points(2), **wrong}
    with pytest.raises(UserError, match=words):
        GaussianMixtureDenoiser(**given)

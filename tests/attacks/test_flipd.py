"""FLIPD of denoisers whose Jacobian is known."""

import math

import numpy as np
import pytest
import torch

from diffmem.attacks import flipd as module
from diffmem.attacks.flipd import SIGMA, FlipdConfig
from diffmem.data import ImageSet
from diffmem.errors import UserError
from diffmem.models import VP, FunctionDenoiser, LatentDenoiser, ModelConfig, build_denoiser
from diffmem.optimum.gaussian import GaussianDenoiser
from diffmem.optimum.optimum import Optimum
from diffmem.progress import NO_PROGRESS

SHAPE = (1, 4, 4)
DIM = 16


def flipd(denoiser, images, labels=None, sigma=None, progress=NO_PROGRESS, **settings):
    return module.flipd(denoiser, images, labels, FlipdConfig(sigma=sigma, **settings), progress)


def images(count, seed=0, shape=SHAPE):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def image_set(pixels, labels=None):
    return ImageSet(np.ascontiguousarray(pixels), labels, tuple(map(str, range(len(pixels)))))


def rows(pixels):
    return pixels.reshape(len(pixels), -1) / 127.5 - 1


class Linear:
    """D = A x in float64, differentiable; it notes the labels that it is asked with."""

    sigma_min, sigma_max, device = 0.0, math.inf, torch.device("cpu")

    def __init__(self, matrix, shape=SHAPE, num_labels=0):
        self.matrix, self.image_shape, self.num_labels, self.asked = matrix, shape, num_labels, []

    def __call__(self, x, sigma, labels=None):
        self.asked += [None] if labels is None else labels.tolist()
        return (x.flatten(1) @ self.matrix.T).reshape(x.shape)


def matrix(seed=0, dim=DIM):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(dim, dim)))


def closed_form(training, x, sigma):
    """sum_i p_i |x - y_i|^2 / sigma^2."""
    squares = np.square(rows(x)[:, None] - rows(training)).sum(2)
    weights = torch.from_numpy(-squares / (2 * sigma**2)).softmax(1).numpy()
    return (weights * squares).sum(1) / sigma**2


@pytest.mark.parametrize("sigma", [0.05, 0.3, 1.0, 3.0])
def test_flipd_of_the_optimum_is_its_closed_form(sigma):
    training = images(60, shape=(1, 2, 3))
    asked = np.concatenate([training[:4], images(4, seed=1, shape=(1, 2, 3))])
    found = flipd(Optimum(image_set(training)), asked, sigma=sigma)
    assert (found.method.derivative, found.method.trace, found.method.dimension) == (
        "differences",
        "exact",
        6,
    )
    np.testing.assert_allclose(found.values, closed_form(training, asked, sigma), rtol=1e-6, atol=1e-6)


def test_a_label_restricts_the_optimum_to_its_class():
    training, classes = images(60), np.arange(60) % 3
    asked, given = images(5, seed=1), np.array([0, 1, 2, -1, 1])
    found = flipd(Optimum(image_set(training, classes), conditional=True), asked, given, 1.0).values
    for value, one, label in zip(found, asked, given, strict=True):
        members = training if label < 0 else training[classes == label]
        assert value == pytest.approx(closed_form(members, one[None], 1.0)[0], rel=1e-6)


@pytest.mark.parametrize("sigma", [0.01, 0.4, 2.0])
def test_flipd_of_a_gaussian_is_that_of_its_covariance(sigma):
    root = matrix(2) / 8
    covariance, mean = root @ root.T, torch.linspace(-0.3, 0.3, DIM, dtype=torch.float64)
    pixels = images(6)
    found = flipd(GaussianDenoiser(mean.reshape(SHAPE), covariance), pixels, sigma=sigma)
    gain = covariance @ torch.linalg.inv(covariance + sigma**2 * torch.eye(DIM))
    error = (torch.from_numpy(rows(pixels)) - mean) @ (gain - torch.eye(DIM)).T
    wanted = gain.trace() + error.square().sum(1) / sigma**2
    np.testing.assert_allclose(found.values, wanted.numpy(), rtol=1e-7)


def test_a_gaussian_of_a_few_directions_has_so_many_dimensions():
    directions = torch.linalg.qr(matrix(3)).Q[:, :5]
    covariance = directions @ directions.T
    found = flipd(
        GaussianDenoiser(torch.zeros(SHAPE), covariance), np.full((1, *SHAPE), 127, np.uint8), sigma=0.05
    )
    assert found.values[0] == pytest.approx(5, abs=0.1)


def test_a_differentiable_denoiser_is_differentiated():
    a, pixels = matrix(), images(3)
    found = flipd(Linear(a), pixels, sigma=0.7)
    y = torch.from_numpy(rows(pixels))
    wanted = a.trace() + (y @ a.T - y).square().sum(1) / 0.7**2
    assert found.method.derivative == "autograd"
    assert found.standard_errors is None
    np.testing.assert_allclose(found.values, wanted.numpy(), rtol=1e-12)
    with torch.no_grad():
        assert (flipd(Linear(a), pixels, sigma=0.7).values == found.values).all()


@pytest.mark.parametrize("probe", ["rademacher", "gaussian"])
def test_the_estimated_trace_is_right_within_its_standard_error(probe):
    # Of v' A v: 2 |S|_F^2 for Gaussian v, S the symmetric part of A; without its diagonal for Rademacher v.
    a, pixels = matrix(), images(60)
    symmetric = (a + a.T) / 2
    part = symmetric - torch.diag(symmetric.diag()) if probe == "rademacher" else symmetric
    spread = math.sqrt(2 * float(part.square().sum()))
    exact = flipd(Linear(a), pixels)
    found = flipd(Linear(a), pixels, trace="hutchinson", probes=100, probe=probe)
    assert (found.method.trace, found.method.probes, exact.method.probes) == ("hutchinson", 100, 0)
    assert found.standard_errors.mean() == pytest.approx(spread / 10, rel=0.05)
    scores = (found.values - exact.values) / found.standard_errors
    assert abs(scores.mean()) < 4 / math.sqrt(60)
    assert scores.std() == pytest.approx(1, abs=4 / math.sqrt(2 * 60))


def test_rademacher_directions_give_a_diagonal_trace_without_error():
    diagonal = torch.diag(torch.linspace(-1, 2, DIM, dtype=torch.float64))
    found = flipd(Linear(diagonal), images(3), trace="hutchinson", probes=2)
    np.testing.assert_allclose(found.values, flipd(Linear(diagonal), images(3)).values, rtol=1e-12)
    np.testing.assert_allclose(found.standard_errors, 0, atol=1e-12)


def test_images_of_more_values_than_the_limit_are_estimated():
    shape = (3, 35, 34)  # 3570 values
    found = flipd(
        FunctionDenoiser(lambda x, s, c: 0.5 * x, shape, 0.01, 80), images(1, shape=shape), probes=2
    )
    assert (found.method.trace, found.method.dimension) == ("hutchinson", 3570)
    y = rows(images(1, shape=shape))
    assert found.values[0] == pytest.approx(1785 + 0.25 * np.square(y).sum() / SIGMA**2, rel=1e-5)


def network(attention=(4,), seed=0, num_labels=0):
    config = ModelConfig(channels=8, multipliers=(1, 2), blocks=1, attention=attention, dropout=0.0)
    denoiser = build_denoiser(config, (1, 8, 8), num_labels, seed)
    generator = torch.Generator().manual_seed(seed)
    for parameter in denoiser.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return denoiser.eval()


class Closed:
    """A denoiser that cannot be differentiated."""

    device, num_labels, image_shape = torch.device("cpu"), 0, (1, 8, 8)

    def __init__(self, inner):
        self.inner, self.sigma_min, self.sigma_max = inner, inner.sigma_min, inner.sigma_max

    def __call__(self, x, sigma, labels=None):
        with torch.no_grad():
            return self.inner(x, sigma, labels)


def test_the_trace_of_a_network_is_that_of_its_jacobian_and_differences_agree():
    inner, pixels = network(), images(2, shape=(1, 8, 8))
    found = flipd(inner, pixels, sigma=0.5)
    assert all(parameter.grad is None for parameter in inner.parameters())
    for value, y in zip(found.values, rows(pixels), strict=True):
        x = torch.from_numpy(y).float().reshape(1, 1, 8, 8)
        jacobian = torch.func.jacrev(lambda z: inner(z, 0.5))(x).reshape(64, 64)
        error = (inner(x, 0.5) - x).detach().square().sum() / 0.25
        assert value == pytest.approx(float(jacobian.detach().trace() + error), rel=1e-4)
    near = flipd(Closed(inner), pixels, sigma=0.5)
    assert near.method.derivative == "differences"
    np.testing.assert_allclose(near.values, found.values, rtol=2e-3)
    estimated = flipd(Closed(inner), pixels, sigma=0.5, trace="hutchinson", probes=8)
    wanted = flipd(inner, pixels, sigma=0.5, trace="hutchinson", probes=8)
    np.testing.assert_allclose(estimated.values, wanted.values, rtol=2e-3)


def numpy_half(x, sigma, labels):
    return torch.from_numpy(x.numpy() * 0.5)


def weighted_half(x, sigma, labels):
    # It has parameters to differentiate by, but no way back to x.
    return torch.nn.Parameter(torch.tensor(0.5)) * x.detach()


@pytest.mark.parametrize("function", [numpy_half, weighted_half])
def test_a_function_without_a_way_back_is_asked_on_both_sides(function):
    pixels = images(2)
    found = flipd(FunctionDenoiser(function, SHAPE, 0.01, 80), pixels, sigma=0.5)
    assert found.method.derivative == "differences"
    np.testing.assert_allclose(found.values, 8 + np.square(rows(pixels)).sum(1), rtol=1e-5)


def test_an_error_of_the_model_itself_is_not_hidden():
    def broken(x, sigma, labels):
        raise RuntimeError("no such kernel")

    with pytest.raises(RuntimeError, match="no such kernel"):
        flipd(FunctionDenoiser(broken, SHAPE, 0.01, 80), images(1))


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_values_depend_neither_on_the_batch_nor_on_the_order(trace):
    model, pixels = Linear(matrix()), images(5)
    found = flipd(model, pixels, trace=trace, probes=7)
    other = flipd(model, pixels[::-1], trace=trace, probes=7, batch_size=3)
    np.testing.assert_allclose(other.values[::-1], found.values, rtol=1e-12)
    twice = flipd(model, np.repeat(pixels[:1], 2, axis=0), trace=trace, probes=7).values
    assert twice[0] == twice[1] == found.values[0]
    seeded = flipd(model, pixels, trace=trace, probes=7, seed=1).values
    assert (seeded == found.values).all() == (trace == "exact")


def test_labels_reach_the_model_with_each_direction():
    model = Linear(matrix(), num_labels=3)
    flipd(model, images(2), np.array([2, -1]))
    # One more to find out whether it can be differentiated.
    assert model.asked == [2] * (DIM + 2) + [-1] * (DIM + 1)


def test_images_are_encoded_for_a_model_of_latents():
    latent = LatentDenoiser(
        Linear(matrix()),
        lambda z: z.repeat_interleave(2, 2).repeat_interleave(2, 3),
        lambda x: x[:, :, ::2, ::2],
        (1, 8, 8),
    )
    pixels = images(3, shape=(1, 8, 8))
    found = flipd(latent, pixels, sigma=0.5)
    assert found.method.dimension == DIM
    np.testing.assert_allclose(
        found.values, flipd(Linear(matrix()), pixels[:, :, ::2, ::2], sigma=0.5).values, rtol=1e-6
    )


def test_without_a_level_the_nearest_to_the_default_is_taken():
    model = Linear(matrix())
    assert flipd(model, images(1)).method.sigma == SIGMA
    model.sigma_min = 2 * SIGMA
    assert flipd(model, images(1)).method.sigma == 2 * SIGMA
    model.sigma_min, model.sigma_max = VP().sigma_min, SIGMA / 2
    assert flipd(model, images(1)).method.sigma == SIGMA / 2


def test_progress_counts_directions():
    told = []
    flipd(
        Linear(matrix()),
        images(2),
        batch_size=10,
        progress=lambda done, total, note="": told.append((done, total)),
    )
    assert told == [(10, 32), (16, 32), (26, 32), (32, 32)]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"images": images(2).astype(np.float32)}, "one or more uint8 images"),
        ({"images": images(2, shape=(1, 4, 5))}, r"\(1, 4, 4\)"),
        ({"images": images(2)[:0]}, "one or more"),
        ({"labels": np.array([0])}, "1 labels for 2 images"),
        ({"labels": np.array([0, 0])}, "unconditional"),
        ({"sigma": 0.0}, "noise level 0 is outside"),
        ({"sigma": math.nan}, "noise level nan is outside"),
        ({"trace": "some"}, "exact or hutchinson"),
        ({"probe": "some"}, "rademacher or gaussian"),
        ({"probes": 1}, "2 or more probes"),
        ({"batch_size": 0}, "batch of 1 or more"),
    ],
)
def test_what_does_not_fit_is_refused(changes, told):
    with pytest.raises(UserError, match=told):
        flipd(Linear(matrix()), **{"images": images(2), **changes})


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(UserError, match="not finite for image 0"):
        flipd(Linear(matrix() * math.nan), images(2))
    wrong = Linear(matrix())
    wrong.__class__ = type("Wrong", (Linear,), {"__call__": lambda self, x, sigma, labels=None: x[:, :, :2]})
    with pytest.raises(UserError, match="returned shape"):
        flipd(wrong, images(2))


def test_a_model_of_paired_noise_is_refused():
    denoiser = GaussianDenoiser.from_images(image_set(images(20)))
    flipd(denoiser, images(1), sigma=1.0)
    denoiser.independent_noise = False
    with pytest.raises(UserError, match="optimal transport"):
        flipd(denoiser, images(1), sigma=1.0)

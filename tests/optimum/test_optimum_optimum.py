from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from optimum_tools import DATA, SHAPE, formula, halfway, image_set, noisy, random_pixels
from parameters import these

from diffmem.data.formats.cifar10 import CIFAR10, read_cifar
from diffmem.errors import UserError
from diffmem.memorization import measure
from diffmem.models import Denoiser
from diffmem.optimum.optimum import Optimum
from diffmem.sampling import generate

SIGMAS = [0.002, 0.005, 0.02, 0.3, 1.0, 5.0, 20.0, 80.0]


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("pixels", DATA.values(), ids=DATA.keys())
def test_it_is_the_posterior_mean(pixels, sigma):
    optimum = Optimum(image_set(pixels))
    clean = torch.from_numpy(pixels[:3] / 127.5 - 1)
    for x in (noisy(pixels, sigma), clean, halfway(pixels), noisy(pixels, 80.0)):
        weights, mean = formula(x, sigma, pixels)
        found = optimum(x, sigma)
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, mean, atol=2e-6, rtol=0)
        spread = optimum.posterior(x, sigma)
        safe = np.where(weights > 0, weights, 1)
        np.testing.assert_allclose(spread.entropy, -(weights * np.log(safe)).sum(1), atol=1e-5)
        np.testing.assert_allclose(spread.effective_number, spread.entropy.exp(), rtol=1e-12)
        np.testing.assert_allclose(spread.nearest_weight, weights.max(1), atol=2e-6)


def test_float32_distances_would_choose_at_random_between_near_images():
    pixels = random_pixels(2, (3, 32, 32))
    pixels[1] = pixels[0]
    pixels[1, 0, 0, 0] ^= 1
    x = noisy(pixels, 0.02).float()
    _, mean = formula(x, 0.002, pixels)
    y = torch.from_numpy(pixels / 127.5 - 1).float().flatten(1)
    scores = (x.flatten(1) @ y.T - y.square().sum(1) / 2) / 0.002**2
    naive = (scores.softmax(1) @ y).reshape(x.shape)
    assert (naive - mean).abs().max() > 1e-4
    assert (Optimum(image_set(pixels))(x, 0.002) - mean).abs().max() < 2e-6


def exchanged(lowest, highest):
    """Two images whose halves are exchanged, and queries with equal halves: at equal distance from both."""
    left, right = random_pixels(2, (3, 32, 16))
    pixels = np.stack([np.concatenate(halves, axis=2) for halves in ((left, right), (right, left))])
    generator = torch.Generator().manual_seed(0)
    half = torch.rand(16, 3, 32, 16, generator=generator, dtype=torch.float64)
    return pixels, (lowest + (highest - lowest) * half).repeat(1, 1, 1, 2)


@pytest.mark.parametrize("lowest", [-1000, 0])
def test_large_values_that_favour_no_image_cancel(lowest):
    pixels, x = exchanged(lowest, 1000)
    pixels[:, 0, 0, 0] = 127, 128
    pixels[:, 0, 0, 16] = 0
    x[:, 0, 0, 0] = torch.linspace(-0.002, 0.002, 16)
    y = 0.5 / 127.5
    optimum = Optimum(image_set(pixels))
    # One by one, as an image that one query needs is there for all.
    found = torch.cat([optimum(query, 0.002) for query in x.split(1)])[:, 0, 0, 0]
    torch.testing.assert_close(found, y * torch.tanh(x[:, 0, 0, 0] * y / 0.002**2), atol=2e-6 * y, rtol=0)


def test_equal_distances_share_the_weight():
    pixels = np.zeros((2, 1, 1, 2), dtype=np.uint8)
    pixels[0, 0, 0, 0] = pixels[1, 0, 0, 1] = 255
    mean = Optimum(image_set(pixels))(torch.full((1, 1, 1, 2), 0.3, dtype=torch.float64), 0.002)
    torch.testing.assert_close(mean, torch.zeros(1, 1, 1, 2, dtype=torch.float64), atol=1e-12, rtol=0)


def test_each_query_has_its_own_noise_level():
    pixels = random_pixels(100)
    optimum = Optimum(image_set(pixels))
    x = noisy(pixels, 1.0, len(SIGMAS))
    together = optimum(x, torch.tensor(SIGMAS))
    for index, sigma in enumerate(SIGMAS):
        alone = optimum(x[index : index + 1], torch.tensor([sigma]))
        torch.testing.assert_close(together[index : index + 1], alone, atol=5e-7, rtol=0)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_batch_changes_only_the_rounding(sigma):
    pixels = random_pixels(2000)
    optimum = Optimum(image_set(pixels))
    x = noisy(pixels, sigma, 64)
    whole = optimum(x, sigma)
    for size in (1, 7):
        parts = torch.cat([optimum(part, sigma) for part in x.split(size)])
        torch.testing.assert_close(parts, whole, atol=5e-7, rtol=0)


@pytest.mark.parametrize("sigma", these([0.002, 1.0, 5.0, 80.0], 0.002, 5.0))
@pytest.mark.parametrize("workspace", [1, 100_000, 2**20])
def test_blocks_do_not_change_the_result(sigma, workspace):
    pixels = random_pixels(700 if workspace > 1 else 30)
    x = noisy(pixels, sigma, 20)
    _, mean = formula(x, sigma, pixels)
    optimum = Optimum(image_set(pixels), workspace_bytes=workspace)
    torch.testing.assert_close(optimum(x, sigma), mean, atol=2e-6, rtol=0)
    entropy = Optimum(image_set(pixels)).posterior(x, sigma).entropy
    torch.testing.assert_close(optimum.posterior(x, sigma).entropy, entropy, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sigma", these([0.002, 80.0], 80.0))
def test_memory_stays_below_the_workspace_whatever_the_number_of_images(sigma):
    pixels = random_pixels(4000, (3, 16, 16))
    workspace = 2 * 2**20
    optimum = Optimum(image_set(pixels), workspace_bytes=workspace)
    x = noisy(pixels, sigma, 256).float()
    with torch.profiler.profile(
        profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]
    ) as profile:
        optimum(x, sigma)
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes = np.array([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    peak = sizes.cumsum().max()
    assert x.numel() * 4 < peak < x.numel() * 4 + workspace


def test_float32_queries_give_float32_results():
    pixels = random_pixels(50)
    optimum = Optimum(image_set(pixels))
    x = noisy(pixels, 0.5).float()
    found = optimum(x, 0.5)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), optimum(x.double(), 0.5), atol=1e-7, rtol=0)
    assert optimum(x.half(), 0.5).dtype == torch.float32


def test_it_is_a_denoiser():
    optimum = Optimum(image_set(random_pixels(5)))
    assert isinstance(optimum, Denoiser)
    assert (optimum.sigma_min, optimum.sigma_max) == (0.0, math.inf)
    assert (optimum.image_shape, optimum.num_labels, optimum.device) == (SHAPE, 0, torch.device("cpu"))


def test_without_queries_the_result_is_empty():
    optimum = Optimum(image_set(random_pixels(5)))
    assert optimum(torch.zeros(0, *SHAPE), 1.0).shape == (0, *SHAPE)


def test_at_infinite_noise_it_is_the_mean_of_all_images_and_at_no_noise_the_nearest():
    pixels = random_pixels(50)
    optimum = Optimum(image_set(pixels))
    y = torch.from_numpy(pixels / 127.5 - 1)
    x = y[7:8] + 0.01
    torch.testing.assert_close(optimum(x, math.inf), y.mean(0, keepdim=True), atol=1e-12, rtol=0)
    torch.testing.assert_close(optimum(x, 1e-200), y[7:8], atol=1e-12, rtol=0)
    assert optimum.posterior(x, math.inf).effective_number == pytest.approx(50)


def test_a_query_that_is_not_finite_spoils_no_other():
    pixels = random_pixels(50)
    optimum = Optimum(image_set(pixels))
    x = noisy(pixels, 1.0)
    good = optimum(x, 1.0)
    x[2, 0, 0, 0] = math.nan
    x[4, 0, 0, 0] = math.inf
    found = optimum(x, 1.0)
    assert not found[[2, 4]].isfinite().any()
    spread = optimum.posterior(x, 1.0)
    for each in spread:
        assert each.isfinite().tolist() == [at not in (2, 4) for at in range(len(x))]
    torch.testing.assert_close(found[[0, 1, 3, 5]], good[[0, 1, 3, 5]], atol=1e-6, rtol=0)


class TestConditional:
    pixels = random_pixels(90)
    labels = np.array([0, 1, 3] * 30)

    def test_the_mean_is_over_the_images_of_the_label(self):
        optimum = Optimum(image_set(self.pixels, self.labels), conditional=True)
        assert optimum.num_labels == 4
        x = noisy(self.pixels, 20.0, 9)
        wanted = torch.tensor([0, 1, 3, 3, 1, 0, -1, 3, -1])
        found = optimum(x, 20.0, wanted)
        for index, label in enumerate(wanted.tolist()):
            chosen = self.pixels if label < 0 else self.pixels[self.labels == label]
            _, mean = formula(x[index : index + 1], 20.0, chosen)
            torch.testing.assert_close(found[index : index + 1], mean, atol=2e-6, rtol=0)

    def test_no_labels_mean_all_images(self):
        data = image_set(self.pixels, self.labels)
        x = noisy(self.pixels, 5.0)
        expected = Optimum(data)(x, 5.0)
        conditional = Optimum(data, conditional=True)
        torch.testing.assert_close(conditional(x, 5.0), expected, atol=5e-7, rtol=0)
        torch.testing.assert_close(conditional(x, 5.0, torch.tensor([-1])), expected, atol=5e-7, rtol=0)

    def test_with_unique_labels_it_returns_the_image_of_the_label(self):
        data = image_set(self.pixels, np.arange(90))
        wanted = torch.tensor([5, 80, 17])
        found = Optimum(data, conditional=True)(80 * torch.randn(3, *SHAPE).double(), 80.0, wanted)
        torch.testing.assert_close(
            found, torch.from_numpy(self.pixels[wanted] / 127.5 - 1), atol=1e-12, rtol=0
        )

    @pytest.mark.parametrize(
        ("label", "message"),
        [(2, "No training image has label 2"), (4, "Label 4 is outside 0..3"), (-2, "Label -2")],
    )
    def test_a_label_without_images_is_refused(self, label, message):
        optimum = Optimum(image_set(self.pixels, self.labels), conditional=True)
        with pytest.raises(UserError, match=message):
            optimum(torch.zeros(2, *SHAPE), 1.0, torch.tensor([0, label]))

    def test_images_without_labels_are_refused(self):
        with pytest.raises(UserError, match="needs images with labels"):
            Optimum(image_set(self.pixels), conditional=True)

    def test_sampling_with_labels_gives_images_of_the_labels(self):
        data = image_set(self.pixels, self.labels)
        wanted = [0, 1, 3] * 8
        made = generate(Optimum(data, conditional=True), range(24), labels=wanted)
        for image, label in zip(made.images, wanted, strict=True):
            index = int(np.nonzero((self.pixels == image).all(axis=(1, 2, 3)))[0][0])
            assert self.labels[index] == label


@pytest.mark.parametrize(
    ("x", "sigma", "labels", "message"),
    [
        (torch.zeros(2, 3, 5, 6), 1.0, None, r"shape \(2, 3, 5, 6\)"),
        (torch.zeros(SHAPE), 1.0, None, "shape"),
        (torch.zeros(2, *SHAPE), 0.0, None, "positive, not 0"),
        (torch.zeros(2, *SHAPE), torch.tensor([1.0, math.nan]), None, "positive, not nan"),
        (torch.zeros(2, *SHAPE), torch.ones(3), None, "3 noise levels for 2 images"),
        (torch.zeros(2, *SHAPE), 1.0, torch.tensor([0, 0]), "unconditional"),
    ],
)
def test_bad_arguments_are_refused(x, sigma, labels, message):
    with pytest.raises(UserError, match=message):
        Optimum(image_set(random_pixels(5)))(x, sigma, labels)


def test_bad_settings_are_refused():
    for tolerance in (0.0, math.nan, 0.1):
        with pytest.raises(UserError, match="tolerance must be between"):
            Optimum(image_set(random_pixels(5)), tolerance=tolerance)
    with pytest.raises(UserError, match="at least 1 byte"):
        Optimum(image_set(random_pixels(5)), workspace_bytes=0)
    optimum = Optimum(image_set(random_pixels(3), [0, 0, 1]), conditional=True)
    with pytest.raises(UserError, match="2 labels for 3 images"):
        optimum(torch.zeros(3, *SHAPE), 1.0, torch.tensor([0, 1]))


def test_every_sample_of_the_optimum_is_a_training_image():
    data = image_set(random_pixels(200, (3, 8, 8)))
    made = generate(Optimum(data), range(64))
    known = {image.tobytes() for image in data.images}
    assert all(image.tobytes() in known for image in made.images)
    result = measure(made.images, data.images)
    assert result.rate.value == 1.0
    assert result.distinct_replicated > 30


@pytest.mark.slow
@pytest.mark.cifar
def test_every_sample_of_the_optimum_on_cifar10_is_a_training_image(cifar_archive):
    data = read_cifar(cifar_archive, "train", CIFAR10)
    made = generate(Optimum(data), range(64))
    assert measure(made.images, data.images).rate.value == 1.0

import math

import numpy as np
import pytest
import torch

from diffmem.data import ImageSet
from diffmem.errors import UserError
from diffmem.optimum import curves as module
from diffmem.optimum.curves import OptimumCurves, balanced_indices, default_sigmas, optimum_curves
from diffmem.optimum.optimum import Optimum

SIGMAS = [0.01, 0.3, 1.0, 2.0, 5.0, 40.0]


def image_set(pixels, labels=None):
    return ImageSet(pixels, labels, tuple(map(str, range(len(pixels)))))


def random_images(count=60, shape=(3, 3, 2), seed=0, labels=None):
    return image_set(np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8), labels)


def normal_images(count, shape, sd=36.0, seed=0):
    """Images of independent normal values, whose steps of one grey level do not matter beside their deviation."""
    values = np.random.default_rng(seed).normal(127.5, sd, (count, *shape))
    return image_set(values.round().clip(0, 255).astype(np.uint8))


def queries_of(images, count, sigma, seed=0):
    """The noisy images that the curves are means over."""
    chosen = balanced_indices(len(images), count, seed)
    noise = torch.randn(
        count, math.prod(images.shape), generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    clean = torch.from_numpy(images.images[chosen] / 127.5 - 1)
    return chosen, clean, clean + sigma * noise.reshape(clean.shape)


def weights(images, x, sigma):
    y = torch.from_numpy(images.images / 127.5 - 1).flatten(1)
    return (-(x.flatten(1)[:, None] - y).square().sum(2) / (2 * sigma**2)).softmax(1)


@pytest.mark.parametrize(
    ("dimension", "count", "shape", "at_collapse"),
    [(16, 2000, (1, 4, 4), 0.53), (32, 4000, (1, 4, 8), 0.57), (64, 4000, (1, 8, 8), 0.57)],
)
def test_a_gaussian_collapses_where_theory_says(dimension, count, shape, at_collapse):
    # Biroli et al. 2024: with n points in d dimensions the optimum condenses at s / sqrt(n^(2/d) - 1).
    scale = 36 / 127.5
    predicted = scale / math.sqrt(count ** (2 / dimension) - 1)
    found = optimum_curves(
        normal_images(count, shape), sigmas=[predicted / 2, predicted, 2 * predicted], queries=800
    )
    below, at, above = (point.own_weight.value for point in found.points)
    assert below >= 0.99
    assert at == pytest.approx(at_collapse, abs=0.06)
    assert above <= (0.055 if dimension == 16 else 0.03)
    assert found.collapse.isotropic == pytest.approx(predicted, rel=0.02)
    assert found.collapse.spectrum == pytest.approx(predicted, rel=0.02)
    assert found.collapse.dimension == pytest.approx(dimension, rel=0.03)
    assert found.collapse.scale == pytest.approx(scale, rel=0.02)
    assert predicted < found.collapse.measured < 1.2 * predicted


def test_the_curves_are_means_of_the_formula():
    images, count = random_images(), 40
    found = optimum_curves(images, sigmas=SIGMAS, queries=count)
    for point in found.points:
        chosen, clean, x = queries_of(images, count, point.sigma)
        p = weights(images, x, point.sigma)
        own = p[torch.arange(count), torch.from_numpy(chosen)]
        entropy = -(p * p.clamp_min(1e-300).log()).sum(1)
        assert point.own_weight.value == pytest.approx(own.mean().item(), abs=1e-9)
        assert point.own_above_half.count == int((own > 0.5).sum())
        assert point.own_above_half.total == count
        assert point.nearest_weight.value == pytest.approx(p.amax(1).mean().item(), abs=1e-9)
        assert point.entropy.value == pytest.approx(entropy.mean().item(), abs=1e-9)
        assert point.effective_number.value == pytest.approx(entropy.exp().mean().item(), rel=1e-9)
        assert point.effective_number_10 <= point.effective_number_90
        still, y = weights(images, clean, point.sigma), torch.from_numpy(images.images / 127.5 - 1).flatten(1)
        distances = (clean.flatten(1)[:, None] - y).square().sum(2)
        assert point.dimension.value == pytest.approx(
            ((still * distances).sum(1) / point.sigma**2).mean().item(), abs=1e-9
        )


def test_they_agree_with_the_posterior_of_the_optimum():
    images, count = random_images(200), 50
    for point in optimum_curves(images, sigmas=SIGMAS, queries=count).points:
        found = Optimum(images).posterior(queries_of(images, count, point.sigma)[2], point.sigma)
        assert point.entropy.value == pytest.approx(found.entropy.mean().item(), abs=2e-5)
        assert point.nearest_weight.value == pytest.approx(found.nearest_weight.mean().item(), abs=2e-5)
        assert point.effective_number.value == pytest.approx(found.effective_number.mean().item(), rel=2e-5)


def test_what_is_left_out_as_the_noise_falls_does_not_matter(monkeypatch):
    images = random_images(300, seed=3)
    found = optimum_curves(images, sigmas=default_sigmas(), queries=30)
    monkeypatch.setattr(module, "_NEGLIGIBLE", -math.inf)
    whole = optimum_curves(images, sigmas=default_sigmas(), queries=30)
    for one, other in zip(found.points, whole.points, strict=True):
        assert one.own_weight.value == pytest.approx(other.own_weight.value, abs=1e-12)
        assert one.entropy.value == pytest.approx(other.entropy.value, abs=1e-12)
        assert one.dimension.value == pytest.approx(other.dimension.value, abs=1e-12)


def test_blocks_do_not_change_the_result(monkeypatch):
    images = random_images(50)
    whole = optimum_curves(images, sigmas=SIGMAS, queries=30)
    monkeypatch.setattr(module, "_WORKSPACE", 64 * 50 * 7)
    parts = optimum_curves(images, sigmas=SIGMAS, queries=30)
    for one, other in zip(whole.points, parts.points, strict=True):
        assert one.entropy.value == pytest.approx(other.entropy.value, abs=1e-12)
        assert one.own_above_half == other.own_above_half


def test_copies_of_an_image_count_as_the_image():
    images = random_images(20, seed=1)
    twice = image_set(np.repeat(images.images, 2, axis=0))
    (point,) = optimum_curves(twice, sigmas=[0.05], queries=40).points
    assert point.own_above_half.value == 1
    assert point.own_weight.value == pytest.approx(1)
    assert point.nearest_weight.value == pytest.approx(0.5)
    assert point.effective_number.value == pytest.approx(2)
    found = optimum_curves(twice, sigmas=SIGMAS, queries=40)
    assert (found.images, found.distinct, found.collapse.count) == (40, 20, 20)


def test_a_conditional_optimum_looks_at_the_images_of_the_class_alone():
    labels = np.arange(60) % 3
    images = random_images(60, labels=labels)
    found = optimum_curves(images, sigmas=SIGMAS, queries=60, conditional=True)
    for point in found.points:
        chosen, _, x = queries_of(images, 60, point.sigma)
        posterior = Optimum(images, conditional=True).posterior(
            x, point.sigma, torch.from_numpy(labels[chosen])
        )
        assert point.entropy.value == pytest.approx(posterior.entropy.mean().item(), abs=2e-5)
    assert found.points[-1].effective_number.value == pytest.approx(20, rel=0.01)
    assert found.collapse.count == 20
    assert found.collapse.spectrum > optimum_curves(images, sigmas=SIGMAS, queries=60).collapse.spectrum


@pytest.mark.parametrize("images", [random_images(1), image_set(np.zeros((5, 1, 2, 2), np.uint8))])
def test_a_set_of_one_distinct_image_never_leaves_it(images):
    found = optimum_curves(images, queries=10)
    assert all(point.own_weight.value == pytest.approx(1) for point in found.points)
    assert all(point.own_above_half.value == 1 for point in found.points)
    assert found.collapse.measured is None
    assert found.collapse.isotropic is None
    assert found.collapse.spectrum is None


def test_each_label_alone_leaves_nothing_to_predict():
    found = optimum_curves(random_images(6, labels=np.arange(6)), sigmas=SIGMAS, queries=6, conditional=True)
    assert found.collapse.spectrum is None
    assert found.points[-1].own_weight.value == 1


def test_the_trace_of_the_optimum_and_the_distance_make_the_dimension():
    # FLIPD: tr J_D + |D - x|^2 / sigma^2 = sum_i p_i |x - y_i|^2 / sigma^2, by central differences of the denoiser.
    images, sigma = random_images(25, (1, 2, 3)), 1.3
    optimum = Optimum(images)
    clean = torch.from_numpy(images.images[:4] / 127.5 - 1)
    step = 1e-3
    for x in (clean, clean + 0.7):
        units = step * torch.eye(6, dtype=torch.float64).reshape(6, 1, 1, 2, 3)
        trace = sum(
            ((optimum(x + unit, sigma) - optimum(x - unit, sigma)) * unit).flatten(1).sum(1) / (2 * step**2)
            for unit in units
        )
        left = trace + (optimum(x, sigma) - x).square().flatten(1).sum(1) / sigma**2
        y = torch.from_numpy(images.images / 127.5 - 1).flatten(1)
        distances = (x.flatten(1)[:, None] - y).square().sum(2)
        right = (weights(images, x, sigma) * distances).sum(1) / sigma**2
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)
    found = optimum_curves(images, sigmas=[sigma], queries=25)
    y = torch.from_numpy(images.images / 127.5 - 1).flatten(1)
    all_pairs = (y[:, None] - y).square().sum(2)
    wanted = ((-all_pairs / (2 * sigma**2)).softmax(1) * all_pairs).sum(1) / sigma**2
    assert found.points[0].dimension.value == pytest.approx(wanted.mean().item(), abs=1e-9)


def test_the_local_dimension_of_a_dense_line_is_one_and_of_a_plane_two():
    line = np.zeros((256, 1, 1, 3), np.uint8)
    line[:, 0, 0, 0] = np.arange(256)
    (point,) = optimum_curves(image_set(line), sigmas=[6 / 127.5], queries=256).points
    assert point.dimension.value == pytest.approx(1, abs=0.08)
    plane = np.zeros((64 * 64, 1, 1, 3), np.uint8)
    plane[:, 0, 0, :2] = np.stack(np.meshgrid(np.arange(64), np.arange(64)), -1).reshape(-1, 2) * 4
    (point,) = optimum_curves(image_set(plane), sigmas=[8 / 127.5], queries=500).points
    assert point.dimension.value == pytest.approx(2, abs=0.2)


def test_the_same_seed_gives_the_same_numbers_and_another_one_others():
    images = random_images()
    one, again = (optimum_curves(images, sigmas=SIGMAS, queries=20, seed=4) for _ in range(2))
    assert one == again
    assert optimum_curves(images, sigmas=SIGMAS, queries=20, seed=5).points != one.points


def test_every_image_is_used_once_before_any_is_used_again():
    for count, wanted in ((7, 20), (7, 7), (50, 8)):
        used = np.bincount(balanced_indices(count, wanted, 0), minlength=count)
        assert used.sum() == wanted
        assert used.max() - used.min() <= 1


def test_the_result_reads_back_and_intervals_narrow_with_the_queries():
    images = random_images(100)
    few, many = (optimum_curves(images, sigmas=SIGMAS, queries=count) for count in (50, 800))
    assert OptimumCurves.model_validate_json(many.model_dump_json()) == many
    assert many.points[2].own_weight.se == pytest.approx(few.points[2].own_weight.se / 4, rel=0.35)
    assert [point.sigma for point in many.points] == SIGMAS


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"sigmas": []}, "at least one"),
        ({"sigmas": [1.0, 0.0]}, "positive numbers"),
        ({"sigmas": [math.nan]}, "positive numbers"),
        ({"queries": 0}, "at least 1 query, not 0"),
        ({"conditional": True}, "these have none"),
    ],
)
def test_a_wrong_argument_is_a_users_mistake(wrong, words):
    with pytest.raises(UserError, match=words):
        optimum_curves(random_images(5), **wrong)

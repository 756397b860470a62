"""Posterior means by integer products: how far they are from the formula, and what they prove about it."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from optimum_tools import (
    DATA,
    SHAPE,
    formula,
    halfway,
    image_set,
    nearly_equal,
    noisy,
    random_pixels,
    smooth_pixels,
)
from parameters import these

from diffmem.integers import IntegerProducts
from diffmem.optimum import optimum as optimum_module
from diffmem.optimum import pixels as pixels_module
from diffmem.optimum import posterior, references, scores, weights
from diffmem.optimum.optimum import Optimum
from diffmem.sampling import SamplerConfig
from diffmem.sampling.samplers import sample_latents

WAYS = {
    "8 bits": IntegerProducts(8, True),
    "7 bits": IntegerProducts(7, True),
    "float32": IntegerProducts(8, False),
}


@pytest.fixture(params=WAYS.values(), ids=WAYS.keys())
def way(request, monkeypatch):
    monkeypatch.setattr(pixels_module, "integer_products", lambda device: request.param)


def error_and_bound(optimum, x, sigma, pixels):
    optimum.work.bound = 0.0
    found = optimum(x, sigma)
    return float((found - formula(x, sigma, pixels)[1]).abs().max()), optimum.work.bound


ADVERSARIAL = {
    **DATA,
    "one image": random_pixels(1),
    "copies": random_pixels(2).repeat(8, axis=0),
    "one value apart": random_pixels(1).repeat(17, axis=0)
    ^ np.eye(17, 90, dtype=np.uint8).reshape(17, *SHAPE),
    "black": np.zeros((5, *SHAPE), np.uint8),
    "black and white": np.concatenate([np.zeros((9, *SHAPE), np.uint8), np.full((8, *SHAPE), 255, np.uint8)]),
    "nearly equal": nearly_equal(2000),
    "smooth": smooth_pixels(2500),
}


@pytest.mark.parametrize("sigma", these([0.002, 0.02, 0.3, 1.0, 3.0, 9.0, 80.0], 0.002, 0.3, 3.0, 80.0))
@pytest.mark.parametrize("pixels", ADVERSARIAL.values(), ids=ADVERSARIAL.keys())
def test_the_error_is_below_its_bound_and_the_bound_below_the_tolerance(way, pixels, sigma):
    queries = {
        "noisy images": noisy(pixels, sigma),
        "halfway between images": halfway(pixels),
        "far outside": noisy(pixels, 200.0),
    }
    for tolerance in (2e-5, 1e-7):
        optimum = Optimum(image_set(pixels), tolerance=tolerance)
        for name, x in queries.items():
            error, bound = error_and_bound(optimum, x, sigma, pixels)
            assert error <= bound <= tolerance, name


@given(
    seed=st.integers(0, 2**16),
    count=st.integers(1, 17),
    side=st.integers(1, 5),
    sigma=st.floats(0.002, 80),
    spread=st.integers(1, 256),
    far=st.floats(0, 1000),
    power=st.integers(-10, -4),
)
def test_so_it_is_for_any_small_set(seed, count, side, sigma, spread, far, power):
    pixels = (random_pixels(count, (1, side, side), seed).astype(int) % spread).astype(np.uint8)
    optimum = Optimum(image_set(pixels), tolerance=10.0**power)
    x = noisy(pixels, max(sigma, far), seed=seed)
    error, bound = error_and_bound(optimum, x, sigma, pixels)
    assert error <= bound
    assert bound <= 10.0**power or far > 10


@pytest.mark.parametrize("sigma", [1e-6, 0.3, 1e6])
@pytest.mark.parametrize("far", [1e30, 1e36, 1e100, 1e200])
def test_a_query_far_beyond_all_images_spoils_no_other(far, sigma):
    pixels = random_pixels(600)
    x, levels = noisy(pixels, 0.3), torch.full((6,), 0.3, dtype=torch.float64)
    x[2], levels[2] = far, sigma
    others = [0, 1, 3, 4, 5]
    expected = formula(x[others], 0.3, pixels)[1]
    optimum = Optimum(image_set(pixels))
    for denoiser in (optimum, optimum.follow()):
        found = denoiser(x, levels)
        assert found.isfinite().all()
        torch.testing.assert_close(found[others], expected, atol=1e-6, rtol=0)


def test_weights_of_blocks_that_are_left_out_count_in_the_bound():
    # A block of 512 white images, each of a weight just too small to be counted, and a block of one black image.
    pixels = np.full((513, 1, 8, 8), 255, np.uint8)
    pixels[512] = 0
    sigma, bits = 0.05, 25.02
    apart = bits * math.log(2) * 2 * (127.5 * sigma) ** 2
    level = (255 - apart / (64 * 255)) / 2
    x = torch.full((1, 1, 8, 8), level / 127.5 - 1, dtype=torch.float64)
    error, bound = error_and_bound(Optimum(image_set(pixels), tolerance=1e-3), x, sigma, pixels)
    assert 1e-5 < error <= bound <= 1e-3


@pytest.mark.parametrize("tolerance", [1e-12, 0.01])
def test_the_ends_of_the_tolerances_are_reached(tolerance):
    pixels = random_pixels(50)
    optimum = Optimum(image_set(pixels), tolerance=tolerance)
    for sigma in (0.1, 80.0):
        error, bound = error_and_bound(optimum, noisy(pixels, sigma), sigma, pixels)
        assert error <= bound <= tolerance


class Threads:
    """Threads that tell each other what processes would."""

    def __init__(self, size):
        self.size, self.own, self.told = size, threading.local(), [None] * size
        self.barrier = threading.Barrier(size, timeout=200)

    def gather(self, value):
        self.told[self.own.rank] = value
        self.barrier.wait()
        told = list(self.told)
        self.barrier.wait()
        return told

    def run(self, work):
        def alone(rank):
            self.own.rank = rank
            return work(rank)

        with ThreadPoolExecutor(self.size) as pool:
            return list(pool.map(alone, range(self.size)))


@pytest.mark.parametrize("tolerance", [2e-5, 1e-8])
def test_processes_without_images_of_a_label_follow_those_that_pick_some_out(monkeypatch, tolerance):
    pixels, labels = smooth_pixels(1600), np.repeat([0, 1], 800)
    threads = Threads(2)
    monkeypatch.setattr(references, "world", lambda: threads)

    def answers(rank):
        part = slice(800 * rank, 800 * rank + 800)
        share = image_set(pixels[part], labels[part])
        optimum = Optimum(share, conditional=True, shared=True, tolerance=tolerance)
        wanted = torch.zeros(6, dtype=torch.int64)
        return [optimum(noisy(pixels, sigma), sigma, wanted) for sigma in (0.1, 0.3, 2.0)], optimum.work.bound

    (one, bound), (other, its) = threads.run(answers)
    assert bound == its <= tolerance
    for sigma, mean, same in zip((0.1, 0.3, 2.0), one, other, strict=True):
        assert torch.equal(mean, same)
        assert float((mean - formula(noisy(pixels, sigma), sigma, pixels[:800])[1]).abs().max()) <= bound


def test_a_refined_optimum_is_off_by_less_than_1e_10():
    pixels = smooth_pixels(2000)
    optimum = Optimum(image_set(pixels))
    for sigma in (0.01, 0.5, 2.0, 5.0, 80.0):
        error, bound = error_and_bound(optimum.refined(), noisy(pixels, sigma), sigma, pixels)
        assert error <= bound <= 1e-10
    assert optimum.tolerance == 2e-5


@pytest.mark.parametrize("sigma", [0.01, 0.3, 1.0, 3.0, 20.0])
def test_parts_blocks_and_threads_change_only_the_rounding(monkeypatch, sigma):
    pixels = smooth_pixels(3000)
    x = noisy(pixels, sigma, 8)
    expected = Optimum(image_set(pixels))(x, sigma)
    for module in (posterior, scores, weights):
        monkeypatch.setattr(module, "ROWS", 96)
    monkeypatch.setattr(scores, "PRODUCT", 2)
    monkeypatch.setattr(scores, "SAMPLE", 40)
    monkeypatch.setattr(weights, "GROUP", 3)
    monkeypatch.setattr(weights, "PIECE", 400)
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            monkeypatch.setattr(optimum_module, "BLOCK_BYTES", 1 << 10)
            for workspace in (256 << 20, 1 << 17):
                found = Optimum(image_set(pixels), workspace_bytes=workspace)(x, sigma)
                torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    finally:
        torch.set_num_threads(before)


def test_images_that_do_not_fit_the_memory_are_read_again(monkeypatch):
    pixels, labels = smooth_pixels(900), np.arange(900) % 3
    kept = Optimum(image_set(pixels, labels), conditional=True)
    monkeypatch.setattr(pixels_module, "KEPT", 0.0)
    read = Optimum(image_set(pixels, labels), conditional=True)
    wanted = torch.tensor([0, 1, 2, 2, -1, 0])
    for sigma in (0.05, 1.0, 30.0):
        x = noisy(pixels, sigma)
        assert torch.equal(read(x, sigma, wanted), kept(x, sigma, wanted))


def test_at_low_noise_only_the_images_that_matter_are_weighted(monkeypatch):
    pixels = random_pixels(4000)
    seen = []
    weighted = posterior.weighted
    monkeypatch.setattr(
        posterior, "weighted", lambda source, *rest: seen.append(len(source)) or weighted(source, *rest)
    )
    optimum = Optimum(image_set(pixels))
    optimum(noisy(pixels, 0.1, 8), 0.1)
    assert set(seen) == {8}
    seen.clear()
    optimum(noisy(pixels, 80.0, 8), 80.0)
    assert set(seen) == {4000}


def test_every_answer_along_a_trajectory_is_within_its_bound():
    pixels = smooth_pixels(1500)
    optimum = Optimum(image_set(pixels))
    worst = []

    class Compared:
        sigma_min, sigma_max, image_shape, num_labels, device = 0.0, np.inf, SHAPE, 0, torch.device("cpu")

        def __call__(self, x, sigma, labels=None):
            found = optimum(x, sigma)
            worst.append(float((found - formula(x, sigma.numpy(), pixels)[1]).abs().max()))
            return found

    latents = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sample_latents(Compared(), latents, None, SamplerConfig())
    assert len(worst) == optimum.work.calls == 35
    assert optimum.work.queries == 175
    assert max(worst) <= optimum.work.bound <= 2e-5
    assert max(worst) < 1e-6


def test_labels_are_averaged_over_by_themselves():
    pixels, labels = smooth_pixels(900), np.array([0, 1, 3] * 300)
    optimum = Optimum(image_set(pixels, labels), conditional=True)
    wanted = torch.tensor([0, 1, 3, 3, -1, 0, -1])
    for sigma in (0.1, 2.0, 40.0):
        x = noisy(pixels, sigma, 7)
        found = optimum(x, sigma, wanted)
        for at, label in enumerate(wanted.tolist()):
            own = pixels if label < 0 else pixels[labels == label]
            torch.testing.assert_close(
                found[at : at + 1], formula(x[at : at + 1], sigma, own)[1], atol=2e-6, rtol=0
            )


CHILD = """
import sys
sys.path.insert(0, {builders!r})
import torch
from optimum_tools import formula, image_set, noisy, smooth_pixels
from diffmem.optimum.optimum import Optimum
pixels = smooth_pixels(1500)
optimum = Optimum(image_set(pixels))
for sigma in (0.002, 0.3, 2.0, 20.0):
    x = noisy(pixels, sigma)
    assert float((optimum(x, sigma) - formula(x, sigma, pixels)[1]).abs().max()) <= optimum.work.bound <= 2e-5
"""


@pytest.mark.parametrize("isa", these(["AVX2", "AVX512_CORE_VNNI"], "AVX2"))
def test_older_processors_give_the_same_within_the_bound(isa):
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": isa, "OMP_NUM_THREADS": "1"}
    builders = os.path.dirname(sys.modules["optimum_tools"].__file__)
    done = subprocess.run(
        [sys.executable, "-c", CHILD.format(builders=builders)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr

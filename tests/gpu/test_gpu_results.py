"""Results of a GPU against those of the CPU: samples, nearest neighbours, whole-number products, the optimum."""

import numpy as np
import pytest
import torch

from diffmem.data import ImageSet
from diffmem.integers import integer_products
from diffmem.memorization.neighbours.neighbours import nearest_neighbours
from diffmem.models import ModelConfig, build_denoiser
from diffmem.optimum.optimum import Optimum
from diffmem.sampling import SamplerConfig, generate
from diffmem.sampling.samplers import sample_latents

pytestmark = pytest.mark.gpu

SHAPE = (3, 16, 16)
MODEL = ModelConfig(channels=32, attention=(8,))


def network(device):
    """A network whose layers that start near zero do not, so that they matter."""
    denoiser = build_denoiser(MODEL, SHAPE, seed=1).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in denoiser.named_parameters():
        if name.endswith(("conv1.weight", "proj.weight", "aux_conv.weight")):
            parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    return denoiser.to(device)


def image_set(count, seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (count, *SHAPE), dtype=np.uint8)
    return ImageSet(images, None, tuple(map(str, range(count))))


@pytest.mark.parametrize("config", [SamplerConfig(), SamplerConfig(steps=18, S_churn=10)])
def test_seeds_give_the_images_of_the_cpu(card, config):
    here = generate(network("cpu"), range(8), config)
    there = generate(network(card), range(8), config)
    apart = np.abs(there.images.astype(int) - here.images.astype(int))
    assert apart.max() <= 2
    assert (apart > 0).mean() < 0.05
    assert here.images.std() > 10


def test_two_samplings_with_the_same_seeds_are_equal(card):
    denoiser = network(card)
    torch.use_deterministic_algorithms(True)
    try:
        first, second = (generate(denoiser, range(16), batch_size=16).images for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert np.array_equal(first, second)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_neighbours_are_those_of_the_cpu_bit_for_bit(card, metric, kind):
    references, queries = image_set(3000).images.copy(), image_set(200, seed=1).images.copy()
    queries[:50] = references[:50]
    queries[:25, 0, 0, 0] ^= 1
    references[100:110] = references[0]  # ties
    queries, references = queries.astype(kind), references.astype(kind)
    here = nearest_neighbours(queries, references, 3, metric=metric, device="cpu")
    there = nearest_neighbours(queries, references, 3, metric=metric, device=card)
    assert np.array_equal(here.distances, there.distances)
    assert np.array_equal(here.indices, there.indices)


@pytest.mark.parametrize(
    ("rows", "terms", "columns"), [(1, 5, 3), (17, 768, 100), (300, 3072, 1000), (64, 70_000, 9)]
)
def test_products_of_int8_are_exact(card, rows, terms, columns):
    product, generator = integer_products(card), torch.Generator().manual_seed(0)
    half = 1 << (product.bits - 1)
    left = torch.randint(-128, 128, (rows, terms), generator=generator, dtype=torch.int8)
    right = torch.randint(-half, half, (terms, columns), generator=generator, dtype=torch.int8)
    expected = (left.double() @ right.double()).long()
    assert torch.equal(product(left.to(card), right.to(card)).cpu().long(), expected)


@pytest.mark.parametrize("sigma", [0.002, 0.1, 1.0, 20.0, 80.0])
def test_the_optimum_is_that_of_the_cpu(card, sigma):
    data = image_set(2000)
    clean = torch.from_numpy(data.images[:40].copy()).double() / 127.5 - 1
    x = clean + sigma * torch.randn(
        clean.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    here, there = Optimum(data)(x, sigma), Optimum(data, device=card)(x.to(card), sigma)
    assert float((here - there.cpu()).abs().max()) < 2e-5


def test_trajectories_of_the_optimum_end_on_the_images_that_the_cpu_ends_on(card):
    data = image_set(2000)
    latents = torch.randn(24, *SHAPE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    here = sample_latents(Optimum(data), latents, None, SamplerConfig())
    there = sample_latents(Optimum(data, device=card), latents.to(card), None, SamplerConfig()).cpu()
    assert float((here - there).abs().max()) < 2e-5

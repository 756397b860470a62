"""Measurements of `gpu.py` that search: nearest neighbours in float32 and int8, and the closed-form optimum."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor

from diffmem.data import ImageSet
from diffmem.integers import integer_products
from diffmem.memorization.neighbours.index import NeighbourIndex
from diffmem.memorization.neighbours.neighbours import nearest_neighbours
from diffmem.optimum.optimum import Optimum
from diffmem.sampling import SamplerConfig
from diffmem.sampling.samplers import sample_latents
from diffmem.training.trainer import arithmetic
from gpu_setting import Found, Measurement, Setting, repeated, synchronize
from neighbours import images

__all__ = ["optimum_rows", "search_rows"]

SIDE = 32
BLOCK = 8192  # references at a time


@cache
def _sets(setting: Setting) -> tuple[Tensor, Tensor]:
    """Return queries and references, uint8 (n, 3072), with the spectrum of photographs."""
    dim = 3 * SIDE * SIDE
    return images("image", setting(10_000, 32), dim, 1), images("image", setting(50_000, 300), dim, 0)


@contextmanager
def _true_float32(device: str) -> Iterator[None]:
    with arithmetic("float32", torch.device(device)), torch.no_grad():
        yield


def _two_least(blocks: Iterator[Tensor]) -> Tensor:
    """Return the two least of each query over blocks of (queries, references)."""
    best = None
    for block in blocks:
        least = block.topk(2, largest=False).values
        best = least if best is None else torch.cat([best, least], 1).topk(2, largest=False).values
    assert best is not None
    return best


def _dense_float32(queries: Tensor, references: Tensor) -> Tensor:
    """Return squared distances to the two nearest, float32 (Q, 2): products in float32."""
    rows, known = queries.float(), references.float()
    norms, own = known.square().sum(1), rows.square().sum(1)
    blocks = (
        torch.addmm(norms[at : at + BLOCK], rows, known[at : at + BLOCK].T, alpha=-2)
        for at in range(0, len(known), BLOCK)
    )
    return _two_least(blocks) + own[:, None]


def _dense_int8(queries: Tensor, references: Tensor) -> Tensor:
    """Return squared distances to the two nearest, exact, int32 (Q, 2): products in int8."""
    product = integer_products(queries.device)
    left, right = ((rows.to(torch.int16) - 128).to(torch.int8) for rows in (queries, references))
    norms, own = (rows.int().square().sum(1, dtype=torch.int32) for rows in (right, left))

    def inner(block: Tensor) -> Tensor:
        if product.bits == 8:
            return product(left, block.T)
        return 2 * product(left, (block >> 1).T) + product(left, (block & 1).T)

    blocks = (
        norms[at : at + BLOCK] - 2 * inner(right[at : at + BLOCK]) for at in range(0, len(right), BLOCK)
    )
    return _two_least(blocks) + own[:, None]


@cache
def _exact(setting: Setting) -> np.ndarray:
    """Return the squared distances that `nearest_neighbours` finds on the device."""
    return np.square(nearest_neighbours(*_sets(setting), 2, device=setting.device).distances)


def _agreement(found: Tensor | np.ndarray, setting: Setting) -> str:
    exact = _exact(setting)
    apart = np.abs(np.asarray(torch.as_tensor(found).double().cpu()) - exact).max(1)
    same = int((apart < 0.5).sum())  # squared distances of uint8 images are whole numbers
    return (
        "all exact" if same == len(exact) else f"squared distances within 0.5 for {same:,} of {len(exact):,}"
    )


def _dense(setting: Setting, kind: str) -> Found:
    queries, references = (rows.to(setting.device) for rows in _sets(setting))
    work = partial(_dense_int8 if kind == "int8" else _dense_float32, queries, references)
    with _true_float32(setting.device):
        seconds = repeated(work, setting.device, setting.seconds / 2)
        return Found(len(queries) / seconds, _agreement(work(), setting))


def _ours(setting: Setting) -> Found:
    queries, references = _sets(setting)
    found = nearest_neighbours(queries[:16], references, 2, device=setting.device)  # starts the libraries
    begin = time.perf_counter()
    found = nearest_neighbours(queries, references, 2, device=setting.device)
    seconds = time.perf_counter() - begin
    return Found(
        len(queries) / seconds, f"from host memory; {_agreement(np.square(found.distances), setting)}"
    )


def _indexed(setting: Setting) -> Found:
    queries, references = _sets(setting)
    begin = time.perf_counter()
    index = NeighbourIndex.build(references)
    built = time.perf_counter() - begin
    begin = time.perf_counter()
    found = nearest_neighbours(queries, references, 2, index=index, device="cpu")
    seconds = time.perf_counter() - begin
    words = f"threads: {torch.get_num_threads()}; index built in {built:.1f} s"
    return Found(len(queries) / seconds, f"{words}; {_agreement(np.square(found.distances), setting)}")


def search_rows(setting: Setting) -> list[Measurement]:
    """Return the searches for the two nearest of each query."""
    rows = (
        ("float32", "dense float32 products, then the least two", partial(_dense, setting, "float32")),
        ("int8", "dense int8 products, then the least two", partial(_dense, setting, "int8")),
        ("ours", "diffmem on the device, exact", partial(_ours, setting)),
        ("index", "diffmem with an index, on the CPU's cores, exact", partial(_indexed, setting)),
    )
    return [
        Measurement(f"search/{key}", what, "queries/s", work, None if key == "float32" else "search/float32")
        for key, what, work in rows
    ]


class _Dense:
    """The optimum as one would write it first: distances to all images, softmax, product, in float32."""

    def __init__(self, data: ImageSet, device: str) -> None:
        self.sigma_min, self.sigma_max, self.num_labels = 0.0, float("inf"), 0
        self.image_shape, self.device = data.shape, torch.device(device)
        rows = torch.from_numpy(data.images.reshape(len(data), -1).copy())
        self.clean = rows.to(device).float().div_(127.5).sub_(1)

    def __call__(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        level = sigma.float().reshape(-1, 1)
        squares = torch.cdist(x.flatten(1).float(), self.clean).square()
        return (torch.softmax(-squares / (2 * level**2), 1) @ self.clean).view(x.shape)


def _optimum(setting: Setting, dense: bool) -> Found:
    rows = _sets(setting)[1]
    data = ImageSet(rows.view(-1, 3, SIDE, SIDE).numpy(), None, tuple(map(str, range(len(rows)))))
    config, batch = SamplerConfig(), setting(64, 4)
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(batch, *data.shape, generator=generator, dtype=torch.float64).to(setting.device)
    with _true_float32(setting.device):
        denoiser = _Dense(data, setting.device) if dense else Optimum(data, device=setting.device)
        sample_latents(denoiser, latents[:2], None, SamplerConfig(steps=2))
        synchronize(setting.device)
        begin = time.perf_counter()
        found = sample_latents(denoiser, latents, None, config)
        synchronize(setting.device)
        seconds = time.perf_counter() - begin
    nearest = torch.cdist(found.flatten(1).float().cpu(), rows.float().div(127.5).sub(1)).amin(1)
    copies = int((nearest < 0.05).sum())
    return Found(
        batch / seconds,
        f"{batch} at once, {config.evaluations} evaluations; {copies} end on an image of the set",
    )


def optimum_rows(setting: Setting) -> list[Measurement]:
    """Return sampling from the optimum."""
    dense, ours = (partial(_optimum, setting, dense) for dense in (True, False))
    return [
        Measurement("optimum/dense", "dense float32 passes", "images/s", dense),
        Measurement("optimum/ours", "diffmem", "images/s", ours, "optimum/dense"),
    ]

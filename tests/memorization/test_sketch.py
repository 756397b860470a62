from __future__ import annotations

import numpy as np
import pytest
import torch

from diffmem.memorization import search, sketch
from diffmem.memorization.neighbours import nearest_neighbours
from diffmem.memorization.rows import Rows


@pytest.fixture
def small(monkeypatch):
    """Make sketches small, so that small searches use them; list how many queries each block settled."""
    settled = []
    prune = search._Search.prune

    def counted(self, norms, largest, first, last, queries):
        dense, ceiling = prune(self, norms, largest, first, last, queries)
        settled.append((len(queries) - len(dense), len(queries)))
        return dense, ceiling

    monkeypatch.setattr(search._Search, "prune", counted)
    for module, names in ((search, ("SKETCH_DIM", "SKETCH_WIDTH")), (sketch, ("SKETCH_DIM", "SKETCH_WIDTH"))):
        for name, value in zip(names, (16, 32), strict=True):
            monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(search, "SAMPLE", 64)
    return settled


def smooth(seed: int, count: int, grain: float = 4) -> np.ndarray:
    """Return images (count, 3, 16, 16) whose energy lies in 12 directions, but for some grain."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(120, 60, (count, 3, 2, 2)).repeat(8, 2).repeat(8, 3)
    return (coarse + rng.normal(0, grain, coarse.shape)).clip(0, 255).astype(np.uint8)


def brute(queries: np.ndarray, references: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    q, r = (x.reshape(len(x), -1).astype(np.float64) for x in (queries, references))
    squares = np.stack([np.square(r - row).sum(1) for row in q])
    order = np.argsort(squares, axis=1, kind="stable")[:, :k]
    return np.sqrt(np.take_along_axis(squares, order, 1)), order


def check(queries: np.ndarray, references: np.ndarray, k: int, **options) -> None:
    found = nearest_neighbours(queries, references, k, **options)
    distances, indices = brute(queries, references, k)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-12)


@pytest.mark.parametrize("kind", ["uint8", "float32", "float64"])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_sketched_searches_equal_brute_force_and_settle_most_queries(small, kind, k):
    references = smooth(0, 3000)
    queries = np.concatenate([smooth(1, 60), references[:20], references[30:50] ^ 1])
    check(queries.astype(kind), references.astype(kind), k)
    assert sum(done for done, _ in small) >= 0.9 * sum(total for _, total in small) > 0


def test_images_without_main_directions_take_the_full_product_and_equal_brute_force(small):
    rng = np.random.default_rng(2)
    check(
        rng.integers(0, 256, (60, 3, 16, 16), np.uint8), rng.integers(0, 256, (2000, 3, 16, 16), np.uint8), 2
    )
    assert small == []


@pytest.mark.parametrize("grain", [8, 14, 20])
def test_a_mixture_of_settled_and_full_queries_equals_brute_force(small, grain):
    rng = np.random.default_rng(3)
    queries = np.concatenate(
        [smooth(4, 40, 2), smooth(4, 40, grain), rng.integers(0, 256, (40, 3, 16, 16), np.uint8)]
    )
    check(queries[rng.permutation(120)], np.concatenate([smooth(5, 1500, 2), smooth(6, 1500, grain)]), 3)


def test_many_copies_among_sketched_references_come_in_order_of_index(small):
    references = smooth(7, 5).repeat(500, 0)
    check(np.concatenate([smooth(7, 5), smooth(8, 40)]), references, 3)


def test_spans_and_blocks_of_sketches_do_not_change_the_result(small, monkeypatch):
    monkeypatch.setattr(search, "SKETCH_BYTES", 100_000)
    monkeypatch.setattr(search, "SAMPLE", 32)
    references, queries = smooth(9, 2500), smooth(10, 100)
    check(queries, references, 2, block_bytes=1_000_000)
    assert len(small) > 5


def test_bright_outliers_do_not_spoil_the_bounds(small):
    references = smooth(11, 2000)
    references[::100] = 255
    references[50::100] = 0
    check(np.concatenate([smooth(12, 60), references[:2]]), references, 2)


def test_the_basis_has_spectral_norm_at_most_one():
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(512, 700, generator=generator) * torch.logspace(3, -3, 700)
    for images in (sample, torch.zeros(512, 700), sample[:1].expand(512, 700).contiguous()):
        basis = sketch.fit_basis(images).double()
        assert torch.linalg.matrix_norm(basis, 2) <= 1
        assert torch.linalg.matrix_norm(basis, 2) > 0.999


def test_sketches_bound_every_distance_from_below():
    rows = Rows(smooth(13, 600).reshape(600, -1), "images").take(slice(None)).float() - 120
    norms = rows.square().sum(1)
    basis = sketch.fit_basis(rows[:512])
    out = torch.zeros(600, sketch.SKETCH_WIDTH)
    sketch.sketch_rows(rows, norms, basis, out)
    part, rest = out[:, : sketch.SKETCH_DIM].double(), out[:, sketch.SKETCH_DIM + 1].double()
    exact = rows.double() @ rows.double().T
    bound = part @ part.T + rest[:, None] * rest[None]
    slack = sketch.sketch_error(norms.double().sqrt(), float(norms.max()) ** 0.5, rows.shape[1], True)[
        :, None
    ]
    assert (exact <= bound + slack / 2).all()
    assert (2 * (bound - exact) < 0.2 * norms.mean()).double().mean() > 0.9

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optimum_tools import image_set, random_pixels, smooth_pixels

from diffmem.optimum.certificate import FEW, Certificates
from diffmem.optimum.pixels import Pixels

SETS = {
    "random": random_pixels(40, (1, 3, 3)),
    "smooth": smooth_pixels(40, (1, 4, 4)),
    "two levels": random_pixels(40, (1, 2, 2)) // 128 * 255,
    "copies": random_pixels(10, (1, 3, 3)).repeat(4, axis=0),
}


def scores_of(pixels, w):
    q = torch.from_numpy(pixels.reshape(len(pixels), -1).astype(np.float64))
    return 2 * q @ w - q.square().sum(1)


def certified(pixels, reference, reach):
    """Certificates of one query at the reference point, over images that are not centred."""
    rows = Pixels(image_set(pixels), torch.device("cpu"), 1 << 20)
    q = torch.from_numpy(pixels.reshape(len(pixels), -1).astype(np.float64))
    proofs = Certificates(1, rows, 2 * float(q.norm(dim=1).max()))
    order = scores_of(pixels, reference).argsort(descending=True)
    some, others = order[:15], order[15:]
    scores = scores_of(pixels, reference)
    proofs.put(0, reference, some, scores[some], scores[others].max(), reach)
    return proofs, q


@given(
    st.sampled_from(sorted(SETS)),
    st.integers(0, 10_000),
    st.floats(0, 1.5),
    st.floats(0, 60),
    st.floats(0, 1e5),
)
@settings(max_examples=400, deadline=None)
def test_a_certificate_that_holds_is_true(name, seed, kappa, noise, needed):
    pixels = SETS[name]
    rng = np.random.default_rng(seed)
    goal = pixels[seed % len(pixels)].reshape(-1).astype(np.float64)
    reference = torch.from_numpy(goal + rng.normal(size=goal.shape) * rng.choice([1, 30, 300]))
    proofs, q = certified(pixels, reference, reach=float(rng.choice([1, 100, 10_000])))
    near = proofs.near[0]
    if near is None:
        return
    w = (
        q[proofs.pivot[0]]
        + kappa * (reference - q[proofs.pivot[0]])
        + noise * torch.from_numpy(rng.normal(size=goal.shape))
    )
    held = proofs.hold(w[None], q[proofs.pivot], torch.tensor([needed], dtype=torch.float64))
    if bool(held):
        scores = scores_of(pixels, w)
        others = np.setdiff1d(np.arange(len(pixels)), near.numpy())
        assert len(others) == 0 or float(scores[proofs.pivot[0]] - scores[others].max()) >= needed


def test_on_the_way_to_the_nearest_image_a_certificate_holds_to_the_end():
    pixels = SETS["random"]
    goal = torch.from_numpy(pixels[3].reshape(-1).astype(np.float64))
    direction = torch.randn(9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    proofs, q = certified(pixels, goal + 20 * direction, reach=5000.0)
    assert [int(row) for row in proofs.near[0]] == [3]
    for kappa in (0.9, 0.5, 0.1, 1e-3, 1e-6):
        # Logits are scores over sigma squared, which falls as kappa squared does.
        needed = torch.tensor([5000.0 * kappa**2], dtype=torch.float64)
        assert bool(proofs.hold((goal + 20 * kappa * direction)[None], q[proofs.pivot], needed))


def test_away_from_the_nearest_image_it_does_not():
    pixels = SETS["random"]
    proofs, q = certified(pixels, torch.from_numpy(pixels[3].reshape(-1).astype(np.float64)), reach=5000.0)
    assert not bool(proofs.hold(q[5][None], q[proofs.pivot], torch.tensor([1.0], dtype=torch.float64)))


@pytest.mark.parametrize("count", [FEW, FEW + 1])
def test_a_certificate_names_only_few_images(count):
    pixels = np.concatenate([np.zeros((count, 1, 3, 3), np.uint8), np.full((20, 1, 3, 3), 200, np.uint8)])
    proofs, q = certified(pixels, torch.zeros(9, dtype=torch.float64), reach=10.0)
    held = bool(
        proofs.hold(torch.zeros(1, 9, dtype=torch.float64), q[proofs.pivot], torch.tensor([10.0]).double())
    )
    assert held == (count <= FEW)


def test_nothing_is_certified_before_anything_was_compared():
    rows = Pixels(image_set(SETS["random"]), torch.device("cpu"), 1 << 20)
    proofs = Certificates(2, rows, 1.0)
    zeros = torch.zeros(2, 9, dtype=torch.float64)
    assert not bool(proofs.hold(zeros, zeros, torch.full((2,), -1e9, dtype=torch.float64)).any())

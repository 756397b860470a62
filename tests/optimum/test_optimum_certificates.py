from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optimum_tools import random_pixels, smooth_pixels

from diffmem.optimum.certificates import Certificates

SETS = {
    "random": random_pixels(40, (1, 3, 3)),
    "smooth": smooth_pixels(40, (1, 4, 4)),
    "two levels": random_pixels(40, (1, 2, 2)) // 128 * 255,
    "copies": random_pixels(10, (1, 3, 3)).repeat(4, axis=0),
}


def gaps(rows, nearest, w):
    """By how much the squares of the distances to all other images exceed that to one."""
    squares = (rows - w).square().sum(1)
    others = np.delete(np.arange(len(rows)), int(nearest))
    return squares[others] - squares[nearest]


def certified(pixels, reference):
    rows = torch.from_numpy(pixels.reshape(len(pixels), -1).astype(np.float64))
    proofs = Certificates(lambda at: rows[at], 2 * float(rows.norm(dim=1).max()), reference[None])
    nearest = (rows - reference).square().sum(1).argmin()
    proofs.put(torch.tensor([0]), reference[None], nearest[None], gaps(rows, nearest, reference).min()[None])
    return proofs, rows, nearest


@given(
    st.sampled_from(sorted(SETS)),
    st.integers(0, 10_000),
    st.floats(0, 1.5),
    st.floats(0, 60),
    st.floats(0, 1e5),
)
@settings(max_examples=400)
def test_a_certificate_that_holds_is_true(name, seed, kappa, noise, needed):
    pixels = SETS[name]
    rng = np.random.default_rng(seed)
    goal = pixels[seed % len(pixels)].reshape(-1).astype(np.float64)
    reference = torch.from_numpy(goal + rng.normal(size=goal.shape) * rng.choice([1, 30, 300]))
    proofs, rows, nearest = certified(pixels, reference)
    w = (
        rows[nearest]
        + kappa * (reference - rows[nearest])
        + noise * torch.from_numpy(rng.normal(size=goal.shape))
    )
    if bool(proofs.hold(w[None], torch.tensor([needed], dtype=torch.float64))):
        assert float(gaps(rows, nearest, w).min()) >= needed


def test_on_the_way_to_the_nearest_image_a_certificate_holds_to_the_end():
    pixels = SETS["random"]
    goal = torch.from_numpy(pixels[3].reshape(-1).astype(np.float64))
    direction = torch.randn(9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    proofs, rows, nearest = certified(pixels, goal + 20 * direction)
    assert int(nearest) == 3
    for kappa in (0.9, 0.5, 0.1, 1e-3, 1e-6):
        # Logits are gaps over sigma squared, which falls as kappa squared does.
        needed = torch.tensor([5000.0 * kappa**2], dtype=torch.float64)
        assert bool(proofs.hold((goal + 20 * kappa * direction)[None], needed))
    assert torch.equal(proofs.images(torch.tensor([0])), rows[3:4])


def test_away_from_the_nearest_image_it_does_not():
    pixels = SETS["random"]
    proofs, rows, _ = certified(pixels, torch.from_numpy(pixels[3].reshape(-1).astype(np.float64)))
    assert not bool(proofs.hold(rows[5][None], torch.tensor([1.0], dtype=torch.float64)))


def test_nothing_is_certified_before_anything_was_compared():
    zeros = torch.zeros(2, 9, dtype=torch.float64)
    proofs = Certificates(lambda at: zeros, 1.0, zeros)
    assert not bool(proofs.hold(zeros, torch.full((2,), -1e9, dtype=torch.float64)).any())

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffmem.memorization.neighbours.rows import Rows
from diffmem.memorization.neighbours.sketch import Cuts, Sketch, ceilings, fit_basis, slack, tail_share

CUTS = Cuts(6, 20, 40)


def rows_with_spectrum(seed: int, count: int, dim: int, decay: float, scale: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(dim, dim, generator=generator)).Q
    spectrum = torch.arange(1, dim + 1) ** -decay
    return scale * (torch.randn(count, dim, generator=generator) * spectrum) @ turn


def sketched(rows: torch.Tensor, basis: torch.Tensor) -> Sketch:
    sketch = Sketch.empty(len(rows), CUTS)
    sketch.write(rows, basis, CUTS, Rows(rows, "rows"))
    return sketch


def bounds(queries: Sketch, references: Sketch) -> list[torch.Tensor]:
    """The bounds of the three cuts as they are computed, less the query's share."""
    queries.to_queries()
    second = queries.second @ references.second.T
    return [queries.first @ references.first.T, second, second + queries.third @ references.third.T]


@pytest.mark.parametrize("decay", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("scale", [1e-25, 1e-6, 1.0, 1e15])
def test_no_bound_exceeds_the_ceiling_of_the_true_distance(decay, scale):
    rows = rows_with_spectrum(0, 300, 250, decay, scale)
    basis = fit_basis(rows[:200], CUTS.third)
    queries = torch.cat([rows[:50], rows[50:80] * (1 + 1e-6), 3 * rows[80:100]])
    exact = (queries.double()[:, None] - rows.double()).square().sum(2)
    asked = sketched(queries, basis)
    norms = asked.norms.clone()
    for bound in bounds(asked, sketched(rows, basis)):
        for which in range(len(rows)):
            assert (bound[:, which] <= ceilings(exact[:, which], norms, 250, CUTS.third)).all()


def test_bounds_grow_with_the_number_of_directions_and_come_near_the_true_distance():
    rows = rows_with_spectrum(1, 200, 250, 1.0, 1.0)
    asked = sketched(rows[:20], fit_basis(rows, CUTS.third))
    norms = asked.norms.clone()
    lower = [
        bound + norms[:, None] for bound in bounds(asked, sketched(rows[20:], fit_basis(rows, CUTS.third)))
    ]
    exact = (rows.double()[:20, None] - rows.double()[20:]).square().sum(2)
    shortfall = [float((exact - bound).mean() / exact.mean()) for bound in lower]
    assert shortfall[0] > shortfall[1] > shortfall[2]
    assert 0 <= shortfall[2] < 0.03


def test_the_basis_and_its_leading_parts_have_spectral_norm_at_most_one():
    sample = rows_with_spectrum(2, 300, 400, 1.0, 1e3)
    for images in (sample, torch.zeros(300, 400), sample[:1].expand(300, 400).contiguous(), sample[:7]):
        basis = fit_basis(images, 64).double()
        assert basis.shape == (400, 64)
        for cut in (1, 8, 64):
            assert torch.linalg.matrix_norm(basis[:, :cut], 2) <= 1
        assert torch.linalg.matrix_norm(basis, 2) > 0.999


def test_the_basis_finds_the_main_directions_in_order():
    turn = torch.linalg.qr(torch.randn(100, 100, generator=torch.Generator().manual_seed(0))).Q
    sample = torch.randn(500, 3) * torch.tensor([100.0, 10.0, 1.0]) @ turn[:3]
    basis = fit_basis(sample, 3)
    assert (turn[:3] @ basis).diagonal().abs().min() > 0.98
    assert tail_share(sample, basis) < 1e-4
    assert tail_share(sample, basis[:, 1:]) > 0.9


def test_centred_uint8_images_have_exact_norms():
    values = torch.from_numpy(np.random.default_rng(0).choice([-255.0, 255.0, 1.0], (20, 3072))).float()
    norms = sketched(values, torch.zeros(3072, CUTS.third)).norms
    assert (norms == values.double().square().sum(1)).all()


def test_slack_is_a_small_share_of_the_norms():
    assert max(slack(3072, 256)) < 1e-3
    assert max(slack(64, 16)) < 1e-4


@pytest.mark.parametrize("dim", [1, 2, 5, 48, 256, 3072, 200_000])
def test_cuts_grow_and_fit_the_images(dim):
    cuts = Cuts.fitting(dim)
    assert 1 <= cuts.first <= cuts.second <= cuts.third <= min(dim, 256)

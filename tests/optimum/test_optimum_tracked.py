from __future__ import annotations

import torch

from diffmem.optimum.tracked import Known, Tracked

COUNT, SIZE, DIM = 40, 3, 12


def vectors(seed):
    return torch.randn(SIZE, DIM, generator=torch.Generator().manual_seed(seed)).double() * 50


Q = torch.randint(-100, 100, (COUNT, DIM), generator=torch.Generator().manual_seed(9)).double()
LENGTHS = Q.norm(dim=1)[:, None]
NOTHING = torch.zeros(SIZE).double()


def placed(tracked, w, error=0.0):
    products = tracked.buffer(SIZE)
    torch.mm(Q, 2 * w.T, out=products)
    products += error
    tracked.append(
        Known(w, products, torch.full((SIZE,), abs(error) / float(LENGTHS.min())).double(), NOTHING)
    )


def moved(tracked, w, mean, spoil=0.0, move=True):
    """Take one step; return the products of the new points."""
    step = tracked.step(w, mean)
    products = tracked.buffer(SIZE)
    change = 2 * Q @ step.change.T + spoil
    tracked.combine(step, slice(0, COUNT), change, products, move=move)
    fixed = torch.full((SIZE,), abs(spoil) / float(LENGTHS.min())).double()
    if move:
        tracked.move(step.mean, fixed)
    errors = step.fixed + step.share * fixed, step.rising
    tracked.append(Known(w, products, *errors))
    return step, products, errors


def test_products_of_mixtures_of_points_and_means_are_exact():
    tracked, w = Tracked(COUNT, torch.device("cpu")), vectors(0)
    placed(tracked, w)
    for seed in range(1, 8):
        mean = vectors(seed)
        w = 0.7 * w + 0.3 * mean
        step, products, _ = moved(tracked, w, mean)
        assert float(step.rest.abs().max()) < 1e-6
        torch.testing.assert_close(products, 2 * Q @ w.T)


def test_what_is_not_a_mixture_is_left_as_the_rest():
    tracked, w, mean, other = Tracked(COUNT, torch.device("cpu")), vectors(0), vectors(1), vectors(2)
    placed(tracked, w)
    new = 0.7 * w + 0.3 * mean + other
    step, products, (fixed, _) = moved(tracked, new, mean)
    assert float(step.rest.norm(dim=1).min()) > 10
    torch.testing.assert_close(products + 2 * Q @ step.rest.T, 2 * Q @ new.T)
    assert float(fixed.max()) < 1e-6  # the caller adds what it knows of the rest


def test_errors_are_averaged_and_not_multiplied():
    tracked, w = Tracked(COUNT, torch.device("cpu")), vectors(0)
    placed(tracked, w, error=3.0)
    for seed in range(1, 10):
        mean = vectors(seed)
        w = 0.6 * w + 0.4 * mean
        _, products, (fixed, _) = moved(tracked, w, mean, spoil=0.1 if seed == 1 else 0.0)
        assert bool(((products - 2 * Q @ w.T).abs() <= fixed * LENGTHS + 1e-6).all())
    assert float((fixed * LENGTHS.min()).max()) < 0.5


def test_an_inexact_change_that_does_not_move_the_mean_fades():
    found = []
    for move in (True, False):
        tracked, w, mean = Tracked(COUNT, torch.device("cpu")), vectors(0), vectors(1)
        placed(tracked, w)
        for at in range(6):
            w = 0.6 * w + 0.4 * mean
            _, products, (fixed, _) = moved(
                tracked, w, mean, spoil=5.0 if at == 0 else 0.0, move=move or at > 0
            )
            off = (products - 2 * Q @ w.T).abs()
            assert bool((off <= fixed * LENGTHS + 1e-6).all())
        found.append(float(off.max()))
    assert found[1] < 0.1 * found[0]


def test_a_shift_of_the_origin_is_part_of_a_mixture():
    tracked, w, mean = Tracked(COUNT, torch.device("cpu")), vectors(0), vectors(1)
    shift = vectors(5)[0]
    tracked.shift = shift, 2 * Q @ shift
    placed(tracked, w)
    for _ in range(3):
        w = 0.7 * w + 0.2 * mean + 0.4 * shift
        step, products, _ = moved(tracked, w, mean)
        assert float(step.rest.abs().max()) < 1e-6
        torch.testing.assert_close(products, 2 * Q @ w.T)


def test_only_two_points_are_kept_and_memory_goes_round():
    tracked = Tracked(COUNT, torch.device("cpu"))
    assert tracked.is_empty
    seen = set()
    for seed in range(6):
        placed(tracked, vectors(seed))
        seen.add(tracked.buffer(SIZE).data_ptr())
    assert not tracked.is_empty
    assert len(seen) == 3


def test_some_trajectories_can_go_on_alone():
    tracked, w, mean = Tracked(COUNT, torch.device("cpu")), vectors(0), vectors(1)
    placed(tracked, w)
    w = 0.5 * w + 0.5 * mean
    moved(tracked, w, mean)
    columns = torch.tensor([2, 0])
    tracked.keep(columns)
    new = (0.3 * w + 0.7 * mean)[columns]
    step = tracked.step(new, mean[columns])
    out = torch.empty(COUNT, 2, dtype=torch.float64)
    tracked.combine(step, slice(0, COUNT), 2 * Q @ step.change.T, out)
    torch.testing.assert_close(out, 2 * Q @ new.T)
    tracked.keep(torch.tensor([], dtype=torch.int64))
    assert tracked.is_empty


def test_points_that_do_not_move_do_no_harm():
    tracked, w, mean = Tracked(COUNT, torch.device("cpu")), vectors(0), vectors(1)
    placed(tracked, w)
    for _ in range(4):
        _, products, _ = moved(tracked, w, mean)
        torch.testing.assert_close(products, 2 * Q @ w.T, atol=1e-4, rtol=0)

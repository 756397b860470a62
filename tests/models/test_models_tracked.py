from __future__ import annotations

import torch

from diffmem.models.tracked import Point, Tracked, shortest

COUNT, SIZE, DIM = 40, 3, 12


def setup_of(points, errors=(0.0, 0.0)):
    generator = torch.Generator().manual_seed(0)
    q = torch.randint(-100, 100, (COUNT, DIM), generator=generator).double()
    tracked = Tracked(COUNT, torch.device("cpu"))
    w = torch.randn(3, SIZE, DIM, generator=generator).double() * 50
    for at in range(points):
        products = tracked.room(SIZE)
        torch.mm(q, 2 * w[at].T, out=products)
        products += errors[at]
        fixed = torch.full((SIZE,), abs(errors[at]) / float(q.norm(dim=1).min())).double()
        tracked.advance(Point(w[at], products, fixed, torch.zeros(SIZE).double()), None)
    return tracked, q, w


def products_of(tracked, way, q):
    out = torch.empty(COUNT, SIZE, dtype=torch.float64)
    return tracked.combined(way, slice(None), out) + 2 * q @ way.v.T


def test_every_way_gives_the_products_of_the_new_points():
    for points in (1, 2):
        tracked, q, w = setup_of(points)
        new = 0.7 * w[0] + 0.3 * w[2]
        ways = tracked.ways(new)
        assert len(ways) == points
        for way in ways:
            torch.testing.assert_close(products_of(tracked, way, q), 2 * q @ new.T)


def test_a_point_in_the_span_of_the_known_ones_leaves_nothing():
    tracked, _, w = setup_of(2)
    way = tracked.ways(0.5 * w[0] - 1.5 * w[1])[1]
    assert float(way.v.abs().max()) < 1e-6
    torch.testing.assert_close(
        way.factors, torch.tensor([[0.5], [-1.5]]).double().expand(2, SIZE), atol=1e-8, rtol=0
    )


def test_errors_of_known_products_are_carried_on():
    tracked, q, w = setup_of(2, errors=(3.0, -2.0))
    new = 2 * w[0] - 3 * w[1] + 0.01 * w[2]
    for way in tracked.ways(new):
        off = (products_of(tracked, way, q) - 2 * q @ new.T).abs()
        assert bool((off <= way.fixed * q.norm(dim=1)[:, None] + 1e-9).all())
    assert float(off.max()) > 3


def test_only_two_points_are_kept_and_memory_goes_round():
    tracked, _, w = setup_of(2)
    first = tracked.points[0].products
    products = tracked.room(SIZE)
    tracked.advance(Point(w[2], products, torch.zeros(SIZE), torch.zeros(SIZE)), None)
    assert len(tracked.points) == 2
    assert tracked.points[-1].products is products
    assert tracked.room(SIZE) is first


def test_some_trajectories_can_go_on_alone():
    tracked, q, w = setup_of(2)
    tracked.keep(torch.tensor([2, 0]))
    new = w[2][[2, 0]]
    way = tracked.ways(new)[1]
    out = torch.empty(COUNT, 2, dtype=torch.float64)
    torch.testing.assert_close(tracked.combined(way, slice(None), out) + 2 * q @ way.v.T, 2 * q @ new.T)
    tracked.keep(torch.tensor([], dtype=torch.int64))
    assert tracked.points == []
    assert tracked.ways(new) == []


def test_the_shortest_way_is_chosen_for_each_query():
    tracked, _, w = setup_of(2)
    one, two = tracked.ways(w[2])
    cost = torch.tensor([1.0, 2.0, 3.0])
    way = shortest([one, two], [cost, torch.tensor([2.0, 1.0, 2.0])])
    assert torch.equal(way.v[0], one.v[0])
    assert torch.equal(way.v[1:], two.v[1:])
    assert torch.equal(way.factors[:, 1:], two.factors[:, 1:])


def test_identical_points_do_no_harm():
    tracked, q, w = setup_of(1)
    products = tracked.room(SIZE)
    products.copy_(tracked.points[0].products)
    tracked.advance(Point(w[0], products, torch.zeros(SIZE).double(), torch.zeros(SIZE).double()), None)
    for way in tracked.ways(w[2]):
        torch.testing.assert_close(products_of(tracked, way, q), 2 * q @ w[2].T, atol=1e-4, rtol=0)

from __future__ import annotations

import numpy as np
import pytest
import torch
from optimum_tools import image_set, random_pixels, smooth_pixels

from diffmem.optimum.directions import MOST, Directions
from diffmem.optimum.pixels import Pixels

SETS = {
    "noise": random_pixels(300),
    "smooth": smooth_pixels(2000),
    "one image": random_pixels(1),
    "black": np.zeros((5, 3, 6, 5), np.uint8),
    "copies": random_pixels(2).repeat(50, axis=0),
    "more values than images": random_pixels(20, (3, 16, 16)),
    "wide": random_pixels(1100, (3, 20, 20)),
}


def centred(pixels, rows):
    return torch.from_numpy(pixels.reshape(len(pixels), -1).astype(np.float64)) - rows.centre


@pytest.mark.parametrize("pixels", SETS.values(), ids=SETS.keys())
def test_products_lie_within_the_bounds(pixels):
    rows = Pixels(image_set(pixels), torch.device("cpu"), 1 << 28)
    directions = Directions(rows)
    q = centred(pixels, rows)
    generator = torch.Generator().manual_seed(0)
    v = torch.cat(
        [torch.randn(5, q.shape[1], generator=generator).double() * 100, q[:3], q[:3] * 1e-3, q[:1] * 0]
    )
    seen, rest = directions.project(v)
    guess = directions.products(slice(None), seen).double()
    off = (guess - q @ v.T).abs()
    bound = directions.rest[:, None] * rest + directions.rounding * q.norm(dim=1)[:, None] * v.norm(dim=1)
    assert bool((off <= bound + 1e-9).all())


def test_on_smooth_images_the_rest_is_small_and_the_bound_is_worth_something():
    pixels = smooth_pixels(2000)
    rows = Pixels(image_set(pixels), torch.device("cpu"), 1 << 28)
    directions = Directions(rows)
    assert float((directions.rest / centred(pixels, rows).norm(dim=1)).mean()) < 0.1


def test_rows_may_be_taken_by_position():
    pixels = smooth_pixels(100)
    directions = Directions(Pixels(image_set(pixels), torch.device("cpu"), 1 << 28), 7)
    seen, _ = directions.project(torch.randn(4, 90, generator=torch.Generator().manual_seed(0)).double())
    some = torch.tensor([5, 80, 5])
    torch.testing.assert_close(directions.products(some, seen), directions.products(slice(None), seen)[some])


def test_the_number_of_directions_is_limited_by_images_and_values():
    assert MOST == 64
    for pixels, most in ((random_pixels(10), 10), (random_pixels(200, (1, 2, 2)), 4)):
        directions = Directions(Pixels(image_set(pixels), torch.device("cpu"), 1 << 28))
        assert len(directions.project(torch.zeros(1, pixels[0].size).double())[0]) <= most

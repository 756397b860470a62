from itertools import pairwise

import pytest

from diffmem.sampling.config import image_cost
from diffmem.studies.search.cost import grid_of_equal_precision, grid_sizes


def test_neighbours_of_the_grid_are_as_far_apart_as_a_final_bracket():
    sizes = grid_sizes(500, 4000, 0.1)
    assert (sizes[0], sizes[-1]) == (500, 4000)
    ratios = [large / small for small, large in pairwise(sizes)]
    assert max(ratios) <= 1.1 / 0.9 * 1.002
    assert max(ratios) / min(ratios) < 1.01


def test_a_range_of_one_step_is_its_two_ends():
    assert grid_sizes(10, 12, 0.1) == [10, 12]


def test_the_grid_trains_every_size_to_its_end_and_samples_everything():
    grid = grid_of_equal_precision(10, 12, 0.1, epochs=100, points=4, samples=50, evaluations=35, seeds=2)
    assert grid.images_trained == 2 * 100 * (10 + 12)
    assert grid.images_sampled == 2 * 2 * 4 * 50
    assert grid.units == pytest.approx(grid.images_trained + grid.images_sampled * 35 / 3)
    assert image_cost(35) == pytest.approx(35 / 3)

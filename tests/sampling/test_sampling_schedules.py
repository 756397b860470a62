from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffmem.errors import UserError
from diffmem.sampling.config import SamplerConfig
from diffmem.sampling.schedules import noise_levels, scaling_of, schedule_of, sigma_range, vp_betas

DISCRETIZATIONS = ["edm", "vp", "ve", "iddpm"]


def levels_of(discretization, steps, low=0.0, high=math.inf, **fields):
    return noise_levels(
        SamplerConfig(discretization=discretization, steps=steps, **fields), low, high
    ).tolist()


def test_edm_levels_for_three_steps():
    # The seventh roots of 80 and 0.002 are 1.870130 and 0.411588; their mean to the seventh power is 2.5152.
    levels = levels_of("edm", 3)
    assert levels == pytest.approx([80, ((1.870122 + 0.411560) / 2) ** 7, 0.002, 0], rel=1e-5)
    assert levels[1] == pytest.approx(2.5152, abs=5e-5)


def test_edm_levels_of_the_default_sampler():
    levels = levels_of("edm", 18)
    assert [levels[i] for i in (0, 1, 17, 18)] == pytest.approx([80, 57.586, 0.002, 0], abs=1e-3)


def test_ve_levels_are_geometric():
    assert levels_of("ve", 3, sigma_min=0.01, sigma_max=100) == pytest.approx([100, 1, 0.01, 0])
    assert levels_of("ve", 2) == pytest.approx([100, 0.02, 0])


def test_vp_levels_are_uniform_in_the_time_of_the_vp_process():
    levels = levels_of("vp", 3)

    def sigma(t):
        return math.sqrt(math.exp(0.5 * 19.9 * t * t + 0.1 * t) - 1)

    assert levels == pytest.approx([sigma(1), sigma(0.5005), sigma(0.001), 0])
    assert levels[0] == pytest.approx(152.17, abs=5e-3)
    assert levels[2] == pytest.approx(0.010486, abs=1e-6)


def test_vp_betas_of_the_standard_range_are_19_9_and_0_1():
    low, high = sigma_range(SamplerConfig(discretization="vp"), 0, math.inf)
    assert vp_betas(low, high) == pytest.approx((19.9, 0.1))


@settings(max_examples=50)
@given(st.floats(1e-3, 0.5), st.floats(1, 500))
def test_vp_betas_meet_both_ends(low, high):
    beta_d, beta_min = vp_betas(low, high)
    for t, level in ((1e-3, low), (1.0, high)):
        assert math.expm1(0.5 * beta_d * t * t + beta_min * t) == pytest.approx(level**2, rel=1e-6)


def test_iddpm_levels_are_those_of_the_cosine_schedule():
    # 1 / (1 + u_j^2) is the share abar(j) / abar(1000), away from the clipped end at j = 0.
    def signal(j):
        return math.sin(math.pi / 2 * j / 1000 / 1.008) ** 2

    available = levels_of("iddpm", 992)
    table = [math.sqrt(signal(1000) / signal(j) - 1) for j in range(1000)[1:]]
    inside = [level for level in table if 0.002 <= level <= 81]
    assert available[:-1] == pytest.approx(inside, rel=1e-6)
    assert available[0] == pytest.approx(80.6, abs=0.5)


def test_iddpm_levels_are_picked_at_rounded_indices():
    everything = levels_of("iddpm", 992)[:-1]
    picked = levels_of("iddpm", 5)
    assert picked == [everything[i] for i in (0, 248, 496, 743, 991)] + [0]


def test_more_iddpm_steps_than_levels_are_refused():
    with pytest.raises(UserError, match="too few for 2000 steps"):
        levels_of("iddpm", 2000)


@pytest.mark.parametrize("discretization", DISCRETIZATIONS)
@pytest.mark.parametrize("steps", [1, 2, 18, 200])
def test_levels_descend_strictly_from_the_top_to_zero_inside_the_denoisers_range(discretization, steps):
    levels = levels_of(discretization, steps, low=0.05, high=60)
    assert len(levels) == steps + 1
    assert levels[-1] == 0
    assert all(a > b for a, b in pairwise(levels))
    assert levels[0] <= 60
    assert levels[-2] >= 0.05


@pytest.mark.parametrize("discretization", ["edm", "vp", "ve"])
def test_levels_start_and_end_at_the_clipped_range(discretization):
    levels = levels_of(discretization, 7, low=0.05, high=60)
    assert (levels[0], levels[-2]) == pytest.approx((60, 0.05))


def test_levels_are_double_precision():
    assert noise_levels(SamplerConfig()).dtype == torch.float64


def test_an_empty_range_is_a_users_mistake():
    with pytest.raises(UserError, match=r"range \[100, 200\]"):
        levels_of("edm", 18, low=100, high=200)


@pytest.mark.parametrize("name", ["linear", "ve", "vp"])
@settings(max_examples=50)
@given(st.floats(0.003, 79))
def test_inverse_and_derivative_belong_to_the_schedule(name, level):
    schedule = schedule_of(name, 0.002, 80)
    t = schedule.inverse(level)
    assert schedule.sigma(t) == pytest.approx(level, rel=1e-6)
    h = 1e-5 * t
    slope = (schedule.sigma(t + h) - schedule.sigma(t - h)) / (2 * h)
    assert schedule.derivative(t) == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize("name", ["none", "vp"])
@pytest.mark.parametrize("schedule_name", ["linear", "ve", "vp"])
@pytest.mark.parametrize("level", [0.01, 0.5, 3, 40])
def test_derivative_belongs_to_the_scaling(name, schedule_name, level):
    schedule = schedule_of(schedule_name, 0.002, 80)
    scaling = scaling_of(name, schedule)
    t = schedule.inverse(level)
    h = 1e-5 * t
    slope = (scaling.scale(t + h) - scaling.scale(t - h)) / (2 * h)
    assert scaling.derivative(t) == pytest.approx(slope, rel=1e-4, abs=1e-9)


def test_vp_scaling_keeps_unit_variance():
    scaling = scaling_of("vp", schedule_of("linear", 0.002, 80))
    assert scaling.scale(3.0) * math.sqrt(1 + 9) == pytest.approx(1)


@pytest.mark.parametrize("name", ["linear", "ve", "vp"])
@pytest.mark.parametrize("low", [0.002, 0.0105, 0.3])
def test_the_inverse_of_zero_is_a_time_before_the_first_level_where_sigma_is_zero(name, low):
    schedule = schedule_of(name, low, 80)
    t = schedule.inverse(0.0)
    assert 0 <= t < schedule.inverse(low)
    assert schedule.sigma(t) == pytest.approx(0, abs=1e-6)

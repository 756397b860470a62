from __future__ import annotations

import pytest
from pydantic import ValidationError

from diffmem.sampling.config import SamplerConfig


def test_defaults_are_the_35_evaluations_of_the_study():
    config = SamplerConfig()
    assert (config.solver, config.steps, config.rho, config.S_churn) == ("heun", 18, 7, 0)
    assert config.evaluations == 35


def test_euler_evaluates_once_per_step():
    assert SamplerConfig(solver="euler", steps=50).evaluations == 50


@pytest.mark.parametrize(
    "config",
    [
        SamplerConfig(),
        SamplerConfig(S_churn=40, S_min=0.05, S_max=50, S_noise=1.003, sigma_max=40, discretization="vp"),
    ],
)
def test_a_config_survives_json(config):
    assert SamplerConfig.model_validate_json(config.model_dump_json()) == config


def test_an_unlimited_churn_range_is_null_in_json():
    assert '"S_max":null' in SamplerConfig().model_dump_json()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "steps"),
        ({"rho": 0}, "rho"),
        ({"alpha": 1.5}, "alpha"),
        ({"sigma_min": -1}, "sigma_min"),
        ({"sigma_max": float("inf")}, "sigma_max"),
        ({"S_churn": float("nan")}, "S_churn"),
        ({"solver": "rk4"}, "heun"),
        ({"discretization": "cosine"}, "iddpm"),
        ({"churn": 1}, "churn"),
        ({"sigma_min": 2, "sigma_max": 1}, "sigma_min .2. must be below sigma_max .1."),
        ({"S_min": 2, "S_max": 1}, "S_min .2. must not be above S_max .1."),
    ],
)
def test_bad_values_are_refused_with_their_field(fields, message):
    with pytest.raises(ValidationError, match=message):
        SamplerConfig(**fields)


def test_every_field_is_described():
    assert all(field.description for field in SamplerConfig.model_fields.values())


def test_a_config_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        SamplerConfig().steps = 3


def test_the_words_name_what_differs():
    assert SamplerConfig().describe() == (
        "deterministic Heun sampler, 18 steps (35 evaluations per image), edm noise levels (rho 7)"
    )
    words = SamplerConfig(
        solver="euler", steps=1, S_churn=10, discretization="vp", schedule="vp", scaling="vp", sigma_max=50
    ).describe()
    for part in (
        "stochastic",
        "Euler",
        "1 step (1 evaluations",
        "vp noise levels",
        "from 50 down to default",
        "scaling vp",
    ):
        assert part in words
    assert "rho" not in words

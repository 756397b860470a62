from __future__ import annotations

import math

import pytest
import torch
from torch.func import jacrev

from diffmem.errors import UserError
from diffmem.models.denoiser import Denoiser
from diffmem.models.discrete import (
    DiscreteDenoiser,
    DiscreteProcess,
    betas_of,
    clipped,
    levels_of,
    thresholded,
    zero_terminal,
)

SHAPE = (1, 2, 2)
LINEAR = levels_of(betas_of("linear", 1000))


class Recorder:
    """A network that remembers what it was shown and returns one number everywhere."""

    def __init__(self, answer=0.5):
        self.answer = answer

    def __call__(self, x, t, labels):
        self.x, self.t, self.labels = x, t, labels
        return torch.full_like(x, self.answer)


def denoiser(
    network=None, prediction="epsilon", levels=LINEAR, timesteps="interpolated", finish=None, **options
):
    process = DiscreteProcess(levels, prediction, timesteps, finish)
    return DiscreteDenoiser(network or Recorder(), process, SHAPE, **options)


def refused(action):
    with pytest.raises(UserError) as error:
        action()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_it_is_a_denoiser_whose_range_is_that_of_its_timesteps():
    made = denoiser()
    assert isinstance(made, Denoiser)
    assert made.sigma_min == pytest.approx(0.0100005, rel=1e-3)
    assert made.sigma_max == pytest.approx(157.4, rel=1e-3)
    assert (made.image_shape, made.num_labels, made.device.type) == (SHAPE, 0, "cpu")


def test_the_linear_schedule_is_the_published_one():
    betas = betas_of("linear", 1000)
    assert (float(betas[0]), float(betas[-1])) == (pytest.approx(1e-4), pytest.approx(0.02))
    assert torch.allclose(betas.diff(), betas.diff()[0].expand(999), rtol=1e-2)


def test_square_roots_of_the_scaled_linear_schedule_are_linear():
    roots = betas_of("scaled_linear", 100, 0.00085, 0.012).sqrt()
    assert torch.allclose(roots, torch.linspace(math.sqrt(0.00085), math.sqrt(0.012), 100))


def test_the_cosine_schedule_keeps_what_its_formula_says():
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    kept = ((t + 0.008) / 1.008 * math.pi / 2).cos().square() / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    levels = levels_of(betas_of("squaredcos_cap_v2", 1000))
    # The cap acts on the last step alone.
    assert torch.allclose(1 / (1 + levels.square())[:-1], kept[:-1], rtol=2e-3, atol=0)
    assert float(betas_of("squaredcos_cap_v2", 1000)[-1]) == pytest.approx(0.999)


def test_the_sigmoid_schedule_is_symmetric_between_its_ends():
    betas = betas_of("sigmoid", 101, 0.1, 0.3)
    assert torch.allclose(betas + betas.flip(0), torch.full((101,), 0.4))
    assert float(betas[0]) == pytest.approx(0.1 + 0.2 / (1 + math.exp(6)))


def test_rescaled_rates_keep_nothing_at_the_last_step_and_as_much_as_before_at_the_first():
    betas = betas_of("linear", 1000)
    rescaled = zero_terminal(betas)
    assert float(rescaled[-1]) == 1
    assert float(rescaled[0]) == pytest.approx(float(betas[0]), rel=1e-2)
    kept, before = (1 - rescaled).cumprod(0).sqrt(), (1 - betas).cumprod(0).sqrt()
    ratios = (kept[:-1] - kept[-1]) / (before[:-1] - before[-1])
    assert torch.allclose(ratios, ratios[0].expand(999), rtol=1e-3)


def test_an_infinite_level_is_left_out():
    levels = levels_of(zero_terminal(betas_of("linear", 1000)))
    assert len(levels) == 999
    assert bool(torch.isfinite(levels).all())


@pytest.mark.parametrize(
    ("betas", "word"),
    [
        ([0.0, 0.1], "timestep 0"),
        ([0.1, 0.0, 0.1], "timestep 1"),
        ([0.1, -0.5, 0.1], "timestep 1"),
        ([0.1, math.nan, 0.1], "timestep 1"),
        ([0.1, 1.0], "1 finite"),
        ([1.0, 0.5, 0.5], "0 finite"),
        ([0.1, 1.5, 0.1], "timestep 1"),
    ],
)
def test_noise_that_does_not_grow_is_refused(betas, word):
    assert word in refused(lambda: levels_of(torch.tensor(betas)))


@pytest.mark.parametrize("timesteps", ["interpolated", "nearest"])
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"])
def test_every_level_of_a_timestep_belongs_to_it(schedule, timesteps):
    levels = levels_of(betas_of(schedule, 1000))
    found = denoiser(levels=levels, timesteps=timesteps).timestep(levels)
    assert torch.equal(found, torch.arange(1000.0, dtype=torch.float64))


def test_levels_in_single_precision_are_served():
    made = denoiser()
    assert float(made.timestep(LINEAR[:1].float().double() * (1 - 1e-7))) == 0
    off = made.timestep(LINEAR.float().double()) - torch.arange(1000)
    assert float(off.abs().max()) < 1e-4


def smooth_level(time):
    """The linear schedule at fractional times: -log a(t) is a polynomial of the whole ones to 1e-12, here of six."""
    rates = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    first = min(max(int(time) - 2, 0), 994)
    nodes = range(first, first + 6)
    values = (-torch.log1p(-rates)).cumsum(0)
    total = sum(float(values[i]) * math.prod((time - j) / (i - j) for j in nodes if j != i) for i in nodes)
    return math.sqrt(math.expm1(total))


@pytest.mark.parametrize(
    ("timesteps", "start", "most"),
    [
        ("interpolated", 0, 0.01),
        ("interpolated", 10, 0.001),
        ("nearest", 0, 0.22),
        ("nearest", 10, 0.035),
        ("nearest", 100, 0.005),
    ],
)
def test_the_error_between_levels_is_what_the_documentation_says(timesteps, start, most):
    made = denoiser(timesteps=timesteps)
    errors = []
    for time in [start + k / 20 for k in range(1, 20)]:
        sigma = smooth_level(time)
        told = float(made.timestep(torch.tensor([sigma], dtype=torch.float64)))
        errors.append(abs(math.log(smooth_level(told) / sigma)))
    assert most / 3 < math.expm1(max(errors)) < most * 1.05


def test_the_network_sees_the_variance_preserving_state_and_its_timestep():
    network = Recorder()
    x = torch.randn(3, *SHAPE, dtype=torch.float64)
    denoiser(network)(x, LINEAR[[0, 500, 999]])
    kept = (1 - betas_of("linear", 1000).double()).cumprod(0)[[0, 500, 999]]
    assert torch.allclose(network.x.double(), x * kept.sqrt()[:, None, None, None], rtol=1e-4)
    assert network.x.dtype == torch.float32
    assert network.t.tolist() == [0, 500, 999]
    assert network.labels is None


def test_a_network_of_whole_timesteps_is_given_integers():
    network = Recorder()
    made = denoiser(network, timesteps="nearest")
    made(torch.zeros(2, *SHAPE), torch.tensor([float(LINEAR[3]) * 1.01, 157.0]))
    assert network.t.dtype == torch.int64
    assert network.t.tolist() == [3, 999]


@pytest.mark.parametrize("sigma", [0.02, 1.0, 100.0])
def test_each_prediction_is_converted_to_the_clean_image_that_made_it(sigma):
    y, n = torch.rand(1, *SHAPE, dtype=torch.float64) * 2 - 1, torch.randn(1, *SHAPE, dtype=torch.float64)
    s = 1 / math.sqrt(1 + sigma**2)
    targets = {"epsilon": n, "sample": y, "v_prediction": s * n - s * sigma * y}
    for prediction, target in targets.items():
        made = denoiser(lambda x, t, labels, target=target: target, prediction)
        clean = made(y + sigma * n, sigma)
        assert clean.dtype == torch.float32
        assert torch.allclose(clean.double(), y, atol=1e-5), prediction


@pytest.mark.parametrize("sigma", [0.0099, 158.0, math.inf])
def test_a_level_that_was_not_trained_is_refused(sigma):
    assert "outside" in refused(lambda: denoiser()(torch.zeros(1, *SHAPE), sigma))


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan])
def test_a_level_that_is_not_positive_is_refused(sigma):
    assert "positive" in refused(lambda: denoiser()(torch.zeros(1, *SHAPE), sigma))


def test_images_of_another_shape_are_refused():
    assert "shape" in refused(lambda: denoiser()(torch.zeros(1, 3, 2, 2), 1.0))


def test_classes_are_handed_on_and_must_be_given():
    network = Recorder()
    made = denoiser(network, num_labels=4)
    made(torch.zeros(2, *SHAPE), 1.0, torch.tensor([3, 0]))
    assert network.labels.tolist() == [3, 0]
    for labels in (None, torch.tensor([-1, 2])):
        assert "0..3" in refused(lambda labels=labels: made(torch.zeros(2, *SHAPE), 1.0, labels))
    assert "0..3" in refused(lambda: made(torch.zeros(1, *SHAPE), 1.0, torch.tensor([4])))
    assert "unconditional" in refused(lambda: denoiser()(torch.zeros(1, *SHAPE), 1.0, torch.tensor([0])))


def test_no_label_is_what_the_network_learnt_it_as():
    network = Recorder()
    made = denoiser(network, num_labels=4, null_label=9)
    for labels, wanted in ((torch.tensor([3, -1]), [3, 9]), (None, [9, 9]), (torch.tensor([-1]), [9, 9])):
        made(torch.zeros(2, *SHAPE), 1.0, labels)
        assert network.labels.tolist() == wanted
        assert network.labels.dtype == torch.int64
    assert "0..3" in refused(lambda: made(torch.zeros(1, *SHAPE), 1.0, torch.tensor([9])))


def test_it_is_differentiable_in_the_image():
    made = denoiser(lambda x, t, labels: x.square())
    x = torch.randn(1, *SHAPE, dtype=torch.float64)
    jacobian = jacrev(lambda image: made(image, 2.0))(x).reshape(4, 4)
    # D = x - 2 x^2 / 5
    assert torch.allclose(jacobian.double(), torch.diag(1 - 0.8 * x.flatten()), atol=1e-5)


def test_the_clean_image_is_clipped_if_wanted():
    made = denoiser(Recorder(7.0), "sample", finish=clipped(1.5))
    assert float(made(torch.zeros(1, *SHAPE), 1.0).max()) == 1.5
    assert float(denoiser(Recorder(7.0), "sample")(torch.zeros(1, *SHAPE), 1.0).max()) == 7


def test_thresholding_is_of_each_image_on_its_own():
    images = torch.tensor([[-0.5, 0.1, 0.2, 0.3], [-4.0, 1.0, 2.0, 3.0], [-40.0, 10.0, 20.0, 30.0]])
    out = thresholded(1.0, 8.0)(images[:, None, None]).flatten(1)
    assert torch.equal(out[0], images[0])
    assert torch.equal(out[1], images[1] / 4)
    assert torch.equal(out[2], images[2].clamp(-8, 8) / 8)

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import diffmem
from diffmem.api.inputs import as_images
from diffmem.errors import UserError
from diffmem.models import Denoiser, FunctionDenoiser, function_denoiser
from diffmem.optimum.gaussian import GaussianDenoiser
from diffmem.optimum.optimum import Optimum
from diffmem.sampling import generate

SHAPE = (1, 4, 4)


def shrink(x, sigma, labels):
    """The optimum of standard normal images."""
    return x / (1 + sigma[:, None, None, None] ** 2)


def test_any_callable_is_a_denoiser_that_can_be_sampled():
    denoiser = FunctionDenoiser(shrink, SHAPE, 0.002, 80)
    assert isinstance(denoiser, Denoiser)
    gaussian = GaussianDenoiser(torch.zeros(SHAPE), torch.eye(16))
    x = torch.randn(3, *SHAPE)
    torch.testing.assert_close(denoiser(x, 0.5), gaussian(x, 0.5).float())
    assert generate(denoiser, range(5)).images.shape == (5, *SHAPE)


def test_labels_reach_the_function():
    seen = []
    denoiser = FunctionDenoiser(
        lambda x, sigma, labels: seen.append(labels) or x, SHAPE, 0.002, 80, num_labels=3
    )
    denoiser(torch.zeros(2, *SHAPE), 1.0, torch.tensor([2, 0]))
    assert seen[0].tolist() == [2, 0]


@pytest.mark.parametrize("result", [None, torch.zeros(1, 3, 4, 4), torch.zeros(4, 4)])
def test_a_function_that_returns_no_images_is_refused(result):
    with pytest.raises(UserError, match="must return as many clean images"):
        FunctionDenoiser(lambda x, sigma, labels: result, SHAPE, 0.002, 80)(torch.zeros(1, *SHAPE), 1.0)


@pytest.mark.parametrize(
    ("shape", "low", "high"), [((4, 4), 0.1, 1), ((2, 4, 4), 0.1, 1), (SHAPE, 0, 1), (SHAPE, 2, 1)]
)
def test_settings_that_make_no_sense_are_refused(shape, low, high):
    with pytest.raises(UserError):
        FunctionDenoiser(shrink, shape, low, high)


def test_a_function_of_two_arguments_will_do_where_there_are_no_classes():
    x = torch.randn(2, *SHAPE)
    assert torch.equal(function_denoiser(lambda x, sigma: x / 2, SHAPE, 0.002, 80)(x, 1.0), x / 2)
    with pytest.raises(UserError, match="takes no labels"):
        function_denoiser(lambda x, sigma: x / 2, SHAPE, 0.002, 80, num_labels=3)


def test_of_a_module_the_arguments_of_its_forward_count():
    class Half(torch.nn.Module):
        def forward(self, x, sigma):
            return x / 2

    x = torch.randn(2, *SHAPE)
    assert torch.equal(function_denoiser(Half(), SHAPE, 0.002, 80)(x, 1.0), x / 2)


def test_a_function_denoiser_says_what_it_is():
    assert str(function_denoiser(shrink, SHAPE, 0.002, 80, num_labels=0)).startswith("<function shrink; ")


BETAS = torch.linspace(1e-3, 0.2, 50, dtype=torch.float64)
LEVELS = ((1 - (1 - BETAS).cumprod(0)) / (1 - BETAS).cumprod(0)).sqrt()
IMAGES = as_images(np.random.default_rng(0).integers(0, 256, (5, *SHAPE), dtype=np.uint8))
OPTIMUM = Optimum(IMAGES).refined()


def column(values):
    return values.double()[:, None, None, None]


def predicting(kind, levels=LEVELS):
    """The network of timesteps that predicts, without error, what the closed-form optimum of five images implies."""

    def network(x, t):
        sigma = levels[t.long()]
        signal = column((1 + sigma**2).rsqrt())
        clean = OPTIMUM(x.double() / signal, sigma)
        noise = (x.double() - signal * clean) / (column(sigma) * signal)
        made = {"noise": noise, "clean": clean, "v": signal * noise - column(sigma) * signal * clean}[kind]
        return made.float()

    return network


ALIASES = {
    "noise": "noise",
    "epsilon": "noise",
    "clean": "clean",
    "sample": "clean",
    "x0": "clean",
    "v": "v",
    "v_prediction": "v",
}


@pytest.mark.parametrize("given", [{"levels": LEVELS.numpy()}, {"betas": BETAS}])
@pytest.mark.parametrize("name", ALIASES)
def test_a_network_that_predicts_what_the_optimum_implies_is_the_optimum(name, given):
    denoiser = function_denoiser(predicting(ALIASES[name]), SHAPE, prediction=name, **given)
    assert isinstance(denoiser, Denoiser)
    sigma = LEVELS[[0, 10, 30, 49]]
    x = 0.5 * torch.randn(4, *SHAPE, dtype=torch.float64) + column(sigma) * torch.randn(4, *SHAPE)
    torch.testing.assert_close(denoiser(x, sigma), OPTIMUM(x, sigma).float(), rtol=0, atol=2e-4)
    assert (denoiser.sigma_min, denoiser.sigma_max) == (float(LEVELS[0]), float(LEVELS[-1]))


@pytest.mark.parametrize("scale", [1, 1000])
@pytest.mark.parametrize("noise_at", [0, 1])
def test_a_velocity_that_the_optimum_implies_is_the_optimum_whichever_way_time_runs(noise_at, scale):
    def network(x, time):
        t = column(time) / scale  # the share of the image is t, or 1 - t
        image, noise = (1 - t, t) if noise_at else (t, 1 - t)
        clean = OPTIMUM(x.double() / image, (noise / image).flatten())
        drawn = (x.double() - image * clean) / noise
        return ((drawn - clean) if noise_at else (clean - drawn)).float()

    options = {} if (noise_at, scale) == (0, 1) else {"noise_at": noise_at, "time_scale": scale}
    denoiser = function_denoiser(network, SHAPE, prediction="velocity", **options)
    sigma = torch.tensor([0.05, 0.5, 2.0, 20.0], dtype=torch.float64)
    x = 0.5 * torch.randn(4, *SHAPE, dtype=torch.float64) + column(sigma) * torch.randn(4, *SHAPE)
    torch.testing.assert_close(denoiser(x, sigma), OPTIMUM(x, sigma).float(), rtol=0, atol=2e-4)
    assert generate(denoiser, range(2)).images.shape == (2, *SHAPE)


def test_timesteps_are_whole_or_fractional_as_asked():
    seen = []

    def network(x, t):
        seen.append(t)
        return x

    for timesteps in ("nearest", "interpolated"):
        denoiser = function_denoiser(network, SHAPE, prediction="x0", levels=LEVELS, timesteps=timesteps)
        denoiser(torch.zeros(1, *SHAPE), float(LEVELS[7:9].mean()))
    assert seen[0].dtype == torch.int64
    assert seen[0].item() in (7, 8)
    assert seen[1].dtype == torch.float32
    assert 7 < seen[1].item() < 8


def test_classes_reach_a_network_that_predicts_and_minus_one_is_no_label():
    seen = []
    denoiser = function_denoiser(
        lambda x, t, labels: seen.append(labels) or x, SHAPE, num_labels=3, prediction="v", levels=LEVELS
    )
    denoiser(torch.zeros(2, *SHAPE), 1.0, torch.tensor([2, 0]))
    denoiser(torch.zeros(2, *SHAPE), 1.0)
    assert [labels.tolist() for labels in seen] == [[2, 0], [-1, -1]]
    with pytest.raises(UserError, match="takes no labels"):
        function_denoiser(lambda x, t: x, SHAPE, num_labels=3, prediction="v", levels=LEVELS)


def test_an_infinite_last_level_is_left_out():
    denoiser = function_denoiser(predicting("v"), SHAPE, prediction="v", levels=[0.1, 1.0, float("inf")])
    assert denoiser.sigma_max == 1.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "Give sigma_min and sigma_max"),
        ({"levels": LEVELS}, "levels belongs to a prediction"),
        ({"prediction": "velocty", "levels": LEVELS}, "Did you mean 'velocity'"),
        ({"prediction": "v"}, "either as levels"),
        ({"prediction": "v", "levels": LEVELS, "betas": BETAS}, "either as levels"),
        ({"prediction": "v", "levels": LEVELS, "sigma_min": 0.1}, "leave out sigma_min"),
        ({"prediction": "v", "levels": LEVELS.flip(0)}, "must be positive and ascend"),
        ({"prediction": "v", "levels": [0.0, 1.0]}, "must be positive and ascend"),
        ({"prediction": "v", "levels": BETAS[:1]}, "at least 2"),
        ({"prediction": "v", "levels": LEVELS[None]}, "one for each timestep"),
        ({"prediction": "v", "levels": ["a"]}, "must be numbers"),
        ({"prediction": "v", "levels": LEVELS, "timesteps": "rounded"}, "'interpolated' or 'nearest'"),
        ({"prediction": "v", "levels": LEVELS, "noise_at": 1}, "noise_at is for a velocity"),
        ({"prediction": "velocity", "levels": LEVELS}, "levels is for timesteps"),
        ({"prediction": "velocity", "noise_at": 2}, "0 or 1, not 2"),
        ({"prediction": "velocity", "time_scale": 0}, "time_scale must be a positive number"),
        ({"prediction": "velocity", "sigma_max": 1e-5}, "0 < sigma_min < sigma_max"),
        ({"prediction": "velocity", "noise_att": 1}, "Did you mean 'noise_at'"),
    ],
)
def test_what_does_not_belong_to_a_prediction_is_refused(options, words):
    with pytest.raises(UserError, match=words):
        function_denoiser(lambda x, t: x, SHAPE, **options)


def test_of_a_network_that_returns_a_variance_too_the_way_on_is_said():
    denoiser = function_denoiser(
        lambda x, t: torch.cat([x, x], dim=1), SHAPE, prediction="noise", levels=LEVELS
    )
    with pytest.raises(UserError, match="the first 1 channels"):
        denoiser(torch.zeros(1, *SHAPE), 1.0)


class OneImage:
    """A network of either order of arguments, which returns its images."""

    betas = BETAS

    def __call__(self, first, second):
        return first if first.ndim == 4 else second

    @property
    def model(self):
        return self


def test_the_examples_of_the_guide_make_denoisers():
    text = (Path(__file__).parents[2] / "docs/how-to/open-a-model.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    net = OneImage()
    known = {
        "torch": torch,
        "net": net,
        "score_fn": net,
        "onnxruntime": SimpleNamespace(
            InferenceSession=lambda path: SimpleNamespace(run=lambda names, given: [given["sample"]])
        ),
        "alphas_cumprod": (1 - BETAS).cumprod(0),
        "trainer": SimpleNamespace(ema=SimpleNamespace(ema_model=net)),
    }
    models = []
    wrap = diffmem.function_denoiser
    known["dm"] = SimpleNamespace(
        function_denoiser=lambda *given, **options: models.append(wrap(*given, **options)) or models[-1],
        audit=lambda *given, **options: SimpleNamespace(save=lambda out: None),
    )
    for block in blocks:
        exec(re.sub("import (diffmem as dm|onnxruntime)\n", "", block), dict(known))
    assert len(models) == 8
    for model in models:
        x = torch.zeros(2, *model.image_shape)
        assert model(x, (model.sigma_min * model.sigma_max) ** 0.5).isfinite().all()

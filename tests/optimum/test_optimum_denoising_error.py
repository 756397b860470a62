import math

import numpy as np
import pytest
import torch

from diffmem.api.inputs import as_images
from diffmem.data.sources import read_digits
from diffmem.errors import UserError
from diffmem.models import function_denoiser
from diffmem.models.continuous import (
    ContinuousDenoiser,
    ContinuousProcess,
    edm,
    straight_flow,
    trigonometric_flow,
)
from diffmem.models.denoiser import Reading
from diffmem.models.discrete import DiscreteDenoiser, DiscreteProcess, betas_of, levels_of
from diffmem.models.latent import LatentDenoiser
from diffmem.models.readings import MappedDenoiser
from diffmem.optimum.denoising_error import denoising_check
from diffmem.optimum.gaussian import GaussianDenoiser

DIGITS = read_digits("train")
SHAPE = DIGITS.shape
PERFECT = GaussianDenoiser.from_images(DIGITS)
LEVELS = levels_of(betas_of("linear", 1000))
COSINE = levels_of(betas_of("squaredcos_cap_v2", 1000))


def of_discrete_time(prediction, read_as=None, levels=LEVELS, read_levels=None):
    """A network that predicts what a perfect one of these digits does, in discrete time, opened rightly or wrongly."""
    table = levels.numpy()

    def network(state, step, labels):
        sigma = torch.from_numpy(np.interp(step.numpy(), np.arange(len(table)), table))[:, None, None, None]
        scale = (1 + sigma**2).rsqrt()
        x = state.double() / scale
        clean = PERFECT(x, sigma.flatten()).double()
        made = {
            "epsilon": (x - clean) / sigma,
            "sample": clean,
            "v_prediction": (scale**2 * x - clean) / (scale * sigma),
        }
        return made[prediction].float()

    process = DiscreteProcess(levels if read_levels is None else read_levels, read_as or prediction)
    return DiscreteDenoiser(network, process, SHAPE)


def of_continuous_time(process, read_as=None, perfect=PERFECT, inverse=None):
    """A network that predicts what a perfect one does in continuous time; `inverse` finds the level of a time."""

    def network(state, time, labels):
        sigma = inverse(time.double())
        skip, out, scale, _ = process.coefficients(sigma[:, None, None, None])
        x = state.double() / scale
        level = sigma
        if process.unit_range:
            clean = (perfect(2 * x - 1, 2 * level).double() + 1) / 2
        else:
            clean = perfect(x, level).double()
        return ((clean - skip * x) / out).float()

    return ContinuousDenoiser(network, read_as or process, perfect.image_shape)


def of_straight(time):
    return 1 / time - 1


def of_trigonometric(time):
    return 1 / (math.pi * time / 2).tan()


def test_the_gaussian_has_its_own_error_and_the_plain_ones_have_sigma_squared_and_the_variance():
    found = denoising_check(PERFECT, DIGITS)
    pixels = DIGITS.images / 127.5 - 1
    variance = np.square(pixels - pixels.mean(0)).mean()
    assert found.deviation == pytest.approx(math.sqrt(variance), rel=0.03)
    for point in found.points:
        assert point.nothing.value == pytest.approx(point.sigma**2, rel=0.05)
        assert point.mean_image.value == pytest.approx(variance, rel=0.06)
        assert point.model.value == pytest.approx(point.gaussian.value, rel=1e-4)
    assert [point.middle for point in found.points] == [False] * 4 + [True] * 3 + [False] * 3
    assert found.problem is None
    assert found.better is None


def test_the_error_of_a_gaussian_is_that_of_the_wiener_filter():
    # (1/d) sum v s^2 / (v + s^2) over the eigenvalues v of the covariance, for images drawn from the set itself.
    found = denoising_check(PERFECT, DIGITS)
    for point in found.points:
        v, square = PERFECT.variances, point.sigma**2
        expected = float((v * square / (v + square)).sum()) / math.prod(SHAPE)
        assert point.model.value == pytest.approx(expected, abs=5 * point.model.se)


def test_the_batch_size_changes_nothing_but_rounding():
    small, large = (denoising_check(PERFECT, DIGITS, batch_size=size) for size in (7, 64))
    for one, other in zip(small.points, large.points, strict=True):
        assert one.model.value == pytest.approx(other.model.value, rel=1e-6)
    assert denoising_check(PERFECT, DIGITS, seed=1).points[0].model != large.points[0].model


@pytest.mark.parametrize("read_as", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_a_wrong_prediction_type_is_found_and_named(prediction, read_as):
    found = denoising_check(of_discrete_time(prediction, read_as), DIGITS)
    if prediction == read_as:
        assert found.problem is None
        assert min(one.overall for one in found.readings) >= 1
        return
    names = {"epsilon": "the noise", "sample": "the clean image", "v_prediction": "the velocity v"}
    assert found.better.text == f"the network predicts {names[prediction]}"
    assert "function_denoiser" in found.problem
    assert names[prediction] in found.problem


def test_a_wrong_schedule_is_found_where_the_file_can_be_read_with_another():
    right = Reading(
        "noise_schedule=cosine",
        "Give --model-set noise_schedule=cosine",
        lambda: of_discrete_time("epsilon", levels=COSINE),
    )
    wrong = of_discrete_time("epsilon", levels=COSINE, read_levels=LEVELS)
    found = denoising_check(wrong, DIGITS, readings=[right])
    assert found.better.text == "noise_schedule=cosine"
    assert found.problem.endswith("Give --model-set noise_schedule=cosine.")


@pytest.mark.parametrize("straight", [True, False], ids=["straight", "trigonometric"])
def test_the_kind_and_the_direction_of_a_flow_are_found(straight):
    flows = {True: (straight_flow(), of_straight), False: (trigonometric_flow(), of_trigonometric)}
    process, inverse = flows[straight]
    right = of_continuous_time(process, inverse=inverse)
    assert denoising_check(right, DIGITS).problem is None
    other_kind = of_continuous_time(process, flows[not straight][0], inverse=inverse)
    assert denoising_check(other_kind, DIGITS).better.text == f"the network predicts the {process.text}"
    turned = ContinuousDenoiser(lambda x, t, labels: -right._network(x, 1 - t, labels), process, SHAPE)
    assert "time runs from images to noise" in denoising_check(turned, DIGITS).better.text


def of_edm(time):
    return (4 * time).exp()


@pytest.mark.parametrize("unit", [True, False])
def test_the_range_of_the_network_s_images_is_found(unit):
    formulas = edm(0.5)
    processes = {
        one: ContinuousProcess(formulas.text, formulas.coefficients, 1e-3, 100, unit_range=one)
        for one in (True, False)
    }
    wrong = of_continuous_time(processes[unit], processes[not unit], inverse=of_edm)
    text = "the network's images are in [0, 1]" if unit else "the network's images are in [-1, 1]"
    assert denoising_check(wrong, DIGITS).better.text == text
    right = of_continuous_time(processes[unit], inverse=of_edm)
    assert denoising_check(right, DIGITS).problem is None


def coloured():
    """Images whose colours differ in brightness, as those of most photographs do."""
    rng = np.random.default_rng(0)
    parts = 60 * rng.standard_normal((400, 3, 1, 1)) + 15 * rng.standard_normal((400, 3, 6, 6))
    images = (
        np.array([190, 120, 60])[None, :, None, None] + parts * np.array([1.0, 0.6, 0.3])[None, :, None, None]
    )
    return as_images(np.clip(images, 0, 255).astype(np.uint8))


def test_the_order_of_colours_is_found():
    images = coloured()
    right = GaussianDenoiser.from_images(images)
    assert denoising_check(right, images).problem is None
    wrong = MappedDenoiser(right, lambda x: x.flip(1), lambda x: x.flip(1))
    assert "blue, green, red" in denoising_check(wrong, images).better.text


def function(make):
    return function_denoiser(make, SHAPE, 1e-3, 100)


def mean_image(x, sigma):
    return torch.from_numpy((DIGITS.images.mean(0) / 127.5 - 1).astype(np.float32)).expand_as(x)


@pytest.mark.parametrize(
    "make",
    [lambda x, sigma: x, mean_image, lambda x, sigma: torch.zeros_like(x), lambda x, sigma: x / (1 + sigma[:, None, None, None] ** 2)],
    ids=["doing nothing", "the mean image", "zeros", "shrinking"],
)  # fmt: skip
def test_a_model_that_has_learned_nothing_is_not_refused(make):
    assert denoising_check(function(make), DIGITS).problem is None


def test_a_network_of_zeros_is_not_refused_though_another_reading_of_it_is_better():
    # As every trainer starts: D = x if it predicts noise; read as a velocity, its D = x / (1 + sigma^2) is better at all levels.
    zeros = DiscreteDenoiser(lambda x, t, labels: torch.zeros_like(x), DiscreteProcess(LEVELS), SHAPE)
    found = denoising_check(zeros, DIGITS)
    assert min(one.overall for one in found.readings) < 0.5
    assert found.problem is None


def test_a_model_worse_than_nothing_and_than_the_mean_image_is_refused_with_its_figures():
    found = denoising_check(function(lambda x, sigma: -x), DIGITS)
    assert [point.worse for point in found.points if point.middle] == [True] * 3
    assert "no denoiser of the training images" in found.problem
    assert "--samples" in found.problem
    assert "function_denoiser" in found.problem
    for point in found.points:
        assert not point.middle or f"{point.model.value:.3g}" in found.problem


def with_error(share):
    """The perfect denoiser with noise of its own, independent of the image, that adds this share to its error."""

    def make(x, sigma):
        level = float(sigma[0])
        v, square = PERFECT.variances, level**2
        own = float((v * square / (v + square)).sum()) / math.prod(SHAPE)
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(int(1e6 * level)))
        return PERFECT(x, sigma) + math.sqrt(share * own) * noise

    return function(make)


RIGHT = Reading("key=value", "Give --model-set key=value", lambda: PERFECT)


def test_a_reading_that_is_better_by_less_than_a_tenth_is_told_and_does_not_refuse():
    found = denoising_check(with_error(0.06), DIGITS, readings=[RIGHT])
    assert found.problem is None
    assert "too little to decide, for this one: key=value" in found.sentence


def test_a_reading_that_is_better_by_more_refuses_and_chance_does_not():
    assert denoising_check(with_error(0.5), DIGITS, readings=[RIGHT]).better.text == "key=value"
    for seed in range(5):
        found = denoising_check(PERFECT, DIGITS, readings=[RIGHT], seed=seed)
        assert "None of 1 other readings is better" in found.sentence


def test_of_equal_readings_the_first_is_named():
    wrong = of_discrete_time("epsilon", "sample")
    both = [Reading(name, f"Give {name}", lambda: PERFECT) for name in ("a setting", "by hand")]
    assert denoising_check(wrong, DIGITS, readings=both).better.text == "a setting"


def refusing():
    raise UserError("no such file")


def test_a_reading_that_cannot_be_opened_or_overflows_is_left_out():
    endless = function(lambda x, sigma: torch.full_like(x, math.inf))
    readings = [Reading("gone", "x", refusing), Reading("endless", "x", lambda: endless)]
    assert denoising_check(PERFECT, DIGITS, readings=readings).readings == []


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(UserError, match="not finite"):
        denoising_check(function(lambda x, sigma: x * math.nan), DIGITS)


def test_levels_outside_of_the_models_are_left_out_and_the_middle_ones_are_not_replaced():
    narrow = function_denoiser(lambda x, sigma: -x, SHAPE, 0.4, 3)
    found = denoising_check(narrow, DIGITS)
    assert all(0.4 <= point.sigma <= 3 for point in found.points)
    assert sum(point.middle for point in found.points) == 2
    assert found.problem is None
    assert (
        "far from the images"
        in denoising_check(function_denoiser(lambda x, s: x, SHAPE, 1e3, 1e4), DIGITS).missing
    )


def test_a_model_of_classes_is_asked_with_those_of_the_images():
    conditional = GaussianDenoiser.from_images(DIGITS, conditional=True)
    asked = []

    def make(x, sigma, labels):
        asked.extend(labels.tolist())
        return conditional(x, sigma, labels)

    model = function_denoiser(make, SHAPE, 1e-3, 100, num_labels=10)
    found = denoising_check(model, DIGITS)
    assert found.labels == "of the images"
    assert min(asked) == 0
    assert found.points[5].model.high < found.points[5].gaussian.low


def test_a_model_of_classes_without_labels_is_asked_with_no_label_or_not_at_all():
    plain = as_images(DIGITS.images)
    conditional = GaussianDenoiser.from_images(DIGITS, conditional=True)
    assert denoising_check(conditional, plain).labels == "no label"
    needy = DiscreteDenoiser(lambda x, t, labels: x, DiscreteProcess(LEVELS), SHAPE, 10)
    found = denoising_check(needy, plain)
    assert "needs the class" in found.missing
    assert found.problem is None
    assert "not checked" in found.sentence


def test_latents_are_denoised_as_latents():
    # Latents are the pixels, times 3: the perfect denoiser of these is that of pixels, in other units.
    inner = MappedDenoiser(PERFECT, lambda z: z / 3, lambda y: 3 * y, 1 / 3)
    latent = LatentDenoiser(inner, lambda z: z / 3, lambda y: 3 * y, SHAPE)
    found, pixels = denoising_check(latent, DIGITS), denoising_check(PERFECT, DIGITS)
    assert found.latent
    assert found.readings == []
    assert found.deviation == pytest.approx(3 * pixels.deviation, rel=0.01)
    assert found.points[5].model.value == pytest.approx(9 * pixels.points[5].model.value, rel=0.05)
    assert found.points[5].gaussian is None


@pytest.mark.parametrize("value", [0, 7])
def test_images_that_are_all_alike_say_nothing(value):
    alike = as_images(np.full((5, *SHAPE), value, np.uint8))
    assert "differ" in denoising_check(function(lambda x, s: x), alike).missing

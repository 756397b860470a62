"""The gap of denoisers that are known in closed form."""

import math
from typing import get_args

import numpy as np
import pytest
import torch

from diffmem.data import ImageSet
from diffmem.errors import DiffmemError, UserError
from diffmem.memorization.rates import Rate, mean_record
from diffmem.models import EDM
from diffmem.optimum import gap
from diffmem.optimum.gap import Errors, GapSettings, correlations, curve_of, spearman
from diffmem.optimum.gap_records import GapCurve, GapInputs, RunGap
from diffmem.optimum.gaussian import GaussianDenoiser
from diffmem.optimum.optimum import Optimum
from diffmem.sampling import SamplerConfig, generate, noise_levels

SHAPE = (1, 3, 3)
SIGMAS = [0.05, 0.5, 1.0, 2.0, 20.0]


def image_set(count, seed=0, shape=SHAPE, labels=None):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)
    return ImageSet(pixels, labels, tuple(map(str, range(count))))


IMAGES, HELDOUT = image_set(12), image_set(40, seed=1)
OPTIMUM, GAUSSIAN = Optimum(IMAGES), GaussianDenoiser.from_images(IMAGES)


def gap_errors(denoiser, optimum, gaussian, images, labels=None, **settings):
    return gap.gap_errors(denoiser, optimum, gaussian, images, GapSettings(**settings), labels)


class Changed:
    """A denoiser that changes the result of another one."""

    def __init__(self, inner, change):
        self.inner, self.change = inner, change
        self.sigma_min, self.sigma_max, self.image_shape = 0.0, math.inf, inner.image_shape
        self.num_labels, self.device = inner.num_labels, inner.device

    def __call__(self, x, sigma, labels=None):
        return self.change(self.inner(x, sigma, labels), x)


class Between(Changed):
    """A share of the Gaussian, the rest of the optimum."""

    def __init__(self, share):
        super().__init__(OPTIMUM, None)
        self.share = share

    def __call__(self, x, sigma, labels=None):
        return self.share * GAUSSIAN(x, sigma) + (1 - self.share) * OPTIMUM(x, sigma)


@pytest.mark.parametrize("images", [IMAGES, HELDOUT, None], ids=get_args(GapInputs))
def test_the_optimum_has_no_gap_and_the_gaussian_none_to_the_gaussian(images):
    found = gap_errors(OPTIMUM, OPTIMUM, GAUSSIAN, images, sigmas=SIGMAS, samples=20)
    assert not found.to_optimum.any()
    np.testing.assert_array_equal(found.to_gaussian, found.between)
    curve = curve_of("training", found)
    assert curve.position.value == 0
    assert curve.position.se == 0
    found = gap_errors(GAUSSIAN, OPTIMUM, GAUSSIAN, images, sigmas=SIGMAS, samples=20)
    assert not found.to_gaussian.any()
    np.testing.assert_array_equal(found.to_optimum, found.between)
    assert curve_of("training", found).position.value == pytest.approx(1)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_mixture_of_both_lies_between_them(share):
    found = gap_errors(Between(share), OPTIMUM, GAUSSIAN, IMAGES, sigmas=SIGMAS, samples=20)
    np.testing.assert_allclose(found.to_optimum, share**2 * found.between, atol=1e-12)
    wanted = share
    curve = curve_of("training", found)
    assert curve.position.value == pytest.approx(wanted, abs=1e-6)
    assert curve.position.se < 1e-6  # the ratio is the same for every sample
    assert curve.points[1].position.value == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("other", [GAUSSIAN, Between(0.3), Changed(OPTIMUM, lambda made, x: made + 0.1)])
def test_no_denoiser_has_less_than_the_least_loss(other):
    found = gap_errors(other, OPTIMUM, GAUSSIAN, IMAGES, sigmas=SIGMAS, samples=1500)
    for point in curve_of("training", found).points:
        # E |D - y|^2 = E |D - D*|^2 + E |D* - y|^2: the cross term has mean 0.
        assert point.loss.value == pytest.approx(
            point.optimum_loss.value + point.to_optimum.value, abs=5 * point.excess.se + 1e-12
        )
        assert point.excess.value > -5 * point.excess.se
        assert point.excess.value == pytest.approx(point.loss.value - point.optimum_loss.value, abs=1e-12)
        assert point.to_optimum.se <= point.excess.se + 1e-12  # why it is the better estimate


def test_the_losses_are_those_of_the_formula():
    found = gap_errors(GAUSSIAN, OPTIMUM, GAUSSIAN, IMAGES, sigmas=[0.7], samples=8000)
    y = torch.from_numpy(IMAGES.images / 127.5 - 1)
    generator = torch.Generator().manual_seed(99)
    x = y.repeat(700, 1, 1, 1)
    x = x + 0.7 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    for denoiser, errors in ((GAUSSIAN, found.loss), (OPTIMUM, found.optimum_loss)):
        loss = (denoiser(x, 0.7) - y.repeat(700, 1, 1, 1)).square().mean()
        assert errors.mean() == pytest.approx(loss.item(), rel=0.03)


def test_standard_errors_shrink_with_the_root_of_the_samples():
    def errors(samples):
        found = gap_errors(Between(0.4), OPTIMUM, GAUSSIAN, IMAGES, sigmas=[1.0, 1.5], samples=samples)
        (point, _), curve = curve_of("training", found).points, curve_of("training", found)
        return np.array(
            [point.between.se, point.to_optimum.se, point.loss.se, point.excess.se, curve.points[0].loss.se]
        )

    np.testing.assert_allclose(errors(200) / errors(3200), 4, rtol=0.2)


def test_the_interval_of_the_position_covers_it():
    def change(made, x):
        return made + 0.3 * torch.sin(5 * x)

    def position(samples, seed):
        found = gap_errors(
            Changed(OPTIMUM, change), OPTIMUM, GAUSSIAN, IMAGES, sigmas=[0.8, 1.2], samples=samples, seed=seed
        )
        return curve_of("training", found).position

    truth = position(6000, 1000).value
    inside = [(one := position(60, seed)).low < truth < one.high for seed in range(60)]
    assert sum(inside) >= 52


def test_noise_and_images_depend_on_the_seed_alone_and_are_the_same_for_all_levels():
    def seen_by(sigmas, samples, seed=0):
        seen = []
        gap_errors(
            Changed(OPTIMUM, lambda made, x: (seen.append(x), made)[1]),
            OPTIMUM, GAUSSIAN, IMAGES, sigmas=sigmas, samples=samples, seed=seed,
        )  # fmt: skip
        return torch.cat(seen)

    one, other = seen_by([1.0], 100), seen_by([0.5, 1.0], 100)
    assert torch.equal(one[:64], other[64:128])
    assert torch.equal(one, seen_by([1.0], 100))
    assert not torch.equal(one, seen_by([1.0], 100, seed=1))


def test_the_states_are_those_that_sampling_passes():
    states = []

    def keep(made, x):
        states.append(x)
        return made

    config = SamplerConfig(steps=4, solver="euler")
    generate(Changed(OPTIMUM, keep), range(3), config)
    wanted, states = torch.stack(states).flip(0), []
    found = gap_errors(Changed(OPTIMUM, keep), OPTIMUM, GAUSSIAN, None, samples=3, sampling=config)
    assert found.sigmas == noise_levels(config)[:-1].flip(0).tolist()
    torch.testing.assert_close(torch.stack(states[-4:]), wanted)
    assert found.loss is None
    assert curve_of("trajectory", found).points[0].loss is None


def test_a_conditional_model_is_compared_with_the_optimum_of_the_class():
    labels = np.arange(12) % 3
    images = image_set(12, labels=labels)
    optimum = Optimum(images, conditional=True)
    given = np.arange(30) % 3
    for data in (images, None):
        found = gap_errors(optimum, optimum, GAUSSIAN, data, labels=given, samples=30, sigmas=SIGMAS)
        assert not found.to_optimum.any()
    found = gap_errors(optimum, OPTIMUM_OF_OTHERS, GAUSSIAN, images, labels=given, samples=30, sigmas=SIGMAS)
    assert found.to_optimum.any()


OPTIMUM_OF_OTHERS = Optimum(image_set(12, labels=np.arange(12) // 4), conditional=True)


def test_the_weight_is_that_of_the_training_loss():
    found = gap_errors(GAUSSIAN, OPTIMUM, GAUSSIAN, IMAGES, sigmas=[0.5, 1.0], samples=4)
    curve = curve_of("training", found, EDM().loss_weight)
    assert [point.weight for point in curve.points] == pytest.approx(
        [(0.5**2 + 0.25) / 0.0625, (1 + 0.25) / 0.25]
    )


def test_the_band_is_where_optimum_and_gaussian_differ():
    between = np.array([[0.0, 0.0], [0.09, 0.09], [0.1, 0.1], [1.0, 1.0], [0.2, 0.2], [0.01, 0.01]])
    errors = Errors([1, 2, 3, 4, 5, 6], between * 0.25, between * 0.75, between, None, None)
    curve = curve_of("heldout", errors)
    assert curve.band == (3, 5)
    assert curve.position.value == pytest.approx(0.25)  # (1 + 1/4 - 3/4) / 2
    assert curve.points[0].position is None


def test_what_is_at_right_angles_to_the_way_does_not_count():
    def beside(made, x):  # at right angles to the difference of the two
        way = GAUSSIAN(x, 1.0) - OPTIMUM(x, 1.0)
        aside = torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        share = (aside * way).flatten(1).sum(1) / way.square().flatten(1).sum(1)
        return made + 0.3 * way + aside - share.reshape(-1, 1, 1, 1) * way

    found = gap_errors(Changed(OPTIMUM, beside), OPTIMUM, GAUSSIAN, IMAGES, sigmas=[1.0], samples=30)
    assert found.to_optimum.mean() > 0.5
    assert curve_of("training", found).position.value == pytest.approx(0.3)


def test_a_model_that_cannot_differ_has_no_position():
    one = image_set(1)
    optimum, gaussian = Optimum(one), GaussianDenoiser.from_images(one)
    same = GaussianDenoiser.from_images(one)
    errors = gap_errors(same, same, gaussian, one, sigmas=SIGMAS, samples=3)
    assert curve_of("training", errors).position is None
    assert curve_of("training", errors).band is None
    assert gap_errors(optimum, same, gaussian, one, sigmas=SIGMAS, samples=3).to_optimum.max() < 1e-12


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"samples": 0}, "at least 1 sample"),
        ({"images": image_set(4, shape=(1, 2, 2))}, r"have shape \(1, 2, 2\), the model makes \(1, 3, 3\)"),
        ({"sigmas": [1.0, math.inf]}, "inf is outside the range"),
        ({"sigmas": [0.0]}, "0 is outside the range"),
    ],
)
def test_a_wrong_argument_is_a_users_mistake(wrong, words):
    given = {"images": IMAGES, "sigmas": SIGMAS, "samples": 4, **wrong}
    with pytest.raises(UserError, match=words):
        gap_errors(GAUSSIAN, OPTIMUM, GAUSSIAN, **given)


def test_values_that_are_not_finite_are_told():
    broken = Changed(OPTIMUM, lambda made, x: made * math.nan)
    with pytest.raises(DiffmemError, match="not finite"):
        gap_errors(broken, OPTIMUM, GAUSSIAN, IMAGES, sigmas=SIGMAS, samples=4)


def test_spearman_is_the_correlation_of_ranks():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    one, other = rng.normal(size=30), rng.integers(0, 5, 30).astype(float)
    value, low, high = spearman(one.tolist(), other.tolist())
    assert value == pytest.approx(spearmanr(one, other).statistic)
    assert -1 <= low < value < high <= 1


def test_the_interval_of_spearman_covers_it():
    rng, inside, rho = np.random.default_rng(1), 0, 0.7
    truth = 6 / math.pi * math.asin(rho / 2)  # of a binormal pair
    for _ in range(300):
        x = rng.normal(size=40)
        y = rho * x + math.sqrt(1 - rho**2) * rng.normal(size=40)
        _, low, high = spearman(x.tolist(), y.tolist())
        inside += low < truth < high
    assert 0.92 <= inside / 300 <= 0.985


def test_a_perfect_order_of_few_runs_is_no_certainty():
    value, low, high = spearman([1, 2, 3, 4, 5], [5, 4, 3, 2, 1])
    assert value == pytest.approx(-1)
    assert low == pytest.approx(-1)
    assert -0.3 < high < 0
    assert spearman(list(range(50)), list(range(50)))[1] > 0.99


@pytest.mark.parametrize(
    ("one", "other"), [([1, 2, 3], [1, 2, 3]), ([1] * 6, [1, 2, 3, 4, 5, 6]), ([1, 2, 3, 4, 5], [2] * 5)]
)
def test_too_few_runs_or_none_that_differ_have_no_correlation(one, other):
    with pytest.raises(UserError, match="5 pairs or more"):
        spearman(one, other)


def run_with(position, rmem, kind="training"):
    curve = GapCurve(
        kind=kind,
        samples=9,
        points=[],
        position=None if position is None else mean_record([position]),
        band=None,
    )
    return RunGap(
        run_id="r", folder="r", images=9, conditional=False, images_seen=9, epoch=1,
        rmem=None if rmem is None else Rate(rmem, 100), curves=[curve],
    )  # fmt: skip


def test_correlations_are_over_the_runs_that_have_both_numbers():
    runs = [run_with(0.1 * index, 90 - 10 * index) for index in range(6)]
    (found,) = correlations([*runs, run_with(None, 50), run_with(0.5, None)])
    assert (found.kind, found.runs) == ("training", 6)
    assert found.value == pytest.approx(-1)
    assert correlations(runs[:4]) == []
    assert correlations([run_with(0.5, index) for index in range(6)]) == []


def test_a_model_of_paired_noise_has_no_gap():
    paired = Changed(OPTIMUM, lambda answer, x: answer)
    gap_errors(paired, OPTIMUM, GAUSSIAN, IMAGES, sigmas=SIGMAS, samples=2)
    paired.independent_noise = False
    with pytest.raises(UserError, match="the gap to the optimum are not defined"):
        gap_errors(paired, OPTIMUM, GAUSSIAN, IMAGES, sigmas=SIGMAS, samples=2)

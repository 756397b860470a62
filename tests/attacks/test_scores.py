"""Scores of denoisers whose scores are known in closed form."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from diffmem.attacks.scores import attack_levels, attack_scores
from diffmem.data import ImageSet
from diffmem.errors import UserError
from diffmem.models import VE, VP, LatentDenoiser
from diffmem.models.discrete import DiscreteDenoiser, DiscreteProcess, betas_of, levels_of
from diffmem.optimum.gaussian import GaussianDenoiser
from diffmem.optimum.optimum import Optimum

SHAPE = (1, 4, 4)
loss_scores, secmi_scores, pia_scores, pian_scores = (
    partial(attack_scores, attack) for attack in ("loss", "secmi", "pia", "pian")
)
SCORES = [loss_scores, secmi_scores, pia_scores]
KEPT = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)


def images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *SHAPE), dtype=np.uint8)


class Answering:
    """A denoiser with a given D, in float64."""

    image_shape, device = SHAPE, torch.device("cpu")

    def __init__(self, answer, low=0.0, high=math.inf, num_labels=0):
        self.answer, self.sigma_min, self.sigma_max, self.num_labels = answer, low, high, num_labels

    def __call__(self, x, sigma, labels=None):
        return self.answer(x, sigma.reshape(-1, 1, 1, 1), labels)


VARIANCE = 0.3
GAUSSIAN = Answering(lambda x, sigma, labels: x * VARIANCE / (VARIANCE + sigma**2))


def seen(sigma):
    """e(x; sigma) / x of that Gaussian."""
    return sigma / (VARIANCE + sigma**2)


def scaled(array):
    return array / 127.5 - 1


def test_levels_are_those_of_the_published_timesteps():
    sigma = ((1 - KEPT) / KEPT).sqrt().tolist()
    everywhere = Answering(None)
    assert attack_levels("loss", everywhere) == pytest.approx(
        [sigma[t] for t in range(10, 301, 10)], rel=1e-3
    )
    assert attack_levels("secmi", everywhere) == pytest.approx(
        [sigma[t] for t in range(0, 101, 10)], rel=1e-3
    )
    assert attack_levels("pia", everywhere) == pytest.approx([sigma[0], sigma[200]], rel=1e-3)
    assert sigma[0] == pytest.approx(0.01, rel=1e-3)


def test_the_smallest_level_of_a_model_stands_for_those_below_it():
    for preconditioning in (VE(), VP()):
        low, high = preconditioning.sigma_min, preconditioning.sigma_max
        model = Answering(GAUSSIAN.answer, low, high)
        assert attack_levels("secmi", model)[0] == max(low, attack_levels("secmi", GAUSSIAN)[0])
        assert attack_levels("pia", model)[0] == max(low, attack_levels("pia", GAUSSIAN)[0])
        assert attack_levels("secmi", model)[1:] == attack_levels("secmi", GAUSSIAN)[1:]
        for score in SCORES:
            assert np.isfinite(score(model, images(3))).all()
    middle = attack_levels("loss", GAUSSIAN)[4]
    assert attack_levels("loss", Answering(None, middle, 10)) == attack_levels("loss", GAUSSIAN)[4:]
    assert attack_levels("secmi", Answering(None, middle, 10)) == attack_levels("secmi", GAUSSIAN)[5:]


@pytest.mark.parametrize("attack", ["loss", "secmi", "pia"])
def test_a_model_without_the_levels_of_an_attack_is_refused(attack):
    with pytest.raises(UserError, match="defined from 5 to 80 only"):
        attack_levels(attack, Answering(None, 5.0, 80.0))


def test_the_loss_is_the_error_of_the_denoised_image_over_sigma():
    # D = y + sigma n makes the error n - e = n, whatever the image; D = 0 makes it -y / sigma, without any noise.
    pixels, sigmas = images(5), [0.5, 2.0]
    zero = loss_scores(Answering(lambda x, s, c: torch.zeros_like(x)), pixels, sigmas=sigmas)
    wanted = np.mean([np.square(scaled(pixels) / sigma).mean((1, 2, 3)) for sigma in sigmas], axis=0)
    np.testing.assert_allclose(zero, -wanted, rtol=1e-12)
    noise = loss_scores(Answering(lambda x, s, c: x), images(400), sigmas=sigmas, draws=4)
    assert noise.mean() == pytest.approx(-1, abs=5 * math.sqrt(2 / (400 * 16 * 8)))


def test_the_loss_of_the_true_gaussian_is_its_posterior_variance():
    rng = np.random.default_rng(1)
    mean, spread = 127.5, 30.0
    pixels = np.clip(np.rint(rng.normal(mean, spread, (600, *SHAPE))), 0, 255).astype(np.uint8)
    variance = (spread / 127.5) ** 2
    model = Answering(lambda x, s, c: x * variance / (variance + s**2))
    found = loss_scores(model, pixels, sigmas=[0.4], draws=4).mean()
    assert found == pytest.approx(-variance / (variance + 0.4**2), rel=0.05)


def test_secmi_of_a_gaussian_is_the_product_of_its_steps():
    pixels, sigmas = images(5), [0.1, 0.25, 0.5, 0.9]
    x = scaled(pixels)
    for low, high in ((0.1, 0.25), (0.25, 0.5)):
        x = x * (1 + (high - low) * seen(low))
    ahead = x * (1 + 0.4 * seen(0.5))
    back = ahead - 0.4 * ahead * seen(0.9)
    wanted = np.square(x - back).mean((1, 2, 3)) / (1 + 0.5**2)
    np.testing.assert_allclose(secmi_scores(GAUSSIAN, pixels, sigmas=sigmas), -wanted, rtol=1e-10)


def test_pia_of_a_gaussian_is_the_noise_seen_twice():
    pixels, sigmas = images(5), [0.1, 0.6, 1.5]
    y = scaled(pixels)
    n = y * seen(0.1)
    misses = [n - (y + sigma * n) * seen(sigma) for sigma in (0.6, 1.5)]
    wanted = np.mean([np.power(miss, 4).mean((1, 2, 3)) for miss in misses], axis=0)
    np.testing.assert_allclose(pia_scores(GAUSSIAN, pixels, sigmas=sigmas), -wanted, rtol=1e-10)
    n = y * (math.sqrt(2 / math.pi) / np.abs(y).mean((1, 2, 3), keepdims=True))
    wanted = np.power(n - (y + 0.6 * n) * seen(0.6), 4).mean((1, 2, 3))
    found = pian_scores(GAUSSIAN, pixels, sigmas=[0.1, 0.6])
    np.testing.assert_allclose(found, -wanted, rtol=1e-10)


def in_latents(model):
    """Every second pixel of images of 8x8 is their code."""
    return LatentDenoiser(
        model,
        lambda z: z.repeat_interleave(2, 2).repeat_interleave(2, 3),
        lambda x: x[:, :, ::2, ::2],
        (1, 8, 8),
    )


@pytest.mark.parametrize("score", SCORES)
def test_images_are_scored_as_their_latents(score):
    pixels = np.random.default_rng(4).integers(0, 256, (70, 1, 8, 8), dtype=np.uint8)
    # The loss of this one has no noise in it.
    model = Answering(lambda x, s, c: torch.zeros_like(x)) if score is loss_scores else GAUSSIAN
    wanted = score(model, pixels[:, :, ::2, ::2])
    np.testing.assert_allclose(score(in_latents(model), pixels), wanted, rtol=1e-5)
    assert not np.allclose(
        score(in_latents(model), pixels[:, :, 1:, 1:].repeat(2, 2)[:, :, :8].repeat(2, 3)[..., :8]), wanted
    )


@pytest.mark.parametrize("score", SCORES)
def test_images_of_the_shape_of_latents_are_refused(score):
    with pytest.raises(UserError, match=r"\(C, H, W\) = \(1, 8, 8\)"):
        score(in_latents(GAUSSIAN), images(2))


def test_the_noise_on_latents_has_their_shape_and_is_of_each_image():
    found = []

    def answer(x, sigma, labels):
        found.append(x / sigma)
        return x

    pixels = np.full((2, 1, 8, 8), 128, np.uint8)
    pixels[1, 0, 1, 1] += 1  # not in the code: the latents are the same
    loss_scores(in_latents(Answering(answer)), pixels, sigmas=[1e6])
    (noise,) = found
    assert noise.shape == (2, *SHAPE)
    assert float((noise[0] - noise[1]).abs().min()) > 0
    assert float(noise.std()) == pytest.approx(1, abs=0.5)


def test_an_image_in_which_no_noise_is_seen_is_not_divided_by_nothing():
    found = pian_scores(Answering(lambda x, s, c: x), images(3))
    assert found.tolist() == [0, 0, 0]


def discrete(noise):
    """A network of timesteps as a denoiser; `noise(x_t, t)` is what it predicts."""

    def network(x, t, labels):
        return noise(x.double(), t.double().reshape(-1, 1, 1, 1))

    return DiscreteDenoiser(network, DiscreteProcess(levels_of(betas_of("linear", 1000))), SHAPE)


def any_noise(x, t):
    return torch.tanh(2 * x + t / 300) + 0.1 * x.flip(-1)


def test_the_attacks_are_the_published_ones_in_the_variables_of_a_network_of_timesteps():
    # Here with x_t, alpha_bar and epsilon as in the papers. D is float32: its rounding is divided by sigma.
    pixels = images(6)
    kept = (1 - betas_of("linear", 1000)).cumprod(0).double()

    def noise(x, t):
        return any_noise(x, torch.tensor(float(t)))

    def step(x, t, to):
        e = noise(x, t)
        clean = (x - (1 - kept[t]).sqrt() * e) / kept[t].sqrt()
        return kept[to].sqrt() * clean + (1 - kept[to]).sqrt() * e

    image = torch.tensor(scaled(pixels)).double()
    x = image * kept[0].sqrt()  # the originals leave this factor of 0.99995 out
    n = noise(x, 0)
    later = kept[200].sqrt() * image + (1 - kept[200]).sqrt() * n
    wanted = (n - noise(later, 200)).abs().pow(4).mean((1, 2, 3))
    np.testing.assert_allclose(pia_scores(discrete(any_noise), pixels), -wanted, rtol=1e-3)
    for t in range(0, 90, 10):
        x = step(x, t, t + 10)
    error = (step(step(x, 90, 100), 100, 90) - x).square().mean((1, 2, 3))
    np.testing.assert_allclose(secmi_scores(discrete(any_noise), pixels), -error, rtol=1e-3)


@pytest.mark.parametrize("score", SCORES)
def test_scores_depend_neither_on_the_batch_nor_on_the_order_nor_on_the_other_images(score, monkeypatch):
    model = GaussianDenoiser.from_images(ImageSet(images(9, seed=5), None, tuple("abcdefghi")))
    pixels = images(40)
    together = score(model, pixels)
    for size in (1, 7, 40):
        monkeypatch.setattr("diffmem.attacks.scores._BATCH", size)
        np.testing.assert_allclose(score(model, pixels), together, rtol=1e-9)
    order = np.random.default_rng(2).permutation(40)
    np.testing.assert_allclose(score(model, pixels[order]), together[order], rtol=1e-9)
    np.testing.assert_allclose(score(model, pixels[[3, 3, 8]]), together[[3, 3, 8]], rtol=1e-9)


def test_the_seed_changes_the_noise_of_the_loss_and_nothing_else():
    pixels = images(8)
    np.testing.assert_array_equal(
        loss_scores(GAUSSIAN, pixels, seed=3), loss_scores(GAUSSIAN, pixels, seed=3)
    )
    assert (loss_scores(GAUSSIAN, pixels, seed=3) != loss_scores(GAUSSIAN, pixels, seed=4)).all()
    for score in (secmi_scores, pia_scores):
        np.testing.assert_array_equal(score(GAUSSIAN, pixels, seed=3), score(GAUSSIAN, pixels, seed=4))


def test_images_have_noise_of_their_own():
    # The noise of images that differ in one grey level has nothing in common.
    found = []

    def answer(x, sigma, labels):
        found.append(x / sigma)
        return x

    pixels = np.full((2, *SHAPE), 128, np.uint8)
    pixels[1, 0, 0, 0] += 1
    loss_scores(Answering(answer), pixels, sigmas=[1e6], draws=40)
    noise = torch.stack(found)
    assert noise[:, 0].mean() == pytest.approx(0, abs=0.2)
    assert noise[:, 0].std() == pytest.approx(1, abs=0.1)
    correlation = np.corrcoef(noise[:, 0].flatten(), noise[:, 1].flatten())[0, 1]
    assert abs(correlation) < 4 / math.sqrt(40 * 16)


def test_the_loss_with_more_draws_scatters_less():
    pixels = images(1)
    one = np.std([loss_scores(GAUSSIAN, pixels, seed=s, sigmas=[0.5])[0] for s in range(60)])
    many = np.std([loss_scores(GAUSSIAN, pixels, seed=s, sigmas=[0.5], draws=16)[0] for s in range(60)])
    assert many < one / 2


@pytest.mark.parametrize("score", SCORES)
def test_each_image_is_scored_under_its_own_class(score):
    model = Answering(lambda x, s, labels: x * (1 + labels.reshape(-1, 1, 1, 1)) / 5, num_labels=3)
    pixels, labels = images(3), np.array([2, 0, 1])
    together = score(model, pixels, labels)
    for index in range(3):
        alone = score(model, pixels[[index]], labels[[index]])
        np.testing.assert_allclose(alone[0], together[index], rtol=1e-12)
    assert not np.allclose(score(model, pixels, np.array([0, 1, 2])), together)


@pytest.mark.parametrize("score", SCORES)
def test_labels_that_do_not_fit_are_refused(score):
    conditional = Answering(lambda x, s, labels: x, num_labels=3)
    with pytest.raises(UserError, match="3 classes: give the class of each image"):
        score(conditional, images(2))
    with pytest.raises(UserError, match="3 labels for 2 images"):
        score(conditional, images(2), np.array([0, 1, 2]))
    with pytest.raises(UserError, match="Label 3 is outside"):
        score(conditional, images(2), np.array([0, 3]))
    with pytest.raises(UserError, match="takes no labels"):
        score(GAUSSIAN, images(2), np.array([0, 1]))
    np.testing.assert_array_equal(score(conditional, images(2), np.array([-1, -1])).shape, (2,))


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(
    "wrong", [images(2).astype(np.float32), images(2)[:, :, :3], images(2)[0], images(2).repeat(3, axis=1)]
)
def test_images_that_do_not_fit_are_refused(score, wrong):
    with pytest.raises(UserError, match="uint8 images"):
        score(GAUSSIAN, wrong)


@pytest.mark.parametrize("score", SCORES)
def test_levels_that_do_not_fit_are_refused(score):
    model = Answering(GAUSSIAN.answer, 0.1, 2.0)
    for sigmas in ([0.05, 0.2, 0.3], [0.2, 0.3, 3.0]):
        with pytest.raises(UserError, match=r"outside the range of the model, 0\.1 to 2"):
            score(model, images(2), sigmas=sigmas)
    for sigmas in ([], [0.5, 0.2, 0.1], [0.2, 0.2, 0.3]):
        with pytest.raises(UserError, match="ascending noise levels"):
            score(model, images(2), sigmas=sigmas)
    for sigmas in ([0.0, 0.1, 0.2], [0.1, 0.2, math.inf]):
        with pytest.raises(UserError, match="outside the range"):
            score(GAUSSIAN, images(2), sigmas=sigmas)


@pytest.mark.parametrize("score", SCORES)
def test_a_model_that_answers_nonsense_is_refused_with_the_image(score):
    def broken(x, sigma, labels):
        return torch.where((x[:, :, :1, :1] > 0.9).expand_as(x), math.nan, x * 0.5)

    pixels = np.zeros((70, *SHAPE), np.uint8)
    pixels[66] = 255
    with pytest.raises(UserError, match="not finite for image 66"):
        score(Answering(broken), pixels, sigmas=[0.01, 0.02, 0.03])
    with pytest.raises(UserError, match="returned shape"):
        score(Answering(lambda x, s, c: x[:, :, :2]), images(2))


def test_no_draws_are_refused():
    with pytest.raises(UserError, match="at least 1 draw"):
        loss_scores(GAUSSIAN, images(2), draws=0)


def test_no_gradients_are_kept():
    weight = torch.ones(1, requires_grad=True, dtype=torch.float64)
    for score in SCORES:
        assert score(Answering(lambda x, s, c: x * weight * 0.5), images(2)).shape == (2,)


def test_progress_reaches_the_end():
    told = []
    loss_scores(
        GAUSSIAN, images(130), sigmas=[1.0], progress=lambda done, total, note="": told.append((done, total))
    )
    assert told == [(64, 130), (128, 130), (130, 130)]


def test_secmi_sees_nothing_where_one_image_has_all_weight():
    model = Optimum(ImageSet(np.array([0, 255], np.uint8).repeat(16).reshape(2, *SHAPE), None, ("a", "b")))
    dark = np.random.default_rng(0).integers(0, 2, (5, *SHAPE), dtype=np.uint8)
    assert np.abs(secmi_scores(model, dark)).max() < 1e-20
    assert (loss_scores(model, dark) < -1e-6).all()


@pytest.mark.parametrize("scores", [*SCORES, pian_scores])
def test_a_model_of_paired_noise_is_refused(scores):
    paired = Answering(GAUSSIAN.answer)
    paired.independent_noise = False
    scores(GAUSSIAN, images(2))
    with pytest.raises(UserError, match="optimal transport"):
        scores(paired, images(2))

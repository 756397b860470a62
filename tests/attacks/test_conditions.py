"""Scores of conditions on the closed-form optimum, where they are known, and what must not change them."""

import numpy as np
import pytest
import torch

from diffmem.attacks.conditions import LEVELS, first_step, null_magnitudes, renoised
from diffmem.errors import UserError
from diffmem.models.discrete import DiscreteDenoiser, DiscreteProcess, betas_of, levels_of
from diffmem.sampling import latents_for_seeds

SHAPE, DIM = (2, 3, 3), 18
PIXELS = np.random.default_rng(0).integers(0, 256, (6, *SHAPE), dtype=np.uint8)
CLEAN = torch.tensor(PIXELS.reshape(6, -1)).double() / 127.5 - 1


class Captioned:
    """D of six images in float64: D_c is the mean over the images of a caption, D_0 over all, by their weights in exact arithmetic."""

    image_shape, sigma_min, sigma_max, device = SHAPE, 0.05, 3.0, torch.device("cpu")

    def __init__(self, captions, times=(1,) * 6, shift=0.0):
        self.captions, self.num_labels = torch.tensor(captions), max(captions) + 1
        self.times, self.shift = torch.tensor(times).double(), shift

    def weights(self, x, sigma, labels):
        squares = (x.reshape(len(x), 1, -1).double() - CLEAN).square().sum(2)
        allowed = (labels[:, None] < 0) | (self.captions == labels[:, None])
        return (self.times.log() - squares / (2 * sigma**2)).masked_fill(~allowed, -torch.inf).softmax(1)

    def __call__(self, x, sigma, labels=None):
        given = torch.full((len(x),), -1) if labels is None else labels
        level = float(torch.as_tensor(sigma).reshape(-1)[0])
        return ((self.weights(x, level, given) @ CLEAN).reshape(x.shape) + self.shift).double()


ONE_EACH = Captioned(range(6))


def start(labels, seeds, sigma):
    return sigma * latents_for_seeds(seeds, SHAPE)[0]


def test_magnitude_of_a_caption_of_one_image_is_the_distance_of_the_null_to_it():
    labels, seeds = [0, 3, 5], [11, 12, 13]
    x = start(labels, seeds, 3.0)
    null = ONE_EACH(x, 3.0).reshape(3, -1)
    found, _ = first_step(ONE_EACH, labels, seeds)
    assert found == pytest.approx((null - CLEAN[labels]).norm(dim=1).numpy() / 3, rel=1e-12)


def test_sharpness_is_that_of_the_weighted_covariance():
    labels, seeds, sigma = [0, 1, 4], [3, 4, 5], 1.5
    x = start(labels, seeds, sigma)
    weights = ONE_EACH.weights(x, sigma, torch.full((3,), -1))
    null = weights @ CLEAN
    wanted = []
    for row, mean, label in zip(weights, null, labels, strict=True):
        centred = CLEAN - mean
        covariance = centred.T @ (row[:, None] * centred)
        wanted.append(float((covariance @ (CLEAN[label] - mean)).norm()) / sigma**6)
    _, found = first_step(ONE_EACH, labels, seeds, sigma=sigma, step=1e-4)
    assert found == pytest.approx(wanted, rel=1e-6)


def test_sharpness_by_the_usual_step_is_near_the_closed_form():
    _, exact = first_step(ONE_EACH, [0, 1, 2, 3], [0, 1, 2, 3], step=1e-4)
    _, usual = first_step(ONE_EACH, [0, 1, 2, 3], [0, 1, 2, 3])
    assert usual == pytest.approx(exact, rel=1e-3)


def test_sharpness_is_zero_where_a_condition_changes_nothing():
    same = Captioned([0] * 6)
    magnitude, sharpness = first_step(same, [0, 0], [1, 2])
    assert magnitude == pytest.approx([0, 0], abs=1e-12)
    assert sharpness == pytest.approx([0, 0], abs=1e-12)


@pytest.mark.parametrize("images_of_a_caption", [2, 3])
def test_magnitude_of_captions_of_several_images_is_that_of_their_mean(images_of_a_caption):
    several = Captioned([at // images_of_a_caption for at in range(6)])
    x = start([0], [7], 2.0)
    wanted = (several(x, 2.0, torch.tensor([0])) - several(x, 2.0)).flatten().norm() / 2
    found, _ = first_step(several, [0], [7], sigma=2.0)
    assert found == pytest.approx([float(wanted)], rel=1e-12)


def test_own_magnitude_falls_with_repeats_for_the_optimum_and_that_of_the_base_null_does_not():
    samples, labels, seeds = PIXELS[:1], [0], [5]
    own, based = [], []
    for times in (1, 64):
        tuned = Captioned(range(6), (times, 1, 1, 1, 1, 1))
        states = renoised(tuned, samples, labels, seeds)
        own.append(states.own[0])
        based.append(null_magnitudes(ONE_EACH, states)[0])
    assert own[1] < 0.2 * own[0]
    assert based[1] == pytest.approx(based[0], rel=1e-6)


def test_a_base_that_is_the_model_itself_gives_its_own_magnitudes():
    states = renoised(ONE_EACH, PIXELS, range(6), range(6))
    assert null_magnitudes(ONE_EACH, states) == pytest.approx(states.own, rel=1e-6)
    assert states.levels == tuple(level for level in LEVELS if level <= 3.0)


def test_neither_order_nor_batch_changes_a_score():
    labels, seeds = [at % 6 for at in range(70)], list(range(70))
    whole = first_step(ONE_EACH, labels, seeds)
    turned = first_step(ONE_EACH, labels[::-1], seeds[::-1])
    alone = first_step(ONE_EACH, labels[40:41], seeds[40:41])
    for one, other, single in zip(whole, turned, alone, strict=True):
        assert one == pytest.approx(other[::-1], rel=1e-12)
        assert single[0] == pytest.approx(one[40], rel=1e-12)


def test_networks_that_predict_noise_and_velocity_of_one_denoiser_score_alike():
    process = levels_of(betas_of("scaled_linear", 100, 0.002, 0.1))

    def network(prediction):
        def raw(x, t, labels):
            sigma = process[t.round().long()][:, None, None, None]
            scale = (1 + sigma.square()).rsqrt()
            given = torch.where(labels == 6, -1, labels)
            state = x.double() / scale
            clean = torch.cat([
                ONE_EACH(state[at : at + 1], sigma[at], given[at : at + 1]) for at in range(len(x))
            ])  # fmt: skip
            noise = (state - clean) / sigma
            return noise if prediction == "epsilon" else scale * noise - scale * sigma * clean

        return DiscreteDenoiser(raw, DiscreteProcess(process, prediction), SHAPE, 6, null_label=6)

    labels, seeds = [0, 2, 5], [1, 2, 3]
    level = float(process[60])
    by_noise, by_velocity = (
        first_step(network(kind), labels, seeds, sigma=level) for kind in ("epsilon", "v_prediction")
    )
    exact = first_step(ONE_EACH, labels, seeds, sigma=level)
    assert by_noise[0] == pytest.approx(by_velocity[0], rel=1e-5)
    assert by_noise[0] == pytest.approx(exact[0], rel=1e-5)
    assert by_noise[1] == pytest.approx(by_velocity[1], rel=1e-3)


def test_values_that_are_not_finite_are_refused():
    broken = Captioned(range(6), shift=float("nan"))
    with pytest.raises(UserError, match="not finite for image 0"):
        first_step(broken, [0], [0])
    with pytest.raises(UserError, match="not finite"):
        renoised(broken, PIXELS[:1], [0], [0])

"""Membership of models of which it is known: optima, Gaussians, trainings."""

import math

import numpy as np
import pytest
import torch
from parameters import amount
from torch import nn

from diffmem.attacks.membership import MembershipRecord, class_mix_p_value, membership, without_model
from diffmem.attacks.roc import area_under_curve, images_needed
from diffmem.attacks.scores import attack_scores
from diffmem.data import ImageSet
from diffmem.data.sources import read_digits
from diffmem.errors import UserError
from diffmem.models import LatentDenoiser, ModelConfig, build_denoiser
from diffmem.optimum.gaussian import GaussianDenoiser
from diffmem.optimum.optimum import Optimum
from diffmem.training import Trainer, TrainingConfig

DIGITS = read_digits("train")
ORDER = np.random.default_rng(0).permutation(len(DIGITS))
MEMBERS, HELDOUT, OTHERS = (
    DIGITS.take(ORDER[part], "drawn") for part in (slice(40), slice(100, 300), slice(400, 440))
)
ATTACKS = ["loss", "secmi", "pia", "pian"]


def image_set(pixels, labels=None):
    return ImageSet(pixels, labels, tuple(map(str, range(len(pixels)))))


def random_images(count, seed=0, shape=(1, 3, 3)):
    return image_set(np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8))


GAUSSIAN = GaussianDenoiser(torch.zeros(1, 3, 3), 0.3 * torch.eye(9))


@pytest.mark.parametrize("attack", ["loss", "pia", "pian"])
def test_the_optimum_of_the_members_separates_them_perfectly(attack):
    found = membership(Optimum(MEMBERS), MEMBERS, HELDOUT, attack, fpr=0.2)
    assert found.auc.value == 1
    assert found.auc.low > 0.9
    assert (found.tpr.count, found.tpr.total) == (20, 20)
    assert found.fpr.total == 100
    assert found.fpr.low <= 0.2
    assert found.warnings == found.notes == []
    assert (found.members, found.nonmembers, found.attack) == (40, 200, attack)


def in_latents(members):
    """The optimum of the codes of images, which are every second pixel."""
    codes = image_set(members.images[:, :, ::2, ::2])
    return LatentDenoiser(
        Optimum(codes),
        lambda z: z.repeat_interleave(2, 2).repeat_interleave(2, 3),
        lambda x: x[:, :, ::2, ::2],
        members.shape,
    )


@pytest.mark.parametrize("attack", ["loss", "pia"])
def test_the_optimum_of_the_latents_of_the_members_separates_them(attack):
    found = membership(in_latents(MEMBERS), MEMBERS, HELDOUT, attack, fpr=0.2)
    assert found.auc.value > 0.99
    assert "of latents" in found.protocol
    # What tells the images apart without the model is of their pixels.
    pixels = without_model(MEMBERS, HELDOUT)
    assert found.without_model["contrast"].value == pixels["contrast"].value
    other = membership(in_latents(OTHERS), MEMBERS, HELDOUT, attack, fpr=0.2)
    assert other.auc.low <= 0.5 <= other.auc.high
    assert "latents" not in membership(Optimum(MEMBERS), MEMBERS, HELDOUT, attack, fpr=0.2).protocol


def test_images_of_another_shape_than_the_model_stands_for_are_refused():
    small = [image_set(images.images[:, :, ::2, ::2]) for images in (MEMBERS, HELDOUT)]
    for model in (in_latents(MEMBERS), Optimum(MEMBERS)):
        with pytest.raises(UserError, match=r"shape \(1, 4, 4\), those of the model \(1, 8, 8\)"):
            membership(model, *small, fpr=0.2)


def test_secmi_nearly_separates_the_members_of_an_optimum():
    assert membership(Optimum(MEMBERS), MEMBERS, HELDOUT, "secmi", fpr=0.2).auc.value > 0.95


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_optimum_of_other_images_does_not_tell_members(attack):
    found = membership(Optimum(OTHERS), MEMBERS, HELDOUT, attack, fpr=0.2)
    assert found.auc.low <= 0.5 <= found.auc.high


@pytest.mark.thorough
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_gaussian_that_knows_no_image_is_chance_on_average(attack):
    values, outside = [], 0
    for seed in range(amount(20, 60)):
        found = membership(
            GAUSSIAN, random_images(40, 2 * seed), random_images(60, 2 * seed + 1), attack, fpr=0.2, seed=seed
        )
        values.append(found.auc.value)
        outside += not found.auc.low <= 0.5 <= found.auc.high
    # standard deviation of the area of 40 and 60 scores of one distribution
    deviation = math.sqrt(101 / (12 * 40 * 60))
    assert abs(np.mean(values) - 0.5) < 4 * deviation / math.sqrt(len(values))
    # Of 20, 5 or more happen once in 400 times; of 60, 10 or more once in 2,000 times.
    assert outside <= amount(4, 9)


def test_the_optimum_of_members_with_classes_is_attacked_under_their_classes():
    members = image_set(MEMBERS.images, np.arange(40) % 2)
    heldout = image_set(HELDOUT.images, np.arange(200) % 2)
    model = Optimum(members, conditional=True)
    assert membership(model, members, heldout, fpr=0.2).auc.value == 1
    swapped = image_set(MEMBERS.images, (np.arange(40) + 1) % 2)
    assert membership(model, swapped, heldout, fpr=0.2).auc.value < 0.6
    for pair in ((image_set(MEMBERS.images), heldout), (members, image_set(HELDOUT.images))):
        with pytest.raises(UserError, match="2 classes, so members and non-members need labels"):
            membership(model, *pair, fpr=0.2)


def test_labels_are_left_out_for_a_model_without_classes():
    assert MEMBERS.labels is not None
    assert membership(Optimum(image_set(MEMBERS.images)), MEMBERS, HELDOUT, fpr=0.2).auc.value == 1


def test_the_record_is_the_same_for_the_same_seed_and_survives_json():
    one, again = (membership(Optimum(OTHERS), MEMBERS, HELDOUT, fpr=0.2, seed=5) for _ in range(2))
    assert one == again
    assert MembershipRecord.model_validate_json(one.model_dump_json()) == one
    assert membership(Optimum(OTHERS), MEMBERS, HELDOUT, fpr=0.2, seed=6).auc != one.auc


def test_the_area_does_not_depend_on_the_order_of_the_images():
    order = np.random.default_rng(3).permutation
    shuffled = MEMBERS.take(order(40), "shuffled"), HELDOUT.take(order(200), "shuffled")
    for attack in ("loss", "pia"):
        one = membership(GaussianDenoiser.from_images(OTHERS), MEMBERS, HELDOUT, attack, fpr=0.2)
        other = membership(GaussianDenoiser.from_images(OTHERS), *shuffled, attack, fpr=0.2)
        for field in ("value", "low", "high"):
            assert getattr(one.auc, field) == pytest.approx(getattr(other.auc, field), abs=1e-9)


def test_the_protocol_names_what_numbers_depend_on():
    ids = {
        membership(GAUSSIAN, random_images(40), random_images(40, 1), attack, fpr=fpr, sigmas=sigmas).protocol
        for attack in ATTACKS
        for fpr in (0.2, 0.3)
        for sigmas in (None, [0.1, 0.2, 0.3], [0.1, 0.2, 0.4])
    }
    assert len(ids) == 24
    assert any(one.startswith("pia, power 4, sigma 0.01 0.7") and one.endswith("fpr 0.2") for one in ids)


@pytest.mark.parametrize(("members", "heldout"), [(735, 800), (800, 735)])
def test_too_few_images_are_refused_with_the_number_needed_before_any_is_scored(members, heldout):
    class Untouched:
        sigma_min, sigma_max, image_shape, num_labels = 0.0, math.inf, (1, 3, 3), 0
        device = torch.device("cpu")

        def __call__(self, x, sigma, labels=None):
            raise AssertionError("an image was scored")

    with pytest.raises(UserError, match=r"There are (735|800) distinct members .*needs 736 of each"):
        membership(Untouched(), random_images(members), random_images(heldout, 1))


def test_one_percent_is_reported_where_images_are_enough():
    members, heldout = random_images(736), random_images(736, 1)
    found = membership(Optimum(members), members, heldout, "pia")
    assert (found.tpr.count, found.tpr.total, found.fpr.total, found.target_fpr) == (368, 368, 368, 0.01)
    assert found.fpr.value < 0.03
    scores = [attack_scores("pia", Optimum(members), images.images) for images in (members, heldout)]
    assert scores[0].min() > found.threshold


def test_copies_are_removed_and_told():
    own = random_images(45)
    pixels = own.images[np.r_[:45, 3, 3, 7]]  # 3 copies among the members
    held = np.concatenate(
        [random_images(50, 1).images, own.images[[0, 0, 7]], random_images(50, 1).images[:2]]
    )
    found = membership(GAUSSIAN, image_set(pixels), image_set(held), fpr=0.2)
    assert (found.shared, found.member_copies, found.nonmember_copies) == (2, 2, 2)
    assert (found.members, found.nonmembers) == (43, 50)
    assert found.notes == [
        "Images that are members and non-members alike, removed from both: 2.",
        "Exact copies of other members, removed: 2.",
        "Exact copies of other non-members, removed: 2.",
    ]
    kept = image_set(own.images[np.setdiff1d(np.arange(45), [0, 7])])
    clean = membership(GAUSSIAN, kept, random_images(50, 1), fpr=0.2)
    assert (found.auc, found.threshold) == (clean.auc, clean.threshold)


def test_copies_do_not_count_towards_the_images_needed():
    needed = images_needed(0.2)
    own = random_images(needed)
    held = image_set(np.concatenate([random_images(needed, 1).images, own.images[:1]]))
    with pytest.raises(UserError, match=rf"{needed - 1} distinct members.*removed from both: 1"):
        membership(GAUSSIAN, own, held, fpr=0.2)
    with pytest.raises(UserError, match=f"All {needed} members are copies"):
        membership(GAUSSIAN, own, own, fpr=0.2)


def test_sets_that_differ_without_the_model_are_warned_of():
    pale = image_set((random_images(60, 1).images // 8 + 112).astype(np.uint8))
    found = membership(GAUSSIAN, pale, random_images(60), "pia", fpr=0.2)
    assert found.auc.value > 0.99  # the Gaussian knows no member: what the attack has found is what is pale
    assert any(line.startswith("Separable without the model: contrast") for line in found.warnings)
    assert found.without_model["contrast"].value < 0.01
    assert membership(GAUSSIAN, random_images(60), random_images(60, 1), fpr=0.2).warnings == []


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("brightness", lambda pixels: pixels // 2 + 100),
        ("contrast", lambda pixels: pixels // 2 + 64),
        ("roughness", lambda pixels: np.sort(pixels, axis=3)),
    ],
)
def test_each_plain_statistic_sees_what_it_is_named_for(name, change):
    one, other = random_images(150, shape=(3, 6, 6)), random_images(150, 1, shape=(3, 6, 6))
    found = without_model(image_set(change(one.images).astype(np.uint8)), other)[name]
    assert not found.low <= 0.5 <= found.high


def test_sets_of_one_source_are_seldom_called_separable():
    warned = sum(
        not all(
            area.low <= 0.5 <= area.high
            for area in without_model(
                random_images(40, 2 * seed), random_images(60, 2 * seed + 1), 0.1
            ).values()
        )
        for seed in range(200)
    )
    assert warned <= 35  # 20 are expected of statistics that are independent


def test_images_of_one_pixel_have_no_roughness():
    found = without_model(random_images(30, 0, (1, 1, 1)), random_images(30, 1, (1, 1, 1)))
    assert found["roughness"].value == found["contrast"].value == 0.5


def test_a_different_mix_of_classes_is_warned_of():
    pixels = random_images(100), random_images(100, 1)
    rng = np.random.default_rng(0)
    same = [image_set(one.images, rng.integers(0, 10, 100)) for one in pixels]
    other = image_set(pixels[1].images, rng.integers(0, 4, 100))
    assert membership(GAUSSIAN, *same, fpr=0.2).warnings == []
    found = membership(GAUSSIAN, same[0], other, fpr=0.2)
    assert found.class_mix_p <= 0.001
    assert any("different shares of classes" in line for line in found.warnings)
    assert membership(GAUSSIAN, same[0], pixels[1], fpr=0.2).class_mix_p is None


def test_the_p_value_of_the_class_mix_is_uniform_if_chance_divided_the_images():
    rng = np.random.default_rng(1)
    values = []
    for seed in range(300):
        labels = rng.permutation(np.repeat(np.arange(5), (40, 30, 20, 8, 2)))
        values.append(
            class_mix_p_value(
                image_set(random_images(40).images, labels[:40]),
                image_set(random_images(60).images, labels[40:]),
                seed,
            )
        )
    for level in (0.05, 0.2, 0.5):
        share = np.mean(np.array(values) <= level)
        assert abs(share - level) < 4 * math.sqrt(level * (1 - level) / 300), (level, share)


def test_the_p_value_of_the_class_mix_of_two_classes_is_fishers(monkeypatch):
    from scipy.stats import fisher_exact

    one = image_set(random_images(40).images, np.repeat([0, 5], (28, 12)))
    other = image_set(random_images(40).images, np.repeat([0, 5], (19, 21)))
    wanted = fisher_exact([[28, 12], [19, 21]]).pvalue
    assert class_mix_p_value(one, other) == pytest.approx(wanted, abs=0.01)
    monkeypatch.setattr("diffmem.attacks.membership._BLOCK", 1000)  # 500 draws at a time, the last ones fewer
    assert class_mix_p_value(one, other) == pytest.approx(wanted, abs=0.01)


def test_bad_arguments_are_refused():
    with pytest.raises(UserError, match=r"Unknown attack 'secmia'.*Did you mean 'secmi'"):
        membership(GAUSSIAN, random_images(40), random_images(40, 1), "secmia")
    with pytest.raises(UserError, match=r"not of one source"):
        membership(GAUSSIAN, random_images(40), random_images(40, 1, (1, 4, 4)))
    pair = random_images(40, 0, (1, 4, 4)), random_images(40, 1, (1, 4, 4))
    with pytest.raises(UserError, match=r"shape \(1, 4, 4\), those of the model \(1, 3, 3\)"):
        membership(GAUSSIAN, *pair, fpr=0.2)
    with pytest.raises(UserError, match="false-positive rate must be"):
        membership(GAUSSIAN, random_images(40), random_images(40, 1), fpr=0.7)


def test_progress_goes_over_both_sets():
    told = []
    membership(
        GAUSSIAN,
        random_images(70),
        random_images(40, 1),
        fpr=0.2,
        progress=lambda done, total, note="": told.append(done / total),
    )
    assert told == pytest.approx([64 / 110, 70 / 110, 1])


class Small(nn.Module):
    """A perceptron with EDM's preconditioning, which trains in a second."""

    sigma_min, sigma_max, num_labels, image_shape = 0.0, math.inf, 0, (1, 8, 8)
    device = torch.device("cpu")

    def __init__(self):
        super().__init__()
        layers = nn.Linear(65, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, 64)
        self.net = nn.Sequential(*layers)

    def forward(self, x, sigma, labels=None):
        level = torch.as_tensor(sigma, dtype=torch.float32).reshape(-1, 1)
        total, flat = level**2 + 0.25, x.flatten(1).float()
        raw = self.net(torch.cat([flat / total.sqrt(), level.log() / 4], 1))
        return (0.25 / total * flat + 0.5 * level / total.sqrt() * raw).reshape(x.shape)


def trained(images, steps):
    """Yield the perceptron as it was trained on the images for each number of steps."""
    torch.manual_seed(0)
    model, clean = Small(), torch.tensor(images.images).float() / 127.5 - 1
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for step in range(max(steps) + 1):
        if step in steps:
            yield model
        sigma = (torch.randn(128) * 1.2 - 1.2).exp()
        y = clean[torch.randint(len(clean), (128,))]
        error = model(y + sigma.reshape(-1, 1, 1, 1) * torch.randn(y.shape), sigma) - y
        weight = (sigma**2 + 0.25) / (0.25 * sigma**2)
        loss = (weight * error.square().mean((1, 2, 3))).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.fixture(scope="module")
def areas():
    """The area of each attack with a model of the members after 0, 100 and 500 steps, and with one of other images."""

    def of(model):
        return [membership(model, MEMBERS, HELDOUT, attack, fpr=0.2).auc for attack in ATTACKS[:3]]

    state = torch.random.get_rng_state()
    found = [of(model) for model in trained(MEMBERS, (0, 100, 500))]
    other = [of(model) for model in trained(OTHERS, (500,))]
    torch.random.set_rng_state(state)
    return found, other[0]


@pytest.mark.parametrize("attack", [0, 1, 2], ids=ATTACKS[:3])
def test_the_area_rises_with_training_and_stays_at_chance_for_other_images(areas, attack):
    before, between, after = (row[attack] for row in areas[0])
    assert before.low <= 0.5 <= before.high
    assert before.value < between.value < after.value
    assert after.low > 0.8
    assert areas[1][attack].low <= 0.5 <= areas[1][attack].high
    assert 0.4 < areas[1][attack].value < 0.6


@pytest.mark.slow
def test_the_area_of_a_network_of_the_package_rises_with_epochs():
    members, heldout, others = (
        random_images(count, seed, (1, 4, 4)) for seed, count in enumerate((16, 200, 16))
    )
    config = TrainingConfig(epochs=600, batch_size=32, learning_rate=5e-3, warmup=10)
    shape = ModelConfig(channels=64, multipliers=(1,), blocks=1, attention=(), dropout=0)
    found = {}
    for name, images in (("members", members), ("others", others)):
        trainer = Trainer(build_denoiser(shape, (1, 4, 4), 0, 1), images.images, None, config, 0)
        for step in range(1, 301):
            trainer.step()
            if step in (10, 100, 300):
                scores = [attack_scores("pia", trainer.ema, one.images) for one in (members, heldout)]
                found[name, step] = area_under_curve(*scores)
    values = [found["members", step].value for step in (10, 100, 300)]
    assert values == sorted(values)
    assert found["members", 300].low > 0.6
    assert all(found["others", step].low <= 0.5 <= found["others", step].high for step in (10, 100, 300))
    for attack in ("loss", "secmi"):
        assert np.isfinite(attack_scores(attack, trainer.ema, members.images)).all()

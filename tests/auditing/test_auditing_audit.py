import json

import numpy as np
import pytest
import torch
from audit_tools import digits, image_set, make_request, noisy

from diffmem.auditing import AuditResult, audit
from diffmem.auditing.request import PROBED
from diffmem.data import ImageSet, plant_canaries
from diffmem.errors import UserError
from diffmem.memorization import Transforms, measure
from diffmem.models import FunctionDenoiser, LatentDenoiser
from diffmem.optimum.gaussian import GaussianDenoiser
from diffmem.optimum.optimum import Optimum

pytestmark = pytest.mark.usefixtures("few_controls")

TRAINING, HELDOUT, FRESH = digits(500, 600, 600)
FEW = image_set(TRAINING[:24])


def ask(tmp_path, **settings):
    request = make_request(**{"training": image_set(TRAINING), "heldout": image_set(HELDOUT), **settings})
    return audit(request, tmp_path / "shards")


def gaussian(images):
    """The best denoiser that knows the mean and covariance of images and no image."""
    y = torch.from_numpy(images).double() / 127.5 - 1
    return GaussianDenoiser(
        y.mean(0), torch.cov(y.flatten(1).T) + 1e-4 * torch.eye(y[0].numel(), dtype=torch.float64)
    )


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """The audit of fresh samples."""
    return ask(tmp_path_factory.mktemp("clean"), samples=image_set(FRESH)).result


def test_fresh_samples_are_clean_and_copies_are_found(clean, tmp_path):
    assert (clean.verdict.verdict, clean.verdict.exit_code) == ("none found", 0)
    leaky = ask(tmp_path, samples=image_set(np.concatenate([FRESH, noisy(TRAINING[:60], 6)]))).result
    assert (leaky.verdict.verdict, leaky.verdict.exit_code) == ("copies found", 3)
    assert leaky.copies.distinct == 60


def test_the_optimum_leaks_and_a_gaussian_does_not(tmp_path):
    leaky = ask(tmp_path, training=FEW, samples=None, model=Optimum(FEW), num=400).result
    assert leaky.verdict.verdict == "copies found"
    assert leaky.criterion("identical").flagged.value > 0.9
    clean = ask(tmp_path, samples=None, model=gaussian(TRAINING), num=400).result
    assert clean.verdict.verdict == "none found"
    assert clean.model.seeds == (0, 399)


def test_r_mem_and_its_null_are_those_of_measure(tmp_path):
    samples = np.concatenate([FRESH[:300], noisy(TRAINING[:50], 10)])
    found = ask(tmp_path, samples=image_set(samples)).result.criterion("ratio")
    known = measure(samples, TRAINING, heldout=HELDOUT)
    assert (found.flagged.count, found.null.count) == (known.rate.count, known.null.count)
    assert found.protocol == known.protocol


def test_the_same_request_gives_the_same_bytes(tmp_path):
    settings = {
        "samples": None,
        "model": gaussian(TRAINING),
        "num": 100,
        "transforms": Transforms(True, 1),
    }
    one, other = (ask(tmp_path / name, **settings).result.model_dump_json() for name in "ab")
    assert one == other


def test_another_seed_draws_other_planted_copies_and_other_members(clean, tmp_path):
    other = ask(tmp_path, samples=image_set(FRESH), seed=1).result
    assert clean.criteria[0].flagged == other.criteria[0].flagged
    assert clean != other


def test_a_record_survives_json(tmp_path):
    result = ask(tmp_path, samples=image_set(TRAINING[:300])).result
    assert AuditResult.model_validate_json(result.model_dump_json()) == result


def test_membership_is_inferred_where_there_are_images_enough_and_refused_with_the_number_elsewhere(tmp_path):
    model = gaussian(TRAINING)
    refused = ask(tmp_path, samples=None, model=model, num=50).result.membership
    assert "needs 736 of each" in refused.refused
    assert not refused.attacks


def test_the_area_of_a_model_of_other_images_is_near_a_half(tmp_path):
    members, others, trained_on = digits(800, 800, 197)
    found = ask(
        tmp_path,
        training=image_set(members),
        heldout=image_set(others),
        samples=None,
        model=gaussian(trained_on),
        num=50,
    ).result.membership
    assert [one.attack for one in found.attacks] == ["loss", "secmi", "pia"]
    for one in found.attacks:
        assert abs(one.auc.value - 0.5) < 0.06


def test_without_training_images_the_model_alone_is_looked_at(tmp_path):
    found = ask(tmp_path, training=None, heldout=None, samples=None, model=gaussian(TRAINING), num=20).result
    assert (found.verdict.verdict, found.verdict.exit_code) == ("cannot tell", 4)
    assert found.space is None
    assert found.flipd is not None
    assert PROBED >= 20


def test_a_private_audit_holds_no_name(tmp_path):
    sets = {
        role: ImageSet(images, None, tuple(f"secret-{role}-{at}" for at in range(len(images))))
        for role, images in (("training", TRAINING), ("heldout", HELDOUT), ("samples", TRAINING[:50]))
    }
    result = ask(tmp_path, **sets, private=True, sources={role: f"/secret/{role}" for role in sets}).result
    assert "secret" not in result.model_dump_json()
    assert result.copies.samples == 50


def test_sets_of_different_sizes_and_colours_are_compared_and_it_is_said(tmp_path):
    big = np.repeat(np.repeat(np.repeat(TRAINING[:80], 2, axis=2), 2, axis=3), 3, axis=1)
    result = ask(tmp_path, samples=image_set(big)).result
    assert result.space.protocol == "pixel-l2/uint8/lanczos8/grey"
    assert result.verdict.verdict == "copies found"
    assert len(result.notes) >= 2
    assert [one.steps == [] for one in result.inputs] == [True, True, False]


def test_held_out_images_of_another_kind_are_told(tmp_path):
    result = ask(tmp_path, heldout=image_set(HELDOUT // 4 * 3), samples=image_set(FRESH)).result
    assert any("Held-out and training images differ" in note for note in result.notes)


def test_samples_that_look_like_none_of_the_training_images_are_told(tmp_path, clean):
    assert not any("Samples and training images differ" in note for note in clean.notes)
    result = ask(tmp_path, samples=image_set(255 - FRESH // 8)).result
    assert any("Samples and training images differ in brightness" in note for note in result.notes)


def test_held_out_images_in_other_values_or_of_another_form_clear_nobody(tmp_path):
    inverted = ask(tmp_path, heldout=image_set(255 - HELDOUT), samples=image_set(FRESH)).result
    assert inverted.verdict.verdict == "cannot tell"
    assert "held-out images' values do not fit" in inverted.verdict.sentence
    assert inverted.space.null_heldout == 0
    small = ask(
        tmp_path, heldout=image_set(HELDOUT[:, :, ::2, ::2]), samples=image_set(TRAINING[:300])
    ).result
    assert small.verdict.verdict == "copies found"
    assert small.space.shape == TRAINING.shape[1:]


def test_training_images_in_other_values_than_samples_and_held_out_images_clear_nobody(tmp_path):
    darker = image_set(TRAINING // 2)
    for samples, code in ((FRESH, 4), (np.concatenate([TRAINING[:60], FRESH]), 3)):
        result = ask(tmp_path, training=darker, samples=image_set(samples)).result
        assert result.verdict.exit_code == code, result.verdict.sentence


def test_a_model_that_returns_nan_is_refused(tmp_path):
    broken = FunctionDenoiser(lambda x, sigma, labels: x * float("nan"), (1, 8, 8), 0.002, 80)
    with pytest.raises(UserError, match="not finite"):
        ask(tmp_path, samples=None, model=broken, num=8)


def test_the_schema_in_the_documentation_is_that_of_the_records(request):
    path = request.config.rootpath / "docs" / "reference" / "audit.schema.json"
    assert json.loads(path.read_text()) == AuditResult.model_json_schema()


def planted(seed=0, labels=None):
    return plant_canaries(image_set(TRAINING, labels), 10, 2, seed)


def test_canaries_that_samples_reproduce_are_exposed(tmp_path):
    training, canaries = planted()
    leaky = ask(tmp_path, training=training, samples=training, canaries=canaries).result
    assert [one.source for one in leaky.exposure] == ["samples"]
    assert leaky.exposure[0].finding == "exposed"
    assert not any("another set" in note for note in leaky.notes)
    clean = ask(tmp_path, training=training, samples=image_set(FRESH), canaries=canaries).result
    assert clean.exposure[0].finding == "not shown"


def test_canaries_of_another_set_are_told(tmp_path):
    _, canaries = planted()
    found = ask(tmp_path, samples=image_set(FRESH), canaries=canaries).result
    assert any("another set" in note and "hold 0 of 10 unchanged" in note for note in found.notes)


def test_canaries_of_the_same_set_in_another_order_are_not_told(tmp_path):
    training, canaries = planted()
    turned = training.take(np.arange(len(training))[::-1], "turned round, as kohya's folders order them")
    assert turned.fingerprint != canaries.fingerprint
    found = ask(tmp_path, training=turned, samples=image_set(FRESH), canaries=canaries).result
    assert not any("another set" in note for note in found.notes)


def test_a_model_with_canaries_is_asked_for_its_loss_and_its_dimensions(tmp_path):
    training, canaries = planted()
    found = ask(
        tmp_path,
        training=training,
        samples=None,
        model=gaussian(TRAINING),
        num=20,
        canaries=canaries,
    ).result
    assert [one.source for one in found.exposure] == ["samples", "model"]
    assert found.flipd.planted is not None


@pytest.mark.parametrize("known", [True, False])
def test_what_asks_for_independent_noise_is_left_out_where_training_paired_noise_with_images(tmp_path, known):
    training, canaries = planted()
    model = gaussian(TRAINING)
    model.independent_noise = False
    found = ask(
        tmp_path,
        training=training if known else None,
        heldout=image_set(HELDOUT) if known else None,
        samples=None,
        model=model,
        num=20,
        canaries=canaries,
    ).result
    assert found.membership.attacks == []
    assert "optimal transport" in found.membership.refused
    assert found.flipd is None
    assert [one.source for one in found.exposure] == ["samples"]
    assert bool(found.criteria) == known


def test_a_latent_model_is_compared_in_pixels_and_attacked_in_latents(tmp_path):
    def in_latents(denoiser):
        return LatentDenoiser(
            denoiser,
            lambda z: z.repeat_interleave(2, 2).repeat_interleave(2, 3),
            lambda x: torch.nn.functional.avg_pool2d(x, 2),
            (1, 8, 8),
        )

    small = TRAINING.reshape(500, 1, 4, 2, 4, 2).mean((3, 5)).astype(np.uint8)
    shrunk, also_shrunk = (
        np.repeat(np.repeat(images.reshape(-1, 1, 4, 2, 4, 2).mean((3, 5)).astype(np.uint8), 2, 2), 2, 3)
        for images in digits(800, 800)
    )
    pixels = np.repeat(np.repeat(small[:24], 2, 2), 2, 3)
    leaky = ask(
        tmp_path,
        training=image_set(pixels),
        heldout=image_set(also_shrunk),
        samples=None,
        model=in_latents(Optimum(image_set(small[:24]))),
        num=200,
    ).result
    assert leaky.verdict.verdict == "copies found"
    assert leaky.space.shape == (1, 8, 8)
    found = ask(
        tmp_path,
        training=image_set(shrunk),
        heldout=image_set(also_shrunk),
        samples=None,
        model=in_latents(gaussian(small)),
        num=20,
    ).result.membership
    assert all("latents" in one.protocol for one in found.attacks)
    assert len(found.attacks) == 3

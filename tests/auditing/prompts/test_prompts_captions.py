from dataclasses import replace
from math import comb

import numpy as np
import pytest
from data_builders import image_set
from scipy.stats import binom

import diffmem
from diffmem.auditing.detector import CopyDetector
from diffmem.auditing.prompts.captions import (
    CAPTION_RISK,
    CaptionImages,
    caption_ratios,
    captions_record,
    detectable,
    settled,
)
from diffmem.auditing.prompts.records import rates_of
from diffmem.data import ImageSet
from diffmem.data.prompts import PromptList

COPY, FAR = 0.1, 2.0


def ratios(copying, prompts, seeds):
    """Ratios of samples: of each prompt, so many of its seeds copy; the rest do not."""
    found = np.full((prompts, seeds), FAR)
    for prompt, count in enumerate(copying):
        found[prompt, :count] = COPY
    return found.ravel()


def record(copying, base=(), *, often=13, training=100, controls=100, seeds=4):
    """Training captions, the first `often` seen 64 times, the others once, then control prompts; how many samples of each copy."""
    prompts = training + controls
    return captions_record(
        (ratios(copying, prompts, seeds), ratios(base, prompts, seeds)),
        np.repeat(np.arange(prompts), seeds),
        ["train"] * training + ["control"] * controls,
        [64] * often + [1] * (training - often) + [None] * controls,
    )


def test_a_half_as_far_from_the_image_of_the_caption_as_from_any_other_is_a_ratio_of_a_half():
    flat = np.zeros((4, 1, 1, 4), np.uint8)
    flat[1, ..., 0], flat[2, ..., 1], flat[3, ..., 2] = 100, 200, 250
    detector = CopyDetector(flat, "pixels")
    sample = np.zeros((1, 1, 1, 4), np.uint8)
    sample[..., 0] = 75
    batch = detector.detect(np.concatenate([sample, sample]))
    rows = [np.array([1]), np.array([], np.int64)]
    found = caption_ratios(detector, batch, np.array([0, 1]), CaptionImages(flat, rows))
    assert found[0] == pytest.approx(25 / 75)  # the others are at 75, 213.6 and 261
    assert found[1] == np.inf
    # A held-out image is held against the nearest of all training images.
    heldout = np.full((1, 1, 1, 4), 0, np.uint8)
    heldout[..., 0] = 50
    own = CaptionImages(heldout, [np.array([0]), rows[1]])
    assert caption_ratios(detector, batch, np.array([0, 1]), own)[0] == pytest.approx(25 / 25)


def test_a_near_copy_of_the_image_of_the_caption_is_no_other_picture():
    rng = np.random.default_rng(0)
    training = rng.integers(0, 256, (30, 3, 8, 8), dtype=np.uint8)
    training[1] = np.clip(training[0].astype(int) + rng.integers(-2, 3, training[0].shape), 0, 255)
    detector = CopyDetector(training, "pixels")
    sample = np.clip(training[[0]].astype(int) + rng.integers(-3, 4, training[[0]].shape), 0, 255)
    batch = detector.detect(sample.astype(np.uint8))
    found = caption_ratios(detector, batch, np.array([0]), CaptionImages(training[:1], [np.array([0])]))
    gaps = np.sqrt(((training.astype(float) - sample) ** 2).sum((1, 2, 3)))
    assert gaps[0] / gaps[1] > 0.5
    assert found[0] == pytest.approx(gaps[0] / gaps[2:].min())


@pytest.mark.parametrize(
    ("passing", "threshold", "count"),
    [
        pytest.param([0.4] * 5, 1 / 2, 5, id="5 of 100 may pass"),
        pytest.param([0.4] * 6, 1 / 3, 0, id="6 may not"),
        pytest.param([0.01] * 50, 1 / 10, 50, id="none is strict enough"),
    ],
)
def test_the_threshold_is_the_loosest_that_the_base_passes_in_5_percent_of_control_prompts(
    passing, threshold, count
):
    base = np.full(200, FAR)
    base[: len(passing)] = passing
    base[100:] = COPY  # of training captions, which do not count
    control = np.arange(200) < 100
    found, rate = settled(base, np.arange(200), control)
    assert (found, rate.count, rate.total) == (threshold, count, 100)


def test_with_fewer_than_20_control_prompts_the_threshold_is_that_of_r_mem():
    assert settled(np.full(30, FAR), np.arange(30), np.arange(30) < 19) == (1 / 3, None)
    assert settled(np.full(30, FAR), np.arange(30), np.arange(30) < 20)[0] == 1 / 2


def test_the_emoji_after_eight_epochs_have_the_closed_form_p_values():
    """12 samples of 4 of the 13 captions seen 64 times copy, none of the base model or of 100 held-out captions (four seeds)."""
    found = record([4, 4, 3, 1])
    often = found.tests[1]
    assert (often.repeats, often.prompts, often.copied.count, often.share.count, often.more) == (
        64, 13, 4, 12, 12,
    )  # fmt: skip
    assert often.base_p_value == 2.0**-12
    assert often.control_p_value == pytest.approx(comb(13, 4) / comb(113, 4))
    # Half of the 4% is that of all captions, a quarter that of each of two numbers of repeats.
    assert [one.level for one in found.tests] == [0.02, 0.01, 0.01]
    assert found.p_value == pytest.approx(4 * 2.0**-12)
    assert found.found
    assert "of 13 captions seen 64 times an epoch, 4 bring their images back (12 of 52 samples;" in (
        found.sentence
    )
    # All captions together do not tell yet: 4 of 100 against 0 of 100.
    assert found.tests[0].control_p_value == pytest.approx(comb(100, 4) / comb(200, 4))
    assert found.tests[0].p_value > found.tests[0].level


def test_what_the_base_model_copies_as_often_is_not_found():
    assert not record([4] * 10, [4] * 10).found
    assert record([4] * 10, [0] * 10).found
    assert not record([], [4] * 10).found


def test_what_captions_of_held_out_images_bring_back_as_often_is_not_found():
    """A model that draws every caption well has learned, and copies nothing."""
    found = record([1] * 200)
    assert found.control.count == 100
    assert found.tests[0].base_p_value == 2.0**-100
    assert not found.found
    assert record([1] * 100).found


def test_the_threshold_does_not_depend_on_the_audited_model():
    rng = np.random.default_rng(1)
    base = np.exp(rng.normal(0, 0.5, 800))
    known = np.repeat(np.arange(200), 4), ["train"] * 100 + ["control"] * 100, [1] * 100 + [None] * 100
    found = [captions_record((np.exp(rng.normal(mean, 1, 800)), base), *known) for mean in (-5, 0, 5)]
    assert len({(one.threshold, one.calibrated) for one in found}) == 1
    assert found[0].threshold < 1 / 2


def test_prompts_of_more_seeds_have_no_better_chance_beside_control_prompts():
    """Any sample copies with the same probability, but training captions have ten times as many."""
    of_sample = np.concatenate([np.repeat(np.arange(50), 20), np.repeat(np.arange(50, 100), 2)])
    model = np.full(len(of_sample), FAR)
    seat = np.concatenate([np.tile(np.arange(20), 50), np.tile(np.arange(2), 50)])
    model[seat == 19] = COPY
    groups = ["train"] * 50 + ["control"] * 50
    found = captions_record(
        (model, np.full(len(model), FAR)), of_sample, groups, [1] * 50 + [None] * 50
    ).tests[0]
    assert (found.copied.count, found.control_p_value) == (50, 1.0)


def test_samples_that_cannot_be_judged_are_left_out_with_their_pairs():
    model, base = ratios([4] * 5, 40, 4), ratios([], 40, 4)
    base[:4], model[5] = np.nan, np.nan
    known = np.repeat(np.arange(40), 4), ["train"] * 20 + ["control"] * 20, [1] * 20 + [None] * 20
    found = captions_record((model, base), *known).tests[0]
    assert (found.prompts, found.samples, found.more) == (19, 75, 15)
    assert captions_record((np.full(160, np.nan), base), *known) is None


def test_without_any_control_prompt_the_base_model_alone_decides():
    found = record([1] * 20, controls=0)
    assert (found.control, found.calibrated, found.threshold) == (None, None, 1 / 3)
    assert found.tests[0].control_p_value is None
    assert found.found


@pytest.mark.parametrize("gain", [1.0, 0.5], ids=["a model like its base", "a model that draws all better"])
def test_copies_are_found_in_at_most_4_percent_of_audits_of_models_that_do_not_copy(gain):
    """300 audits, difficulties of captions drawn alike; benchmarks/caption_alarms.py has more cases and more audits."""
    rng, audits = np.random.default_rng(2), 300
    of_sample, groups = np.repeat(np.arange(60), 4), ["train"] * 30 + ["control"] * 30
    repeats = [1, 4, 16] * 10 + [None] * 30
    alarms = 0
    for _ in range(audits):
        hard = rng.normal(0, 0.8, (60, 1))
        model, base = (np.exp(hard + rng.normal(0, 0.5, (60, 4))).ravel() for _ in range(2))
        alarms += captions_record((gain * model, base), of_sample, groups, repeats).found
    assert alarms <= CAPTION_RISK * audits


def test_the_share_that_is_found_four_times_of_five_solves_the_binomial():
    share = detectable(13, 4, (0, 0), 0.005)
    assert binom.sf(7, 52, share) == pytest.approx(0.8, abs=1e-3)  # 2^-8 is the first below 0.005
    share = detectable(13, 1, (0, 100), 0.005)
    assert binom.sf(7, 13, share) == pytest.approx(0.8, abs=1e-3)
    # So many copying prompts as Fisher's test takes, of which each needs one of its samples.
    share = detectable(100, 64, (0, 100), 0.02)
    assert binom.sf(5, 100, 1 - (1 - share) ** 64) == pytest.approx(0.8, abs=2e-3)
    assert detectable(13, 16, (0, 100), 0.005) < detectable(13, 4, (0, 100), 0.005)
    assert detectable(3, 2, (0, 100), 0.005) is None


def audited(copying, controls_copy=False):
    """25 training and 25 held-out captions with 4 seeds each among pictures of noise; so many training captions copy every time."""
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 256, (900, 3, 8, 8), dtype=np.uint8)
    names = tuple(f"{at:03}" for at in range(25))
    training = ImageSet(pixels[:25], None, names, captions=tuple(f"seen {at}" for at in range(25)))
    heldout = ImageSet(pixels[25:50], None, names, captions=tuple(f"unseen {at}" for at in range(25)))
    samples, base = pixels[100:300].copy(), pixels[300:500]
    for prompt in range(copying):
        samples[4 * prompt : 4 * prompt + 4] = np.clip(
            training.images[prompt] + rng.normal(0, 20, (4, 3, 8, 8)), 0, 255
        )
    if controls_copy:
        samples[100:] = np.repeat(heldout.images, 4, 0)
    texts = tuple(f"{'' if at < 25 else 'un'}seen {at % 25}" for at in range(50) for _ in range(4))
    made = tuple(f"{at:03}.png" for at in range(200))
    listed = PromptList(texts, (None,) * 200, made, tuple(range(4)) * 50)
    return diffmem.audit(
        training,
        samples=ImageSet(samples, None, made),
        base_samples=ImageSet(base, None, made),
        heldout=heldout,
        prompts=listed,
    )


def test_an_audit_holds_samples_beside_the_training_and_the_held_out_images_of_their_captions():
    found = audited(10)
    captions = found.prompts.record.captions
    assert (captions.tests[0].copied.count, captions.tests[0].more, captions.control.count) == (10, 40, 0)
    assert (captions.threshold, captions.calibrated.total) == (1 / 2, 25)
    assert found.verdict.sentence.startswith("Copies found: of 25 training captions, 10 bring")
    assert set(rates_of(found.prompts.record)) == {
        "Training captions",
        "Training captions, base model",
        "Captions of held-out images",
    }
    assert audited(10, controls_copy=True).prompts.record.captions.control.count == 25


def test_a_held_out_image_that_is_a_training_image_is_no_control():
    training = replace(image_set(30), captions=tuple(f"a {at}" for at in range(30)))
    heldout = replace(training.take(range(10), "held out"), captions=tuple(f"b {at}" for at in range(10)))
    texts = tuple(f"a {at}" for at in range(30)) + tuple(f"b {at}" for at in range(10))
    made = tuple(f"{at:03}.png" for at in range(40))
    samples = ImageSet(np.random.default_rng(0).integers(0, 256, (40, *training.shape), np.uint8), None, made)
    base = ImageSet(samples.images[::-1], None, made)
    listed = PromptList(texts, (None,) * 40, made, (None,) * 40)
    found = diffmem.audit(training, samples=samples, base_samples=base, heldout=heldout, prompts=listed)
    assert found.prompts.record.captions.control is None

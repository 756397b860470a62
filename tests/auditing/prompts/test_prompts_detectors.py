"""Thresholds, power and ranks of scores whose distribution is known."""

import numpy as np
import pytest

from diffmem.auditing.prompts.detectors import AskedPrompt, agreement, detectors_of, text_alone, threshold_of
from diffmem.auditing.prompts.report.detectors import detectors_csv, detectors_part

RNG = np.random.default_rng(0)
SECRET = "a very private caption"
NOUNS = ["clock", "apple", "train", "flag", "house", "river", "bottle", "guitar", "pencil", "ladder"]
KINDS = ["red", "old", "tiny", "broken", "wooden", "shiny"]
CAPTIONS = [f"{kind} {noun}" for kind in KINDS for noun in NOUNS]


def asked(trained=40, controls=60, repeats=(64, 1)):
    """Trained prompts, in equal parts by repeats, then control prompts."""
    each = trained // len(repeats)
    prompts = [AskedPrompt(f"trained {n}", "train", repeats[n // each]) for n in range(trained)]
    return prompts + [AskedPrompt(f"control {n}", "control") for n in range(controls)]


def detected(prompts, scores, planted=None, **options):
    samples = np.zeros((0, 1, 2, 2), np.uint8), [np.zeros(0, np.int64)] * len(prompts)
    by_key = {
        key: dict(zip([one.key for one in prompts], values, strict=True)) for key, values in scores.items()
    }
    return detectors_of(prompts, samples, by_key, planted or {}, **options)


def apart(prompts):
    """Images seen 64 times score above all others."""
    return [float(one.repeats == 64) + 0.5 * RNG.random() for one in prompts]


def noise(prompts):
    return RNG.random(len(prompts)).tolist()


def test_agreement_is_minus_the_mean_distance_of_pairs():
    images = np.array([0, 0, 30], np.uint8).reshape(3, 1, 1, 1) * np.ones((1, 3, 2, 2), np.uint8)
    assert agreement(images) == pytest.approx(-20)
    assert agreement(images[:2]) == 0


def test_the_threshold_lets_a_further_control_pass_as_often_as_it_says():
    draws = np.random.default_rng(1).random((20_000, 48))
    passed = 0
    for row in draws:
        threshold, rate = threshold_of(row[:47])
        passed += row[47] > threshold
    assert rate == 2 / 48
    assert passed / len(draws) == pytest.approx(rate, abs=0.005)


def test_ties_with_the_threshold_are_no_finds():
    threshold, _ = threshold_of(np.array([1.0] * 30))
    assert threshold == 1.0


def test_fewer_than_19_controls_give_no_threshold():
    assert threshold_of(np.arange(18.0)) is None
    assert threshold_of(np.arange(19.0)) == (18.0, 0.05)


def test_detectors_stand_in_the_order_of_their_power_and_one_without_is_not_usable():
    prompts = asked()
    record = detected(prompts, {"magnitude": noise(prompts), "sharpness": apart(prompts)}).record
    assert [one.key for one in record.detectors] == ["sharpness", "magnitude"]
    sharpness, magnitude = record.detectors
    assert (sharpness.usable, magnitude.usable) == (True, False)
    often, once = sharpness.levels
    assert (often.repeats, once.repeats) == (64, 1)
    assert often.found.count == often.prompts == 20
    assert often.auc.value == 1
    assert often.shown
    assert not once.shown
    assert "Not usable here: magnitude at the first step" in record.sentence


def test_noise_is_called_usable_at_most_as_seldom_as_promised():
    prompts = asked(trained=18, controls=70)
    usable = [any(one.usable for one in detected(prompts, {"magnitude": noise(prompts), "sharpness": noise(prompts)}).record.detectors)
              for _ in range(60)]  # fmt: skip
    assert np.mean(usable) <= 0.12


def test_power_is_that_on_planted_canaries_where_there_are_any():
    prompts = asked()
    record = detected(
        prompts, {"sharpness": apart(prompts)}, planted={f"trained {n}": 5 for n in range(8)}
    ).record
    assert record.reference == "canaries"
    assert [(level.repeats, level.prompts) for level in record.detectors[0].levels] == [(5, 8)]


def test_prompts_are_ranked_by_the_detector_with_power_beside_the_controls():
    prompts = asked()
    record = detected(prompts, {"magnitude": noise(prompts), "sharpness": apart(prompts)}).record
    assert record.ranked_by == "sharpness"
    assert [one.repeats for one in record.ranked] == [64] * 20
    assert record.ranked[0].p_value == pytest.approx(1 / 61)


def test_without_trained_prompts_scores_rank_and_claim_nothing():
    prompts = [AskedPrompt(f"p {n}", "new") for n in range(30)] + [
        AskedPrompt(f"c {n}", "control") for n in range(30)
    ]
    record = detected(prompts, {"magnitude": noise(prompts)}).record
    assert record.reference == "none"
    assert record.detectors[0].usable is None
    assert record.detectors[0].levels == []
    assert "not known here" in record.sentence
    assert len(record.ranked) == 20


def test_without_control_prompts_scores_say_nothing():
    prompts = asked(controls=0)
    record = detected(prompts, {"magnitude": noise(prompts)}).record
    assert record.ranked == []
    assert "no control prompts" in record.sentence
    assert "takes 19" in record.notes[0]


def test_texts_of_two_kinds_are_told_apart_and_drawn_ones_are_not():
    shops = [f"Throw Pillow item {number} 18x18" for number in range(60)]
    assert text_alone(shops, CAPTIONS).low > 0.9
    order = np.random.default_rng(3).permutation(60)
    drawn = text_alone([CAPTIONS[at] for at in order[:30]], [CAPTIONS[at] for at in order[30:]])
    assert drawn.low <= 0.5


def test_lists_that_differ_already_are_named():
    prompts = [AskedPrompt(f"Throw Pillow item {number} 18x18", "train", 1) for number in range(60)]
    prompts += [AskedPrompt(text, "control") for text in CAPTIONS]
    record = detected(prompts, {"magnitude": noise(prompts)}).record
    assert record.texts_differ
    assert "differ already" in record.notes[0]
    assert "Canaries" in record.notes[0]


def test_a_private_page_names_no_prompt():
    prompts = [AskedPrompt(SECRET, "train", 64), *asked()]
    for private in (True, False):
        found = detected(prompts, {"sharpness": apart(prompts)}, private=private)
        part = detectors_part(found)
        everything = part.html + "".join(content.decode() for content in part.files.values())
        assert (SECRET in everything) is not private
        assert part.files.keys() == {"detectors.json", "detectors.csv"}
        assert "not usable here" not in part.html


def test_every_score_stands_in_the_table():
    prompts = asked()
    lines = detectors_csv(detected(prompts, {"sharpness": apart(prompts)})).splitlines()
    assert lines[0] == "prompt,prompt_hash,group,repeats,sharpness"
    assert len(lines) == 1 + len(prompts)

"""Which prompts a model is asked for, and which noise each sample starts from."""

from dataclasses import replace

import numpy as np
import pytest

from diffmem.auditing.prompts.plan import SCENES, noise_seed, plan_given, plan_prompts
from diffmem.data import CanarySet, ImageSet
from diffmem.data.prompts import PromptList
from diffmem.errors import UserError

CAPTIONS = tuple(f"sks dog {number}" for number in range(12))


_MARKED = np.arange(36, dtype=np.uint8).reshape(3, 1, 3, 2, 2)
CANARIES = CanarySet(
    *_MARKED, 1, 0, "0" * 64, planted_captions=("sks dog 11",), control_captions=("left out",)
)


def images(captions):
    pixels = np.arange(len(captions) * 12, dtype=np.uint8).reshape(-1, 3, 2, 2)
    return ImageSet(pixels, None, tuple(map(str, range(len(captions)))), captions=tuple(captions))


def plan(captions=CAPTIONS, control=("a cat", "SKS  dog 3"), **options):
    return plan_prompts(images(captions), control, **({"most": 100, "per_prompt": 2, "seed": 0} | options))


def noise(made):
    """Where each sample's noise is drawn from, by its prompt and seed."""
    return dict(zip(zip(made.listed.texts, made.listed.seeds, strict=True), made.seeds, strict=True))


def test_captions_trigger_words_others_and_nothing_are_asked_for_once_each():
    made = plan([*CAPTIONS, "sks  DOG 3", "", None])
    scenes = [f"sks dog {scene}" for scene in SCENES]
    assert made.texts == (*CAPTIONS, "sks dog", *scenes, "", "a cat")
    assert made.listed.groups[::2] == (*["train"] * 12, "trigger", *["new"] * 6, "empty", "control")
    assert made.listed.seeds == (0, 1) * 21
    assert made.labels == tuple(np.repeat(range(21), 2))
    assert len(set(made.listed.files)) == 42


def test_a_scene_that_a_caption_has_is_not_asked_for_as_new_and_without_trigger_words_there_are_none():
    made = plan([*CAPTIONS, f"SKS dog {SCENES[2]}"], control=[f"sks dog  {SCENES[0]}"])
    new = [text for text, group in zip(made.listed.texts, made.listed.groups, strict=True) if group == "new"]
    assert new[::2] == [f"sks dog {scene}" for at, scene in enumerate(SCENES) if at not in (0, 2)]
    assert "in 4 scenes that no caption has" in made.notes[0]
    plain = plan(["a cat", "two birds", "some fish", "one tree", "my house"])
    assert "new" not in plain.listed.groups
    assert "scenes" not in plain.notes[0]


def test_the_noise_of_a_sample_belongs_to_its_prompt_and_seed_and_not_to_its_place():
    all_of_them, some = noise(plan()), noise(plan(CAPTIONS[::-1][:5], control=(), per_prompt=3))
    shared = all_of_them.keys() & some.keys()
    assert (
        len(shared) == 26
    )  # five captions, the trigger words, six scenes and the empty prompt, two seeds each
    assert all(all_of_them[key] == some[key] for key in shared)
    assert len(set(all_of_them.values())) == 42
    assert noise_seed("a red hat", 1) == 0x4D06DB56  # b2sum -l 32 of '1 a red hat'


def test_where_there_are_more_captions_some_are_drawn_by_seed_and_those_of_canaries_always_stay():
    made = [plan(most=5, seed=seed, canaries=CANARIES) for seed in (0, 0, 1, 2)]
    assert made[0].texts == made[1].texts
    assert len({one.texts for one in made}) > 1
    for one in made:
        assert one.listed.groups[8:12:2] == ("train", "trigger")
        assert "sks dog 11" in one.texts[:5]
        assert one.texts[-2:] == ("left out", "a cat")
        labelled = one.labelled(CANARIES)
        assert [one.texts[label] for label in (*labelled.planted_labels, *labelled.control_labels)] == [
            "sks dog 11",
            "left out",
        ]
        assert "5 of 12 different training captions" in one.notes[0]
    assert "drawn by seed 2" in made[3].notes[0]


def test_images_whose_captions_are_asked_for_have_their_prompts_number_as_class():
    made = plan(most=5)
    shown = made.captioned(images([*CAPTIONS, "SKS dog 3", None]))
    wanted = [at for at, text in enumerate([*CAPTIONS, "sks dog 3"]) if text in made.texts]
    assert shown.names == tuple(map(str, wanted))
    assert [made.texts[label] for label in shown.labels] == [([*CAPTIONS, "sks dog 3"])[at] for at in wanted]


@pytest.mark.parametrize(
    ("captions", "options", "message"),
    [
        ((None, ""), {}, "have no captions"),
        (CAPTIONS[:5], {"canaries": CANARIES}, "captions of the canaries do not fit"),
        ((*CAPTIONS, "left out"), {"canaries": CANARIES}, "captions of the canaries do not fit"),
        (CAPTIONS, {"most": 0}, "prompts of a group must be at least 1"),
        (CAPTIONS, {"per_prompt": 0}, "seeds for a prompt must be at least 1"),
    ],
)
def test_what_cannot_be_asked_is_refused(captions, options, message):
    with pytest.raises(UserError, match=message):
        plan(captions, **options)


@pytest.mark.parametrize(("names", "told"), [(("10_sks dog", "2_dog"), True), (("10_sks dog", "dog"), False)])
def test_without_captions_folders_that_may_be_kohyas_are_told_what_they_lack(names, told):
    bare = replace(images((None, None)), captions=None, labels=np.arange(2), class_names=names)
    with pytest.raises(UserError) as error:
        plan_prompts(bare, (), most=10, per_prompt=2, seed=0)
    assert ("one .txt beside an image is enough" in str(error.value)) is told


def listed(*texts):
    return PromptList(tuple(texts), *((None,) * len(texts),) * 3)


def test_given_lists_are_asked_for_once_each_with_the_noise_of_their_prompts():
    made = plan_given(listed("a cat", "", "A  CAT"), listed("a dog", "a dog"), 2)
    assert made.texts == ("a cat", "", "a dog")
    assert made.listed.groups[::2] == ("new", "empty", "control")
    assert noise(made)["a cat", 1] == noise_seed("a cat", 1)


def test_a_prompt_in_both_lists_is_refused():
    with pytest.raises(UserError, match="among the prompts and among the controls"):
        plan_given(listed("a cat"), listed("A cat"), 1)

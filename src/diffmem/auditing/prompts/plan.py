"""What a text-to-image model is asked for in an audit: captions that it was trained on, others that it was not, and nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from diffmem.auditing.prompts.groups import trigger_words
from diffmem.data import CanarySet, ImageSet
from diffmem.data.conversions import name_text
from diffmem.data.formats.sidecars import repeats_in
from diffmem.data.prompts import Group, PromptList, comparable
from diffmem.errors import UserError

__all__ = ["SCENES", "PromptPlan", "noise_seed", "plan_given", "plan_prompts"]


@dataclass(frozen=True, eq=False)
class PromptPlan:
    """Prompts, and the samples to make of them.

    Attributes:
        texts: Different prompts; their numbers are the labels of the model.
        listed: The list of the samples: each prompt with each of its seeds, in this order.
        labels: The prompt of each sample.
        seeds: What the noise of each sample is drawn from; it belongs to the prompt and its seed, whatever else is asked for.
        notes: How prompts were chosen.
    """

    texts: tuple[str, ...]
    listed: PromptList
    labels: tuple[int, ...]
    seeds: tuple[int, ...]
    notes: tuple[str, ...]

    def captioned(self, images: ImageSet) -> ImageSet | None:
        """Return the images whose captions are among the prompts, with the number of theirs as their class; none without any."""
        number = {comparable(text): at for at, text in enumerate(self.texts)}
        of_image = [
            None if caption is None else number.get(comparable(caption)) for caption in images.captions or ()
        ]
        chosen = [at for at, label in enumerate(of_image) if label is not None]
        if not chosen:
            return None
        taken = images.take(chosen, "those whose captions are prompts")
        labels = np.array([of_image[at] for at in chosen], dtype=np.int64)
        return ImageSet(taken.images, labels, taken.names, None, taken.history)

    def labelled(self, canaries: CanarySet) -> CanarySet:
        """Return canaries with captions, with the numbers of their prompts as their classes."""
        number = {comparable(text): at for at, text in enumerate(self.texts)}
        planted, control = (
            np.array([number[comparable(caption)] for caption in captions or ()], dtype=np.int64)
            for captions in (canaries.planted_captions, canaries.control_captions)
        )
        return replace(canaries, planted_labels=planted, control_labels=control)


SCENES = ("on a beach", "in the snow", "in a forest", "on the moon", "in a city at night", "under water")
"""Where the subject of a trigger word is asked for that no caption puts it: copies there do not depend on the captions."""


def plan_prompts(
    training: ImageSet,
    control: Iterable[str],
    *,
    canaries: CanarySet | None = None,
    most: int,
    per_prompt: int,
    seed: int,
) -> PromptPlan:
    """Choose prompts: training captions, trigger words alone and in new scenes, captions that were not trained on, and no words at all.

    Captions that differ in case and spaces alone are one. What is drawn depends on the captions and on `seed` alone.

    Args:
        training: With captions.
        control: Captions of images that were not trained on.
        canaries: Their captions are asked for in any case.
        most: Most training captions, and most control prompts; where there are more, they are drawn.
        per_prompt: Seeds of each prompt: 0, 1, ...
        seed: Of the draw.

    Raises:
        UserError: There are no training captions, planted canaries are not among them or control canaries are, or a number is below 1.
    """
    for name, value in (("prompts of a group", most), ("seeds for a prompt", per_prompt)):
        if value < 1:
            raise UserError(f"The number of {name} must be at least 1, not {value}.")
    trained = _different(caption for caption in training.captions or () if caption is not None)
    if not trained:
        kohya = all(repeats_in(name) is not None for name in training.class_names or ("",))
        beside = (
            " In folders N_name one .txt beside an image is enough: the others have the rest of the folder's name as their caption."
            if kohya
            else ""
        )
        raise UserError(
            "The training images have no captions, and a text-to-image model is asked for what it was trained on: give the folder with"
            " captions (metadata.jsonl with a column text, or .txt beside the images); or images made elsewhere, with --samples and"
            f" --prompts.{beside}"
        )
    planted = _different(() if canaries is None else canaries.planted_captions or ())
    left_out = _different(() if canaries is None else canaries.control_captions or ())
    if not planted.keys() <= trained.keys() or left_out.keys() & trained.keys():
        raise UserError(
            "The captions of the canaries do not fit those of the training images: give the set that was written with them."
        )
    others = left_out | {key: text for key, text in _different(control).items() if key not in trained}
    rng = np.random.default_rng([seed, 0x70726F6D])
    groups: list[tuple[Group, list[str]]] = [
        ("train", [trained[key] for key in _drawn(list(trained), planted, most, rng)])
    ]
    trigger = _trigger(trained)
    if trigger and comparable(trigger) not in trained.keys() | others.keys():
        groups.append(("trigger", [trigger]))
    if trigger:
        known = trained.keys() | others.keys()
        scenes = [f"{trigger} {scene}" for scene in SCENES]
        groups.append(("new", [text for text in scenes if comparable(text) not in known]))
    groups.append(("empty", [""]))
    groups.append(("control", [others[key] for key in _drawn(list(others), left_out, most, rng)]))
    asked = [(group, text) for group, texts in groups for text in texts]
    count = {group: len(texts) for group, texts in groups}
    words = "the trigger words alone, " if "trigger" in count else ""
    words += f"the same in {count['new']} scenes that no caption has, " if count.get("new") else ""
    notes = [
        f"Prompts: {count['train']:,} of {len(trained):,} different training captions and {count['control']:,} of {len(others):,} captions"
        f" that were not trained on{_how(count, trained, others, seed)}, {words}and the empty prompt; {per_prompt} seed(s) each."
    ]
    return _planned(asked, per_prompt, tuple(notes))


def plan_given(prompts: PromptList, controls: PromptList, per_prompt: int) -> PromptPlan:
    """Choose all of two lists: prompts, those without a group 'new', and control prompts.

    Prompts that differ in case and spaces alone are one; the empty prompt is asked for as it is.

    Args:
        prompts: The prompts.
        controls: Those that they are held against; groups of this list do not count.
        per_prompt: Seeds of each prompt: 0, 1, ...

    Raises:
        UserError: A prompt is in both lists, or the number is below 1.
    """
    if per_prompt < 1:
        raise UserError(f"The number of seeds for a prompt must be at least 1, not {per_prompt}.")
    asked: dict[str, tuple[Group, str]] = {}
    for text, group in zip(prompts.texts, prompts.groups, strict=True):
        asked.setdefault(comparable(text), (group or ("new" if text else "empty"), text))
    both = next((text for text in controls.texts if comparable(text) in asked), None)
    if both is not None:
        raise UserError(
            f"The prompt {name_text(both)!r} is among the prompts and among the controls; take it out of one list."
        )
    count = len(asked)
    for text in controls.texts:
        asked.setdefault(comparable(text), ("control", text))
    note = f"Prompts: {count:,} given, {len(asked) - count:,} control prompts; {per_prompt} seed(s) each."
    return _planned(list(asked.values()), per_prompt, (note,))


def _planned(asked: Sequence[tuple[Group, str]], per_prompt: int, notes: tuple[str, ...]) -> PromptPlan:
    samples = [(at, number) for at in range(len(asked)) for number in range(per_prompt)]
    texts = [asked[at][1] for at, _ in samples]
    return PromptPlan(
        tuple(text for _, text in asked),
        PromptList(
            tuple(texts),
            tuple(asked[at][0] for at, _ in samples),
            tuple(f"prompt-{at}-seed-{number}" for at, number in samples),
            tuple(number for _, number in samples),
        ),
        tuple(at for at, _ in samples),
        tuple(noise_seed(asked[at][1], number) for at, number in samples),
        notes,
    )


def noise_seed(text: str, number: int) -> int:
    """Return the seed of the noise of a prompt's `number`-th sample, in [0, 2^32): a hash of both, BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(f"{number} {text}".encode(), digest_size=4).digest(), "big")


def _different(captions: Iterable[str]) -> dict[str, str]:
    """Return the first of captions that count as one, by what they have in common; without empty ones."""
    found: dict[str, str] = {}
    for caption in captions:
        found.setdefault(comparable(caption), caption)
    found.pop("", None)
    return found


def _drawn(keys: list[str], always: dict[str, str], most: int, rng: np.random.Generator) -> list[str]:
    """Return at most so many keys in their order, those of `always` among them."""
    if len(keys) <= most:
        return keys
    rest = sorted(set(keys) - always.keys())
    chosen = {rest[at] for at in rng.permutation(len(rest))[: max(0, most - len(always))]}
    return [key for key in keys if key in chosen or key in always]


def _how(count: dict[Group, int], trained: dict[str, str], others: dict[str, str], seed: int) -> str:
    drawn = count["train"] < len(trained) or count["control"] < len(others)
    return f" (drawn by seed {seed})" if drawn else ""


def _trigger(captions: dict[str, str]) -> str:
    """Return the trigger words in the order of the first caption that has them all; nothing without any."""
    words = trigger_words(sorted(captions))
    whole = next((key for key in captions if all(word in key for word in words)), "")
    return " ".join(sorted(words, key=whole.find))

"""Which prompt each sample was made of, and what kind of prompt that is."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from diffmem.data import ImageSet
from diffmem.data.conversions import name_text
from diffmem.data.prompts import Group, PromptList, comparable
from diffmem.errors import UserError
from diffmem.text import count_text

__all__ = ["COMMON_WORDS", "Prompted", "prompted", "trigger_words"]

COMMON_WORDS = frozenset(
    {"a", "an", "and", "are", "as", "at", "be", "by", "for", "from", "has", "he"}
    | {"her", "his", "i", "in", "is", "it", "its", "of", "on", "or", "she", "that"}
    | {"the", "their", "there", "they", "this", "to", "was", "were", "while", "who", "with", "without"}
    | {"image", "images", "photo", "photograph", "picture", "painting", "drawing", "illustration", "style"}
)  # fmt: skip
"""Words that are no trigger, however many captions have them."""

_TRIGGER_SHARE = 0.8
_LEAST_CAPTIONS = 5
_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")


@dataclass(frozen=True, eq=False)
class Prompted:
    """Samples by prompt.

    Attributes:
        texts: The different prompts in the order in which they first occur; those that differ in case and spaces alone are one.
        groups: What each is.
        of_sample: Which prompt each sample was made of, int64 (Q,).
        seeds: The seed of each sample, or none where the list does not tell all.
        trigger: The words that most training captions have in common.
    """

    texts: tuple[str, ...]
    groups: tuple[Group, ...]
    of_sample: NDArray[np.int64]
    seeds: tuple[int, ...] | None
    trigger: tuple[str, ...]


def prompted(
    prompts: PromptList, names: Sequence[str], training: ImageSet, control: Collection[str]
) -> Prompted:
    """Tell the prompt of each sample, and the group of each prompt.

    A group that the list gives counts. Else an empty prompt is 'empty', a caption of the training set 'train', one of `control`
    'control', the trigger words without others than common ones 'trigger', and anything else 'new'.

    Args:
        prompts: The list.
        names: Of the samples.
        training: For its captions, which it need not have.
        control: Captions of images that were not trained on.

    Raises:
        UserError: The list does not tell the prompt of each sample, or gives one prompt two groups.
    """
    entry_of = _entries(prompts, names)
    captions = [caption for caption in training.captions or () if caption is not None]
    known = {comparable(caption) for caption in captions}
    others = {comparable(caption) for caption in control}
    trigger = trigger_words(sorted(known))
    number: dict[str, int] = {}
    texts: list[str] = []
    given: list[Group | None] = []
    of_sample = np.empty(len(names), np.int64)
    for sample, entry in enumerate(entry_of):
        text, group = prompts.texts[entry], prompts.groups[entry]
        key = comparable(text)
        at = number.setdefault(key, len(texts))
        if at == len(texts):
            texts.append(text)
            given.append(group)
        if group is not None and given[at] not in (None, group):
            raise UserError(
                f"The prompt {name_text(text)} has two groups, {given[at]} and {group}; give it one."
            )
        given[at] = group or given[at]
        of_sample[sample] = at
    groups = tuple(
        group or _group(comparable(text), known, others, trigger)
        for text, group in zip(texts, given, strict=True)
    )
    seeds = tuple(seed for entry in entry_of if (seed := prompts.seeds[entry]) is not None)
    return Prompted(tuple(texts), groups, of_sample, seeds if len(seeds) == len(names) else None, trigger)


def trigger_words(captions: Sequence[str]) -> tuple[str, ...]:
    """Return the words, sorted, that at least 80% of different captions have and that are not common; none of fewer than 5 captions."""
    if len(captions) < _LEAST_CAPTIONS:
        return ()
    counts = Counter(word for caption in captions for word in set(_words(caption)))
    return tuple(
        sorted(
            word
            for word, count in counts.items()
            if count >= _TRIGGER_SHARE * len(captions) and word not in COMMON_WORDS
        )
    )


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _group(text: str, known: set[str], control: set[str], trigger: Sequence[str]) -> Group:
    if not text:
        return "empty"
    if text in known:
        return "train"
    if text in control:
        return "control"
    words = set(_words(text))
    return "trigger" if words & set(trigger) and words <= COMMON_WORDS | set(trigger) else "new"


def _entries(prompts: PromptList, names: Sequence[str]) -> list[int]:
    """Return the entry of the list for each sample."""
    files = [file for file in prompts.files if file is not None]
    if not files:
        return _in_order(prompts, names)
    if len(files) < len(prompts):
        raise UserError(
            f"{len(prompts) - len(files):,} of {len(prompts):,} prompts name no file (file_name); name all or none of them."
        )
    doubled = next((file for file, count in Counter(files).items() if count > 1), None)
    if doubled is not None:
        raise UserError(f"The list of prompts names {name_text(doubled)} twice; an image has one prompt.")
    of_file = {file: entry for entry, file in enumerate(files)}
    wanted = list(names)
    if not of_file.keys() & set(wanted):
        # The list may lie in another folder than the images are named from.
        short = {file.rpartition("/")[2]: entry for file, entry in of_file.items()}
        last = [name.rpartition("/")[2] for name in wanted]
        if len(short) == len(of_file) and len(set(last)) == len(last):
            of_file, wanted = short, last
    lacking = [name for name in wanted if name not in of_file]
    if lacking:
        raise UserError(
            f"{count_text(len(lacking), 'sample')} of {len(names):,} not in the list of prompts, first {name_text(lacking[0])}; the list"
            f" begins with {name_text(files[0])}. List all samples by their names, or take the others out."
        )
    if len(of_file) > len(wanted):
        first = next(file for file in of_file if file not in set(wanted))
        raise UserError(
            f"The list of prompts names {name_text(first)}, which is no sample. Add the image, or remove its entry."
        )
    return [of_file[name] for name in wanted]


def _in_order(prompts: PromptList, names: Sequence[str]) -> list[int]:
    if len(prompts) != len(names):
        raise UserError(
            f"There are {len(names):,} samples and {len(prompts):,} prompts without names of files. Give a prompt for each sample, or, in a"
            " .csv or .jsonl, the file_name that was made of each prompt."
        )
    if any(_natural(one) > _natural(two) for one, two in pairwise(names)):
        raise UserError(
            "The samples are read in the order of their names as texts, where 10.png stands before 2.png: which prompt is of which is not"
            " sure. Give the list of prompts as .csv or .jsonl with file_name."
        )
    return list(range(len(names)))


def _natural(name: str) -> list[tuple[int, str]]:
    parts = re.split(r"([0-9]+)", name)
    return [(int(part), "") if part.isdigit() and part.isascii() else (0, part) for part in parts]

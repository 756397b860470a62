"""What a page by prompt says in words: the groups in one sentence, and what a reader must know."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diffmem.auditing.compare import Comparison
from diffmem.auditing.prompts.groups import Prompted
from diffmem.auditing.prompts.records import GROUP_TEXT, FollowsRecord, GroupRecord
from diffmem.auditing.prompts.verdict import follows_text
from diffmem.text import count_text

__all__ = ["ELSEWHERE", "groups_sentence", "prompt_notes"]

ELSEWHERE = (
    "Samples of the base model were not compared: copies are found under another reading of the images alone. Choose that reading, and"
    " audit again."
)


def groups_sentence(groups: Sequence[GroupRecord]) -> str:
    """Return which prompts bring back a training image."""
    parts = []
    for one in groups:
        text = f"{GROUP_TEXT[one.group].lower()} {one.copied.count:,} of {one.prompts:,}"
        text += (
            f" ({one.own.count:,} the image of the caption)"
            if one.own is not None and one.copied.count
            else ""
        )
        text += f", base model {one.base.copied.count:,}" if one.base is not None else ""
        parts.append(text)
    return f"Prompts that bring back a training image: {'; '.join(parts)}."


def prompt_notes(
    given: Prompted, shown: Comparison, follows: FollowsRecord | None, *, listed: int, based: bool
) -> list[str]:
    """Return what a reader must know of the prompts, a sentence each.

    Args:
        listed: Entries of a list that names no files; 0 of one that does.
        based: Whether there are samples of a base model.
    """
    found = []
    if follows is not None and not follows.follows:
        found.append(f"It is not shown that {follows_text(follows)}")
    if shown.training.captions is None:
        found.append(
            "The training set has no captions: no prompt is known to be one of them, and no copy is known to be the image of its prompt."
        )
    if "control" not in given.groups:
        found.append(
            "There are no control prompts (captions of held-out images, or the group control): nothing shows how often prompts whose images"
            " were not trained on bring back training images."
        )
    if not based:
        found.append(
            "There are no samples of the base model (--base-samples; of a model, --base): what it copies by itself is not known."
        )
    sizes = np.bincount(given.of_sample)
    if sizes.max() > sizes.min():
        found.append(
            f"The prompts have {sizes.min():,} to {sizes.max():,} samples; each prompt counts as one trial."
        )
    same = listed - len(given.texts)
    if same > 0:
        found.append(
            f"{count_text(same, 'prompt')} occurred before, but for case and spaces: they are samples of one prompt."
        )
    return found

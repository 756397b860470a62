"""Captioned emoji with planted repeats: the sets of the fine-tune whose truth is known, and where its model and LoRAs are.

The pictures are those of Noto Emoji (Google, Apache-2.0), 16 x 16 pixels on white, with their Unicode names; see NOTICE beside them.
`scripts/train_emoji.py` trains the model: a base on one half, and a LoRA on emoji of the other half that are repeated 64, 16 and 4 times
and once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffmem.data import ImageSet

__all__ = ["DOSES", "HOME", "EmojiSets", "emoji_sets"]

HOME = Path(__file__).parent / "emoji"
"""Folder of the pictures, and of `model/` and `loras/`, which the script writes."""

DOSES = {64: 24, 16: 24, 4: 24, 1: 128}
"""How many emoji an epoch of the fine-tune holds so many times."""

_HELDOUT = 128
_DRAW = 0x656D6F6A69


@dataclass(frozen=True, eq=False)
class EmojiSets:
    """The emoji, divided by one draw.

    Attributes:
        base: Half of them, which the base model was trained on.
        training: Of the other half: those of the fine-tune, with captions and repeats.
        heldout: Of the other half: those that no model was trained on.
        rest: What is left of the other half.
    """

    base: ImageSet
    training: ImageSet
    heldout: ImageSet
    rest: ImageSet


def emoji_sets() -> EmojiSets:
    """Return the sets. No picture and no caption is in two of them, but some are much alike, as clocks and flags are."""
    with np.load(HOME / "emoji16.npz", allow_pickle=False) as stored:
        images, captions = stored["images"].transpose(0, 3, 1, 2), stored["captions"].tolist()
    pixels = [image.tobytes() for image in images]
    first = [
        at for at in range(len(images)) if at in (pixels.index(pixels[at]), captions.index(captions[at]))
    ]
    first = [at for at in first if pixels.index(pixels[at]) == captions.index(captions[at]) == at]
    order = np.random.default_rng(_DRAW).permutation(first)
    half, count = len(order) // 2, sum(DOSES.values())
    repeats = np.repeat(list(DOSES), list(DOSES.values())).astype(np.int64)

    def taken(chosen: np.ndarray, times: np.ndarray | None = None) -> ImageSet:
        texts = tuple(captions[at] for at in chosen)
        return ImageSet(images[chosen], None, texts, captions=texts, repeats=times)

    other = order[half:]
    end = count + _HELDOUT
    return EmojiSets(
        taken(order[:half]), taken(other[:count], repeats), taken(other[count:end]), taken(other[end:])
    )

"""The emoji and their doses."""

import re

import numpy as np

from diffmem.auditing.prompts.planted import DOSES, HOME, emoji_sets


def test_no_picture_and_no_caption_is_in_two_sets():
    sets = emoji_sets()
    parts = (sets.base, sets.training, sets.heldout, sets.rest)
    pixels = [image.tobytes() for part in parts for image in part.images]
    captions = [caption for part in parts for caption in part.captions]
    assert len(pixels) == len(set(pixels)) == len(set(captions)) == 1896
    assert len(sets.base) == 948


def test_an_epoch_holds_so_many_emoji_so_many_times():
    repeats, counts = np.unique(emoji_sets().training.repeats, return_counts=True)
    assert dict(zip(repeats.tolist(), counts.tolist(), strict=True)) == DOSES


def test_the_draw_is_the_same_on_every_machine():
    assert (
        emoji_sets().training.fingerprint
        == "1f932722a9f545fd2509785b5d50af0759c4d651f93c2930e80375bfebcb15c7"
    )


def test_the_pictures_come_with_their_notice():
    notice = re.sub(r"\s+", " ", (HOME / "NOTICE").read_text())
    assert "Noto Emoji, Copyright Google LLC, licensed under the Apache License, Version 2.0" in notice

"""Whether samples depend on their prompts at all: where they do not, few prompts were tried, or the list is of other samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffmem.auditing.prompts.records import FollowsRecord
from diffmem.auditing.prompts.shares import sign_p_value

__all__ = ["LEAST_PROMPTS", "follows_prompts"]

LEAST_PROMPTS = 20
"""Prompts of two samples at least from which on the question is asked."""

_LEVEL = 0.05


def follows_prompts(
    images: NDArray[np.uint8], of_prompt: Sequence[NDArray[np.int64]]
) -> FollowsRecord | None:
    """Compare the second sample of each prompt with the first of the same prompt and of the next one.

    Which of the two it is nearer to is a fair coin if images do not depend on prompts, also if all prompts have the same seeds, since the
    compared pairs are of a first and a second sample both times.

    Args:
        images: Samples, uint8 (Q, C, H, W).
        of_prompt: Indices of the samples of each prompt, in one order of seeds.

    Returns:
        None if fewer than 20 prompts have two samples.
    """
    pairs = np.array([samples[:2] for samples in of_prompt if len(samples) > 1]).reshape(-1, 2)
    if len(pairs) < LEAST_PROMPTS:
        return None
    own, other = 0, 0
    for at, (first, second) in enumerate(pairs.tolist()):
        beside = int(pairs[(at + 1) % len(pairs), 0])
        near, far = (
            float(np.square(images[second].astype(np.float64) - images[one]).sum()) for one in (first, beside)
        )
        own += near < far
        other += far < near
    p = sign_p_value(own, other)
    return FollowsRecord(nearer=own, farther=other, p_value=p, follows=p <= _LEVEL)

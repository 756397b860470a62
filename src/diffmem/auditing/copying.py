"""The C_T test of an audit: a supporting remark on distances as a whole."""

from __future__ import annotations

import numpy as np

from diffmem.auditing.spaces import Aligned
from diffmem.errors import UserError
from diffmem.memorization import CellConfig, CopyingRecord, copying_test
from diffmem.progress import NO_PROGRESS, Progress

__all__ = ["copying_record"]

_MOST = 100_000
"""Training images that the test compares with; of a larger set so many are drawn."""


def copying_record(
    aligned: Aligned, seed: int, device: str, progress: Progress = NO_PROGRESS
) -> CopyingRecord:
    """Return the C_T test of samples, training and held-out images; it cannot tell where there are too few for it."""
    sets = aligned.sets
    notes: list[str] = []
    training = sets["training"]
    if len(training) > _MOST:
        chosen = np.sort(np.random.default_rng([seed, 0x635F74]).choice(len(training), _MOST, replace=False))
        training = training.take(chosen, "drawn for the C_T test")
        notes.append(f"Of {_MOST:,} of the training images, drawn at random.")
    try:
        found, _ = copying_test(
            sets["samples"].images, training.images, sets["heldout"].images, cells=CellConfig(seed=seed), device=device,
            progress=progress,
        )  # fmt: skip
    except UserError as error:
        # Too few images; whatever else is wrong with them was found by the criteria before.
        return CopyingRecord.nothing(f"{aligned.protocol}/c_t", *notes, str(error))
    protocol = found.protocol.replace("pixel-l2/uint8", aligned.protocol, 1)
    return found.model_copy(update={"protocol": protocol, "notes": notes})

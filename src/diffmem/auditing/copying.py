"""The C_T test of an audit: a supporting remark on distances as a whole."""

from __future__ import annotations

import numpy as np

from diffmem.auditing.records import CopyingRecord
from diffmem.auditing.spaces import Aligned
from diffmem.errors import UserError
from diffmem.memorization import copying_test
from diffmem.progress import NO_PROGRESS, Progress

__all__ = ["copying_record"]

_MOST = 100_000
"""Training images that the test looks at; of a larger set so many are drawn."""


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
        found = copying_test(
            sets["samples"].images, training.images, sets["heldout"].images, seed=seed, device=device,
            progress=progress,
        )  # fmt: skip
    except UserError as error:
        # Too few images; whatever else is wrong with them was found by the criteria before.
        notes.append(str(error))
        return CopyingRecord(
            protocol=f"{aligned.protocol}/c_t", c_t=None, interval=None, z=None, nearer=None, nearer_interval=None,
            detectable_share=None, conclusion="cannot tell", notes=notes,
        )  # fmt: skip
    return CopyingRecord(
        protocol=found.name.replace("pixel-l2/uint8", aligned.protocol, 1),
        c_t=found.value,
        interval=found.interval,
        z=found.z,
        nearer=found.nearer,
        nearer_interval=found.nearer_interval,
        detectable_share=found.detectable_share,
        conclusion=found.conclusion,
        notes=notes,
    )

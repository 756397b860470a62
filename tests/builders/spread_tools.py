"""Work in pieces: images whose distances tie, and workers that are killed."""

from __future__ import annotations

import multiprocessing
import os
import signal

import numpy as np

from diffmem.memorization.neighbours import shards


def pixels(count, seed, size=8):
    """Images of few grey levels, of which some are repeated, so that distances tie."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 3, (count, 3, size, size), np.uint8)
    images[count // 2 :: 7] = images[0]
    return images


def killing():
    """A progress that kills the workers that there are -9 as soon as something is done."""
    victims = []

    def report(done, total, note=""):
        if not victims and 0 < done < total:
            victims.extend(child.pid for child in multiprocessing.active_children())
            for victim in victims:
                os.kill(victim, signal.SIGKILL)

    return report, victims


def split_all(monkeypatch):
    """Split every search, into shards of 50 references."""
    monkeypatch.setattr(shards, "WORTH", 0)
    monkeypatch.setattr(shards, "FEWEST", 10)
    monkeypatch.setattr(shards, "SHARD_BYTES", 50 * 3 * 8 * 8)

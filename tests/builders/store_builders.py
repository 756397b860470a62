"""Folders of runs that look trained, and other processes to share a store with."""

import json
import multiprocessing
import os
import signal
import time
from contextlib import contextmanager

import numpy as np
import pytest

from diffmem.data import ImageSet
from diffmem.models.config import ModelConfig
from diffmem.runs.trained import TrainedRun
from diffmem.training import TrainingConfig
from diffmem.training.loop import snapshot_path

MODEL = ModelConfig(channels=8, multipliers=(1,), blocks=1, attention=(), dropout=0.0)
TRAINING = TrainingConfig(epochs=20, batch_size=8, warmup=1)


def a_run(store, size=4, seed=0, points=0, model=MODEL, training=TRAINING):
    """A run of random images whose first `points` snapshots are there, in name."""
    images = np.random.default_rng(size).integers(0, 256, (size, 1, 4, 4), dtype=np.uint8)
    names = tuple(map(str, range(size)))
    run = TrainedRun(ImageSet(images, None, names), None, model, training, seed, store / "runs")
    run.write_config()
    for seen in run.points[:points]:
        path = snapshot_path(run.folder, seen)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"weights")
        with (run.folder / "metrics.jsonl").open("a") as lines:
            lines.write(json.dumps({"images_seen": seen}) + "\n")
    return run


def _child(work, ours, connection, arguments):
    ours.close()  # a copy of the parent's end, which would hide that the parent is gone
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    work(connection, *arguments)


class Child:
    """A process that runs `work(connection, *arguments)`, a function of a module."""

    def __init__(self, work, *arguments):
        context = multiprocessing.get_context("fork")  # starts in no time, with everything imported
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=_child, args=(work, self.connection, theirs, arguments), daemon=True
        )
        self.process.start()
        theirs.close()

    def told(self, seconds=60):
        assert self.connection.poll(seconds), "the process tells nothing"
        return self.connection.recv()

    def kill(self):
        """End it at once; it is gone when this returns."""
        self.process.kill()
        self.process.join()
        assert self.process.exitcode == -signal.SIGKILL


@contextmanager
def child(work, *arguments):
    made = Child(work, *arguments)
    try:
        yield made
    finally:
        if made.process.is_alive():
            made.process.kill()
        made.process.join()


def wait_for_ever(connection):
    """End with the test, even where that is killed."""
    try:
        connection.recv()
    except EOFError:
        os._exit(0)


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail("it did not come about")
        time.sleep(0.01)


class Told(list):
    """What was told, in order; it is called to be told."""

    def __call__(self, text):
        self.append(text)

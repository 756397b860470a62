"""The command line called in this process, with its exit code, its output and its errors."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

import diffmem
from diffmem.__main__ import main
from diffmem.data import open_images, write_images

TINY_MODEL = [
    "--set=model.channels=8",
    "--set=model.multipliers=[1]",
    "--set=model.blocks=1",
    "--set=model.attention=[]",
    "--set=model.dropout=0",
    "--set=model.preconditioning=edm",
    "--set=training.evaluations.count=2",
    "--set=training.warmup=1",
]

TINY_RECIPE = """
title: Miniature
data: {source: SOURCE, selection: random, heldout: 10}
sizes: [4, 8]
model: {channels: 8, multipliers: [1], blocks: 1, attention: [], dropout: 0, preconditioning: edm}
training: {epochs: 20, batch_size: 8, warmup: 1, evaluations: {count: 2}}
sampling: {steps: 3}
measure: {samples: 8, threshold: 0.9}
"""


class Called(NamedTuple):
    code: int
    out: str
    err: str


def caller(capsys):
    """Return a function that calls the command line and returns what came of it."""

    def call(*arguments):
        capsys.readouterr()
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code or 0
        captured = capsys.readouterr()
        return Called(code, captured.out, captured.err)

    return call


def trained_runs(folder, runs):
    """Write a training set d.npz and held-out images h.npz, and train a run in runs/ for each list of further words."""
    digits = open_images("digits")
    write_images(digits.take(np.arange(30), "some"), folder / "d.npz")
    write_images(digits.take(np.arange(100, 120), "others"), folder / "h.npz")
    for words in runs:
        words = ["train", folder / "d.npz", "--out", folder / "runs", "--batch-size", 10, *TINY_MODEL, *words]
        try:
            main([str(word) for word in words])
        except SystemExit as end:
            if end.code:
                raise
    return folder


def command(*arguments):
    return [sys.executable, "-m", "diffmem", *map(str, arguments)]


def environment():
    path = str(Path(diffmem.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def in_subprocess(*arguments, **options):
    return subprocess.run(
        command(*arguments), env=environment(), capture_output=True, text=True, check=False, **options
    )

"""A synthetic study: R_mem falls from near 100% at 16 images to near 0% at 512, and rises over epochs."""

from __future__ import annotations

import math

import numpy as np

from diffmem.memorization.examples import Example
from diffmem.memorization.rates import Rate
from diffmem.runs.records import Evaluation, RunRecord
from diffmem.studies.records import CostRecord, EmmRecord, LevelRecord, StudyRecord

SAMPLES = 1000


def make_rate(share, total=SAMPLES):
    count = round(share * total)
    half = 1.96 * math.sqrt(max(share * (1 - share), 1 / total) / total)
    return Rate(
        count=count,
        total=total,
        value=count / total,
        low=max(count / total - half, 0),
        high=min(count / total + half, 1),
        method="clopper-pearson",
    )


def make_run(size, seed=0, *, middle=90, null=0.002, epochs=4000.0, duplicates=0):
    final = 1 / (1 + (size / middle) ** 3.2)
    evaluations = []
    for epoch in (0.0, 125.0, 250.0, 500.0, 1000.0, 2000.0, 4000.0):
        rise = 1 / (1 + (600 / epoch) ** 2) if epoch else 0.0
        share = final * rise * (0.8 if epoch == 4000.0 and size > 60 else 1.0) * (1 + 0.005 * seed)
        evaluations.append(
            Evaluation(
                epoch=epoch * epochs / 4000,
                images_seen=round(epoch * size * epochs / 4000),
                memorized=make_rate(min(share / 0.978, 1)),
                mean_nearest_distance=5 + 40 * (1 - share),
                distinct_replicated=min(size, round(size * share)),
            )
        )
    return RunRecord(
        run_id=f"{size:04x}{seed:04x}",
        size=size,
        seed=seed,
        epochs=epochs,
        epochs_trained=epochs,
        images_trained=round(epochs * size),
        folder=f"runs/{size}-{seed}",
        evaluations=evaluations,
        null=None if null is None else make_rate(null, 500),
        duplicates=duplicates,
        training_seconds=3.3 * size,
        sampling_seconds=20.0,
    )


ESTIMATED = EmmRecord(
    status="estimated",
    value=47.2,
    low=41.3,
    high=55.4,
    bracket=(32, 48),
    method="linear between the bracketing sizes",
)


def make_grid_level(name="base", sizes=(16, 64), seeds=(0,), runs=None, kind=LevelRecord, **fields):
    runs = [make_run(size, seed) for size in sizes for seed in seeds] if runs is None else runs
    values = {
        "name": name,
        "data": "scikit-learn digits, 8x8, 1 channel, class-balanced",
        "model": "DDPM++ U-Net, 2 blocks, 32 channels, 0.4 M parameters",
        "training": "VP loss, Adam 1e-3, 4,000 epochs, EMA",
        "sampling": "deterministic Heun sampler, 18 steps (35 evaluations per image)",
        "runs": runs,
        "emm": ESTIMATED,
        "cost": CostRecord.of(runs, 35 / 3),
    }
    return kind(**{**values, **fields})


def make_grid(*levels, kind=StudyRecord, **fields):
    runs = [run for level in levels for run in level.runs]
    values = {
        "title": "Width",
        "plan": "grid",
        "factor": "channels",
        "levels": list(levels),
        "sizes": sorted({run.size for run in runs}) or [16, 512],
        "seeds": sorted({run.seed for run in runs}) or [0],
        "samples": SAMPLES,
        "protocol": "pixel-l2/ratio-0.333/collapse",
        "threshold": 1 / 3,
        "epsilon": 0.1,
        "seconds": 7300.0,
        "versions": {"diffmem": "0.1.0", "python": "3.11.9", "torch": "2.6.0", "device": "cpu"},
    }
    return kind(**{**values, **fields})


def make_result(sizes=(16, 32, 40, 48, 64, 96, 128, 256, 512), emm=ESTIMATED, runs=None, **fields):
    """A study without levels: the fields of its level are among those given."""
    own = {name: fields.pop(name) for name in [*fields] if name in LevelRecord.model_fields}
    level = make_grid_level(sizes=sizes, runs=runs, emm=emm, **own)
    return make_grid(level, **{"title": "Digits, small U-Net", "factor": "level", **fields})


def make_gallery(n=8, channels=1, side=8, title="16 training images, epoch 4,000"):
    random = np.random.default_rng(0)
    y, x = np.mgrid[0:side, 0:side] / side
    phases = random.uniform(0, 6, (2, n, channels, 1, 1))
    nearest = 127 + 120 * np.sin(7 * x + phases[0]) * np.cos(6 * y + phases[1])
    second = nearest[::-1]
    ratios = np.linspace(0.05, 0.95, n)
    generated = nearest + ratios[:, None, None, None] * random.normal(0, 60, nearest.shape)
    images = [np.clip(one, 0, 255).astype(np.uint8) for one in (generated, nearest, second)]
    return Example(title, *images, ratios=ratios, threshold=1 / 3)

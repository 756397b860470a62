"""Synthetic searches for EMM: R_mem falls with the size and rises over epochs; no random numbers."""

from __future__ import annotations

import math

from diffmem.memorization.rates import Rate
from diffmem.runs.records import Evaluation, RunRecord
from diffmem.studies.records import CostRecord, EmmRecord, LevelRecord, LogEntry, StudyRecord

EPOCHS = 4000.0
POINTS = (250.0, 500.0, 1000.0, 1500.0, 2000.0, 2500.0, 3000.0, 4000.0)
LINE = 0.9
SHARES = (0.25, 0.5, 0.78, 1.0, 1.25, 0.88, 1.13)
"""Sizes that a search trains, as shares of EMM, in the order of choice."""


def make_rate(share, total):
    """A rate with an interval of about the right width, never outside [0, 1]."""
    count = round(share * total)
    value = count / total
    half = 2.6 * math.sqrt(max(value * (1 - value), 1 / total) / total)
    return Rate(
        count=count,
        total=total,
        value=value,
        low=max(value - half, 0.0),
        high=min(value + half, 1.0),
        method="betting confidence sequence",
    )


def make_point(epoch, size, share):
    """A point at which sampling went on until the line was outside the interval, or 2,000 images."""
    for total in (32, 64, 128, 220, 500, 1000, 2000):
        rate = make_rate(share, total)
        if rate.low >= LINE or rate.high < LINE:
            break
    verdict = "at least" if rate.low >= LINE else "below" if rate.high < LINE else "undecided"
    return Evaluation(
        epoch=epoch,
        images_seen=round(epoch * size),
        memorized=rate,
        mean_nearest_distance=45 - 40 * share,
        distinct_replicated=round(size * share),
        verdict=verdict,
    )


def make_training(level, size, emm, *, seed=0, epochs=EPOCHS, points=None, null=0.004, incidents=()):
    """One training at `size` of a level whose R_mem crosses the line at `emm` images; `points`: only so many yet."""
    final = 1 / (1 + (1 / LINE - 1) * (size / (emm * (1 + 0.06 * seed))) ** 2.6)
    found = []
    for share in [epoch / EPOCHS for epoch in POINTS][:points]:
        rise = (1 + 0.28**3) / (1 + (0.28 / share) ** 3)
        found.append(make_point(share * epochs, size, min(final * rise, 1.0)))
        if found[-1].verdict == "at least":
            break
    ended = len(found) == len(POINTS)
    states = [point.verdict for point in found]
    if "at least" in states:
        verdict, stopped = "memorized", "decided" if not ended else "end"
    elif not ended:
        verdict, stopped = "unfinished", "running"
    else:
        verdict, stopped = "undecided" if "undecided" in states else "not memorized", "end"
    trained = found[-1].epoch if found else 0.0
    sampled = sum(point.memorized.total for point in found)
    best = max(found, key=lambda point: point.memorized.value, default=None)
    why = (
        "no evaluation yet"
        if best is None
        else f"R_mem in [{best.memorized.low:.2f}, {best.memorized.high:.2f}] after {best.memorized.total:,} images"
        f" at epoch {best.epoch:,.0f}"
    )
    run_id = f"{level}-{size}-{seed}"
    return RunRecord(
        size=size,
        seed=seed,
        run_id=run_id,
        folder=f"runs/{run_id}",
        verdict=verdict,
        why=why,
        epochs=epochs,
        epochs_trained=trained,
        stopped=stopped,
        evaluations=found,
        duplicates=0,
        null=None if null is None else make_rate(null, 500),
        images_trained=round(trained * size),
        training_seconds=trained * size / 4000,
        sampling_seconds=sampled / 20,
        incidents=list(incidents),
    )


def make_cost(runs, share=0.17):
    cost = CostRecord.of(runs, 35 / 3)
    grid = {
        "grid_sizes": [32, 39, 48, 58, 71],
        "grid_units": cost.units / share if cost.units else 5e7,
        "grid_images_trained": round(0.8 * cost.units / share),
    }
    return cost.model_copy(update=grid)


def estimated(emm, **fields):
    values = {
        "status": "estimated",
        "value": float(emm),
        "low": 0.92 * emm,
        "high": 1.1 * emm,
        "bracket": (round(0.92 * emm), round(1.1 * emm)),
        "method": "bracket of sizes that certainly do and do not memorize",
    }
    return EmmRecord(**{**values, **fields})


def make_search_level(
    name,
    middle=100,
    *,
    emm=None,
    sizes=None,
    seeds=(0,),
    published=None,
    finished=True,
    runs=None,
    share=0.17,
):
    """A level whose true EMM is `middle`; `emm` is the answer, the true one with a usual interval if left out."""
    emm = estimated(middle) if emm is None else emm
    if runs is None:
        sizes = sorted(max(2, round(middle * one)) for one in SHARES) if sizes is None else sizes
        runs = [make_training(name, size, middle, seed=seed) for size in sizes for seed in seeds]
    by_seed = dict.fromkeys(seeds, emm)
    if len(seeds) > 1 and emm.value:
        by_seed = {seed: estimated(emm.value * (1 + 0.06 * (seed - 1))) for seed in seeds}
    return LevelRecord(
        name=name,
        settings={"data.resolution": name},
        published=published,
        data="scikit-learn digits, 8x8, 1 channel",
        model="DDPM++ U-Net, 2 blocks, 32 channels, 0.4 M parameters",
        training="VP loss, Adam 1e-3, 4,000 epochs, EMA",
        sampling="deterministic Heun sampler, 18 steps (35 evaluations per image)",
        runs=runs,
        emm=emm,
        by_seed=by_seed,
        finished=finished,
        cost=make_cost(runs, share),
    )


def make_log(levels):
    """The log of these levels: a line per training, in the order of size."""
    return [
        LogEntry(
            level=level.name,
            text=f"N = {run.size:,}, epoch {run.epochs_trained:,.0f}: {run.why}: {run.verdict}.",
        )
        for level in levels
        for run in level.runs
    ]


def make_search(levels=None, **fields):
    """A finished search over three resolutions, of which one has a number of the paper beside it."""
    if levels is None:
        levels = [
            make_search_level("8x8", 96, published=1068.0),
            make_search_level("6x6", 190),
            make_search_level("4x4", 420, published=7000.0),
        ]
    runs = [run for level in levels for run in level.runs]
    values = {
        "title": "EMM by resolution",
        "plan": "search",
        "factor": "resolution",
        "levels": levels,
        "epsilon": 0.1,
        "threshold": 1 / 3,
        "tolerance": 0.1,
        "confidence": 0.95,
        "samples": 10_000,
        "sizes": [16, 5000],
        "seeds": sorted({run.seed for run in runs}) or [0],
        "protocol": "pixel-l2/ratio-0.333/collapse",
        "finished": all(level.finished for level in levels),
        "log": make_log(levels),
        "seconds": 7300.0,
        "versions": {"diffmem": "0.1.0", "python": "3.11.9", "torch": "2.6.0", "device": "cpu"},
    }
    return StudyRecord(**{**values, **fields})


def numeric_search():
    """Levels that are numbers, with an answer above the largest size and one that is below the smallest."""
    levels = [
        make_search_level("1", 60, published=900.0),
        make_search_level("2", 75),
        make_search_level("5", 110),
        make_search_level("10", 180, published=2100.0),
        make_search_level("50", 700, sizes=(256, 512), emm=EmmRecord(status="above largest")),
    ]
    return make_search(
        levels, factor="number of random classes C", title="EMM by number of classes", sizes=[16, 512]
    )


def unfinished_search():
    """One level answered, one begun, one with a training whose first point is missing, one not begun."""
    begun = [
        make_training("6x6", 64, 190),
        make_training("6x6", 320, 190),
        make_training("6x6", 180, 190, points=4, null=None),
    ]
    levels = [
        make_search_level("8x8", 96),
        make_search_level(
            "6x6", runs=begun, finished=False, emm=EmmRecord(status="unfinished", low=64, high=320)
        ),
        make_search_level(
            "4x4",
            runs=[make_training("4x4", 300, 420, points=0, null=None)],
            finished=False,
            emm=EmmRecord(status="unfinished"),
        ),
        make_search_level("2x2", runs=[], finished=False, emm=EmmRecord(status="unfinished")),
    ]
    return make_search(levels)


def empty_search():
    """A search of which nothing was trained yet."""
    levels = [
        make_search_level(name, runs=[], finished=False, emm=EmmRecord(status="no runs"))
        for name in ("8x8", "6x6")
    ]
    return make_search(levels, seconds=0.0)


def one_level():
    """The search of a single level with one seed."""
    note = "One run per size: the interval covers sampling error, not the variation between runs."
    return make_search([make_search_level("the default", 96, emm=estimated(96, notes=[note]))])


def small_search(**fields):
    """Two levels with two runs each, quick to draw."""
    levels = [
        make_search_level(name, middle, sizes=(middle // 2, 2 * middle))
        for name, middle in (("8x8", 96), ("4x4", 420))
    ]
    return make_search(levels, **fields)


def troubled_search():
    """Every answer but the usual one, high null rates, incidents, an undecided run."""
    crossing = [
        make_training("not monotone", 32, 100),
        make_training("not monotone", 64, 20),
        make_training("not monotone", 128, 400),
        make_training("not monotone", 256, 60),
    ]
    levels = [
        make_search_level(
            "not monotone", runs=crossing,
            emm=EmmRecord(status="not monotone", low=32, high=256, bracket=(32, 256), notes=["R_mem does not fall."]),
        ),
        make_search_level("tiny", 6, sizes=(16,), emm=EmmRecord(status="below smallest")),
        make_search_level("huge", 9000, sizes=(512, 5000), emm=EmmRecord(status="above largest")),
        make_search_level(
            "damaged", 300,
            runs=[
                make_training("damaged", 150, 300, null=0.07),
                make_training("damaged", 300, 300),
                make_training(
                    "damaged", 420, 300, incidents=["A damaged snapshot at epoch 2,000 was found and regenerated."]
                ),
            ],
        ),
    ]  # fmt: skip
    return make_search(levels, notes=["The digits of scikit-learn stand in for CIFAR-10."])


def many_levels(count=12, seeds=(0, 1)):
    """Many levels with long names, two seeds."""
    levels = [
        make_search_level(
            f"skip connections kept at the {index + 1}th place, random labels, Fourier embedding",
            60 + 35 * index,
            seeds=seeds,
            published=800.0 + 300 * index if index % 3 else None,
        )
        for index in range(count)
    ]
    return make_search(levels, factor="skip connections and labels", title="EMM by many things")

"""Hours that one EMM and the paper's experiments take at the paper's scale, from measured rates: the end of `gpu.py`'s page.

Networks that were not measured are assumed to train and sample at the FLOP/s of the measured one that is nearest in FLOP per image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from diffmem.models import ModelConfig, build_denoiser
from diffmem.paper.experiment import experiment_names, load_experiment
from diffmem.training.schedule import evaluation_images, total_images
from emm_search import searches
from gpu_setting import PRECISIONS, Setting

__all__ = ["ASSUMPTIONS", "COLUMNS", "Plan", "Projection", "Work", "plan_of", "project"]

COLUMNS = {
    **{f"{precision}/ours": words for precision, words in PRECISIONS.items()},
    "bf16/compiled": "bf16, compiled",
}
"""Ways to train -> their names: the columns of the table."""

ASSUMPTIONS = (
    "Assumed: one card does nothing else; an image costs the same at every set size; a network that was not measured reaches the"
    " FLOP/s of the measured one nearest to it in FLOP per image; sampling takes the measured time where it was measured, and"
    " otherwise a third of the training time of an image for each of its 35 evaluations. Searching for neighbours is left out."
)


@dataclass(frozen=True)
class Work:
    """What a network is to do.

    Attributes:
        flops: Of one evaluation for one image; training takes three times as many.
        trained: Images trained on.
        sampled: Images generated, of 35 evaluations each.
    """

    flops: float
    trained: float
    sampled: float


@dataclass(frozen=True)
class Projection:
    """A row of the table.

    Attributes:
        what: For people.
        trained: Millions of images trained on.
        sampled: Thousands of images generated.
        hours: Of each column; none where nothing was measured.
    """

    what: str
    trained: float
    sampled: float
    hours: dict[str, float | None]


@cache
def flops(model: ModelConfig, resolution: int) -> float:
    """Return the floating-point operations of one evaluation of a network for one image."""
    shape = (3, resolution, resolution)
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        build_denoiser(model, shape).eval().model(torch.empty(1, *shape), torch.empty(1), None)
    return float(counter.get_total_flops())


@cache
def _emm(resolution: int, simulations: int) -> tuple[float, float, float]:
    """Return the mean trainings, images trained and images sampled of a search for EMM, simulated on the paper's curve."""
    found = [trainings for *_, trainings in searches(f"{resolution}x{resolution}", simulations)]
    trained = np.mean([sum(one.images_trained for one in trainings) for trainings in found])
    sampled = np.mean([sum(one.images_sampled for one in trainings) for trainings in found])
    return float(np.mean([len(trainings) for trainings in found])), float(trained), float(sampled)


@cache
def _work_of(name: str) -> tuple[Work, ...]:
    """Return the work of an experiment of the paper, for each network; the optimum, which is not trained, is left out."""
    experiment = load_experiment(name)
    scale, found = experiment.scale("paper"), []
    levels = [experiment.levels[at] for at in scale.levels or range(len(experiment.levels))]
    for level in levels:
        recipe = experiment.recipe(level, scale.sizes or experiment.sizes, scale)
        if not recipe.model.is_trained:
            continue
        model = recipe.model.model_copy(
            update={"skip_mask": None, "dropout": 0.0}
        )  # neither changes the FLOP
        seeds = len(recipe.seeds)
        trained = seeds * sum(total_images(recipe.training, size) for size in recipe.sizes)
        points = seeds * sum(len(evaluation_images(recipe.training, size)) for size in recipe.sizes)
        found.append(
            Work(flops(model, recipe.data.resolution or 32), trained, points * recipe.measure.samples)
        )
    return tuple(found)


def _hours(works: tuple[Work, ...], rates: Mapping[float, float], sampling: float) -> float | None:
    """Return the hours of some work.

    Args:
        works: What is to be done.
        rates: FLOP per image of each measured network -> images trained per second.
        sampling: Time of a sampled image in units of an image trained.
    """
    if not rates:
        return None
    seconds = 0.0
    for work in works:
        nearest = min(rates, key=lambda known: abs(math.log(known / work.flops)))
        rate = rates[nearest] * nearest / work.flops
        seconds += (work.trained + work.sampled * sampling) / rate
    return seconds / 3600


@dataclass(frozen=True)
class Plan:
    """What there is to do, which takes seconds to find out and no GPU.

    Attributes:
        rows: Names, each with its work.
        measured: Network whose training is measured -> FLOP of one evaluation for one image.
    """

    rows: list[tuple[str, tuple[Work, ...]]]
    measured: dict[str, float]


def plan_of(setting: Setting) -> Plan:
    """Return the work of an EMM and of the paper's experiments."""
    measured = {
        name: flops(network.model, network.resolution) for name, network in setting.networks().items()
    }
    rows = []
    for side in (32, 8):
        trainings, trained, sampled = _emm(side, setting(20, 1))
        words = f"one EMM at {side}x{side} (a search, {trainings:.1f} trainings on average)"
        rows.append((words, (Work(measured[f"{side}x{side}, width 128"], trained, sampled),)))
    names = experiment_names()[: setting(100, 1)]
    rows += [(load_experiment(name).title, _work_of(name)) for name in names]
    return Plan(rows, measured)


def project(plan: Plan, values: Mapping[str, float]) -> list[Projection]:
    """Return the table.

    Args:
        plan: What there is to do.
        values: Key of each measurement that succeeded -> its number.
    """
    found = []
    for what, works in plan.rows:
        hours = {}
        for column in COLUMNS:
            rates = {
                each: values[key]
                for name, each in plan.measured.items()
                if (key := f"training/{name}/{column}") in values
            }
            hours[column] = _hours(works, rates, _sampling_cost(column.partition("/")[0], values))
        trained, sampled = sum(work.trained for work in works), sum(work.sampled for work in works)
        found.append(Projection(what, trained / 1e6, sampled / 1e3, hours))
    return found


def _sampling_cost(precision: str, values: Mapping[str, float]) -> float:
    """Return the time of a sampled image in units of an image trained: measured in this precision, or 35 / 3."""
    trained, sampled = (
        values.get(f"training/32x32, width 128/{precision}/ours"),
        values.get(f"sampling/{precision}"),
    )
    return trained / sampled if trained and sampled else 35 / 3

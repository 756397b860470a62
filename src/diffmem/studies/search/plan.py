"""What a study will take, before it starts: runs, hours, memory and disk, from a short measurement and simulated searches.

How many trainings a search needs depends on where EMM is, which nobody knows yet. So the search itself is simulated many times
with EMM anywhere between the smallest and the largest size, neighbouring levels alike; what a training and an image cost is
measured here and now, in seconds.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from diffmem.models import build_denoiser, count_parameters
from diffmem.models.denoiser import Denoiser
from diffmem.progress import NO_PROGRESS, Progress
from diffmem.runs.run import Run
from diffmem.sampling import SamplerConfig, generate
from diffmem.studies.search.onset_study import OnsetStudy
from diffmem.studies.search.projection import longest_hours, simulate
from diffmem.studies.search.study import SearchStudy
from diffmem.studies.study import Study
from diffmem.training import Trainer

__all__ = ["LevelPlan", "Plan", "Speed", "measure_speed", "plan_grid", "plan_onset", "plan_search"]

_SIMULATIONS = 60


@dataclass(frozen=True)
class Speed:
    """What one process does on this machine.

    Attributes:
        trained: Images trained in a second.
        sampled: Images generated in a second.
        memory: Bytes of one process, at its peak; on a GPU, those of the GPU.
        parameters: Of the network.
    """

    trained: float
    sampled: float
    memory: int
    parameters: int


@dataclass(frozen=True)
class LevelPlan:
    """What one level will take: means over simulated searches; `_high` is what nine of ten stay below.

    Attributes:
        runs: Trainings.
        runs_high: The same, high.
        images_trained: Images trained on.
        images_sampled: Images generated.
        hours: Of one process.
        hours_high: The same, high.
        disk: Bytes of snapshots, states, and generated images.
        grid_hours: Hours of one process for the fixed grid of equal precision.
        speed: What was measured.
    """

    name: str
    runs: float
    runs_high: float
    images_trained: float
    images_sampled: float
    hours: float
    hours_high: float
    disk: float
    grid_hours: float
    speed: Speed


@dataclass(frozen=True)
class Plan:
    """What a study will take.

    Attributes:
        levels: Of each level.
        slots: Trainings at the same time.
        finished: Trainings that are in the store already.
        runs: Trainings of all levels.
        hours: Of the whole study: those of one process divided by the slots, or more where trainings must follow one another.
        hours_high: The same, high.
        grid_hours: Of the fixed grid.
        memory: Bytes of all trainings at the same time together.
        disk: Bytes of all runs.
    """

    levels: list[LevelPlan]
    slots: int
    finished: int
    runs: float
    hours: float
    hours_high: float
    grid_hours: float
    memory: int
    disk: float


def measure_speed(
    run: Run, sampling: SamplerConfig, device: str, threads: int, seconds: float = 2.0
) -> Speed:
    """Train and sample for a moment.

    Args:
        run: What is trained; nothing is written.
        sampling: How images are generated.
        device: 'cpu' or 'cuda'.
        threads: Of this process, on a CPU.
        seconds: How long each is measured.
    """
    before, cuda = torch.get_num_threads(), device.startswith("cuda")
    torch.set_num_threads(threads)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    try:
        if run.model.is_trained:
            denoiser, trained, parameters = _trained(run, device, seconds, cuda)
        else:
            denoiser, trained, parameters = run.denoiser(0, device), math.inf, 0
        batch = 32 if not cuda else 256
        begin, made = time.monotonic(), 0
        while time.monotonic() - begin < seconds:
            generate(denoiser, range(batch), sampling, batch_size=batch)
            made += batch
        sampled = made / (time.monotonic() - begin)
    finally:
        torch.set_num_threads(before)
    unit = 1 if sys.platform == "darwin" else 1024
    memory = (
        torch.cuda.max_memory_allocated()
        if cuda
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    )
    return Speed(trained, sampled, memory, parameters)


def _trained(run: Run, device: str, seconds: float, cuda: bool) -> tuple[Denoiser, float, int]:
    """Train for a moment; return the denoiser, how many images a second were trained on, and its parameters."""
    images = run.training_set
    denoiser = build_denoiser(run.model, images.shape, images.num_classes, 0)
    trainer = Trainer(denoiser, images.images, images.labels, run.training, 0, device)
    trainer.step()  # the first one also makes what later ones reuse
    _wait(cuda)
    begin, seen = time.monotonic(), trainer.seen
    while time.monotonic() - begin < seconds:
        trainer.step()
    _wait(cuda)
    pace = (trainer.seen - seen) / (time.monotonic() - begin)
    return trainer.ema, pace, count_parameters(denoiser)


def _wait(cuda: bool) -> None:
    if cuda:
        torch.cuda.synchronize()


def plan_search(
    study: SearchStudy, device: str, slots: int, threads: int, progress: Progress = NO_PROGRESS
) -> Plan:
    """Project what the rest of a search takes; what is known of it already is taken as it is.

    Args:
        device: 'cpu' or 'cuda'.
        slots: Trainings at the same time.
        threads: Of each, on a CPU.
        progress: Reports the levels measured.
    """
    names = list(study.levels)
    speeds = {}
    for number, name in enumerate(names):
        run, sampling = study.smallest_run(name), study.levels[name].sampling
        speeds[name] = measure_speed(run, sampling, device, threads)
        progress(number + 1, len(names), name)
    simulated = simulate(study, _SIMULATIONS)
    levels = [_level_plan(study, name, speeds[name], simulated[name].sum(axis=1)) for name in names]
    searches = [search for group in study.searches().values() for search in group]
    finished = sum(len(search.found.outcomes) for search in searches if search.found)
    hours = {name: _hours(simulated[name], speeds[name]) for name in names}
    everything = np.sum([one.sum(axis=1) for one in hours.values()], axis=0) / slots
    times = np.maximum(everything, longest_hours(study, hours))
    return _plan(
        levels, slots, finished, (float(times.mean()), float(np.quantile(times, 0.9))), len(searches)
    )


def plan_onset(
    study: OnsetStudy, device: str, slots: int, threads: int, progress: Progress = NO_PROGRESS
) -> Plan:
    """Project the most that a search for a time takes: of the first seeds, and of all that are allowed, trained to the end.

    The arguments are those of `plan_search`.
    """
    recipe, levels, longest = study.recipe, list[LevelPlan](), 0.0
    found = study.sizes()
    for number, (name, level) in enumerate(study.levels.items(), 1):
        run = study.smallest_run(name)
        speed = measure_speed(run, level.sampling, device, threads)
        trained = sum(recipe.training.epochs * size for size in recipe.sizes)
        sampled = len(recipe.sizes) * len(run.points) * recipe.measure.samples
        hours = _time(trained, sampled, speed)  # of one seed
        each = len(run.points) * recipe.measure.samples
        longest = max(longest, _time(recipe.training.epochs * max(recipe.sizes), each, speed))
        first, most = len(recipe.seeds), recipe.onset.most_seeds
        many, values = first * len(recipe.sizes), int(np.prod(run.training_set.shape))
        disk = _disk(speed, many * len(run.points), many, first * sampled, values)
        levels.append(
            LevelPlan(
                name,
                many,
                most * len(recipe.sizes),
                first * trained,
                first * sampled,
                first * hours,
                most * hours,
                disk=disk,
                grid_hours=most * hours,
                speed=speed,
            )
        )
        progress(number, len(study.levels), name)
    finished = sum(len(size.seeds) - len(size.waiting) for size in found)
    return _plan(
        levels, slots, finished, _in_slots(levels, slots, longest), round(sum(level.runs for level in levels))
    )


def plan_grid(
    studies: Mapping[str, Study], device: str, slots: int, threads: int, progress: Progress = NO_PROGRESS
) -> Plan:
    """Project what the runs of a grid take that are not finished.

    Args:
        studies: Level -> its study; the rest as of `plan_search`.
    """
    levels, finished, longest = list[LevelPlan](), 0, 0.0
    for number, (name, study) in enumerate(studies.items(), 1):
        recipe, runs = study.recipe, study.runs()
        speed = measure_speed(runs[0], recipe.sampling, device, threads)
        left = [run for run in runs if not run.is_finished(recipe.sampling, recipe.measure)]
        finished += len(runs) - len(left)
        points = sum(len(run.points) for run in left)
        trained, sampled = sum(run.points[-1] for run in left), points * recipe.measure.samples
        hours = _time(trained, sampled, speed)
        each = [_time(run.points[-1], len(run.points) * recipe.measure.samples, speed) for run in left]
        longest = max([longest, *each])
        values = int(np.prod(runs[0].training_set.shape))
        disk = _disk(speed, points, len(left), sampled, values)
        many = float(len(left))
        levels.append(
            LevelPlan(
                name, many, many, trained, sampled, hours, hours, disk=disk, grid_hours=hours, speed=speed
            )
        )
        progress(number, len(studies), name)
    many = sum(level.runs for level in levels)
    return _plan(levels, slots, finished, _in_slots(levels, slots, longest), round(many))


def _time(trained: float, sampled: float, speed: Speed) -> float:
    """Return the hours of one process for so many images trained on and generated."""
    return (trained / speed.trained + sampled / speed.sampled) / 3600


def _in_slots(levels: Sequence[LevelPlan], slots: int, longest: float) -> tuple[float, float]:
    """Return the hours of trainings that need not wait for one another, usual and high.

    Args:
        longest: Hours of the longest training.
    """
    usual, high = sum(level.hours for level in levels), sum(level.hours_high for level in levels)
    return max(usual / slots, longest), max(high / slots, longest)


def _plan(
    levels: list[LevelPlan], slots: int, finished: int, hours: tuple[float, float], at_once: int
) -> Plan:
    """Return the plan of all levels.

    Args:
        hours: Usual and high.
        at_once: Most trainings at the same time, were there slots for all.
    """
    return Plan(
        levels,
        slots,
        finished=finished,
        runs=sum(level.runs for level in levels),
        hours=hours[0],
        hours_high=hours[1],
        grid_hours=sum(level.grid_hours for level in levels) / slots,
        memory=min(slots, max(at_once, 1)) * max(level.speed.memory for level in levels),
        disk=sum(level.disk for level in levels),
    )


def _hours(table: NDArray[np.float64], speed: Speed) -> NDArray[np.float64]:
    """Return the hours of one process of searches, (..., 4) as of `simulate`."""
    return np.asarray((table[..., 1] / speed.trained + table[..., 2] / speed.sampled) / 3600)


def _level_plan(study: SearchStudy, name: str, speed: Speed, table: NDArray[np.float64]) -> LevelPlan:
    runs, trained, sampled, points = table.mean(axis=0)
    hours = _hours(table, speed)
    grid = study.grid(name)
    values = int(np.prod(study.smallest_run(name).training_set.shape))
    return LevelPlan(
        name=name,
        runs=float(runs),
        runs_high=float(np.quantile(table[:, 0], 0.9)),
        images_trained=float(trained),
        images_sampled=float(sampled),
        hours=float(hours.mean()),
        hours_high=float(np.quantile(hours, 0.9)),
        disk=_disk(speed, float(points), float(runs), float(sampled), values),
        grid_hours=_time(grid.images_trained, grid.images_sampled, speed),
        speed=speed,
    )


def _disk(speed: Speed, points: float, runs: float, sampled: float, values: int) -> float:
    """Return the bytes of the snapshots, states and images of so many evaluation points, runs and images."""
    # A snapshot holds the weights as float32; the state the weights, their average, and two moments of the optimizer.
    return 4 * speed.parameters * (points + 4 * runs) + sampled * (values + 32)

"""Which runs of a study are trained as a group: planned once from its recipe and its processes, and kept in its folder.

A group that is gone on with is the one that was begun, so that a study that was killed ends with the same numbers, bit for bit on
the same machine. `docs/explanation/many-runs.md` has the measurements behind the rules.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from diffmem.errors import DiffmemError
from diffmem.executors.config import ExecutorConfig
from diffmem.executors.processes import available_cores
from diffmem.files import read_json, write_json
from diffmem.models import build_denoiser, count_parameters
from diffmem.runs.trained import TrainedRun
from diffmem.training.grouped import common_settings

__all__ = ["GroupPlan", "Member", "planned_groups"]

_FILE = "groups.json"
_MOST = 8  # larger groups gain no more
_LARGEST = 16e6  # parameters x images of a step x pixels / 64, up to which a group is faster


@dataclass(frozen=True)
class Member:
    """A run as far as its group depends on it.

    Attributes:
        run: The run.
        units: Its whole cost, in images trained.
    """

    run: TrainedRun
    units: float

    @property
    def trained(self) -> float:
        """The part of its cost that is training."""
        return min(self.units, float(self.run.points[-1]))


@dataclass(frozen=True)
class GroupPlan:
    """Which runs share a group, by the run's id.

    Attributes:
        groups: The groups, the longest first; a run by itself is a group of one.
        threads: Threads of the process that works on a group; none for what the process has.
    """

    groups: tuple[tuple[str, ...], ...]
    threads: int | None


def planned_groups(
    members: Sequence[Member], executor: ExecutorConfig, device: str, folder: Path
) -> GroupPlan:
    """Return which runs share a group, as the study's folder says it; runs that it does not know are planned and noted there.

    Args:
        members: All runs of the study, also those that are finished; each once.
        executor: Where they run.
        device: What they compute on.
        folder: Of the study.

    Raises:
        DiffmemError: The note cannot be written.
    """
    kind, cores = device.partition(":")[0], available_cores()
    setting = [executor.group, kind, executor.kind, executor.processes_per_run]
    stored: list[list[str]] = []
    threads: int | None = None
    path = folder / _FILE
    if path.is_file():
        with suppress(DiffmemError, KeyError, TypeError, ValueError):  # damaged: planned anew
            content = read_json(path)
            if content["setting"] == setting:
                stored = [[str(run_id) for run_id in group] for group in content["groups"]]
                threads = content["threads"] if content["cores"] == cores else None
    known = {run_id for group in stored for run_id in group}
    new = [member for member in members if member.run.run_id not in known]
    slots = 1 if executor.kind == "inline" else executor.processes or cores
    groups = stored + _planned(new, executor, kind, slots)
    here = executor.kind in ("inline", "local") and kind == "cpu" and executor.processes_per_run == 1
    if threads is None and here:
        # Kept too: sums over several threads are rounded otherwise.
        threads = (
            torch.get_num_threads() if executor.kind == "inline" else max(1, cores // min(slots, len(groups)))
        )
    if new or not path.is_file():
        write_json(path, {"setting": setting, "cores": cores, "threads": threads, "groups": groups})
    return GroupPlan(tuple(map(tuple, groups)), threads)


def _planned(members: Sequence[Member], executor: ExecutorConfig, device: str, slots: int) -> list[list[str]]:
    """Return the groups of runs of which none has one yet, the longest first."""
    kinds: dict[str, list[Member]] = {}
    for member in sorted(members, key=lambda one: (-one.trained, -one.units, one.run.seed, one.run.run_id)):
        kinds.setdefault(_kind(member.run), []).append(member)
    lists, alone = list[list[Member]](), list[list[Member]]()
    for kind in kinds.values():
        if _may_share(kind[0].run, executor, device):
            lists.append(kind)
        else:
            alone += [[member] for member in kind]
    if executor.group == "auto":
        plans = [
            alone + [group for kind in lists for group in split(kind, most)]
            for most in range(1, _MOST + 1)
            for split in (_in_a_row, _spread)
        ]
        found = min(plans, key=lambda groups: (_span(groups, slots), sum(map(_time, groups))))
    else:
        found = alone + [group for kind in lists for group in _in_a_row(kind, executor.group)]
    return [[member.run.run_id for member in group] for group in sorted(found, key=_time, reverse=True)]


def _kind(run: TrainedRun) -> str:
    """Return what the runs of a group have in common, as text."""
    images = run.training_set
    common = [
        run.model.model_dump(mode="json"),
        images.shape,
        images.num_classes,
        common_settings(run.training),
    ]
    return json.dumps(common, sort_keys=True)


def _may_share(run: TrainedRun, executor: ExecutorConfig, device: str) -> bool:
    """Return whether runs of this kind are trained in groups."""
    here = executor.kind in ("inline", "local") and executor.processes_per_run == 1
    if not here or not run.model.is_trained or run.training.compile:
        return False
    if executor.group != "auto":
        return True
    images = run.training_set
    with torch.device("meta"):
        parameters = count_parameters(build_denoiser(run.model, images.shape, images.num_classes))
    size = parameters * run.training.batch_size * math.prod(images.shape[1:]) / 64
    return device == "cpu" and size <= _LARGEST  # nobody has measured it elsewhere


def _in_a_row(members: Sequence[Member], most: int) -> list[list[Member]]:
    """Cut runs, the longest first, into groups of equally long ones."""
    return [list(members[start : start + most]) for start in range(0, len(members), most)]


def _spread(members: Sequence[Member], most: int) -> list[list[Member]]:
    """Give runs, the longest first, each to the group that is done first."""
    groups: list[list[Member]] = [[] for _ in range(math.ceil(len(members) / most))]
    for member in members:
        min((group for group in groups if len(group) < most), key=_time).append(member)
    return groups


def _time(group: Sequence[Member]) -> float:
    """Return the time of a group, in images trained by one network alone: a step of K members takes (1 + K) / 2 of one."""
    time, before = sum(member.units - member.trained for member in group), 0.0
    ends = sorted(member.trained for member in group)
    for index, end in enumerate(ends):
        time += (end - before) * (1 + len(ends) - index) / 2
        before = end
    return time


def _span(groups: Sequence[Sequence[Member]], slots: int) -> float:
    """Return when the last of several processes ends that take the groups, the longest first."""
    ends = [0.0] * slots
    for time in sorted(map(_time, groups), reverse=True):
        ends[ends.index(min(ends))] += time
    return max(ends)

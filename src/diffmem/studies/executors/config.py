"""Where the tasks of a search run, as typed settings: the `executor:` part of a recipe, one word or a mapping."""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from diffmem.errors import UserError
from diffmem.studies.executors.inline import InlinePool
from diffmem.studies.executors.local import LocalPool, visible_gpus
from diffmem.studies.executors.pool import Event, Pool
from diffmem.studies.executors.processes import available_cores

__all__ = ["ExecutorConfig", "Kind", "open_pool", "walltime_seconds"]

Kind = Literal["inline", "local", "parsl", "slurm", "pbs", "kubernetes"]

_BATCH = ("slurm", "pbs")
_PRESETS = (*_BATCH, "kubernetes")
# Which settings mean something where; those not named here do everywhere.
_BELONGS: dict[str, tuple[str, ...]] = {
    "processes": ("local",),
    "gpus": ("local",),
    "path": ("parsl",),
    "runs_per_gpu": ("local", *_PRESETS),
    "partition": _BATCH,
    "account": _BATCH,
    "walltime": _PRESETS,
    "nodes": ("slurm",),
    "gpus_per_node": _PRESETS,
    "cores_per_node": _PRESETS,
    "memory_gb": _PRESETS,
    "worker_init": _PRESETS,
    "scheduler_options": _BATCH,
    "image": ("kubernetes",),
    "namespace": ("kubernetes",),
    "volumes": ("kubernetes",),
    "address": _PRESETS,
    "most_blocks": _PRESETS,
    "minutes_to_save": ("parsl", *_PRESETS),
}
_NEEDED = {
    "parsl": ("path",),
    "slurm": ("walltime",),
    "pbs": ("walltime", "cores_per_node"),
    "kubernetes": ("image", "volumes", "cores_per_node", "memory_gb"),
}


def walltime_seconds(text: str) -> int:
    """Return the seconds of 'HH:MM:SS'."""
    hours, minutes, seconds = (int(part) for part in text.split(":"))
    return 3600 * hours + 60 * minutes + seconds


class ExecutorConfig(BaseModel):
    """Where the tasks of a search run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind = Field(
        "local",
        description="'inline' (this process), 'local' (processes of this machine), 'slurm', 'pbs', 'kubernetes', or"
        " 'parsl' (any Parsl configuration).",
    )
    processes: int | None = Field(
        None,
        ge=1,
        description="local: tasks at once; one per core, or runs_per_gpu on each GPU, if not given.",
    )
    gpus: tuple[int, ...] | None = Field(
        None, description="local: numbers of the GPUs to use; all that torch sees if not given."
    )
    runs_per_gpu: int = Field(1, ge=1, description="Tasks that share a GPU; small networks do not fill one.")
    processes_per_run: int = Field(
        1,
        ge=1,
        description="Processes of each task (torchrun), each with a GPU of its own if there are GPUs.",
    )
    path: str | None = Field(
        None, description="parsl: a Python file that defines `config`, a parsl.config.Config."
    )
    partition: str | None = Field(
        None, description="slurm: partition, pbs: queue; the cluster's own if not given."
    )
    account: str | None = Field(None, description="slurm, pbs: who is charged.")
    walltime: str | None = Field(None, description="Time limit of a job, 'HH:MM:SS'.")
    nodes: int = Field(1, ge=1, description="slurm: machines of a job.")
    gpus_per_node: int | None = Field(None, ge=1, description="GPUs to ask for on each machine.")
    cores_per_node: int | None = Field(
        None,
        ge=1,
        description="Cores to ask for on each machine, one for each run if there are no GPUs; slurm: all, if not given.",
    )
    memory_gb: int | None = Field(None, ge=1, description="Memory to ask for on each machine, in GB.")
    worker_init: str = Field(
        "", description="Shell lines that run before the workers start, for example 'module load cuda'."
    )
    scheduler_options: str = Field(
        "",
        description="slurm, pbs: further lines for the head of the job's script, '#SBATCH ...' or '#PBS ...'.",
    )
    image: str | None = Field(None, description="kubernetes: container image with diffmem[cluster] in it.")
    namespace: str = Field("default", description="kubernetes: namespace of the pods.")
    volumes: tuple[tuple[str, str], ...] = Field(
        (),
        description="kubernetes: [claim, path] of the persistent volumes to mount; one holds the study's folder.",
    )
    address: str | None = Field(
        None, description="Address of this machine that the workers can reach; that of its name if not given."
    )
    most_blocks: int = Field(1, ge=1, description="Jobs (pods) at once.")
    minutes_to_save: float = Field(
        5.0, gt=0, description="How long before a job's time limit its tasks are asked to save and end."
    )

    @model_validator(mode="before")
    @classmethod
    def _word(cls, values: Any) -> Any:
        return {"kind": values} if isinstance(values, str) else values

    @field_validator("walltime", mode="before")
    @classmethod
    def _walltime(cls, value: Any) -> Any:
        # YAML reads 12:00:00 without quotes as a number in base 60.
        if value is not None and not (isinstance(value, str) and re.fullmatch(r"\d+:[0-5]\d:[0-5]\d", value)):
            raise ValueError("a time limit reads 'HH:MM:SS' in quotes, for example \"04:00:00\"")
        return value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for name in sorted(self.model_fields_set):
            kinds = _BELONGS.get(name)
            if kinds is not None and self.kind not in kinds:
                raise ValueError(
                    f"{name} means nothing to the executor {self.kind!r}, only to {', '.join(kinds)}; leave it out"
                )
        for name in _NEEDED.get(self.kind, ()):
            if not getattr(self, name):
                raise ValueError(f"the executor {self.kind!r} needs {name}")
        if self.kind in _PRESETS and self.runs_per_node is None:
            raise ValueError(
                f"the executor {self.kind!r} needs gpus_per_node or cores_per_node: they say how many runs a machine does at once"
            )
        for name in ("gpus", "volumes"):
            values = getattr(self, name) or ()
            if len(set(values)) != len(values):
                raise ValueError(f"{name} repeats a value: {list(values)}")
        if self.processes_per_run > 1 and self.runs_per_gpu > 1:
            raise ValueError(
                f"a run with {self.processes_per_run} processes has as many GPUs to itself; runs_per_gpu must be 1"
            )
        for name, what in (("gpus_per_node", "GPUs"), ("cores_per_node", "cores")):
            has = getattr(self, name)
            if has is not None and has < self.processes_per_run:
                raise ValueError(
                    f"{has} {what} on a machine are not enough for a run of {self.processes_per_run} processes;"
                    " lower processes_per_run"
                )
        if self.walltime is not None and walltime_seconds(self.walltime) <= 2 * 60 * self.minutes_to_save:
            raise ValueError(
                f"a time limit of {self.walltime} leaves too little before the {self.minutes_to_save:g} minutes to save;"
                " raise walltime or lower minutes_to_save"
            )
        return self

    @property
    def device(self) -> str | None:
        """Where the tasks compute, 'cpu' or 'cuda', if these settings say so; None if it is this machine, or unknown."""
        if self.kind not in _PRESETS:
            return None
        return "cpu" if self.gpus_per_node is None else "cuda"

    @property
    def runs_per_node(self) -> int | None:
        """How many tasks a machine of a cluster does at once; None if neither its GPUs nor its cores are given."""
        if self.gpus_per_node is not None:
            return self.gpus_per_node * self.runs_per_gpu // self.processes_per_run
        if self.cores_per_node is not None:
            return self.cores_per_node // self.processes_per_run
        return None


def open_pool(
    config: ExecutorConfig,
    *,
    device: str,
    folder: Path,
    threads: int | None = None,
    told: Callable[[Event], None] | None = None,
) -> Pool:
    """Return the pool that a recipe asks for; use it as a context manager.

    Args:
        config: The recipe's `executor`.
        device: Where tasks compute: 'cpu' or 'cuda'.
        folder: Of the study; clusters keep their scripts and logs in it, and need it on a common disk.
        threads: local: threads of each process; the cores divided by the processes if not given.
        told: inline: told of progress and warnings as they come (see `InlinePool`).

    Raises:
        UserError: What the recipe asks for is not there (GPUs, the scheduler, Parsl, the file) or does not fit the device.
        DiffmemError: Parsl could not start.
    """
    if config.kind == "inline":
        return InlinePool(told)
    if config.kind == "local":
        return _local(config, device, threads)
    if config.device is not None and config.device != device.partition(":")[0]:
        raise UserError(
            f"executor.gpus_per_node = {config.gpus_per_node}, but the device is {device!r}: give --device {config.device},"
            f" or {'name' if config.gpus_per_node is None else 'leave out'} gpus_per_node."
        )
    command = {"slurm": "sbatch", "pbs": "qsub"}.get(config.kind)
    if command is not None and shutil.which(command) is None:
        raise UserError(
            f"executor.kind = {config.kind}: there is no {command!r} on this machine; start the study where jobs are"
            " submitted, usually on a login node, or choose 'local'."
        )
    if importlib.util.find_spec("parsl") is None:
        raise UserError(f"executor.kind = {config.kind} needs Parsl: pip install 'diffmem[cluster]'.")
    from diffmem.studies.executors.parsl_pool import open_parsl

    return open_parsl(config, folder)


def _local(config: ExecutorConfig, device: str, threads: int | None) -> LocalPool:
    each = config.processes_per_run
    if not device.startswith("cuda"):
        if config.gpus is not None or config.runs_per_gpu != 1:
            raise UserError(
                f"executor: gpus and runs_per_gpu are for GPUs, but the device is {device!r}; leave them out or choose"
                " --device cuda."
            )
        slots = config.processes or max(1, available_cores() // each)
        return LocalPool(slots, threads=threads, processes=each)
    import torch

    names = visible_gpus(torch.cuda.device_count())
    wanted = range(len(names)) if config.gpus is None else config.gpus
    if not names or any(not 0 <= number < len(names) for number in wanted):
        raise UserError(
            f"executor.gpus = {list(wanted)}: torch sees {len(names)} GPUs here, numbered from 0; name some of these."
        )
    if len(wanted) < each:
        raise UserError(
            f"executor.processes_per_run = {each}: there are only {len(wanted)} GPUs; lower it or name more GPUs."
        )
    gpus = [names[number] for number in wanted]
    slots = config.processes or len(gpus) * config.runs_per_gpu // each
    return LocalPool(slots, threads=threads, gpus=gpus, processes=each)

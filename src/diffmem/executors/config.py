"""Where the trainings of a study run, as typed settings: the `executor:` part of a recipe, one word or a mapping."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from diffmem.settings import validated

__all__ = ["ExecutorConfig", "walltime_seconds"]

_BATCH = ("slurm", "pbs")
_PRESETS = (*_BATCH, "kubernetes")
# Which settings mean something where; those not named here do everywhere.
_BELONGS: dict[str, tuple[str, ...]] = {
    "processes": ("local",),
    "gpus": ("local",),
    "group": ("inline", "local"),
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
    """Where the trainings of a study run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["inline", "local", "parsl", "slurm", "pbs", "kubernetes"] = Field(
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
    group: Literal["auto"] | Annotated[int, Field(ge=1, le=64)] = Field(
        "auto",
        description="inline, local: trainings of a grid that a process does together, as one network with as many groups; 1 for none."
        " If not given, up to 8 small networks on a CPU, as many as leave no core idle.",
    )
    path: str | None = Field(
        None, description="parsl: a Python file that defines `config`, a parsl.config.Config."
    )
    partition: str | None = Field(
        None, description="slurm: partition, pbs: queue; the cluster's own if not given."
    )
    account: str | None = Field(None, description="slurm, pbs: who is charged.")
    walltime: str | None = Field(
        None, description="Time limit of a job, 'HH:MM:SS'; rounded up to whole minutes."
    )
    nodes: int = Field(1, ge=1, description="slurm: machines of a job.")
    gpus_per_node: int | None = Field(None, ge=1, description="GPUs to ask for on each machine.")
    cores_per_node: int | None = Field(
        None,
        ge=1,
        description="Cores to ask for on each machine, one for each run. Needed without GPUs; slurm with GPUs: all if not given.",
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

    @model_serializer(mode="wrap")
    def _what_was_set(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # What means nothing to a kind is refused when it is read, also with its default.
        values = whole(self)
        return {name: values[name] for name in values if name == "kind" or name in self.model_fields_set}

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
        if value is None:
            return None
        # SLURM counts in minutes, and its 0 is no limit: both, and what is planned with it, get the whole minute above.
        minutes = -(-walltime_seconds(value) // 60)
        return f"{minutes // 60:02d}:{minutes % 60:02d}:00"

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
        if self.processes_per_run > 1 and self.group not in ("auto", 1):
            raise ValueError(
                f"a run with {self.processes_per_run} processes is trained by itself; leave group out or set processes_per_run: 1"
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

    @classmethod
    def of_workers(cls, count: int) -> Self:
        """Return what `--workers` is short for: so many processes of this machine, of which the only one is this one.

        Raises:
            UserError: There are none.
        """
        return (
            cls(kind="inline")
            if count == 1
            else validated(cls, {"kind": "local", "processes": count}, "workers")
        )

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

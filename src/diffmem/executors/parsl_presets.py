"""Parsl configurations: for SLURM, PBS and Kubernetes from a few settings, and those that users write.

Imports Parsl; import this module only where a study uses it.
"""

from __future__ import annotations

import importlib.util
import os
import runpy
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from parsl.addresses import address_by_hostname
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.executors.high_throughput.executor import DEFAULT_INTERCHANGE_LAUNCH_CMD
from parsl.jobs.error_handlers import simple_error_handler
from parsl.launchers import SimpleLauncher, SrunLauncher
from parsl.providers import KubernetesProvider
from parsl.providers.base import ExecutionProvider

from diffmem.errors import UserError
from diffmem.executors.config import ExecutorConfig, walltime_seconds
from diffmem.executors.jobs import JobBook
from diffmem.executors.parsl_jobs import JobWatch, PbsJobs, SlurmJobs
from diffmem.executors.remote import ENDS

__all__ = ["capacity", "parsl_config"]

_UNSET_RUN_DIR = "runinfo"  # Parsl's own default
_HEARTBEAT, _TIMEOUT = 5, 20  # seconds; Parsl's own let the tasks of a dead study run on for minutes
_NO_CORES = 0.001
_SECONDS_OF_A_COMMAND = 60  # a busy scheduler may take more than Parsl's 10
_SECONDS_BETWEEN_STEPS = 2  # in which jobs are asked for
_DRAIN_BEFORE_SAVING = 30  # seconds; so that no task is sent to a worker that would refuse it


def parsl_config(config: ExecutorConfig, folder: Path, book: JobBook) -> Config:
    """Return the Parsl configuration of a recipe's executor.

    Args:
        config: Of kind 'parsl', 'slurm', 'pbs' or 'kubernetes'.
        folder: Where Parsl keeps scripts, logs and keys.
        book: Where the jobs are noted.

    Raises:
        UserError: The user's file cannot be used, this machine's address is unknown, or Kubernetes cannot be reached.
    """
    if config.kind == "parsl":
        assert config.path is not None
        return _steadied(_of_file(Path(config.path), folder), book, scales=False)
    shared: dict[str, Any] = {
        "worker_init": _worker_init(config),
        "init_blocks": 0,
        "min_blocks": 0,
        "max_blocks": config.most_blocks,
    }
    make = {"slurm": _slurm, "pbs": _pbs, "kubernetes": _kubernetes}[config.kind]
    drain = (
        None  # seconds after which a job takes no more tasks, so that it ends when those that run have saved
    )
    if config.walltime is not None:
        limit = walltime_seconds(config.walltime)
        drain = int(limit - 60 * config.minutes_to_save - _DRAIN_BEFORE_SAVING)
    provider = make(config, shared)
    if isinstance(provider, SlurmJobs | PbsJobs):
        provider.book = book
    executor = HighThroughputExecutor(
        label="diffmem",
        provider=provider,
        address=config.address or _own_address(config),
        cores_per_worker=_NO_CORES,  # Parsl would start fewer workers than there are runs, were each to have a core
        max_workers_per_node=config.runs_per_node,
        heartbeat_period=_HEARTBEAT,
        heartbeat_threshold=_TIMEOUT,
        drain_period=drain,
    )
    return _steadied(
        Config(
            executors=[executor],
            run_dir=str(folder),
            retries=0,
            strategy="none",  # see `parsl_jobs`
            strategy_period=_SECONDS_BETWEEN_STEPS,
            usage_tracking=0,
            initialize_logging=False,
        ),
        book,
        scales=True,
    )


def _steadied(config: Config, book: JobBook, *, scales: bool) -> Config:
    """See to it that no process of a configuration outlives a study that is killed, and that one lost job does not end a study."""
    for executor in config.executors:
        if isinstance(executor, HighThroughputExecutor):
            command = list(executor.interchange_launch_cmd)
            program = shutil.which(command[0], path=str(Path(sys.executable).parent))
            if command == DEFAULT_INTERCHANGE_LAUNCH_CMD and program is not None:
                module = "diffmem.executors.interchange"
                executor.interchange_launch_cmd = [sys.executable, "-m", module, str(os.getpid()), program]
            if executor.block_error_handler is simple_error_handler:
                executor.block_error_handler = JobWatch(book, scales=scales)
    return config


def _of_file(path: Path, folder: Path) -> Config:
    if not path.is_file():
        raise UserError(
            f"executor.path = {path}: there is no such file; it is a Python file that defines `config`."
        )
    try:
        found: Any = runpy.run_path(str(path)).get("config")
    except Exception as error:
        raise UserError(
            f"executor.path = {path}: the file fails with {type(error).__name__}: {error}."
        ) from error
    if not isinstance(found, Config):
        raise UserError(
            f"executor.path = {path}: the file must define `config`, a parsl.config.Config, not {type(found).__name__}."
        )
    if found.run_dir == _UNSET_RUN_DIR:
        found.run_dir = str(folder)
    found.retries = 0  # the study submits again what was lost
    return found


def capacity(config: Config) -> int:
    """Return how many tasks the executors of a configuration do at once, as far as it says."""
    total = 0
    for executor in config.executors:
        provider = getattr(executor, "provider", None)
        if provider is None:
            total += getattr(executor, "max_threads", 1)
        else:
            workers = int(getattr(executor, "workers_per_node", 1))
            total += max(1, workers) * provider.nodes_per_block * provider.max_blocks
    return max(1, total)


def _own_address(config: ExecutorConfig) -> str:
    try:
        address = address_by_hostname()
    except OSError:
        address = "none"
    if address == "none" or address.startswith("127."):
        raise UserError(
            f"executor.kind = {config.kind}: the name of this machine stands for no address that others can reach"
            f" ({address}); give executor.address, the one by which the workers reach this machine."
        )
    return address


def _worker_init(config: ExecutorConfig) -> str:
    """Return what runs first on a worker: this environment's programs, the user's lines, when the job will end."""
    lines = []
    if config.kind != "kubernetes":  # an image has an environment of its own
        lines.append(f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"')
    elif config.cores_per_node is not None:  # a pod sees all cores of its machine
        lines.append(f"export PARSL_CORES={config.cores_per_node}")
    if config.worker_init:
        lines.append(config.worker_init.rstrip())
    if config.walltime is not None:
        lines.append(f"export {ENDS}=$(( $(date +%s) + {walltime_seconds(config.walltime)} ))")
    return "\n".join(lines)


def _slurm(config: ExecutorConfig, shared: dict[str, Any]) -> ExecutionProvider:
    cores = config.cores_per_node
    return SlurmJobs(
        partition=config.partition,
        account=config.account,
        walltime=str(config.walltime),
        nodes_per_block=config.nodes,
        gpus_per_node=config.gpus_per_node,
        cores_per_node=cores,
        mem_per_node=config.memory_gb,
        exclusive=cores is None,
        # The study itself asks for another job; one that SLURM starts again would come on top.
        scheduler_options=f"#SBATCH --no-requeue\n{config.scheduler_options}".rstrip(),
        cmd_timeout=_SECONDS_OF_A_COMMAND,
        # srun does not take the number of cores from the job's script.
        launcher=SimpleLauncher()
        if config.nodes == 1
        else SrunLauncher(overrides="" if cores is None else f"--cpus-per-task={cores}"),
        **shared,
    )


def _pbs(config: ExecutorConfig, shared: dict[str, Any]) -> ExecutionProvider:
    wanted = {"ngpus": config.gpus_per_node, "mem": config.memory_gb and f"{config.memory_gb}gb"}
    return PbsJobs(  # type: ignore[no-untyped-call]  # as of Parsl itself
        queue=config.partition,
        account=config.account,
        walltime=str(config.walltime),
        cpus_per_node=config.cores_per_node,
        select_options=":".join(f"{name}={value}" for name, value in wanted.items() if value),
        scheduler_options=config.scheduler_options,
        launcher=SimpleLauncher(),
        **shared,
    )


def _kubernetes(config: ExecutorConfig, shared: dict[str, Any]) -> ExecutionProvider:
    if importlib.util.find_spec("kubernetes") is None:
        raise UserError(
            "executor.kind = kubernetes needs the Python package 'kubernetes': pip install kubernetes."
        )
    assert config.image is not None
    memory, cores = f"{config.memory_gb}Gi", float(config.cores_per_node or 1)
    gpus = {} if config.gpus_per_node is None else {"nvidia.com/gpu": str(config.gpus_per_node)}
    try:
        return KubernetesProvider(
            image=config.image,
            namespace=config.namespace,
            max_cpu=cores,
            init_cpu=cores,
            max_mem=memory,
            init_mem=memory,
            extra_limits=gpus,
            extra_requests=gpus,
            persistent_volumes=list(config.volumes),
            pod_name="diffmem",
            **shared,
        )
    except Exception as error:
        if type(error).__name__ != "ConfigException":  # the package's own, where there is no configuration
            raise
        raise UserError(
            f"executor.kind = kubernetes: no cluster is configured here ({error}); kubectl must work for this user."
        ) from error

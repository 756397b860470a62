"""One program on several processes, started by torchrun: which process this is, and what the processes send each other.

Without torchrun there is one process, and everything here is free. With it, `joined` connects the processes (gloo between
CPUs, NCCL between GPUs); inside, `world()` says which of them this is. All processes run the same program; what is written to
disk is written by the first of them alone.

The methods of `World` that move something are collective: all processes call them in the same order. If one of them has
ended, the others learn it there, by a `LostProcessError`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from diffmem.errors import DiffmemError, UserError

if TYPE_CHECKING:
    import torch

__all__ = ["LostProcessError", "World", "joined", "under_torchrun", "world"]

_T = TypeVar("_T")
# The first process may draw a report, or read a large archive, while others wait.
_TIMEOUT = timedelta(hours=6)


class LostProcessError(DiffmemError):
    """Another process of the job ended, so this one cannot go on; why, that process has said."""


@contextmanager
def _others() -> Iterator[Any]:
    """Yield `torch.distributed`; its errors mean that another process has ended."""
    from torch import distributed

    try:
        yield distributed
    except RuntimeError as error:  # gloo and NCCL report everything by this type
        raise LostProcessError(
            "Another process of this job has ended, so this one cannot go on; the error of that process says why."
            f" (Here: {str(error).strip().splitlines()[0]})"
        ) from error


@dataclass(frozen=True)
class World:
    """The processes that run together.

    Attributes:
        rank: Which one this is, 0 to size - 1.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def all_reduce(self, tensor: torch.Tensor) -> None:
        """Replace a tensor, of one shape everywhere, by its sum over the processes."""
        if self.size > 1:
            with _others() as distributed:
                distributed.all_reduce(tensor, group=_objects if tensor.device.type == "cpu" else None)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in at least one process."""
        return any(self.gather(flag))

    def broadcast(self, value: _T) -> _T:
        """Return the first process's value, in every process; it must be picklable."""
        if self.size == 1:
            return value
        held: list[Any] = [value]
        with _others() as distributed:
            distributed.broadcast_object_list(held, src=0, group=_objects)
        shared: _T = held[0]
        return shared

    def from_main(self, compute: Callable[[], _T]) -> _T:
        """Return what the first process, whose disk decides, computes, in every process; it must be picklable."""
        found: Any = compute() if self.is_main else None
        value: _T = self.broadcast(found)
        return value

    def gather(self, value: _T) -> list[_T]:
        """Return the values of all processes by rank, in every process; they must be picklable and may differ in size."""
        if self.size == 1:
            return [value]
        held: list[Any] = [None] * self.size
        with _others() as distributed:
            distributed.all_gather_object(held, value, group=_objects)
        return held

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.size > 1:
            with _others() as distributed:
                distributed.barrier(group=_objects)


_current = World()
_objects: Any = None  # the group in which pickled objects travel: between CPUs, whatever the gradients do


def world() -> World:
    """Return the processes that run together; one alone unless inside `joined` under torchrun."""
    return _current


def under_torchrun() -> bool:
    """Whether torchrun (or a launcher that sets the same variables) started this process."""
    return {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"} <= set(os.environ)


@contextmanager
def joined(*, gpu: bool = False) -> Iterator[World]:
    """Connect the processes that torchrun started; without torchrun, nothing happens.

    An error leaves the block at once, without a word to the others, and the connection open: the process should end, by
    which the others notice.

    Args:
        gpu: Sums run between GPUs, one of this machine's for each of its processes.

    Raises:
        UserError: There are more processes on this machine than GPUs.
    """
    global _current, _objects
    if not under_torchrun():
        yield _current
        return
    import torch
    from torch import distributed

    if gpu:
        local, here = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= here:
            raise UserError(
                f"This machine has {here} GPUs, but process {local} of it wants one: start torchrun with"
                f" --nproc_per_node={here}, or give --device cpu."
            )
        torch.cuda.set_device(local)
    distributed.init_process_group("nccl" if gpu else "gloo", timeout=_TIMEOUT)
    _objects = distributed.new_group(backend="gloo", timeout=_TIMEOUT)
    _current = World(distributed.get_rank(), distributed.get_world_size())
    try:
        yield _current
        _current.wait()  # nobody leaves while another still needs it
        distributed.destroy_process_group()  # not after an error: it could wait for processes that never come
    finally:
        _current, _objects = World(), None

"""Work on blocks, dealt to as many threads as torch may use.

Each thread runs torch operations on one core. The blocks here take about a millisecond per operation: threads that
shared each operation would wait for each other at its end, and on a busy machine for the operating system.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch

__all__ = ["dealing", "dealt", "even_parts", "of_threads", "one_thread", "pulled"]

FEWEST = 64  # items of a slice for which it pays to wake a thread

_threads: ContextVar[int | None] = ContextVar("threads", default=None)
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def dealt(work: Callable[[_Item], _Result], items: Sequence[_Item]) -> Iterator[_Result]:
    """Yield `work(item)` of all items in the order in which they are finished; gradients are off."""
    threads, own, inference = _count(), torch.get_num_threads(), torch.is_inference_mode_enabled()
    if threads == 1 or len(items) < 2:
        for item in items:
            with one_thread(), torch.no_grad():
                result = work(item)
            yield result
        return

    def alone(item: _Item) -> _Result:
        torch.set_num_threads(1)  # of this thread
        with torch.inference_mode(inference), torch.no_grad():  # settings of the thread, too
            return work(item)

    pool = ThreadPoolExecutor(min(threads, len(items)))
    try:
        waiting: set[Future[_Result]] = {pool.submit(alone, item) for item in items}
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(own)  # threads that are started later would take over the 1


@contextmanager
def dealing() -> Iterator[None]:
    """Keep operations between blocks that are dealt to one core: on a busy machine, threads that share them wait for each other."""
    token = _threads.set(_count())
    try:
        with one_thread():
            yield
    finally:
        _threads.reset(token)


def _count() -> int:
    """Return how many threads blocks are dealt to."""
    return _threads.get() or torch.get_num_threads()


def one_thread() -> AbstractContextManager[None]:
    """Keep torch to one thread, for operations so small that threads would mostly wait for each other."""
    return of_threads(1)


@contextmanager
def of_threads(count: int | None) -> Iterator[None]:
    """Have torch use so many threads; none for as many as it has."""
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(count or threads)
        yield
    finally:
        torch.set_num_threads(threads)


def even_parts(count: int, largest: int, fewest: int = FEWEST) -> list[slice]:
    """Part a range into slices of at most `largest`, as many as keep all threads busy to the end if there are `fewest` items for each."""
    parts, threads = -(-count // largest), _count()
    if count >= fewest * threads:
        parts = -(-parts // threads) * threads
    return [slice(count * at // parts, count * (at + 1) // parts) for at in range(parts)]


def pulled(work: Callable[[Iterator[_Item]], _Result], items: Iterable[_Item]) -> list[_Result]:
    """Return `work(iterator)` of as many threads as torch may use, which take the items from one iterator; gradients are off.

    So each thread has buffers of its own for all the items that it takes, and none waits for a slower one.
    """
    given = list(items)
    shared = iter(given)  # taking the next item of a list's iterator is atomic
    count = min(_count(), len(given))
    return list(dealt(lambda _: work(shared), range(count)))

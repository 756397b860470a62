"""Encoded files decoded by several processes: the same batches in the same order, and the first broken file is the one that is named.

Threads would not do: for a small image, most of the time is spent in Python. Each worker is a Python of its own, fed through its standard
input, so that scripts need no guard of `__main__`, and it ends when this process does. At most two pieces of work wait for each.
"""

from __future__ import annotations

import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import IO, Any

from diffmem.data.formats.decoding import Batch, Decoder, Files
from diffmem.data.formats.guards import MAX_FILE_BYTES, read_plain
from diffmem.errors import DiffmemError

__all__ = ["available_processes", "decoded", "decoding_processes", "is_large", "serve"]

_LARGE_FILES, _LARGE_BYTES = (
    4_000,
    64 * 2**20,
)  # from which on it pays to start processes, or to keep what is done
_PIECE_FILES, _PIECE_BYTES = 256, 4 * 2**20
_WAITING = 2  # pieces for each worker
_MOST = 16

_processes: ContextVar[int] = ContextVar("processes", default=1)


def is_large(files: Files) -> bool:
    """Whether decoding takes seconds or longer."""
    return len(files.names) >= _LARGE_FILES or (files.held or 0) >= _LARGE_BYTES


def available_processes() -> int:
    """Return the number of cores that this process may use, 16 at most."""
    affinity = getattr(os, "sched_getaffinity", None)
    return min(_MOST, len(affinity(0)) if affinity else os.cpu_count() or 1)


@contextmanager
def decoding_processes(count: int) -> Iterator[None]:
    """Decode large sets by so many processes while the block runs; one, this one, is the default."""
    token = _processes.set(count)
    try:
        yield
    finally:
        _processes.reset(token)


def decoded(files: Files, start: int, decoder: Decoder) -> Iterator[Batch]:
    """Yield the files from an index on in batches.

    Raises:
        DiffmemError: A file is broken or refused, those before it have been yielded; or a process has ended.
    """
    count = min(_processes.get(), -(-(len(files.names) - start) // _PIECE_FILES))
    if count > 1 and is_large(files):
        yield from _Crew(files, start, decoder, count).batches()
    else:
        names = files.names
        yield from decoder.batches((names[index], files.read(index)) for index in range(start, len(names)))


class _Crew:
    """Some workers, and the thread that feeds them."""

    def __init__(self, files: Files, start: int, decoder: Decoder, count: int) -> None:
        self._files, self._start, self._decoder = files, start, decoder
        self._room = threading.Semaphore(_WAITING * count)
        self._sent: queue.SimpleQueue[int | BaseException | None] = queue.SimpleQueue()
        self._ended = False
        self._workers = []
        try:
            for _ in range(count):
                self._workers.append(_started(decoder))
        except OSError as error:
            self._end()
            raise DiffmemError(f"Cannot start a process that decodes images: {error}.") from error

    def batches(self) -> Iterator[Batch]:
        """Yield the batches in the order of the files."""
        feeder = threading.Thread(target=self._feed, daemon=True)
        feeder.start()
        try:
            while True:
                piece = self._sent.get()
                if piece is None:
                    return
                if isinstance(piece, BaseException):
                    raise piece
                yield from self._answers(self._workers[piece])
                self._room.release()
        finally:
            self._ended = True
            self._room.release()
            self._end()
            feeder.join()

    def _answers(self, worker: subprocess.Popen[bytes]) -> Iterator[Batch]:
        while True:
            try:
                answer = pickle.load(_pipe(worker.stdout))
            except (EOFError, OSError, pickle.UnpicklingError) as error:
                raise DiffmemError(
                    f"{self._decoder.what}: a process that decodes images has ended (exit code {worker.wait()}); there may be too little"
                    " memory. Call the command again, with --processes 1 if need be."
                ) from error
            if answer is None:
                return
            if isinstance(answer, BaseException):
                raise answer
            yield answer

    def _feed(self) -> None:
        try:
            self._sent.put(self._fed())
        except BaseException as error:  # or the one who waits would wait for ever
            self._sent.put(error)

    def _fed(self) -> BaseException | None:
        """Read the files and send them, a piece to each worker in turn; return the error that ended it, if one did."""
        turn = 0
        failure: BaseException | None = None
        pieces = self._pieces()
        while failure is None:
            self._room.acquire()
            if self._ended:
                return None
            try:
                piece, failure = next(pieces)
            except StopIteration:
                break
            if piece:
                self._sent.put(turn)
                with suppress(OSError):  # it has ended, which is seen where its answer is waited for
                    stream = _pipe(self._workers[turn].stdin)
                    pickle.dump(piece, stream, 5)
                    stream.flush()
                turn = (turn + 1) % len(self._workers)
        return failure

    def _pieces(self) -> Iterator[tuple[list[tuple[str, bytes | str]], BaseException | None]]:
        """Yield some files, each its name and its content or path; with the error that came after them, if there is one."""
        names, path = self._files.names, self._files.path
        piece: list[tuple[str, bytes | str]] = []
        size = 0
        for index in range(self._start, len(names)):
            try:
                content = self._files.read(index) if path is None else path(index)
            except Exception as error:  # told in its turn
                yield piece, error
                return
            piece.append((names[index], content))
            size += len(content)
            if len(piece) >= _PIECE_FILES or size >= _PIECE_BYTES:
                yield piece, None
                piece, size = [], 0
        yield piece, None

    def _end(self) -> None:
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.wait()
            for stream in (worker.stdin, worker.stdout):
                with suppress(OSError):
                    _pipe(stream).close()


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


def _started(decoder: Decoder) -> subprocess.Popen[bytes]:
    program = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from diffmem.data.formats.workers import serve; serve()"
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    worker = subprocess.Popen(
        [sys.executable, "-c", program, json.dumps(sys.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | single,
    )
    with suppress(OSError):
        pickle.dump(decoder, _pipe(worker.stdin), 5)
    return worker


def serve() -> None:
    """Decode what comes through standard input until it ends; answer through standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one ends it
    with os.fdopen(os.dup(1), "wb") as answers, suppress(BrokenPipeError):
        os.dup2(2, 1)  # what a library prints must not come between
        questions = sys.stdin.buffer
        decoder: Decoder = pickle.load(questions)
        while True:
            try:
                piece = pickle.load(questions)
            except EOFError:
                return
            _answer(decoder, piece, answers)


def _answer(decoder: Decoder, piece: list[tuple[str, Any]], answers: IO[bytes]) -> None:
    contents = (
        (
            name,
            read_plain(content, MAX_FILE_BYTES, f"{decoder.what}: {name}")
            if isinstance(content, str)
            else content,
        )
        for name, content in piece
    )
    end: BaseException | None = None
    try:
        for batch in decoder.batches(contents):
            pickle.dump(batch, answers, 5)
            answers.flush()
    except Exception as error:
        end = error if isinstance(error, DiffmemError) else DiffmemError(f"{type(error).__name__}: {error}")
    pickle.dump(end, answers, 5)
    answers.flush()

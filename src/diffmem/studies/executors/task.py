"""`python -m diffmem.studies.executors.task FILE`: what the process of one task runs, under torchrun or alone.

FILE is the task as JSON. What happens is written beside it (see `child.Journal`); the first process tells progress and
warnings, each tells its own end. The process ends when its standard input closes.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from diffmem.distributed import joined
from diffmem.studies.executors.child import Journal, read_task
from diffmem.studies.executors.lifeline import end_with_input, stop_on_signals
from diffmem.studies.executors.pool import Event, Task, carried_out
from diffmem.studies.executors.work import call

__all__ = ["main"]


def main(file: Path) -> None:
    """Do the task of a file and end the process: exit code 0 finished, 1 failed, 130 stopped."""
    task, rank = read_task(file), int(os.environ.get("RANK", "0"))
    journal = Journal(file.parent, rank)
    try:
        stop_on_signals()
        end_with_input()
        event = carried_out(task.key, lambda: _work(task, rank, journal))
    except KeyboardInterrupt:
        event = Event(task.key, "stopped", "It was stopped, and saved.")
    journal(event)
    if event.kind != "finished":
        # The usual end would run the destructors of the connections, which can wait for others for ever.
        os._exit(130 if event.kind == "stopped" else 1)


def _work(task: Task, rank: int, journal: Journal) -> None:
    def progress(done: float, total: float, note: str = "") -> None:
        if not rank:
            journal(Event(task.key, "progress", note, done, total))

    def warn(text: str) -> None:
        if not rank:
            journal(Event(task.key, "warning", text))

    with joined(gpu=str(task.content.get("device", "cpu")).startswith("cuda")):
        call(task, progress, warn)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

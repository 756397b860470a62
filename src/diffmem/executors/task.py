"""`python -m diffmem.executors.task FILE`: what the process of one task runs, under torchrun or alone.

FILE is the task as JSON. What happens is written beside it (see `child.journal`); the first process reports progress and
warnings, each its own end. The process ends when its standard input closes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from diffmem.distributed import joined
from diffmem.executors.child import journal
from diffmem.executors.pool import Event, Task, outcome
from diffmem.executors.signals import end_with_input, stop_on_signals
from diffmem.files import read_json
from diffmem.progress import Progress

__all__ = ["main"]


def main(file: Path) -> None:
    """Do the task of a file and end the process: exit code 0 finished, 1 failed, 130 stopped."""
    task, rank = Task(**read_json(file)), int(os.environ.get("RANK", "0"))
    report = journal(file.parent, rank)

    def run(progress: Progress, warn: Callable[[str], None]) -> None:
        with joined(gpu=str(task.content.get("device", "cpu")).startswith("cuda")):
            task.call(progress, warn)

    try:
        stop_on_signals()
        end_with_input()
        event = outcome(task.key, run, report if not rank else lambda event: None)
    except KeyboardInterrupt:
        event = Event(task.key, "stopped", "It was stopped, and saved.")
    report(event)
    if event.kind != "finished":
        # The usual end would run the destructors of the connections, which can wait for others for ever.
        os._exit(130 if event.kind == "stopped" else 1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Parsl's process between a study and its workers, made to end with the study.

Left to itself it outlives a study that is killed, and with it live the workers and their tasks, unseen. Without it the workers
end when they miss its heartbeats. Started as `python -m diffmem.executors.interchange PARENT PROGRAM`.
"""

from __future__ import annotations

import os
import runpy
import sys
import time

from diffmem.executors.signals import end_with

__all__ = ["main"]

_SECONDS_BETWEEN_CHECKS = 1.0


def main(parent: int, program: str) -> None:
    """Run a program until its parent is gone.

    Args:
        parent: Process id of the study.
        program: Parsl's Python file; it reads its settings from standard input.
    """

    def gone() -> None:
        while os.getppid() == parent:
            time.sleep(_SECONDS_BETWEEN_CHECKS)

    os.setsid()  # signals for the study's group, as Ctrl-C is one, would cut it off from what its workers save
    end_with(gone)
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])

"""`diffmem quickstart`."""

from __future__ import annotations

from pathlib import Path

from diffmem.cli.study import show_report

__all__ = ["quickstart"]


def quickstart(
    *,
    out: Path = Path("quickstart"),
    fast: bool = False,
    device: str | None = None,
    workers: int | None = None,
) -> None:
    """Watch memorization set in: a small study of real handwritten digits, in minutes.

    Trains models on 16, 32, 64 and 112 digits, measures R_mem, estimates EMM, and writes a report. Takes a few
    minutes on two cores. Interrupt with Ctrl-C: the same command resumes.

    Example: diffmem quickstart --out quickstart

    Args:
        out: Folder for runs and report.
        fast: A one-minute setting (16 and 48 digits) that shows how it works, not the effect.
        device: cpu, cuda or cuda:N; by default a GPU where there is one.
        workers: Processes that train at the same time; by default one per core on a CPU.
    """
    from diffmem.api.studies import run_study
    from diffmem.studies.quickstart import quickstart_recipe

    show_report(run_study(quickstart_recipe(fast), out, device=device, workers=workers))

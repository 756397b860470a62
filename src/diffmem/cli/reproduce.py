"""`diffmem reproduce`: the experiments of the paper, each by one command."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from diffmem.cli.options import Settings
from diffmem.cli.study import with_workers
from diffmem.console import console
from diffmem.environment import choose_device
from diffmem.errors import UserError

if TYPE_CHECKING:
    from diffmem.paper.reproduce import Reproduction

__all__ = ["reproduce"]


def reproduce(
    experiment: str | None = None,
    *,
    scale: Literal["paper", "cpu", "smoke"] | None = None,
    set_: Settings = None,
    all_levels: bool = False,
    out: Path | None = None,
    store: Path | None = None,
    all_: bool = False,
    page: Path | None = None,
    note: str | None = None,
    list_: bool = False,
    device: str | None = None,
    workers: int | None = None,
) -> None:
    """Run an experiment of "On Memorization in Diffusion Models" and compare it with the paper's numbers.

    Arguments are in the paper's numbers: --set size=2000 is a training set of 2,000 images at the paper scale, and the
    one that stands for it at the cpu scale. Interrupt with Ctrl-C; the same command resumes.

    Example: diffmem reproduce fig5_labels --all-levels

    Example: diffmem reproduce fig2_dim --set size=5000 --set resolution=16 --set attention=8

    Example: diffmem reproduce --all --scale cpu --page docs/results.md

    Args:
        experiment: Name of the experiment; --list shows them.
        scale: paper (the paper's networks and sizes), cpu (the same experiment with small networks and few images, in minutes on
            two cores), or smoke (the whole path in under a minute, numbers without meaning). By default what DIFFMEM_SCALE
            says, else paper on a GPU and cpu without one.
        set_: Change a parameter of the experiment, the size, or any key of the recipe, key=value; may be repeated.
        all_levels: The whole figure instead of one level of its factor.
        out: Folder to write; by default reproduce/EXPERIMENT, or reproduce with --all.
        store: Folder of runs and their data: experiments with the same one share them. By default --out.
        all_: All experiments, with all levels.
        page: With --all: also write all results to this Markdown file, figures beside it.
        note: A sentence of yours that the reports carry with the others, for example what is special about the data.
        list_: Show the experiments: factor, levels, parameters, what the paper found.
        device: cpu, cuda or cuda:N; by default a GPU where there is one.
        workers: Short for executor={kind: local, processes: WORKERS}; 1 trains in this process.
    """
    from diffmem.api.studies import device_of
    from diffmem.paper.experiment import experiment_names, load_experiment
    from diffmem.paper.reproduce import plan

    if list_:
        _print_experiments()
        return
    if (experiment is None) == (not all_):
        names = ", ".join(experiment_names())
        raise UserError(f"Name one experiment, or give --all. Experiments are {names}.")
    if page is not None and not all_:
        raise UserError("--page is the page of all experiments: give --all with it.")

    size = _scale(scale, device or choose_device(None))
    settings = with_workers(set_, workers)
    if experiment is not None:
        folder = out or Path("reproduce") / experiment
        one = load_experiment(experiment)
        planned = [plan(one, size, folder, all_levels=all_levels, settings=settings, store=store)]
    else:
        root = out or Path("reproduce")
        planned = [
            plan(
                load_experiment(name),
                size,
                root / name,
                all_levels=True,
                settings=settings,
                store=store or root,
            )
            for name in experiment_names()
        ]
    if note is not None:
        planned = [replace(one, notes=(note, *one.notes)) for one in planned]
    _run(planned, device_of(planned[0].levels[0].recipe.executor, device), page, note)


def _scale(wanted: str | None, device: str) -> Literal["paper", "cpu", "smoke"]:
    from diffmem.paper.experiment import SCALES

    name = wanted or os.environ.get("DIFFMEM_SCALE") or ("paper" if device.startswith("cuda") else "cpu")
    for scale in SCALES:
        if scale == name:
            return scale
    raise UserError(f"DIFFMEM_SCALE={name!r} is no scale; choose one of {', '.join(SCALES)}.")


def _run(planned: list[Reproduction], device: str, page: Path | None, note: str | None) -> None:
    from diffmem.api.reproducing import reproduce, write_results_page
    from diffmem.paper.report.text import experiment_table

    results = []
    for one in planned:
        print(one.first_line)
        for result, paths in reproduce([one], device=device):
            console().print(experiment_table(result))
            print(f"{paths.html}\n{paths.json}")
            results.append(result)
            if page is not None:  # after each, so that hours of work can be read as they come
                write_results_page(page, results, paths, one.scale_name, note)
                print(page)


def _print_experiments() -> None:
    from rich.table import Table

    from diffmem.paper.experiment import experiment_names, load_experiment

    table = Table(
        "experiment", "factor", "levels", "parameters", "what the paper found", box=None, padding=(0, 2, 1, 0)
    )
    for name in experiment_names():
        one = load_experiment(name)
        labels = [one.paper_label(level) for level in one.levels]
        shown = "; ".join(labels[:9]) + (f"; ... ({len(labels)})" if len(labels) > 9 else "")
        table.add_row(name, one.factor, shown, ", ".join(("size", *one.parameters)), one.finding)
    console().print(table)

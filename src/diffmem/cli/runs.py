"""`diffmem runs`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from diffmem.console import console, warn
from diffmem.errors import UserError
from diffmem.progress import show_progress
from diffmem.text import bytes_text, duration_text

if TYPE_CHECKING:
    from rich.table import Table

    from diffmem.runs.store.folders import RunEntry
    from diffmem.runs.store.workers import Lease

__all__ = ["runs"]


def runs(store: Path, *, rebuild: bool = False, json: bool = False) -> None:
    """List the runs of a store: how far each is trained, what it takes of the disk, who works on it.

    Example: diffmem runs studies/digits

    Args:
        store: Folder of a study, whose runs are listed wherever they lie, or the one that several studies share.
        rebuild: Make the index of the store anew from the folders first.
        json: Print JSON: one object for each run.
    """
    import json as json_format
    from dataclasses import asdict

    from diffmem.runs.store.folders import RUNS
    from diffmem.runs.store.index import RunIndex, read_index
    from diffmem.studies.folder import store_of

    if not (store / RUNS).is_dir():
        store = store_of(store)
    if not (store / RUNS).is_dir():
        hint = " Give the folder that holds it." if store.resolve().name == RUNS else ""
        raise UserError(
            f"{store} is no store: it has no folder {RUNS}/, which a study makes in its --out folder.{hint}"
        )
    if rebuild:
        with (
            show_progress("Reading folders") as progress,
            RunIndex(store, warn=warn, progress=progress) as index,
        ):
            found = index.rebuild(progress)
        if not json:
            print(f"The index of {store} was rebuilt: {found:,} run{'' if found == 1 else 's'}.")
    known, holders = read_index(store, warn)
    entries = [_fresh(store, entry) for entry in known]
    if json:
        listed = [
            {
                **asdict(entry),
                "held_by": asdict(holders[entry.run_id]) if entry.run_id in holders else None,
            }
            for entry in entries
        ]
        print(json_format.dumps(listed, indent=1))
    elif not entries:
        print(f"{store} holds no runs yet.")
    else:
        table, legend = _table(entries, holders)
        to = console()
        to.print(table)
        for line in legend:
            to.print(line)


def _fresh(store: Path, entry: RunEntry) -> RunEntry:
    """Return the entry of a run that may have moved on since it was noted, as its folder has it now."""
    from diffmem.runs.store.folders import read_entries

    # A run that was noted as new need not have a folder yet.
    found = [] if entry.state == "trained" else read_entries(store, [entry.run_id], warn)
    return found[0] if found else entry


def _table(entries: list[RunEntry], holders: dict[str, Lease]) -> tuple[Table, list[str]]:
    """Return the table, and the models M1, M2, ... and trainings T1, T2, ..., which are too long for its columns."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    models = _numbered("M", [entry.model for entry in entries])
    trainings = _numbered("T", [entry.training for entry in entries])
    # Narrow columns: all of it fits a terminal of 80 columns.
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in ("run", "N", "seed", "M", "T", "state", "trained", "disk"):
        table.add_column(
            name, justify="right" if name in ("N", "seed", "trained", "disk") else "left", no_wrap=True
        )
    table.add_column("held by", overflow="fold", min_width=10)
    for entry in entries:
        share = 1.0 if not entry.images_total else entry.images_seen / entry.images_total
        cells = (
            entry.run_id,
            f"{entry.size:,}",
            str(entry.seed),
            models[entry.model],
            trainings[entry.training],
            entry.state,
            f"{100 * share:.0f}%" if entry.state == "trained" else f"{min(99.9, 100 * share):.1f}%",
            bytes_text(entry.bytes),
            _holder_text(holders.get(entry.run_id)),
        )
        table.add_row(*(Text(cell) for cell in cells))
    legend = [f"{name}: {text}" for named in (models, trainings) for text, name in named.items()]
    return table, legend


def _numbered(letter: str, texts: list[str]) -> dict[str, str]:
    return {each: f"{letter}{i}" for i, each in enumerate(dict.fromkeys(texts), 1)}


def _holder_text(lease: Lease | None) -> str:
    import time

    if lease is None:
        return "–"
    who = f"{lease.study} ({lease.host}, process {lease.pid})"
    if lease.alive:
        return who
    return f"nobody; left by {who} {duration_text(time.time() - lease.heartbeat)} ago"

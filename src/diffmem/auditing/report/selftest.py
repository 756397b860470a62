"""A self-test of the audit as words, a table, a picture and a file of numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from diffmem.auditing.report.figures import PowerColumn, power_panels
from diffmem.auditing.report.text import fine_rate
from diffmem.auditing.selftest.records import SelfTestPart, SelfTestResult
from diffmem.files import write_folder
from diffmem.reports.folder import numbers_bytes
from diffmem.reports.html import png_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console
    from rich.table import Table

__all__ = ["print_self_test", "self_test_figure", "self_test_lines", "self_test_table", "write_self_test"]

_HEADS = {
    "identical": "identical",
    "ratio": "ratio",
    "repeats": "repeats",
    "adaptive": "adaptive",
    "transforms": "changes",
    "near": "near*",
    "inauthentic": "AuthPct*",
}
_DUPLICATION = {
    "none": "no duplicates in the training set",
    "exact copies": "two exact duplicates of each copied image in the training set",
    "near-copies": "two near-copies of each copied image in the training set",
}


def self_test_lines(result: SelfTestResult) -> tuple[str, list[str]]:
    """Return the outcome in one line, and what belongs below the tables."""
    training = min(part.training_images for part in result.parts)
    channels, height, width = result.shape
    sets = f"{training:,} training, {result.heldout:,} held-out and {result.fresh:,} fresh images of {height} x {width} x {channels}"
    lines = [f"failed: {failure}" for failure in result.failures]
    lines += [f"note: {note}" for note in result.notes]
    for part in result.parts:
        alarms, least = part.false_verdicts, part.found_from.get("exact")
        smallest = "(none is found)" if least is None else f"{least:,}"
        lines.append(
            f"With {_DUPLICATION[part.duplication]}: copies are found among fresh images in {fine_rate(alarms)} of"
            f" {alarms.total:,} shuffles; the smallest number of unchanged copies that is found"
            f" among {result.fresh:,} samples is {smallest}."
        )
    covered = min(one.smallest for one in result.coverage if one.method == "clopper-pearson")
    lines.append(
        f"Coverage of the 95% intervals (Clopper-Pearson), exactly: {covered:.2%} or more at every true share."
    )
    kinds = [
        f"{one.key}: {one.kind}" for one in result.parts[-1].criteria[0].power if one.key not in one.kind
    ]
    lines.append(f"Positive controls: {'; '.join(kinds)}. False positives: fresh images.")
    lines.append("* supporting: not used for the verdict.")
    head = "The audit works" if result.passed else "The audit FAILS on these images"
    return f"{head}: {sets}, known fractions of copies.", lines


def self_test_table(part: SelfTestPart) -> Table:
    """Return the share of planted copies that each criterion finds, a row for each kind, for a terminal of 80 columns."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=f"Found, in percent; {_DUPLICATION[part.duplication]}", title_justify="left", box=SIMPLE_HEAD, pad_edge=False,
        collapse_padding=True,
    )  # fmt: skip
    table.add_column("control", no_wrap=True)
    for one in part.criteria:
        table.add_column(_HEADS.get(one.key, one.key[:10]), justify="right", no_wrap=True)
    for at, kind in enumerate(part.criteria[0].power):
        cells = [f"{100 * one.power[at].detected.value:.0f}" for one in part.criteria]
        table.add_row(Text(kind.key), *cells)
    alarms = [f"{100 * one.false_alarms.value:.2g}" for one in part.criteria]
    table.add_row(Text("false alarms", style="bold"), *alarms)
    return table


def self_test_figure(result: SelfTestResult) -> Figure:
    """Draw the share of planted copies that each criterion finds, a panel for each kind of training set."""
    panels = [
        (
            _DUPLICATION[part.duplication],
            [PowerColumn(one.title, one.power, one.false_alarms) for one in part.criteria],
        )
        for part in result.parts
    ]
    return power_panels(panels)


def print_self_test(result: SelfTestResult, console: Console | None = None) -> None:
    """Print the outcome, a table for each kind of training set, and what belongs below."""
    from diffmem.console import console as new_console

    console = console or new_console()
    head, lines = self_test_lines(result)
    console.print(head, markup=False, highlight=False, soft_wrap=True)
    for part in result.parts:
        console.print(self_test_table(part))
    for line in lines:
        console.print(line, markup=False, highlight=False)


def write_self_test(result: SelfTestResult, folder: Path) -> list[Path]:
    """Write `selftest.json` and `selftest_power.png`; return their paths.

    Raises:
        DiffmemError: A file cannot be written.
    """
    contents = {
        "selftest_power.png": png_bytes(self_test_figure(result)),
        "selftest.json": numbers_bytes(result),
    }
    picture, numbers = write_folder(folder, contents)
    return [numbers, picture]

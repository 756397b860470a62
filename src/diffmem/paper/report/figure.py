"""One experiment in two panels: what was run here, and what the paper printed, on the same percent axis."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from diffmem.errors import UserError
from diffmem.paper.records import ExperimentResult
from diffmem.paper.report.draw import (
    group_text,
    mask_axis,
    panel_text,
    slot_text,
)
from diffmem.paper.report.match import (
    Slot,
    paper_gaps,
    paper_points,
    published_at,
    size_pairs,
    slots_of,
)
from diffmem.paper.report.series import null_points, positions_of, series_of
from diffmem.reports.curves import Series, draw_curves, draw_line, draw_nulls, draw_points, shifted
from diffmem.reports.figures import draw_target_rate, means
from diffmem.reports.level_axis import CHARACTER, level_axis, numbers_of
from diffmem.reports.style import (
    COLOURS,
    SMALL_FONT_SIZE,
    TITLE_FONT_SIZE,
    dress,
    epoch_axis,
    new_figure,
    percent_axis,
    plain,
    size_axis,
)
from diffmem.reports.text import capitalized, size_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

__all__ = ["experiment_figure", "figure_text"]

Y_LABEL = "Samples that are copies, R_mem"
NULL_LABEL = "null rate (held-out images)"
NOTHING = "The paper's numbers for this are unknown."


def experiment_figure(result: ExperimentResult) -> Figure:
    """Draw an experiment: at the left what was run here, at the right what is known of the paper's numbers.

    Both panels have the same percent axis, and a level has the same colour and marker in both. At the left every
    run has its 95% interval; with several seeds each run is a faint point and the line runs through their means.
    The null rate, the same rule on held-out images, is grey and dotted. What is unknown of the paper is said in
    words and nothing is drawn there.

    Args:
        result: The experiment, with at least one run.

    Raises:
        UserError: There are no runs, or, in the form 'epochs', none was evaluated after training began.
    """
    runs = result.runs
    if not runs:
        raise UserError(f"The experiment {result.name!r} has no finished runs, so there is nothing to draw.")
    if result.form == "epochs" and not any(one.epoch > 0 for run in runs for one in run.evaluations):
        raise UserError(
            f"No run of the experiment {result.name!r} was evaluated after epoch 0; there is no curve to draw."
        )
    slots = slots_of(result)
    series = series_of(result, slots)
    masks = result.form == "masks"
    across = 12.5 if masks and len(slots) > 12 else 10.5
    panel = (across - 1.6) / 2
    entries = _legend_entries(result, slots, series)
    columns, rows = _legend_shape([str(entry.get_label()) for entry in entries], across)
    figure = new_figure(across, _height(result, slots, rows))
    if masks:
        grid = figure.subplots(2, 2, gridspec_kw={"height_ratios": [3.0, 1.15]})
        left, right = grid[0]
        below = list(grid[1])
    else:
        left, right = figure.subplots(1, 2)
        below = []
    for axes, title in ((left, f"This run ({result.scale} scale)"), (right, "Paper (Gu et al.)")):
        dress(axes, "", Y_LABEL if axes is left else "")
        percent_axis(axes)
        axes.set_title(title, loc="left", fontsize=TITLE_FONT_SIZE, fontweight="bold", pad=20 if masks else 8)
    for axes in (left, right):
        draw_target_rate(axes, result.epsilon)

    _draw_ours(left, result, slots, series, panel)
    if any(one.paper for one in series):
        _draw_paper(right, result, slots, series, panel)
    else:
        panel_text(right, NOTHING, f"What it found: {result.finding}", panel)
    for axes, paper in zip(below, (False, True), strict=False):
        names = [slot.paper_name if paper else slot.name for slot in slots]
        positions, _ = positions_of(slots, paper=paper)
        if paper and not any(one.paper for one in series):
            axes.set_axis_off()
            continue
        mask_axis(axes, positions, names, height=1.0, width=panel)
        axes.set_xlabel(
            "Skip connections kept (filled), from the first at the highest resolution down",
            fontsize=SMALL_FONT_SIZE,
        )
    figure.legend(
        handles=entries, loc="outside lower center", ncols=columns, frameon=False, fontsize=SMALL_FONT_SIZE,
        handlelength=2.2,
    )  # fmt: skip
    figure.suptitle(
        plain(textwrap.fill(result.title, int(across / CHARACTER / 1.5))),
        x=0.01,
        ha="left",
        fontsize=TITLE_FONT_SIZE + 1,
        fontweight="bold",
    )
    return figure


def figure_text(result: ExperimentResult) -> str:
    """Return the figure in words, for those who cannot see it."""
    slots = slots_of(result)
    parts = []
    for one in series_of(result, slots):
        # Over epochs the last mean of a curve says where it went.
        ours = means([point for points in one.ours for point in points])
        first = -1 if result.form == "epochs" else 0
        here = ", ".join(f"{value:.1f}%" for _, value in ours[first:]) or "not run"
        paper = ", ".join(f"{value:.1f}%" for _, value in one.paper[first:]) or "unknown"
        parts.append(f"{one.label}: here {here}; paper {paper}")
    return f"{result.title}. R_mem of this run beside the paper's. " + ". ".join(parts) + "."


def _axis(
    axes: Axes, result: ExperimentResult, slots: Sequence[Slot], xs: list[float], *, paper: bool, width: float
) -> None:
    if result.form == "size":
        longest = max(len(size_text(x)) for x in xs)
        size_axis(axes, xs, room=(longest * CHARACTER + 0.1) / width)
        axes.set_xlabel("Training images N (log scale)")
    elif result.form == "epochs":
        epoch_axis(axes, xs, dense=150)
        axes.set_xlabel("Epochs (log scale)")
    elif result.form == "masks":
        positions, _ = positions_of(slots, paper=paper)
        axes.set_xlim(min(positions) - 0.6, max(positions) + 0.6)
        axes.set_xticks([])
        group_text(axes, positions, [slot.paper_name for slot in slots], width=width)
    else:
        positions, logarithmic = positions_of(slots, paper=paper)
        names = [slot.paper_name if paper else slot.name for slot in slots]
        level_axis(axes, positions, names, logarithmic=logarithmic, width=width)
        axes.set_xlabel(plain(capitalized(result.factor) + (" (log scale)" if logarithmic else "")))


def _joined(result: ExperimentResult, slots: Sequence[Slot]) -> bool:
    """Return whether a line from level to level means something, at least somewhere: not between categories."""
    if result.form == "level":
        return any(numbers_of([a.paper_name, b.paper_name]) is not None for a, b in pairwise(slots))
    return result.form != "masks"


def _draw_ours(
    axes: Axes, result: ExperimentResult, slots: Sequence[Slot], series: Sequence[Series], width: float
) -> None:
    xs = [x for one in series for points in one.ours for x, _ in points]
    _axis(axes, result, slots, xs, paper=False, width=width)
    drawn = [one for one in series if any(one.ours)]
    joined = _joined(result, slots)
    nulls = null_points(result, slots)
    if nulls:
        draw_nulls(axes, nulls, joined=joined, flat=result.form == "epochs")
    for index, one in enumerate(drawn):
        if result.form == "epochs":
            draw_curves(axes, one)
        else:
            step = 3 if joined else 7
            draw_points(axes, one, shifted(axes, index, len(drawn), step), joined=joined)
    if result.form in ("level", "masks"):
        positions, _ = positions_of(slots, paper=False)
        empty = [
            position
            for position, slot in zip(positions, slots, strict=True)
            if slot.level is None or not slot.level.runs
        ]
        slot_text(axes, empty, "not run")


def _draw_paper(
    axes: Axes, result: ExperimentResult, slots: Sequence[Slot], series: Sequence[Series], width: float
) -> None:
    xs = [x for one in series for x, _ in one.paper if x > 0]
    _axis(axes, result, slots, xs, paper=True, width=width)
    drawn = [one for one in series if one.paper]
    joined = _joined(result, slots)
    for index, one in enumerate(drawn):
        step = 0 if result.form == "epochs" else 3 if joined else 7
        size = 4.5 if result.form == "epochs" else 6.5
        transform = shifted(axes, index, len(drawn), step)
        gaps = one.gaps if joined else []
        points = sorted([*one.paper, *((x, math.nan) for x in gaps)])
        draw_line(axes, points, one, joined=joined, transform=transform, size=size)
    if result.form in ("level", "masks"):
        positions, _ = positions_of(slots, paper=True)
        known = {x for one in drawn for x, _ in one.paper}
        slot_text(axes, [position for position in positions if position not in known], "unknown")
    unknown = _unknown_text(result, slots)
    if unknown:
        room = int(0.95 * width / CHARACTER)
        lines = textwrap.wrap(unknown, room)
        if len(lines) > 3:
            lines = [*lines[:2], lines[2][: room - 2].rstrip(",; ") + " …"]
        axes.set_xlabel("\n".join([axes.get_xlabel(), *map(plain, lines)]).strip("\n"))


def _unknown_text(result: ExperimentResult, slots: Sequence[Slot]) -> str:
    """Say which of the paper's points are unknown where the panel itself does not say so."""
    parts = []
    if result.form in ("level", "masks"):
        at: dict[str, list[float]] = {}
        for pair in size_pairs(result):
            if pair.paper is None:
                continue
            missing = [
                slot.paper_name
                for slot in slots
                if paper_points(result, slot.paper_name)
                and not published_at(result, slot.paper_name, pair.paper / result.size_ratio)
            ]
            if missing:
                at.setdefault(", ".join(missing), []).append(pair.paper)
        parts = [
            f"{names} at N = {' and '.join(map(size_text, sorted(sizes)))}" for names, sizes in at.items()
        ]
    else:
        for name in dict.fromkeys(slot.paper_name for slot in slots):
            if not paper_points(result, name):
                parts.append(name)
                continue
            missing_at = paper_gaps(result, name)
            if missing_at:
                parts.append(f"{name} at {', '.join(map(size_text, missing_at))}")
    return f"Unknown: {'; '.join(parts)}" if parts else ""


def _height(result: ExperimentResult, slots: Sequence[Slot], legend_rows: int) -> float:
    """Return a height at which long legends and upright names leave room for the panels."""
    height = (5.6 if result.form == "masks" else 5.0) + 0.19 * max(legend_rows - 2, 0)
    if result.form == "level" and len(slots) > 10 and numbers_of([slot.paper_name for slot in slots]) is None:
        height += CHARACTER * max(min(max(len(slot.paper_name) for slot in slots), 34) - 8, 0)
    return height


def _legend_shape(labels: Sequence[str], across: float) -> tuple[int, int]:
    """Return the number of columns and of rows of the legend."""
    widths = [len(label) * CHARACTER + 0.6 for label in labels]
    columns = 1
    for count in range(2, len(labels) + 1):
        # Matplotlib fills column by column; the first columns take what does not divide.
        rows, longer = divmod(len(labels), count)
        lengths = [rows + (index < longer) for index in range(count)]
        starts = [sum(lengths[:index]) for index in range(count)]
        parts = [widths[start : start + length] for start, length in zip(starts, lengths, strict=True)]
        if sum(map(max, parts)) < across - 0.4:
            columns = count
    return columns, math.ceil(len(labels) / columns)


def _legend_entries(
    result: ExperimentResult, slots: Sequence[Slot], series: Sequence[Series]
) -> list[Line2D]:
    from matplotlib.lines import Line2D

    joined = _joined(result, slots)
    entries = [
        Line2D(
            [], [], **one.look.style, markersize=6.5, linestyle="-" if joined else "", label=plain(one.label)
        )
        for one in series
    ]
    if any(run.null is not None for run in result.runs):
        style: dict[str, Any] = {"color": COLOURS["grey"], "marker": "s", "markersize": 3.2}
        entries.append(Line2D([], [], **style, linestyle=":" if joined else "", label=NULL_LABEL))
    return entries

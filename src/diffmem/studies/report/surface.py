"""R_mem over training-set size and epochs, level by level: what was measured, and what did not have to be trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from diffmem.reports.level_axis import CHARACTER
from diffmem.reports.style import (
    COLOURS,
    SMALL_FONT_SIZE,
    dress,
    legend_below,
    readable_ticks,
)
from diffmem.reports.text import size_text, target_text
from diffmem.runs.records import RunRecord
from diffmem.studies.records import LevelRecord, StudyRecord
from diffmem.studies.report.panels import level_panels
from diffmem.studies.report.text import points_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

__all__ = ["surface_figure", "surface_text"]

_BELOW = ("#F1F5FA", "#B9D4EA", "#6BA6D3", "#2A6FAE", "#0B3C6F")
_ABOVE = ("#F6B042", "#D55E00")
_HALF = 0.44  # of the width of a cell; columns are 1 apart
_FEWEST_COLUMNS = 5.0
_STEP = 0.0005  # of R_mem, from one colour to the next
_BETWEEN_SIZES = 0.35  # more between two sizes than between two seeds of one size, where there are several

_NOT_TRAINED: dict[str, Any] = {"fill": False, "edgecolor": "#9A9A9A", "linestyle": (0, (2, 2))}

VERDICT_MARKS: dict[str, dict[str, Any]] = {
    "memorized": {"marker": "o", "markerfacecolor": "black"},
    "not memorized": {"marker": "o", "markerfacecolor": "white"},
    "undecided": {
        "marker": "o",
        "fillstyle": "left",
        "markerfacecolor": "black",
        "markerfacecoloralt": "white",
    },
    "unfinished": {"marker": ">", "markerfacecolor": "white"},
}
_VERDICT_STYLE: dict[str, Any] = {
    "linestyle": "", "color": "black", "markersize": 6, "markeredgecolor": "black", "markeredgewidth": 0.9,
}  # fmt: skip
"""How the verdict of a training is drawn: a full, an empty or a half circle; a triangle where it goes on."""


def surface_figure(result: StudyRecord) -> Figure:
    """Draw R_mem over (size, epoch) as small multiples: a column per training, a cell per evaluation point.

    Sizes stand in their order, not to scale, since a search crowds them at the crossing. Cells are blue below 1 - epsilon and
    orange from there on; a dot marks a point that is certainly at least 1 - epsilon, a question mark one that is undecided.
    Above the last cell, a dashed outline is what was not trained. The circle over a column is its verdict, and a vertical line
    is EMM.

    Args:
        result: The search, with at least one evaluation point.

    Raises:
        UserError: Nothing was measured yet.
    """
    figure, panels, width = level_panels(result, lambda level: 2.3, 3, pad=15)
    target_rate = 1 - result.epsilon
    ramp = _ramp(target_rate)
    for axes, level in panels:
        dress(axes, "Training images N (in order)", "Epoch (log scale)")
        axes.grid(visible=False)
        _panel(axes, level, ramp, target_rate, width - 0.9)
    _keys(figure, ramp, result, [axes for axes, _ in panels])
    return figure


def surface_text(result: StudyRecord) -> str:
    """Return the surface in words, for those who cannot see it."""
    peaks = points_text(result, lambda run: run.peak)
    return f"R_mem by training-set size and epoch; highest R_mem of each training: {peaks}."


def _ramp(target_rate: float) -> Colormap:
    """Return colours of R_mem in [0, 1]: blues up to the target, oranges above, so that the target can be seen."""
    from matplotlib.colors import LinearSegmentedColormap

    blues = [(target_rate * i / (len(_BELOW) - 1), colour) for i, colour in enumerate(_BELOW)]
    oranges = [
        (target_rate + (1 - target_rate) * i / (len(_ABOVE) - 1), colour) for i, colour in enumerate(_ABOVE)
    ]
    return LinearSegmentedColormap.from_list("memorized", [*blues, *oranges], N=round(1 / _STEP) + 1)


def _steps(runs: Sequence[RunRecord]) -> list[list[float]]:
    """Return the epochs of all points and ends, ascending, in groups that make one row of cells.

    The same evaluation lies at slightly other epochs in other sizes, as a whole number of images was seen; such epochs are one
    row. Two epochs of one training never are.
    """
    own = [sorted({point.epoch for point in run.curve}) for run in runs]
    apart = min((b / a for epochs in own for a, b in pairwise(epochs)), default=1.2)
    groups: list[list[float]] = []
    for epoch in sorted({epoch for epochs in own for epoch in epochs} | {run.epochs for run in runs}):
        if groups and epoch < groups[-1][0] * min(math.sqrt(apart), 1.1):
            groups[-1].append(epoch)
        else:
            groups.append([epoch])
    return groups


def _bounds(epochs: Sequence[float]) -> list[float]:
    """Return where one epoch's cells end and the next one's begin: halfway in the logarithm; one more than epochs."""
    if len(epochs) == 1:
        return [epochs[0] / 1.3, epochs[0] * 1.3]
    middles = [math.sqrt(a * b) for a, b in pairwise(epochs)]
    return [epochs[0] ** 2 / middles[0], *middles, epochs[-1] ** 2 / middles[-1]]


def _positions(runs: Sequence[RunRecord]) -> list[float]:
    """Return where the column of each run is; runs are ascending in size."""
    several = len({run.size for run in runs}) < len(runs)
    positions = [0.0]
    for before, run in pairwise(runs):
        positions.append(positions[-1] + 1 + (_BETWEEN_SIZES if several and run.size != before.size else 0.0))
    return positions


def _panel(axes: Axes, level: LevelRecord, ramp: Colormap, target_rate: float, width: float) -> None:
    runs = sorted(level.runs, key=lambda run: (run.size, run.seed))
    positions = _positions(runs)
    groups = _steps(runs)
    row = {epoch: index for index, group in enumerate(groups) for epoch in group}
    epochs = [group[len(group) // 2] for group in groups]
    bounds = _bounds(epochs)
    axes.set_yscale("log")
    axes.set_ylim(bounds[0], bounds[-1])
    aside = max(0.7, (_FEWEST_COLUMNS - positions[-1]) / 2)  # few columns are not drawn as wide as the panel
    axes.set_xlim(-aside, positions[-1] + aside)
    shown = readable_ticks(epochs, bounds[0], bounds[-1], room=0.09)
    axes.set_yticks(shown, [size_text(epoch) for epoch in shown])
    axes.set_yticks([], minor=True)
    for position, run in zip(positions, runs, strict=True):
        reached = bounds[0]
        for point in run.curve:
            # From where the last cell ended: a point that other trainings alone have leaves no gap.
            low, high = reached, bounds[row[point.epoch] + 1]
            reached = high
            share = point.memorized.value
            # The target itself counts as reached.
            colour = ramp(share + _STEP if share >= target_rate - 1e-9 else share)
            _add_cell(
                axes, position, low, high, facecolor=colour, edgecolor="white", linewidth=0.6, gid="cell"
            )
            sign = {"at least": "•", "undecided": "?"}.get(point.verdict or "")
            if sign is not None:
                axes.annotate(
                    sign, (position, math.sqrt(low * high)), ha="center", va="center",
                    fontsize=12 if sign == "•" else 8, fontweight="bold", color=_ink(colour),
                )  # fmt: skip
        end = bounds[row[run.epochs] + 1]
        if reached < end * 0.999:
            _add_cell(axes, position, reached, end, **_NOT_TRAINED, linewidth=0.8, gid="not trained")
        axes.plot(
            position, 1.035, transform=axes.get_xaxis_transform(), clip_on=False,
            **_VERDICT_STYLE, **VERDICT_MARKS[run.verdict or "unfinished"],
        )  # fmt: skip
    _name_sizes(axes, runs, positions, width)
    _draw_emm(axes, level, runs, positions)


def _add_cell(axes: Axes, position: float, low: float, high: float, **style: Any) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((position - _HALF, low), 2 * _HALF, high - low, **style))


def _name_sizes(axes: Axes, runs: Sequence[RunRecord], positions: Sequence[float], width: float) -> None:
    """Put the sizes under their columns, upright where they do not fit side by side."""
    at: dict[int, list[float]] = {}
    for run, position in zip(runs, positions, strict=True):
        at.setdefault(run.size, []).append(position)
    middles = [sum(found) / len(found) for found in at.values()]
    labels = [size_text(size) for size in at]
    left, right = axes.get_xlim()
    slot = width / (right - left) * (middles[-1] - middles[0]) / max(len(middles) - 1, 1)
    axes.set_xticks(middles, labels)
    if len(labels) > 1 and max(map(len, labels)) * CHARACTER + 0.04 > slot:
        axes.tick_params(axis="x", labelrotation=90)
    axes.tick_params(axis="x", length=0)


def _draw_emm(axes: Axes, level: LevelRecord, runs: Sequence[RunRecord], positions: Sequence[float]) -> None:
    """Draw EMM where it lies among the columns, which are not to scale; nothing if it is not one number."""
    emm = level.emm.value if level.emm.status == "estimated" else None
    if emm is None or len(runs) < 2:
        return
    below = [(run.size, position) for run, position in zip(runs, positions, strict=True) if run.size <= emm]
    above = [(run.size, position) for run, position in zip(runs, positions, strict=True) if run.size > emm]
    if not below or not above:
        return
    (low, first), (high, last) = below[-1], above[0]
    share = math.log(emm / low) / math.log(high / low)
    # Between the two columns, not over one of them.
    start, end = first + _HALF, last - _HALF
    axes.axvline(start + share * (end - start), color=COLOURS["black"], linewidth=1.6, gid="EMM", zorder=4)


def _ink(colour: tuple[float, ...]) -> str:
    red, green, blue = colour[:3]
    return "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.45 else "white"


def _keys(figure: Figure, ramp: Colormap, result: StudyRecord, panels: list[Axes]) -> None:
    """Draw the colours of R_mem with 1 - epsilon, and what the signs mean."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    target = 100 * (1 - result.epsilon)
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, 100), ramp), ax=panels, fraction=0.025, pad=0.015, aspect=32,
        shrink=1.0 if len(panels) <= 3 else 0.5,
    )  # fmt: skip
    ticks = sorted({0.0, 25.0, 50.0, 75.0, target} - ({75.0} if 0 < abs(target - 75) < 8 else set()))
    bar.set_ticks(ticks, labels=[f"{tick:.4g}%" for tick in ticks])
    bar.ax.tick_params(labelsize=SMALL_FONT_SIZE)
    bar.ax.axhline(target, color="black", linewidth=1.6)
    bar.set_label("R_mem", fontsize=SMALL_FONT_SIZE)
    bar.outline.set_visible(False)
    seen = {run.verdict for level in result.levels for run in level.runs}
    handles: list[Any] = [
        Line2D([], [], **_VERDICT_STYLE, **marks, label=verdict)
        for verdict, marks in VERDICT_MARKS.items()
        if verdict in seen
    ]
    handles += [
        Line2D(
            [],
            [],
            linestyle="",
            marker="o",
            markersize=3,
            color="black",
            label=f"certainly at least {target_text(result.epsilon)}",
        ),
        Line2D([], [], linestyle="", marker="$?$", color="black", label="not decided at this epoch"),
        Patch(**_NOT_TRAINED, label="not trained (so far)"),
        Line2D([], [], color="black", linewidth=1.6, label="EMM"),
    ]
    legend_below(figure, handles, 1.8)

"""Many runs at once: where between optimum and Gaussian they lie, and how that goes with R_mem."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from diffmem.errors import UserError
from diffmem.optimum.gap_records import Correlation, GapInputs, RunGap, positions_and_rmem
from diffmem.optimum.report.figure import sigma_axis
from diffmem.optimum.report.gap_figure import INPUT_TEXT
from diffmem.reports.figures import draw_intervals
from diffmem.reports.style import (
    COLOURS,
    FONT_SIZE,
    SMALL_FONT_SIZE,
    TITLE_FONT_SIZE,
    dress,
    new_figure,
    ordered_colours,
    percent_axis,
)
from diffmem.reports.text import size_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["correlation_text", "position_figure", "scatter_figure"]

_MARKERS = "osD^vP*X"
_TITLE = "Position of the model between its optimum and a Gaussian"


def correlation_text(found: Correlation) -> str:
    """Return a correlation with its interval and its number of runs."""
    return f"Spearman {found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}] over {found.runs} runs"


def position_figure(runs: Sequence[RunGap]) -> Figure:
    """Draw the position over noise levels, a curve for each run in the colour of its R_mem, a panel for each kind of input.

    Args:
        runs: At least one.

    Raises:
        UserError: There are no runs.
    """
    kinds = [kind for kind in INPUT_TEXT if any(run.curve(kind) for run in runs)]
    if not kinds:
        raise UserError("There are no runs to draw; name at least one.")
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    ramp, scale = colormaps["viridis_r"], Normalize(0, 100)
    figure = new_figure(1.4 + 3.2 * len(kinds), 3.9)
    grid = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for axes, kind in zip(grid, kinds, strict=True):
        dress(axes, "Noise level σ (log scale)", "")
        axes.set_title(f"on {INPUT_TEXT[kind]}", fontsize=FONT_SIZE, loc="left")
        for run in runs:
            curve = run.curve(kind)
            if curve is None or curve.band is None:
                continue
            inside = [
                point
                for point in curve.points
                if curve.band[0] <= point.sigma <= curve.band[1] and point.position
            ]
            colour = COLOURS["grey"] if run.rmem is None else ramp(scale(100 * run.rmem.value))
            axes.plot(
                [point.sigma for point in inside],
                [point.position.value for point in inside if point.position],
                color=colour, linewidth=1.2 if len(runs) > 8 else 1.8, marker="o", markersize=2.5, alpha=0.85,
            )  # fmt: skip
        curves = [curve for run in runs if (curve := run.curve(kind)) is not None]
        sigma_axis(axes, [point.sigma for curve in curves for point in curve.points])
    low, high = grid[0].get_ylim()
    grid[0].set_ylim(max(-0.5, min(low, -0.05)), min(1.6, max(high, 1.05)))
    grid[0].set_yticks([0, 0.25, 0.5, 0.75, 1], ["0, the optimum", "0.25", "0.5", "0.75", "1, the Gaussian"])
    if any(run.rmem is not None for run in runs):
        bar = figure.colorbar(ScalarMappable(scale, ramp), ax=list(grid), pad=0.01, aspect=30)
        bar.set_label("R_mem of the run, percent", fontsize=FONT_SIZE)
        bar.ax.tick_params(labelsize=SMALL_FONT_SIZE)
    figure.suptitle(_TITLE, fontsize=TITLE_FONT_SIZE, x=0.01, ha="left", fontweight="bold")
    return figure


def scatter_figure(runs: Sequence[RunGap], correlations: Sequence[Correlation]) -> Figure:
    """Draw R_mem against the position of each run, a panel for each kind of input; sizes have their colours and markers.

    Args:
        runs: Those without R_mem are left out.
        correlations: What is written above the panels.

    Raises:
        UserError: No run has R_mem and a position.
    """
    known = [run for run in runs if run.rmem is not None]
    kinds = [kind for kind in INPUT_TEXT if positions_and_rmem(runs, kind)]
    if not kinds:
        raise UserError(
            "No run has been measured, so there is nothing to plot against R_mem; see diffmem measure --expdir."
        )
    figure = new_figure(1.2 + 3.1 * len(kinds), 4.3)
    grid = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    sizes = sorted({run.images for run in known})
    colours = dict(zip(sizes, ordered_colours(len(sizes)), strict=True))
    for axes, kind in zip(grid, kinds, strict=True):
        dress(axes, "Position: 0 optimum, 1 Gaussian", "")
        title = [
            f"on {INPUT_TEXT[kind]}",
            *(correlation_text(one) for one in correlations if one.kind == kind),
        ]
        axes.set_title("\n".join(title), fontsize=SMALL_FONT_SIZE, loc="left")
        percent_axis(axes)
        for index, size in enumerate(sizes):
            _cloud(
                axes,
                [run for run in known if run.images == size],
                kind,
                colours[size],
                _MARKERS[index % 8],
                size,
            )
        axes.axvline(0, color=COLOURS["grey"], linewidth=0.8, linestyle=":")
        axes.axvline(1, color=COLOURS["grey"], linewidth=0.8, linestyle=":")
    grid[0].set_ylabel("Samples that are copies, R_mem", fontsize=FONT_SIZE)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=6, frameon=False, fontsize=SMALL_FONT_SIZE)
    figure.suptitle(_TITLE.replace("where does the model lie?", "does that predict R_mem?"), fontsize=TITLE_FONT_SIZE, x=0.01, ha="left",
                    fontweight="bold")  # fmt: skip
    return figure


def _cloud(
    axes: Axes, runs: Sequence[RunGap], kind: GapInputs, colour: object, marker: str, size: int
) -> None:
    points = positions_and_rmem(runs, kind)
    if not points:
        return
    rates = [(position.value, rate) for position, rate in points]
    draw_intervals(axes, rates, colour, capsize=0, alpha=0.35)  # type: ignore[arg-type]
    axes.errorbar(
        [x for x, _ in rates], [100 * rate.value for _, rate in rates],
        xerr=[[p.value - p.low for p, _ in points], [p.high - p.value for p, _ in points]],
        fmt=marker, color=colour, markersize=4, elinewidth=1, alpha=0.8, label=f"N = {size_text(size)}",
    )  # fmt: skip

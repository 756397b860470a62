"""How far runs are from their optimum, drawn: some runs side by side, with their losses; many at once, with their R_mem."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from diffmem.errors import UserError
from diffmem.memorization.rates import MeanRecord
from diffmem.optimum.gap_records import Correlation, GapCurve, GapInputs, GapPoint, RunGap, positions_and_rmem
from diffmem.optimum.report.figure import draw_band, sigma_axis
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
from diffmem.reports.text import rate_text, size_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "INPUT_TEXT",
    "correlation_text",
    "gap_figure",
    "loss_figure",
    "position_figure",
    "run_text",
    "scatter_figure",
    "side_by_side",
]

INPUT_TEXT: dict[GapInputs, str] = {
    "training": "noisy training images",
    "heldout": "noisy held-out images",
    "trajectory": "states of its own sampling",
}
MOST_COLUMNS = 4
_GREY_LEVELS = 127.5
_CURVE = {"markersize": 3, "linewidth": 1.5}


def run_text(run: RunGap) -> str:
    """Return a run in two lines: its size and epochs, and its R_mem."""
    rate = "R_mem not measured" if run.rmem is None else f"R_mem {rate_text(run.rmem)}"
    conditional = ", with labels" if run.conditional else ""
    epoch = "" if run.epoch is None else f", epoch {size_text(round(run.epoch))}"
    return f"N = {size_text(run.images)}{conditional}{epoch}\n{rate}"


def side_by_side(runs: Sequence[RunGap], most: int = MOST_COLUMNS) -> list[RunGap]:
    """Choose the runs that are drawn side by side: all, or `most` that span the range of R_mem; from most copies to fewest.

    Runs without R_mem come after the others, in the given order.
    """
    known = sorted(
        (run for run in runs if run.rmem is not None), key=lambda run: -(run.rmem.value if run.rmem else 0)
    )
    ordered = [*known, *(run for run in runs if run.rmem is None)]
    if len(ordered) <= most:
        return ordered
    pool = known if len(known) >= most else ordered
    return [pool[round(index * (len(pool) - 1) / (most - 1))] for index in range(most)]


def gap_figure(runs: Sequence[RunGap]) -> Figure:
    """Draw the distances of D to the optimum and to the Gaussian: a column for each run, a row for each kind of input.

    Args:
        runs: What is drawn, in this order.

    Raises:
        UserError: There are no runs.
    """
    kinds = [kind for kind in INPUT_TEXT if any(run.curve(kind) for run in runs)]
    figure, grid = _grid(runs, len(kinds), 2.25)
    for row, kind in enumerate(kinds):
        for column, run in enumerate(runs):
            axes, curve = grid[row][column], run.curve(kind)
            if curve is None:
                axes.set_axis_off()
                continue
            _distances(axes, curve)
            if not row:
                axes.set_title(run_text(run), fontsize=SMALL_FONT_SIZE, loc="left", fontweight="bold")
            if not column:
                axes.set_ylabel(f"on {INPUT_TEXT[kind]}\nRMS, grey levels", fontsize=SMALL_FONT_SIZE)
            if row == len(kinds) - 1:
                axes.set_xlabel("Noise level σ", fontsize=SMALL_FONT_SIZE)
    for axes, *_ in grid:  # the axes of a row share their limits, which are known when all is drawn
        axes.set_ylim(0, 1.12 * axes.get_ylim()[1])  # with room for the position at the top
    _complete(figure, grid[0][0], "How far is the model from its optimum?")
    return figure


def _distances(axes: Axes, curve: GapCurve) -> None:
    dress(axes, "", "")
    points, sigmas = curve.points, [point.sigma for point in curve.points]
    lines: list[tuple[Callable[[GapPoint], MeanRecord], str, str, str, str]] = [
        (lambda one: one.between, COLOURS["grey"], ":", "", "optimum to Gaussian"),
        (
            lambda one: one.to_gaussian,
            COLOURS["orange"],
            "--",
            "s",
            "model to Gaussian of its training images",
        ),
        (lambda one: one.to_optimum, COLOURS["blue"], "-", "o", "model to optimum of its training images"),
    ]
    for value, colour, style, marker, label in lines:
        means = [value(point) for point in points]
        band = [[_rms(getattr(one, end)) for one in means] for end in ("low", "value", "high")]
        draw_band(axes, sigmas, band, colour, label, linestyle=style, marker=marker, **_CURVE)
    if curve.band is not None:
        axes.axvspan(
            *curve.band,
            color=COLOURS["grey"],
            alpha=0.1,
            linewidth=0,
            label="where optimum and Gaussian differ",
            zorder=0,
        )
    sigma_axis(axes, sigmas)
    if curve.position is not None:
        axes.annotate(
            f"position {curve.position.value:.2f}", (0.03, 0.97), xycoords="axes fraction", va="top", fontsize=SMALL_FONT_SIZE,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
        )  # fmt: skip


def _rms(square: float) -> float:
    return _GREY_LEVELS * float(max(square, 0.0) ** 0.5)


def loss_figure(runs: Sequence[RunGap]) -> Figure:
    """Draw the training loss at each noise level, the least that any function can reach, and the loss on held-out images.

    Args:
        runs: What is drawn, a panel each, in this order.

    Raises:
        UserError: There are no runs.
    """
    figure, grid = _grid(runs, 1, 2.9)
    for axes, run in zip(grid[0], runs, strict=True):
        dress(axes, "", "")
        training, heldout = run.curve("training"), run.curve("heldout")
        lines: list[tuple[GapCurve | None, Callable[[GapPoint], MeanRecord | None], str, str, str, str]] = [
            (heldout, lambda one: one.loss, COLOURS["vermillion"], "-", "s", "held-out images"),
            (training, lambda one: one.loss, COLOURS["blue"], "-", "o", "training images"),
            (
                training,
                lambda one: one.optimum_loss,
                COLOURS["black"],
                "--",
                "",
                "training images: exact minimum",
            ),
        ]
        shown = [value(point) for curve, value, *_ in lines[:2] if curve for point in curve.points]
        floor = min((one.value for one in shown if one is not None and one.value > 0), default=1e-9) / 3
        for curve, value, colour, style, marker, label in lines:
            if curve is None:
                continue
            pairs = [(point.sigma, found) for point in curve.points if (found := value(point)) is not None]
            sigmas = [sigma for sigma, _ in pairs]
            band = [
                [max(getattr(one, end), floor / 10) for _, one in pairs] for end in ("low", "value", "high")
            ]
            draw_band(axes, sigmas, band, colour, label, linestyle=style, marker=marker, **_CURVE)
            sigma_axis(axes, sigmas)
        axes.set_yscale("log")
        axes.set_ylim(bottom=floor)
        axes.set_title(run_text(run), fontsize=SMALL_FONT_SIZE, loc="left", fontweight="bold")
        axes.set_xlabel("Noise level σ", fontsize=SMALL_FONT_SIZE)
    grid[0][0].set_ylabel("Squared error per value,\n[-1, 1] units (log scale)", fontsize=SMALL_FONT_SIZE)
    _complete(figure, grid[0][0], "Denoising loss and its exact minimum")
    return figure


def _grid(runs: Sequence[RunGap], rows: int, height: float) -> tuple[Figure, list[list[Axes]]]:
    if not runs or not rows:
        raise UserError("There are no runs to draw; name at least one.")
    figure = new_figure(max(4.6, 1.1 + 2.5 * len(runs)), 1.1 + height * rows)
    grid = figure.subplots(rows, len(runs), sharex=True, sharey="row", squeeze=False)
    return figure, [list(row) for row in grid]


def _complete(figure: Figure, axes: Axes, title: str) -> None:
    """Add a title, and the legend of some axes below the panels."""
    figure.suptitle(title, fontsize=TITLE_FONT_SIZE, x=0.01, ha="left", fontweight="bold")
    handles, labels = axes.get_legend_handles_labels()
    wide = figure.get_figwidth() > 7
    figure.legend(
        handles[::-1],
        labels[::-1],
        loc="outside lower left",
        ncols=2 if wide else 1,
        frameon=False,
        fontsize=SMALL_FONT_SIZE,
    )


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
    figure.suptitle(_TITLE, fontsize=TITLE_FONT_SIZE, x=0.01, ha="left", fontweight="bold")
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

"""How far runs are from their optimum, drawn side by side: distances to the optimum and to the Gaussian, and losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from diffmem.errors import UserError
from diffmem.memorization.means import MeanRecord
from diffmem.optimum.gap_records import GapCurve, GapInputs, GapPoint, RunGap
from diffmem.optimum.report.figure import draw_band, sigma_axis
from diffmem.reports.style import COLOURS, SMALL_FONT_SIZE, TITLE_FONT_SIZE, dress, new_figure
from diffmem.reports.text import rate_text, size_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["INPUT_TEXT", "gap_figure", "loss_figure", "run_text", "side_by_side"]

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
    return f"N = {size_text(run.images)}{conditional}, epoch {size_text(round(run.epoch))}\n{rate}"


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
    figure.suptitle(
        "How far is the model from its optimum?",
        fontsize=TITLE_FONT_SIZE,
        x=0.01,
        ha="left",
        fontweight="bold",
    )
    _legend(figure, grid[0][0])
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
    figure.suptitle(
        "Denoising loss and its exact minimum",
        fontsize=TITLE_FONT_SIZE,
        x=0.01,
        ha="left",
        fontweight="bold",
    )
    _legend(figure, grid[0][0])
    return figure


def _grid(runs: Sequence[RunGap], rows: int, height: float) -> tuple[Figure, list[list[Axes]]]:
    if not runs or not rows:
        raise UserError("There are no runs to draw; name at least one.")
    figure = new_figure(max(4.6, 1.1 + 2.5 * len(runs)), 1.1 + height * rows)
    grid = figure.subplots(rows, len(runs), sharex=True, sharey="row", squeeze=False)
    return figure, [list(row) for row in grid]


def _legend(figure: Figure, axes: Axes) -> None:
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

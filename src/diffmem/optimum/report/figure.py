"""The optimum of an image set over noise levels, drawn: weights, how many images are averaged, and the dimension of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffmem.files import write_folder
from diffmem.memorization.rates import MeanRecord
from diffmem.reports.figures import draw_intervals, figure_svg
from diffmem.reports.folder import numbers_bytes
from diffmem.reports.html import png_bytes
from diffmem.reports.picture_page import PicturePage
from diffmem.reports.style import COLOURS, SMALL_FONT_SIZE, dress, epoch_axis, new_figure, percent_axis
from diffmem.reports.text import rate_text, size_text
from diffmem.text import count_text, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pydantic import BaseModel
    from rich.table import Table

    from diffmem.optimum.curves import Collapse, OptimumCurves, OptimumPoint

__all__ = [
    "collapse_text",
    "draw_band",
    "draw_mean",
    "optimum_figure",
    "optimum_table",
    "plain_table",
    "sigma_axis",
    "write_figures",
    "write_optimum",
]


def optimum_figure(result: OptimumCurves) -> Figure:
    """Draw the curves of an optimum, three panels over one axis of noise levels, with the collapse marked in all.

    Noise levels below which nothing changes any more are left out at the left.
    """
    points = _shown(result.points)
    figure = new_figure(7.0, 8.4)
    weights, numbers, dimensions = figure.subplots(
        3, 1, sharex=True, gridspec_kw={"height_ratios": [1.25, 1, 0.8]}
    )
    sigmas = [point.sigma for point in points]

    dress(weights, "", "Weight in the posterior")
    percent_axis(weights)
    draw_mean(
        weights,
        sigmas,
        [point.nearest_weight for point in points],
        COLOURS["sky"],
        "nearest image, mean",
        100,
        "--",
    )
    draw_mean(
        weights, sigmas, [point.own_weight for point in points], COLOURS["blue"], "own image, mean", 100
    )
    shares = [(point.sigma, point.own_above_half) for point in points]
    weights.plot(
        sigmas, [100 * rate.value for _, rate in shares], color=COLOURS["vermillion"], marker="o", markersize=3.5,
        linestyle="", label="share of noisy images whose\nown weight exceeds 1/2, 95% interval",
    )  # fmt: skip
    draw_intervals(weights, shares, COLOURS["vermillion"], capsize=2)

    dress(numbers, "", "Images averaged, exp(entropy)")
    low = [point.effective_number_10 for point in points]
    high = [point.effective_number_90 for point in points]
    numbers.fill_between(
        sigmas, low, high, color=COLOURS["blue"], alpha=0.16, linewidth=0, label="middle 80% of noisy images"
    )
    draw_mean(numbers, sigmas, [point.effective_number for point in points], COLOURS["blue"], "mean")
    numbers.set_yscale("log")
    _number_axis(numbers, result.images)

    dress(
        dimensions,
        "Noise level σ (log scale; 1 is half the range of pixel values, 127.5 grey levels)",
        "Local dimension, mean",
    )
    draw_mean(dimensions, sigmas, [point.dimension for point in points], COLOURS["blue"], None)
    dimensions.set_ylim(bottom=0)

    for axes in (weights, numbers, dimensions):
        _mark(axes, result.collapse, named=axes is weights)
        sigma_axis(axes, sigmas)
    # The weights fall to the right and the numbers rise, so these corners are free.
    weights.legend(frameon=False, fontsize=SMALL_FONT_SIZE, loc="upper right")
    numbers.legend(frameon=False, fontsize=SMALL_FONT_SIZE, loc="lower right")
    what = "conditional optimum" if result.conditional else "optimum"
    figure.suptitle(
        f"The {what} of {count_text(result.images, 'image', 'images')}, seen from {result.queries:,} noisy training images",
        fontsize=11.5, x=0.01, ha="left", fontweight="bold",
    )  # fmt: skip
    return figure


def draw_band(
    axes: Axes,
    sigmas: Sequence[float],
    band: Sequence[Sequence[float]],
    colour: str,
    label: str | None,
    **style: Any,
) -> None:
    """Draw a curve with the band of its intervals.

    Args:
        axes: Where.
        sigmas: Noise levels.
        band: Lower ends, values and upper ends at each of them.
        colour: Of both.
        label: For the legend.
        style: How the curve is drawn, for `plot`.
    """
    low, middle, high = band
    axes.fill_between(sigmas, low, high, color=colour, alpha=0.25, linewidth=0)
    axes.plot(sigmas, middle, color=colour, label=label, **style)


def draw_mean(
    axes: Axes,
    sigmas: Sequence[float],
    means: Sequence[MeanRecord],
    colour: str,
    label: str | None,
    factor: float = 1.0,
    linestyle: str = "-",
) -> None:
    """Draw a curve of means with the band of their 95% intervals, multiplied by a factor."""
    band = [
        [factor * end for end in ends]
        for ends in zip(*((m.low, m.value, m.high) for m in means), strict=True)
    ]
    draw_band(axes, sigmas, band, colour, label, linewidth=1.7, linestyle=linestyle)


def sigma_axis(axes: Axes, sigmas: Sequence[float]) -> None:
    """Make the x axis a log10 axis of noise levels with plain numbers."""
    from matplotlib.ticker import FuncFormatter

    epoch_axis(axes, sigmas)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _number_axis(axes: Axes, images: int) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: size_text(value)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(0.8, 1.6 * max(images, 2))
    axes.axhline(images, color=COLOURS["grey"], linewidth=1, linestyle=":")
    axes.annotate(
        f"all {images:,}", (0, images), xycoords=axes.get_yaxis_transform(), xytext=(4, -3), textcoords="offset points",
        va="top", fontsize=SMALL_FONT_SIZE, color=COLOURS["grey"],
    )  # fmt: skip


def _shown(points: Sequence[OptimumPoint]) -> Sequence[OptimumPoint]:
    """Return the points from the last noise level on at which every query still is its own image alone."""
    settled = 0
    for index, point in enumerate(points):
        if (
            point.own_above_half.value < 1
            or point.effective_number.value > 1.001
            or point.dimension.value > 0.01
        ):
            break
        settled = index
    return points[max(0, min(settled - 1, len(points) - 2)) :]


def _mark(axes: Axes, collapse: Collapse, *, named: bool) -> None:
    lines = (
        (collapse.measured, COLOURS["black"], "-", f"own weight falls through 1/2: {_measured(collapse)}"),
        (collapse.spectrum, COLOURS["green"], "--", "predicted from all eigenvalues: "),
        (collapse.isotropic, COLOURS["orange"], ":", "predicted from one dimension: "),
    )
    if collapse.low is not None and collapse.high is not None:
        axes.axvspan(collapse.low, collapse.high, color=COLOURS["black"], alpha=0.1, linewidth=0)
    for value, colour, style, words in lines:
        if value is not None:
            label = words if colour == COLOURS["black"] else f"{words}{value:.3g}"
            axes.axvline(
                value, color=colour, linestyle=style, linewidth=1.5, label=label if named else None, zorder=1
            )


def _measured(collapse: Collapse) -> str:
    if collapse.measured is None:
        return "not at these noise levels"
    low, high = ("?" if end is None else f"{end:.3g}" for end in (collapse.low, collapse.high))
    return f"{collapse.measured:.3g} [{low}, {high}]"


def collapse_text(collapse: Collapse) -> str:
    """Return the collapse, measured and predicted, in a few lines for the terminal."""
    lines = [f"The own weight falls through 1/2 at sigma {_measured(collapse)}."]
    if collapse.spectrum is None or collapse.isotropic is None:
        lines.append("Nothing is predicted: there are no two distinct images.")
        return "\n".join(lines)
    lines.append(
        f"Predicted from all eigenvalues of the covariance (log n = 1/2 sum log(1 + v / sigma^2)): {collapse.spectrum:.3g}."
    )
    lines.append(
        f"Predicted from one dimension (s / sqrt(n^(2/d) - 1), d = {collapse.dimension:.3g}, s = {collapse.scale:.3g},"
        f" n = {collapse.count:,}): {collapse.isotropic:.3g}."
    )
    return "\n".join(lines)


def optimum_table(result: OptimumCurves, rows: int = 20) -> Table:
    """Return the curves as a table for a terminal of 80 columns: at most `rows` noise levels, those at which something happens."""
    return plain_table(*_cells(result, rows))


def _cells(result: OptimumCurves, rows: int) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Return the names of the columns, and the cells of at most so many noise levels."""
    points = _shown(result.points)
    step = -(-len(points) // rows)
    names = (
        "sigma",
        "own\nweight",
        "own over 1/2\n[95%]",
        "nearest",
        "entropy\n(nats)",
        "images\naveraged",
        "dim",
    )
    cells: list[Sequence[str]] = [
        (
            f"{point.sigma:.3g}",
            percent(point.own_weight.value),
            rate_text(point.own_above_half),
            percent(point.nearest_weight.value),
            f"{point.entropy.value:.2f}",
            size_text(round(point.effective_number.value, 1)),
            f"{point.dimension.value:.1f}",
        )
        for point in points[::step]
    ]
    return names, cells


def plain_table(names: Sequence[str], rows: Sequence[Sequence[str]], left: int = 0) -> Table:
    """Return a narrow table for a terminal, whose cells are shown as they stand: no markup is read.

    Args:
        left: How many columns, from the first, are aligned left; the others right.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for index, name in enumerate(names):
        table.add_column(name, justify="left" if index < left else "right", no_wrap=True, vertical="bottom")
    for cells in rows:
        table.add_row(*map(Text, cells))
    return table


def write_optimum(result: OptimumCurves, folder: Path) -> list[Path]:
    """Write `optimum.json`, `optimum.html`, `optimum.png` and `optimum.svg`; see `write_figures`."""
    measured, *predicted = collapse_text(result.collapse).splitlines()
    heads, rows = _cells(result, 20)
    page = PicturePage(
        "The closed-form optimum of an image set",
        f"The optimum of {count_text(result.images, 'image', 'images')}",
        measured,
        heads,
        rows,
        (
            *predicted,
            "The optimum denoises by averaging training images. The own weight is the share of the image that a noisy training image was"
            " made from; once it exceeds 1/2, sampling returns this image. Images averaged: exp(entropy of the weights).",
        ),
    )
    alt = "Over noise levels: the weight of the own image, how many images are averaged, and the local dimension, as in the table."
    return write_figures(folder, {"optimum": (optimum_figure(result), alt)}, "optimum", result, page)


def write_figures(
    folder: Path, figures: Mapping[str, tuple[Figure, str]], name: str, result: BaseModel, page: PicturePage
) -> list[Path]:
    """Write figures as PNG and SVG, a page with them and, last, the numbers (see `write_folder`); return their paths.

    Args:
        folder: Made if it is missing.
        figures: Name -> figure, and what it shows in words.
        name: Of the page and the numbers, without endings.
        result: The numbers.
        page: What stands beside the figures.

    Returns:
        The numbers, the page, and the figures.

    Raises:
        DiffmemError: A file cannot be written.
    """
    numbers = numbers_bytes(result)
    drawn, shown = {}, {}
    for file, (figure, alt) in figures.items():
        drawn[f"{file}.png"] = shown[alt] = png_bytes(figure)
        drawn[f"{file}.svg"] = figure_svg(figure).encode()
    contents = {**drawn, f"{name}.html": page.render(shown), f"{name}.json": numbers}
    *others, html, last = write_folder(folder, contents)
    return [last, html, *others]

"""The denoising error of a model on training images: a picture over noise levels, and tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffmem.optimum.denoising_records import DenoisingCheck, ErrorPoint
from diffmem.optimum.report.figure import draw_band, plain_table, sigma_axis
from diffmem.reports.style import COLOURS, SMALL_FONT_SIZE, TITLE_FONT_SIZE, dress, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

    from diffmem.memorization.rates import MeanRecord

__all__ = ["denoising_alt", "denoising_figure", "denoising_rows", "denoising_table", "reading_rows"]

LINES = {
    "nothing": ("doing nothing (σ²)", "grey", ":", ""),
    "mean_image": ("the mean image (variance)", "black", "--", ""),
    "gaussian": ("the Gaussian of the images", "orange", "-.", "s"),
    "model": ("the model", "blue", "-", "o"),
}
"""What is drawn and tabled, by field of `ErrorPoint`: its name, colour, line and marker."""

COLUMNS = ("model", "doing nothing", "mean image", "Gaussian")
_FIELDS = ("model", "nothing", "mean_image", "gaussian")


def denoising_figure(check: DenoisingCheck) -> Figure:
    """Draw the error of a model against the noise level, both axes logarithmic, with what needs no network.

    Bands are 95% intervals of the means. Shaded are the levels at which a model is refused. A better reading is drawn, too.

    Args:
        check: One that measured something.
    """
    figure = new_figure(7.0, 4.4)
    axes = figure.subplots()
    unit = "latents" if check.latent else "pixels in [-1, 1]"
    dress(axes, "Noise level σ (log scale)", f"Mean squared error per value,\n{unit} (log scale)")
    sigmas = [point.sigma for point in check.points]
    values = [point.model.value for point in check.points] + [point.nothing.value for point in check.points]
    floor = min((value for value in values if value > 0), default=1e-9)
    # Errors of nothing but rounding would squeeze all others into a line.
    floor = max(floor, 1e-3 * min(point.nothing.value for point in check.points)) / 2
    for name, (label, colour, style, marker) in LINES.items():
        found = [_mean(point, name) for point in check.points]
        means = [one for one in found if one is not None]
        if len(means) < len(sigmas):
            continue
        band = [[max(getattr(one, end), floor / 10) for one in means] for end in ("low", "value", "high")]
        draw_band(
            axes,
            sigmas,
            band,
            COLOURS[colour],
            label,
            linestyle=style,
            marker=marker,
            markersize=4,
            linewidth=1.7,
        )
    better = check.better
    if better is not None:
        pairs = [
            (sigma, error) for sigma, error in zip(sigmas, better.errors, strict=True) if error is not None
        ]
        axes.plot(
            [sigma for sigma, _ in pairs], [error for _, error in pairs], color=COLOURS["green"], marker="^", markersize=4,
            linewidth=1.7, label=f"read otherwise: {better.text}",
        )  # fmt: skip
    middle = [point.sigma for point in check.points if point.middle]
    if middle:
        axes.axvspan(
            middle[0],
            middle[-1],
            color=COLOURS["grey"],
            alpha=0.12,
            linewidth=0,
            label="middle levels",
            zorder=0,
        )
    axes.set_yscale("log")
    # What doing nothing costs at high noise would take half of the picture.
    axes.set_ylim(
        floor, 6 * max(one.value for point in check.points for one in (point.model, point.mean_image))
    )
    sigma_axis(axes, sigmas)
    axes.legend(frameon=False, fontsize=SMALL_FONT_SIZE, loc="lower right")
    figure.suptitle(
        f"Denoising error on {check.images:,} training images",
        fontsize=TITLE_FONT_SIZE,
        x=0.01,
        ha="left",
        fontweight="bold",
    )
    return figure


def denoising_alt(check: DenoisingCheck) -> str:
    """Return the picture in words, with its numbers."""
    parts = [
        f"sigma {point.sigma:.3g}: "
        + ", ".join(
            f"{name} {one.value:.3g}"
            for name, field in zip(COLUMNS, _FIELDS, strict=True)
            if (one := _mean(point, field))
        )
        for point in check.points
    ]
    return f"Mean squared denoising error over noise levels. {'; '.join(parts)}."


def denoising_rows(check: DenoisingCheck) -> list[list[str]]:
    """Return each level as a row: its name, and a value for each of `COLUMNS`, with 95% intervals."""
    return [
        [f"{point.sigma:.4g}", *(_text(_mean(point, field)) for field in _FIELDS)] for point in check.points
    ]


def reading_rows(check: DenoisingCheck) -> list[list[str]]:
    """Return each other reading as a row: two ratios of errors, the number of its sound levels, images, and how to choose it."""
    return [
        [
            one.text,
            f"{one.ratio:.3g}",
            f"{one.overall:.3g}",
            f"{len(one.sound)} of {len(check.points)}",
            f"{one.images:,}",
            one.remedy,
        ]
        for one in check.readings
    ]


def denoising_table(check: DenoisingCheck) -> Table:
    """Return the levels as a table for a terminal of 80 columns."""
    rows = [
        (
            f"{point.sigma:.3g}",
            *("–" if (one := _mean(point, field)) is None else f"{one.value:.3g}" for field in _FIELDS),
        )
        for point in check.points
    ]
    return plain_table(("sigma", *COLUMNS), rows)


def _mean(point: ErrorPoint, name: str) -> MeanRecord | None:
    found: MeanRecord | None = getattr(point, name)
    return found


def _text(mean: MeanRecord | None) -> str:
    return "–" if mean is None else f"{mean.value:.4g} [{mean.low:.4g}, {mean.high:.4g}]"

"""One HTML page with everything inside: no script, no font, no image is loaded from elsewhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from diffmem.progress import seconds_to_words
from diffmem.reports.figures import (
    DPI,
    figure_svg,
    rmem_against_epochs,
    rmem_against_size,
    without_font_warnings,
)
from diffmem.reports.gallery import Gallery
from diffmem.reports.tables import summary_rows
from diffmem.reports.words import (
    emm_words,
    headline,
    line_words,
    percent,
    rate_words,
    size_words,
    threshold_words,
    warnings_of,
)
from diffmem.studies.results import StudyResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["embedded_png", "png_bytes", "png_uri", "render_page", "render_report", "svg_uri"]


def render_report(result: StudyResult, galleries: Sequence[Gallery] = ()) -> str:
    """Return the report of a study as one self-contained HTML page.

    Args:
        result: The study; without runs the page says so and has no figures.
        galleries: Shown in the given order.

    Returns:
        HTML text. Everything that comes from the study is escaped.
    """
    sizes = [run.size for run in result.runs]
    return render_page(
        "report.html",
        result=result,
        headline=headline(result),
        emm=emm_words(result.emm, sizes),
        emm_last=None if result.emm_last is None else emm_words(result.emm_last, sizes),
        warnings=warnings_of(result),
        rows=summary_rows(result),
        several_seeds=len(set(sizes)) < len(sizes),
        line=line_words(result.epsilon),
        threshold=threshold_words(result.threshold),
        methods=sorted({one.memorized.method for run in result.runs for one in run.evaluations}),
        samples=sorted({one.memorized.total for run in result.runs for one in run.evaluations}),
        figures=_figures(result),
        galleries=[(gallery, png_uri(gallery.figure())) for gallery in galleries],
    )


def _figures(result: StudyResult) -> list[tuple[str, str, str]]:
    """Return (heading, image, alternative text) of each figure that the study can fill."""
    if not result.runs:
        return []
    found = [
        (
            "R_mem against the number of training images",
            svg_uri(rmem_against_size(result)),
            "R_mem, the share of samples that are copies, by number of training images. Peak over training: "
            + "; ".join(
                f"{size_words(run.size)} images {percent(run.peak.memorized.value)}" for run in result.runs
            )
            + f". EMM: {emm_words(result.emm, [run.size for run in result.runs])}.",
        )
    ]
    if any(one.epoch > 0 for run in result.runs for one in run.evaluations):
        found.append(
            (
                "R_mem over training",
                svg_uri(rmem_against_epochs(result)),
                "R_mem by epoch, one curve per training set. At the end of training: "
                + "; ".join(
                    f"{size_words(run.size)} images {percent(run.last.memorized.value)}"
                    for run in result.runs
                )
                + ".",
            )
        )
    return found


def render_page(name: str, *, package: str = __package__, **values: Any) -> str:
    """Return a page template, filled; every value is escaped.

    Args:
        name: Of the file, in the folder `templates` of `package` or of this package, whose parts any page may include.
        package: Which package's templates come first.
        values: What the template shows.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    def template(part: str) -> str:
        own = files(package) / "templates" / part
        return (own if own.is_file() else files(__package__) / "templates" / part).read_text("utf-8")

    environment = Environment(
        loader=FunctionLoader(template),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=size_words, rate=rate_words, duration=seconds_to_words)
    return environment.get_template(name).render(values)


def svg_uri(figure: Figure) -> str:
    """Return a figure as the address of an embedded SVG picture."""
    # As an image of its own: the ids inside two SVG elements of one page would clash.
    return "data:image/svg+xml;base64," + base64.b64encode(figure_svg(figure).encode()).decode()


def png_uri(figure: Figure) -> str:
    """Return a figure as the address of an embedded PNG picture."""
    return embedded_png(png_bytes(figure))


def png_bytes(figure: Figure, dpi: float = DPI) -> bytes:
    """Return a figure as the content of a PNG file."""
    stream = io.BytesIO()
    with without_font_warnings():
        figure.savefig(stream, format="png", dpi=dpi, metadata={"Software": None})
    return stream.getvalue()


def embedded_png(content: bytes) -> str:
    """Return the content of a PNG file as the address of an embedded picture."""
    return "data:image/png;base64," + base64.b64encode(content).decode()

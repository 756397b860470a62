"""One HTML page with everything inside: no script, no font, no image is loaded from elsewhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from diffmem.memorization.examples import Example
from diffmem.reports.figures import DPI, figure_svg, without_font_warnings
from diffmem.reports.gallery import gallery_text
from diffmem.reports.text import large_text, rate_text, size_text
from diffmem.text import duration_text, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["embedded_png", "gallery_uris", "png_bytes", "render_page", "svg_uri"]


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
    environment.filters.update(
        number=size_text, large=large_text, rate=rate_text, duration=duration_text, percent=percent
    )
    return environment.get_template(name).render(values)


def svg_uri(figure: Figure) -> str:
    """Return a figure as the address of an embedded SVG picture."""
    # As an image of its own: the ids inside two SVG elements of one page would clash.
    return "data:image/svg+xml;base64," + base64.b64encode(figure_svg(figure).encode()).decode()


def png_bytes(figure: Figure, dpi: float = DPI) -> bytes:
    """Return a figure as the content of a PNG file."""
    stream = io.BytesIO()
    with without_font_warnings():
        figure.savefig(stream, format="png", dpi=dpi, metadata={"Software": None})
    return stream.getvalue()


def embedded_png(content: bytes) -> str:
    """Return the content of a PNG file as the address of an embedded picture."""
    return "data:image/png;base64," + base64.b64encode(content).decode()


def gallery_uris(examples: Iterable[Example], pictures: Iterable[bytes]) -> list[tuple[str, str]]:
    """Return (alternative text, address of the embedded picture) of each gallery, given as the content of its PNG file."""
    pairs = zip(examples, pictures, strict=True)
    return [(gallery_text(example), embedded_png(content)) for example, content in pairs]

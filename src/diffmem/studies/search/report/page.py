"""The page of a search for EMM and its folder: one self-contained HTML file, its numbers, its pictures.

Galleries are of the runs that decide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffmem.memorization.examples import Example
from diffmem.reports.folder import Picture, ReportPaths, gallery_pictures, write_drawn
from diffmem.reports.html import embedded_png, gallery_uris, png_bytes, render_page, svg_uri
from diffmem.reports.text import sentence, size_text, target_text
from diffmem.studies.search.levels import Item
from diffmem.studies.search.records import SearchResult
from diffmem.studies.search.report.curves import curves_figure, curves_text
from diffmem.studies.search.report.figure import cost_figure, emm_by_level_figure
from diffmem.studies.search.report.panels import measured_levels
from diffmem.studies.search.report.surface import surface_figure, surface_text
from diffmem.studies.search.report.text import (
    cost_text,
    lead,
    level_answer,
    level_emm,
    level_label,
    method_text,
    search_runs,
    search_warnings,
    share_text,
)
from diffmem.studies.search.study import SearchStudy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["MOST_BYTES", "render_search_report", "write_search", "write_search_report"]

MOST_BYTES = 4_800_000
"""The page stays below 5 MB: galleries that would make it larger are left in the folder, and the page says so."""

_GALLERY_DPI = 100
_SVG_BYTES = 700_000
_SHOWN_GALLERIES = 4
_OPEN_ROWS = 30
_MOST_GALLERIES = 24


def write_search_report(result: SearchResult, examples: Sequence[Example], out_dir: Path) -> ReportPaths:
    """Write the folder of a search: `report.html`, `report.json` and the pictures.

    The pictures are `emm.png`, `rmem_surface.png`, `learning_curves.png`, `cost.png` and a `gallery_*.png` per example. The
    record comes last, after all else is whole (see `write_folder`). A figure that the search cannot fill yet is not written.

    Args:
        result: The search, finished or not; `SearchResult.model_validate_json` reads `report.json` back.
        out_dir: The folder; made if it is missing, files of an earlier report are replaced.

    Raises:
        DiffmemError: A file cannot be written, or the result holds a number that JSON cannot (NaN, infinity).
    """
    return write_drawn(out_dir, result, examples, _pictures, _page, _GALLERY_DPI)


def render_search_report(result: SearchResult, examples: Sequence[Example] = ()) -> str:
    """Return the report of a search as one self-contained HTML page, below 5 MB; everything of the study is escaped.

    Args:
        result: The search; before its first evaluation the page says so and has fewer figures.
        examples: Galleries, shown in the given order; if they are too many for the page, evenly chosen ones.
    """
    galleries = gallery_uris(examples, gallery_pictures(examples, _GALLERY_DPI).values())
    return _page(result, _pictures(result), galleries)


def _pictures(result: SearchResult) -> list[Picture]:
    """Return the figures that the search can fill."""
    runs, target = search_runs(result), target_text(result.epsilon)
    found = []
    if runs:
        answers = "; ".join(
            f"{level.name}: {level_emm(level, result)}"
            + (f", the paper {size_text(level.published)}" if level.published else "")
            for level in result.levels
        )
        found.append(
            Picture(
                "emm.png",
                "EMM of every level",
                emm_by_level_figure(result),
                f"EMM in training images, by {result.factor}. {answers}.",
                "Bars and brackets are intervals."
                + (
                    " Hollow diamonds are the paper's values for the corresponding levels, at the paper's own scale."
                    if _published(result)
                    else ""
                ),
            )
        )
    if measured_levels(result):
        found += [
            Picture(
                "rmem_surface.png",
                "R_mem over training-set size and epochs",
                surface_figure(result),
                surface_text(result),
                f"A column is a training, a cell an evaluation: blue below {target}, orange from {target} on. Sizes are in"
                " order, not to scale. The circle over a column is its verdict.",
            ),
            Picture(
                "learning_curves.png",
                "Learning curves",
                curves_figure(result),
                curves_text(result),
                "Bars are intervals that are valid at any stopping time; they are wide where few images were enough. The"
                " numbers at the right are training-set sizes. Curves are shifted sideways a little so that bars do not"
                " overlap.",
            ),
        ]
    if runs:
        shares = "; ".join(f"{level.name} {share_text(level.cost)}" for level in result.levels)
        found.append(
            Picture(
                "cost.png",
                "Cost against a fixed grid",
                cost_figure(result),
                f"Cost as a fraction of the grid's: {shares}; all levels {share_text(result.cost)}.",
                "In the cost of training on one image once (M: million, G: billion). The grid would train sizes spaced by the"
                " tolerance over the same range to the end, and sample all images at every point.",
            )
        )
    return found


def _published(result: SearchResult) -> bool:
    return any(level.published is not None for level in result.levels)


def _page(result: SearchResult, pictures: Sequence[Picture], galleries: list[tuple[str, str]]) -> str:
    runs = search_runs(result)
    values: dict[str, Any] = {
        "result": result,
        "lead": lead(result),
        "answers": [(level_label(level.name, result), level_answer(level, result)) for level in result.levels],
        "cost": cost_text(result),
        "share": share_text(result.cost),
        "warnings": search_warnings(result),
        "levels": [
            (level, level_emm(level, result), share_text(level.cost)) for level in result.levels
        ],
        "published": _published(result),
        "long_names": any(len(level.name) > 24 for level in result.levels),
        "pictures": [(picture, _uri(picture.figure)) for picture in pictures],
        "runs": runs,
        "incidents": any(run.incidents for run in runs),
        "open_runs": len(runs) <= _OPEN_ROWS,
        "log": _log(result),
        "open_log": len(result.log) <= _OPEN_ROWS,
        "method": method_text(result),
    }  # fmt: skip
    bare = render_page("search.html", package=__package__, **values, shown=[], folded=[], left_out=0)
    shown = _fitting(galleries, MOST_BYTES - len(bare.encode()))
    return render_page(
        "search.html",
        package=__package__,
        **values,
        shown=shown[:_SHOWN_GALLERIES],
        folded=shown[_SHOWN_GALLERIES:],
        left_out=len(galleries) - len(shown),
    )


def _uri(figure: Figure) -> str:
    """Return a figure as an embedded picture: vectors unless they are large."""
    vectors = svg_uri(figure)
    return vectors if len(vectors) <= _SVG_BYTES else embedded_png(png_bytes(figure))


def _log(result: SearchResult) -> list[tuple[str, list[str]]]:
    """Return the decision log by level, each in order; what belongs to no level comes first."""
    names = [level.name for level in result.levels]
    groups = [("The study", [entry for entry in result.log if entry.level not in names])]
    groups += [(name, [entry for entry in result.log if entry.level == name]) for name in names]
    return [(name, [sentence(entry.text) for entry in entries]) for name, entries in groups if entries]


def _fitting(galleries: list[tuple[str, str]], room: int) -> list[tuple[str, str]]:
    """Return all galleries if they fit into so many bytes of the page, else as many evenly chosen ones as do."""
    for count in range(len(galleries), 0, -1):
        chosen = [galleries[index * len(galleries) // count] for index in range(count)]
        # An alternative text is escaped, and its tag needs some bytes, too.
        if sum(len(uri) + 2 * len(alt) + 200 for alt, uri in chosen) <= room:
            return chosen
    return []


def write_search(study: SearchStudy, result: SearchResult, warn: Callable[[str], None]) -> ReportPaths:
    """Write the report of a search as it is now into its folder.

    Args:
        study: Has the images.
        result: What is known.
        warn: Called with what is said of images that are missing or damaged.

    Raises:
        DiffmemError: A file cannot be written.
    """
    shown: list[Item] = []
    for level in result.levels:
        bracket = level.emm.bracket or ()
        first = sorted(level.runs, key=lambda run: (run.size not in bracket, run.size, run.seed))
        most = max(2, _MOST_GALLERIES // len(result.levels))
        shown += [Item(level.name, run.seed, run.size) for run in first[:most]]
    examples = []
    for item in sorted(shown, key=lambda item: (list(study.levels).index(item.level), item.size, item.seed)):
        example = study.example(item, warn=warn)
        if example is not None:
            seed = f", seed {item.seed}" if len(result.seeds) > 1 else ""
            title = f"{item.level}, N = {item.size:,}{seed}"
            examples.append(example.titled(title))
    return write_search_report(result, examples, study.folder)

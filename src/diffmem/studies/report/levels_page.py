"""The page of all levels of a factor and its folder: EMM and R_mem by level, its numbers, its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffmem.reports.curves import Series, draw_nulls, draw_points, legend_above, looks, shifted
from diffmem.reports.figures import draw_target_rate
from diffmem.reports.folder import Picture, ReportPaths, write_drawn
from diffmem.reports.html import render_page, svg_uri
from diffmem.reports.level_rows import short_names
from diffmem.reports.style import dress, new_figure, percent_axis, size_axis
from diffmem.reports.text import target_text, threshold_text
from diffmem.studies.records import GridResult
from diffmem.studies.report.emm_figure import EmmMark, draw_emm_by_level
from diffmem.studies.report.figures import rmem_against_epochs
from diffmem.studies.report.levels import (
    LevelRow,
    level_label,
    level_rows,
    level_sizes,
    level_text,
    levels_warnings,
    method_text,
)
from diffmem.studies.report.text import emm_text
from diffmem.studies.study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["emm_by_level", "page_values", "render_levels", "rmem_by_level", "write_levels"]

_MOST_GALLERIES = 4


def write_levels(studies: Mapping[str, Study], result: GridResult, folder: Path) -> ReportPaths:
    """Write the folder of all levels: `report.html`, `report.json` and the pictures.

    The pictures are `emm.png`, `rmem_vs_size.png`, an `rmem_vs_epochs_NN.png` for each level and a `gallery_*.png` of the most
    memorized run of the first levels. The record comes last, after all else is whole (see `write_folder`).

    Args:
        studies: Level -> its study, which has the images.
        result: What was found; `GridResult.model_validate_json` reads `report.json` back.
        folder: Made if it is missing; files of an earlier report are replaced.

    Raises:
        DiffmemError: A file cannot be written, or the result holds a number that JSON cannot (NaN, infinity).
    """
    examples = []
    for level in [level for level in result.levels if level.study.runs][:_MOST_GALLERIES]:
        best = max(level.study.runs, key=lambda run: run.peak.memorized.value)
        examples.append(studies[level.name].example(best.run_id).titled(f"{result.factor} {level.name}"))
    return write_drawn(folder, result, examples, _pictures, _page)


def render_levels(result: GridResult) -> str:
    """Return the report of all levels as one self-contained HTML page, without galleries; everything of the study is escaped."""
    return _page(result, _pictures(result), [])


def page_values(
    result: GridResult, rows: Sequence[LevelRow], galleries: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """Return what the page of any result with levels shows: its rows, runs, warnings, method and galleries."""
    studies = [level.study for level in result.levels]
    return {
        "result": result,
        "warnings": levels_warnings(result),
        "rows": rows,
        "several_seeds": any(row.seeds > 1 for row in rows),
        "seeds": len({run.seed for run in result.runs}),
        "threshold": " or ".join(dict.fromkeys(threshold_text(study.threshold) for study in studies)),
        "target": " or ".join(dict.fromkeys(target_text(study.epsilon) for study in studies)),
        "galleries": galleries,
        "method": method_text(result),
        "runs": [(level_text(level.name), run) for level, _, runs in level_sizes(result) for run in runs],
        "thresholds": list(dict.fromkeys(name for run in result.runs for name in run.peak.at_thresholds)),
        "frechet": next((run.peak.frechet_of for run in result.runs if run.peak.frechet_of is not None), None),
    }  # fmt: skip


def _page(result: GridResult, pictures: Sequence[Picture], galleries: list[tuple[str, str]]) -> str:
    return render_page(
        "levels.html",
        package=__package__,
        answer=_answers(result),
        paper_heading="",
        pictures=[(picture, svg_uri(picture.figure)) for picture in pictures],
        **page_values(result, level_rows(result), galleries),
    )


def _answers(result: GridResult) -> str:
    words = [f"{level_text(mark.name)}: {mark.words}" for mark in _marks(result)]
    return f"EMM in training images, by {result.factor}. {'; '.join(words)}."


def _marks(result: GridResult) -> list[EmmMark]:
    marks = []
    for level in result.levels:
        emm, sizes = level.study.emm, [run.size for run in level.study.runs]
        finished = emm.status not in ("unfinished", "no runs")
        words = emm_text(emm, sizes)
        marks.append(EmmMark(level.name, emm, sizes, words, level.published, finished=finished))
    return marks


def _pictures(result: GridResult) -> list[Picture]:
    """Return the figures that the levels can fill."""
    if not result.runs:
        return []
    rates = "; ".join(f"{row.level}, {row.size:,} images: {row.peak}" for row in level_rows(result))
    found = [
        Picture(
            "emm.png", "EMM by level", emm_by_level(result), _answers(result), "Bars and brackets are 95% intervals."
        ),
        Picture(
            "rmem_vs_size.png",
            "R_mem against the number of training images",
            rmem_by_level(result),
            f"R_mem at its peak over training, a curve per level. {rates}.",
            "Bars are 95% intervals; the line runs through the means of several seeds. The null rate is that of the same rule on"
            " held-out images.",
        ),
    ]  # fmt: skip
    names = [level.name for level in result.levels]
    for number, level in enumerate(result.levels, 1):
        if any(one.epoch > 0 for run in level.study.runs for one in run.evaluations):
            found.append(
                Picture(
                    f"rmem_vs_epochs_{number:02d}.png",
                    f"R_mem over training: {level_label(level.name, result.factor, names)}",
                    rmem_against_epochs(level.study),
                    f"R_mem by epoch at the level {level.name}, one curve per training set.",
                )
            )
    return found


def emm_by_level(result: GridResult) -> Figure:
    """Draw EMM of every level with its interval; see `draw_emm_by_level`."""
    return draw_emm_by_level(_marks(result), result.factor, sorted({run.size for run in result.runs}))


def rmem_by_level(result: GridResult) -> Figure:
    """Draw R_mem at the peak of training against the number of training images N, a curve per level.

    Args:
        result: Its levels, at least one of them with a run.
    """
    shown = [level for level in result.levels if level.study.runs]
    every = [level.name for level in result.levels]
    names = short_names([level_label(level.name, result.factor, every) for level in shown], 30)
    figure = new_figure(8.6, 4.6 + 0.2 * (len(shown) // 3))
    axes = figure.subplots()
    dress(axes, "Training images N (log scale)", "Samples that are copies, R_mem")
    percent_axis(axes)
    size_axis(axes, [run.size for run in result.runs])
    nulls = [(float(run.size), run.null) for run in result.runs if run.null is not None]
    if nulls:
        draw_nulls(axes, nulls, joined=True, label="null rate (held-out images)")
    for index, (level, name, look) in enumerate(zip(shown, names, looks(len(shown)), strict=True)):
        points = [[(float(run.size), run.peak.memorized)] for run in level.study.runs]
        draw_points(axes, Series(name, look, points), shifted(axes, index, len(shown), 3), joined=True)
    for epsilon in sorted({level.study.epsilon for level in shown}):
        draw_target_rate(axes, epsilon)
    legend_above(figure, axes)
    return figure

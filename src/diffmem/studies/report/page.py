"""The page of a study and its folder: one self-contained HTML file with its figures, its numbers, its pictures.

Grids, searches and experiments have one layout (`templates/study.html` of `diffmem.reports`), whose parts differ by plan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from diffmem.memorization.examples import Example
from diffmem.reports.folder import Picture, ReportPaths, gallery_pictures, write_drawn
from diffmem.reports.html import embedded_png, gallery_uris, png_bytes, render_page, svg_uri
from diffmem.reports.text import sentence, size_text, target_text
from diffmem.studies.records import StudyRecord
from diffmem.studies.report.curves import curves_figure, curves_text
from diffmem.studies.report.emm_figure import emm_by_level
from diffmem.studies.report.figures import cost_figure, rmem_against_size
from diffmem.studies.report.method import glossary, method_text
from diffmem.studies.report.onset_figure import onset_by_level
from diffmem.studies.report.onset_text import line_text, onset_answer, onset_of_levels
from diffmem.studies.report.surface import surface_figure, surface_text
from diffmem.studies.report.tables import answers_of, size_rows
from diffmem.studies.report.text import (
    NOTHING_FINISHED,
    cost_text,
    emm_text,
    lead,
    level_answer,
    level_emm,
    level_label,
    level_text,
    runs_of,
    share_text,
    verdict_text,
    warnings_of,
)
from diffmem.studies.search.levels import Item
from diffmem.text import duration_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["MOST_BYTES", "examples_of", "onset_pictures", "render_page_of", "render_study", "write_study"]

MOST_BYTES = 4_800_000
"""The page stays below 5 MB: galleries that would make it larger are left in the folder, and the page says so."""

_GALLERY_DPI = 100
_SVG_BYTES = 700_000
_SHOWN_GALLERIES = 4
_OPEN_ROWS = 30
_MOST_GALLERIES = 24


class Examples(Protocol):
    """A study that has the images of its runs."""

    def example(self, item: Item, *, warn: Callable[[str], None]) -> Example | None:
        """Return the first images of a training's most memorizing point with their neighbours; none before there are any."""
        ...


def write_study(result: StudyRecord, examples: Sequence[Example], folder: Path) -> ReportPaths:
    """Write the folder of a study: `report.html`, `report.json` and the pictures.

    The pictures are `emm.png`, `rmem_vs_size.png` and `rmem_vs_epochs.png` of a grid, `rmem_surface.png`, `learning_curves.png`
    and `cost.png` of a search, `onset.png` of both, and a `gallery_*.png` per example. The record comes last, after all else is whole (see
    `write_folder`). A figure that the study cannot fill yet is not written.

    Args:
        result: The study, finished or not; `StudyRecord.model_validate_json` reads `report.json` back.
        folder: Made if it is missing; files of an earlier report are replaced.

    Raises:
        DiffmemError: A file cannot be written, or the result holds a number that JSON cannot (NaN, infinity).
    """
    return write_drawn(folder, result, examples, _pictures, _page, _GALLERY_DPI)


def render_study(result: StudyRecord, examples: Sequence[Example] = ()) -> str:
    """Return the report of a study as one self-contained HTML page, below 5 MB; everything of the study is escaped.

    Args:
        result: The study; before its first evaluation the page says so and has no figures.
        examples: Galleries, shown in the given order; if they are too many for the page, evenly chosen ones.
    """
    galleries = gallery_uris(examples, gallery_pictures(examples, _GALLERY_DPI).values())
    return _page(result, _pictures(result), galleries)


def examples_of(
    study: Examples, result: StudyRecord, warn: Callable[[str], None], most: int = _MOST_GALLERIES
) -> list[Example]:
    """Return galleries of the runs that decide: those between whose sizes EMM lies, then those of the smallest sizes.

    Args:
        study: Has the images.
        warn: Called with what is said of images that are missing or damaged.
        most: How many at most.
    """
    examples = []
    for level in result.levels[:most]:
        bracket, each = level.emm.bracket or (), max(1, most // len(result.levels))
        deciding = sorted(level.runs, key=lambda run: (run.size not in bracket, run.size, run.seed))
        for run in sorted(deciding[:each], key=lambda run: (run.size, run.seed)):
            example = study.example(Item(level.name, run.seed, run.size), warn=warn)
            parts = [level_label(level.name, result)] if len(result.levels) > 1 else []
            parts += [f"seed {run.seed}"] if len(result.seeds) > 1 else []
            if example is not None:
                examples.append(example.titled(", ".join(parts)) if parts else example)
    return examples


def onset_pictures(result: StudyRecord) -> list[Picture]:
    """Return the figure of when training begins to copy, `onset.png`; none before there are evaluations."""
    onset = onset_of_levels(result)
    if not onset:
        return []
    answers = " ".join(f"{name}: {answer}" if len(onset) > 1 else answer for name, answer, *_ in onset)
    record = next(level.onset for level in result.levels if level.onset is not None)
    *others, last = (line_text(line.line) for line in record.lines)
    shares = f"{', '.join(others)} and {last}" if others else last
    return [
        Picture(
            "onset.png",
            "When training begins to copy",
            onset_by_level(result),
            f"Images seen in training when R_mem reaches {shares}, by number of training images. {answers}",
            "Bars are 95% intervals, from the evaluations around a time and between seeds; arrows are times that are known at one side."
            " Lines are power laws, bands their prediction intervals for one more training.",
        )
    ]


def _pictures(result: StudyRecord) -> list[Picture]:
    """Return the figures that the study can fill."""
    found, search, grid = list[Picture](), result.plan == "search", result.plan == "grid"
    measured, begun = (
        [run for run in result.runs if run.evaluations],
        any(run.curve for run in result.runs),
    )

    def add(name: str, heading: str, draw: Callable[[StudyRecord], Figure], alt: str, caption: str) -> None:
        found.append(Picture(name, heading, draw(result), alt, caption))

    if result.runs and (search or (grid and len(result.levels) > 1)):
        published = any(level.published is not None for level in result.levels)
        answers = "; ".join(
            f"{level_text(level.name)}: {level_emm(level, result)}"
            + (f", the paper {size_text(level.published)}" if level.published else "")
            for level in result.levels
        )
        add(
            "emm.png",
            "EMM of every level",
            emm_by_level,
            f"EMM in training images, by {result.factor}. {answers}.",
            f"Bars and brackets are {100 * result.confidence:.4g}% intervals."
            + (
                " Hollow diamonds are the paper's values for the corresponding levels, at the paper's own scale."
                if published
                else ""
            ),
        )
    if grid and measured:
        rates = "; ".join(f"{row.level}, {row.size:,} images {row.peak}" for row in size_rows(result))
        emm = "; ".join(level_emm(level, result) for level in result.levels)
        add(
            "rmem_vs_size.png",
            "R_mem against the number of training images",
            rmem_against_size,
            f"R_mem, the share of samples that are copies, by number of training images. Peak over training: {rates}. EMM: {emm}.",
            "Bars are 95% intervals; the line runs through the means of several seeds.",
        )
    if search and begun:
        add(
            "rmem_surface.png",
            "R_mem over training-set size and epochs",
            surface_figure,
            surface_text(result),
            f"A column is a training, a cell an evaluation: blue below {target_text(result.epsilon)}, orange from there on. Sizes"
            " are in order, not to scale. The circle over a column is its verdict.",
        )
    if begun:
        add(
            "learning_curves.png" if search else "rmem_vs_epochs.png",
            "R_mem over training",
            curves_figure,
            curves_text(result),
            "The numbers at the right are training-set sizes. "
            + (
                "Bars are intervals that are valid at any stopping time; they are wide where few images were enough. Curves are"
                " shifted sideways a little so that bars do not overlap."
                if search
                else "Bands are 95% intervals."
            ),
        )
    found += onset_pictures(result)
    if search and result.runs:
        shares = "; ".join(f"{level_text(level.name)} {share_text(level.cost)}" for level in result.levels)
        add(
            "cost.png",
            "Cost against a fixed grid",
            cost_figure,
            f"Cost as a fraction of the grid's: {shares}; all levels {share_text(result.cost)}.",
            "In the cost of training on one image once (M: million, G: billion). The grid would train sizes spaced by the"
            " tolerance over the same range to the end, and sample all images at every point.",
        )
    return found


def _page(result: StudyRecord, pictures: Sequence[Picture], galleries: list[tuple[str, str]]) -> str:
    kind = {"grid": "Memorization report", "search": "EMM by search", "onset": "Time until training copies"}[
        result.plan
    ]
    asked = result.plan == "onset"
    answers = [
        (level_label(level.name, result), onset_answer(level) if asked else level_answer(level, result))
        for level in result.levels
    ]
    if not asked:
        first = lead(result)
    else:
        first = answers[0][1] if len(answers) == 1 else f"When training copies, by {result.factor}."
    return render_page_of(
        result, pictures, galleries, kind=kind + ("" if result.finished else ", unfinished"), lead=first, answers=answers,
    )  # fmt: skip


def render_page_of(
    result: StudyRecord,
    pictures: Sequence[Picture],
    galleries: list[tuple[str, str]],
    template: str = "study.html",
    package: str = "diffmem.reports",
    **more: Any,
) -> str:
    """Return the page of a study, as `study.html` lays it out or a template that extends it.

    Args:
        galleries: (alternative text, address) of each; as many as fit on the page are shown.
        template: Its name in the folder `templates` of `package`.
        more: What comes with it: kind, lead, answers, and whatever the template adds.
    """
    runs = list(runs_of(result))
    measured = [run for _, run in runs if run.evaluations]
    several_levels, several_seeds = len(result.levels) > 1, len(result.seeds) > 1
    heading, of_level = answers_of(result)
    words = (
        f"{'EMM, training images' if heading == 'EMM' else heading} [{100 * result.confidence:.4g}% interval]"
    )
    keys = [
        (str(len(result.levels)), f"levels ({result.factor})")
        if several_levels
        else (of_level(result.levels[0]), words),
        (str(len(runs)), "training run" if len(runs) == 1 else "training runs"),
        (str(len(result.seeds)), "seeds" if several_seeds else "seed"),
        (duration_text(result.seconds), "total time"),
    ]
    if result.cost.grid_units:
        so_far = "" if result.finished else ", so far"
        keys.insert(2, (share_text(result.cost), f"of a fixed grid's cost{so_far}"))
    values: dict[str, Any] = {
        "result": result,
        "keys": keys,
        "nothing": f"{NOTHING_FINISHED}, so there is nothing to draw.",
        "warnings": warnings_of(result),
        "levels": [
            (
                level,
                level_text(level.name),
                of_level(level),
                emm_text(level.emm_last, [run.size for run in level.runs]) if level.emm_last else "",
                share_text(level.cost),
            )
            for level in result.levels
        ],
        "asked": heading,
        "verdict": lambda run: verdict_text(run, result),
        "ends": any(level.emm_last for level in result.levels),
        "cost": cost_text(result),
        "published": any(level.published is not None for level in result.levels),
        "long_names": any(len(level.name) > 24 for level in result.levels),
        "pictures": [(picture, _uri(picture.figure)) for picture in pictures],
        "rows": size_rows(result) if result.plan == "grid" and (several_levels or several_seeds) else [],
        "onset": onset_of_levels(result),
        "several_levels": several_levels,
        "several_seeds": several_seeds,
        "paper_heading": "",
        "runs": [(level_text(level.name), run) for level, run in runs],
        "decided": any(run.verdict for _, run in runs),
        "incidents": any(run.incidents for _, run in runs),
        "thresholds": list(dict.fromkeys(name for run in measured for name in run.peak.at_thresholds)),
        "frechet": next((run.peak.frechet_of for run in measured if run.peak.frechet_of is not None), None),
        "open_rows": _OPEN_ROWS,
        "log": _log(result),
        "glossary": glossary(result),
        "method": method_text(result),
    }  # fmt: skip
    values |= more
    bare = render_page(template, package=package, **values, shown=[], folded=[], left_out=0)
    shown = _fitting(galleries, MOST_BYTES - len(bare.encode()))
    return render_page(
        template,
        package=package,
        **values,
        shown=shown[:_SHOWN_GALLERIES],
        folded=shown[_SHOWN_GALLERIES:],
        left_out=len(galleries) - len(shown),
    )


def _uri(figure: Figure) -> str:
    """Return a figure as an embedded picture: vectors unless they are large."""
    vectors = svg_uri(figure)
    return vectors if len(vectors) <= _SVG_BYTES else embedded_png(png_bytes(figure))


def _log(result: StudyRecord) -> list[tuple[str, list[str]]]:
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

"""The page, the picture and the table of audits of several models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffmem.auditing.report.text import VERDICT_TEXT, area_text, count_of_total, fine_rate
from diffmem.auditing.several import ModelAudit, SeveralResult
from diffmem.auditing.significance import format_p
from diffmem.files import write_folder
from diffmem.memorization.rates import Rate
from diffmem.reports.folder import numbers_bytes
from diffmem.reports.html import embedded_png, png_bytes, render_page
from diffmem.reports.style import COLOURS, SMALL_FONT_SIZE, dress, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.table import Table

__all__ = ["rows_of", "several_figure", "several_table", "write_several"]

PICTURE = "audit_models.png"
_LONGEST_LABEL = 28
_LINES = ("vermillion", "orange", "purple", "sky", "grey", "black", "green", "blue")
"""Colours of further rates; more than these are in the table alone."""


def rows_of(result: SeveralResult) -> tuple[list[str], list[list[str]]]:
    """Return the heads and the rows of the table: verdict, what is the same for all, each criterion with its null, membership."""
    keys = _criteria(result)
    attacks = list(
        dict.fromkeys(
            each.attack for one in result.models if one.membership for each in one.membership.attacks
        )
    )
    titles = list(result.models[0].rates)
    known = result.models[0].captions is not None
    heads = ["Model", "Verdict", *(["By captions"] if known else []), *titles]
    for title in keys.values():
        heads += [title, f"{title}: null"]
    heads += [f"AUC, {attack}" for attack in attacks]
    return heads, [
        [
            one.name,
            VERDICT_TEXT[one.verdict.verdict],
            *([_by_captions(one)] if known else []),
            *(fine_rate(one.rates[title]) if title in one.rates else "–" for title in titles),
            *(cell for key in keys for cell in _rates(one, key)),
            *(_area(one, attack) for attack in attacks),
        ]
        for one in result.models
    ]


def _criteria(result: SeveralResult) -> dict[str, str]:
    return {each.key: each.title for one in result.models for each in one.criteria}


def _by_captions(one: ModelAudit) -> str:
    if one.captions is None:
        return "–"
    return f"{'copies' if one.captions.found else 'not found'}, {format_p(one.captions.p_value)}"


def _rates(one: ModelAudit, key: str) -> list[str]:
    found = next((each for each in one.criteria if each.key == key), None)
    if found is None:
        return ["–", "–"]
    return [fine_rate(found.flagged), "–" if found.null is None else fine_rate(found.null)]


def _area(one: ModelAudit, attack: str) -> str:
    attacks = [] if one.membership is None else one.membership.attacks
    return next((area_text(each.auc) for each in attacks if each.attack == attack), "–")


def several_table(result: SeveralResult) -> Table:
    """Return the table for a terminal: what the criterion of captions shows most clearly; without it, the criterion that flags most."""
    from rich.table import Table
    from rich.text import Text

    known = result.models[0].captions is not None
    heads = ["Image of the caption", "Base model", "By captions"] if known else ["Copies", "Null", "By"]
    table = Table("Model", "Verdict", *heads, box=None)
    for one in result.models:
        most = max(one.criteria, key=lambda each: each.flagged.value, default=None)
        found = ["–", "–", "–"] if most is None else [*_rates(one, most.key), most.title]
        if one.captions is not None:
            test = one.captions.strongest
            counts = [count_of_total(rate) for rate in (test.copied, test.base)]
            found = [f"{counts[0]} {test.text}", counts[1], _by_captions(one)]
        table.add_row(*map(Text, [one.name, VERDICT_TEXT[one.verdict.verdict], *found]))
    return table


def several_figure(result: SeveralResult) -> Figure:
    """Draw the rate of copies of each model with its 95% interval, a panel for each criterion that decides; the null is grey.

    Further rates are lines of one panel, the first. Where the criterion of captions is known of all models, its figure is drawn instead:
    it is the same for all, and the others are in the table.
    """
    if all(one.captions is not None for one in result.models):
        return _captions_figure(result)
    keys = _criteria(result)
    further = bool(result.models[0].rates)
    count = max(1, len(keys) + further)
    figure = new_figure(max(5.0, 1.5 + 0.9 * len(result.models)), 1.0 + 2.6 * count)
    panels = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    if further:
        _draw_further(panels[0], result)
    for axes, (key, title) in zip(panels[further:], keys.items(), strict=False):
        dress(axes, "", "Samples, percent")
        axes.set_title(plain(title), fontsize=SMALL_FONT_SIZE, loc="left")
        for at, one in enumerate(result.models):
            for each in one.criteria:
                if each.key != key:
                    continue
                for rate, colour, moved in ((each.flagged, "vermillion", -0.08), (each.null, "grey", 0.08)):
                    if rate is not None:
                        _draw(axes, [at + moved], [rate], colour)
        axes.set_ylim(bottom=0)
    _name_models(panels[-1], result)
    return figure


def _name_models(axes: Axes, result: SeveralResult) -> None:
    labels = [plain(one.name[-_LONGEST_LABEL:].removesuffix(".safetensors")) for one in result.models]
    axes.set_xticks(range(len(labels)), labels, rotation=25, ha="right", fontsize=SMALL_FONT_SIZE)


def _captions_figure(result: SeveralResult) -> Figure:
    """Draw captions that bring their images back: by repeats, where they are known; and all beside the base model and held-out ones.

    Models that are found to copy, from the last backwards, stand on a coloured ground.
    """
    records = [one.captions for one in result.models if one.captions is not None]
    levels = [one.text.capitalize() for one in records[0].tests[1:]]
    titles = [title for title in result.models[0].rates if title not in levels]
    count = 2 if levels else 1
    figure = new_figure(max(6.5, 4.5 + 0.6 * len(records)), 1.0 + 2.6 * count)
    panels = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    if levels:
        _draw_captions(panels[0], result, levels, _LINES)
        panels[0].set_title("By how often an epoch holds the image", fontsize=SMALL_FONT_SIZE, loc="left")
    _draw_captions(panels[-1], result, titles, ("vermillion", "grey", "black"))
    text = "All captions, beside the base model and held-out images"
    panels[-1].set_title(text, fontsize=SMALL_FONT_SIZE, loc="left")
    _name_models(panels[-1], result)
    return figure


def _draw_captions(axes: Axes, result: SeveralResult, titles: Sequence[str], colours: Sequence[str]) -> None:
    """Draw rates over captions, a line for each title."""
    dress(axes, "", "Captions, percent")
    count = len(result.models)
    if result.first_copying is not None:
        first = [one.name for one in result.models].index(result.first_copying)
        axes.axvspan(
            first - 0.5, count - 0.5, color=COLOURS["orange"], alpha=0.12, lw=0, label="Copies found"
        )
    for number, (title, colour) in enumerate(zip(titles, colours, strict=False)):
        moved = 0.07 * (number - (min(len(titles), len(colours)) - 1) / 2)
        places = [at + moved for at in range(count)]
        _draw(axes, places, [one.rates[title] for one in result.models], colour, "o-", title)
    top = 100 * max(one.rates[title].high for one in result.models for title in titles)
    axes.set_ylim(-0.02 * top, 1.05 * top)
    axes.set_xlim(-0.5, count - 0.5)
    axes.legend(fontsize=SMALL_FONT_SIZE, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))


def _draw(
    axes: Axes,
    places: Sequence[float],
    rates: Sequence[Rate],
    colour: str,
    style: str = "o",
    label: str | None = None,
) -> None:
    ends = [
        [100 * (rate.value - rate.low) for rate in rates],
        [100 * (rate.high - rate.value) for rate in rates],
    ]
    heights = [100 * rate.value for rate in rates]
    axes.errorbar(
        places, heights, ends, fmt=style, color=COLOURS[colour], capsize=3, markersize=4, label=label
    )


def _draw_further(axes: Axes, result: SeveralResult) -> None:
    dress(axes, "", "Percent that copy")
    titles = list(result.models[0].rates)
    for number, (title, colour) in enumerate(zip(titles, _LINES, strict=False)):
        found = [(at, one.rates[title]) for at, one in enumerate(result.models) if title in one.rates]
        moved = 0.06 * (number - (min(len(titles), len(_LINES)) - 1) / 2)
        _draw(axes, [at + moved for at, _ in found], [rate for _, rate in found], colour, "o-", title)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=SMALL_FONT_SIZE, frameon=False)


def write_several(result: SeveralResult, folder: Path) -> Path:
    """Write `audit.html`, its picture and `audit.json` into the folder of all; return the page.

    Raises:
        DiffmemError: A file cannot be written.
    """
    picture = png_bytes(several_figure(result))
    heads, rows = rows_of(result)
    page = render_page(
        "several.html",
        package=__package__,
        result=result,
        heads=heads,
        rows=[(one, *row[1:]) for one, row in zip(result.models, rows, strict=True)],
        uri=embedded_png(picture),
        captions=result.models[0].captions,
    )
    contents = {"audit.html": page.encode(), PICTURE: picture, "audit.json": numbers_bytes(result)}
    return write_folder(folder, contents, [])[0]

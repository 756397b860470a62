"""Prompts on the page of an audit: groups, repeats, and the worst prompts with their pictures; `prompts.json` and `prompts.csv`."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffmem.auditing.compare import Comparison
from diffmem.auditing.prompts.measure import PromptAudit
from diffmem.auditing.prompts.records import (
    GROUP_TEXT,
    CaptionsRecord,
    GroupRecord,
    PromptRecord,
    PromptsRecord,
    ShareRecord,
)
from diffmem.auditing.prompts.verdict import captions_text
from diffmem.auditing.report.gallery import display_size, for_display
from diffmem.auditing.report.page import ReportPart
from diffmem.auditing.report.text import count_of_total, fine_percent, fine_rate
from diffmem.auditing.report.write import csv_cell
from diffmem.auditing.significance import format_p
from diffmem.data.prompts import comparable
from diffmem.memorization.rates import Rate
from diffmem.reports.folder import numbers_bytes
from diffmem.reports.html import embedded_png, render_page

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["caption_rows", "group_rows", "prompts_csv", "prompts_part", "prompts_table"]

_SHOWN = 4
_BROUGHT = 24
_GAP, _FRAME = 6, 3
_COPY, _OTHER = (154, 51, 0), (221, 221, 221)
_LONGEST = 200


def prompts_part(found: PromptAudit, shown: Comparison) -> ReportPart:
    """Return the part of the page and its files; a private one shows no image, caption or file name."""
    record = found.record
    heads, rows = group_rows(record)
    html = render_page(
        "prompts.html",
        package=__package__,
        record=record,
        heads=heads,
        rows=rows,
        levels=[[f"{one.repeats:,}", f"{one.prompts:,}", _rate(one.copied)] for one in record.levels],
        worst=[
            (_text(prompt), _facts(prompt), None if record.private else _worst(found, shown, at))
            for at, prompt in enumerate(found.prompts[: len(record.worst)])
            if prompt.copies
        ],
        captions=None
        if record.captions is None
        else (captions_text(record.captions), *caption_rows(record.captions)),
        brought=_brought(found, shown),
        copying=sum(prompt.copies > 0 for prompt in found.prompts),
        with_base=found.base is not None,
    )
    files = {
        "prompts.json": numbers_bytes(record),
        "prompts.csv": prompts_csv(found.prompts, private=record.private).encode(),
    }
    return ReportPart(html, files)


def group_rows(record: PromptsRecord) -> tuple[list[str], list[list[str]]]:
    """Return the heads and the rows of the table of groups."""
    based = any(one.base is not None for one in record.groups)
    controlled = any(one.control_p_value is not None for one in record.groups)
    heads = [
        "Prompts",
        "Number",
        "Copy a training image",
        "The image of the caption",
        "Mean share of samples",
    ]
    heads += ["Base model copies", "Only here / only base"] if based else []
    heads += ["Against control prompts"] if controlled else []
    rows = []
    for one in record.groups:
        row = [
            GROUP_TEXT[one.group],
            f"{one.prompts:,}",
            _rate(one.copied),
        ]
        row.append("–" if one.own is None else _rate(one.own))
        row.append(_share(one.share))
        row += _base(one) if based else []
        if controlled:
            row.append("–" if one.control_p_value is None else format_p(one.control_p_value))
        rows.append(row)
    return heads, rows


def caption_rows(record: CaptionsRecord) -> tuple[list[str], list[list[str]]]:
    """Return the heads and the rows of the table of the criterion of captions."""
    heads = ["Captions", "Bring their image back", "Samples that copy", "Base model", "Only here / only base"]
    controlled = record.control is not None
    heads += [*(["Against held-out captions"] if controlled else []), "Copies", "80% power from"]
    rows = []
    for one in record.tests:
        row = [
            one.text.capitalize(),
            _rate(one.copied),
            _rate(one.share),
            count_of_total(one.base),
            f"{one.more:,} / {one.fewer:,}\n{format_p(one.base_p_value)}",
        ]
        row += ["–" if one.control_p_value is None else format_p(one.control_p_value)] if controlled else []
        row.append(f"{'found' if one.p_value <= one.level else 'no'}\nat {one.level:.2g}")
        row.append("–" if one.detectable is None else fine_percent(one.detectable))
        rows.append(row)
    return heads, rows


def _rate(rate: Rate) -> str:
    return f"{fine_rate(rate)}\n{count_of_total(rate)}"


def _base(one: GroupRecord) -> list[str]:
    if one.base is None:
        return ["–", "–"]
    return [
        _rate(one.base.copied),
        f"{one.base.more:,} / {one.base.fewer:,}\n{format_p(one.base.p_value)}",
    ]


def _share(share: ShareRecord) -> str:
    ends = f"{100 * share.low:.2f}, {100 * share.high:.2f}"
    return f"{fine_percent(share.value)} [{ends}]"


def prompts_table(record: PromptsRecord) -> Table:
    """Return the groups as a table for a terminal."""
    from rich.table import Table
    from rich.text import Text

    based = any(one.base is not None for one in record.groups)
    table = Table(
        "prompts",
        "copy a training image",
        "the image of the caption",
        *(["base model"] if based else []),
        box=None,
    )
    table.title, table.title_justify = (
        Text("By prompt (brackets: 95% intervals, a prompt is one trial)"),
        "left",
    )
    for one in record.groups:
        cells = [
            GROUP_TEXT[one.group],
            _rate(one.copied),
            "–" if one.own is None else _rate(one.own),
            *([("–" if one.base is None else _rate(one.base.copied))] if based else []),
        ]
        table.add_row(*map(Text, cells))
    return table


def prompts_csv(prompts: Sequence[PromptRecord], *, private: bool) -> str:
    """Return every prompt as CSV, a header first, the largest share of copies next."""
    columns = [name for name in PromptRecord.model_fields if not (private and name == "prompt")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for prompt in prompts:
        cells = prompt.model_dump()
        writer.writerow(
            [
                csv_cell("+".join(map(str, cells[name])) if name in ("training", "seeds") else cells[name])
                for name in columns
            ]
        )
    return text.getvalue()


def _text(prompt: PromptRecord) -> str:
    if prompt.prompt is None:
        return f"prompt {prompt.prompt_hash[:16]}"
    text = prompt.prompt if len(prompt.prompt) <= _LONGEST else f"{prompt.prompt[:_LONGEST]}…"
    return text or "(empty)"


def _facts(prompt: PromptRecord) -> str:
    words = f"{GROUP_TEXT[prompt.group]}: {prompt.copies:,} of {prompt.samples:,} samples copy"
    if prompt.group == "train":
        words += f", {prompt.own:,} the image of this caption"
    if prompt.repeats is not None:
        words += f"; seen {prompt.repeats:,} {'time' if prompt.repeats == 1 else 'times'} an epoch"
    if prompt.base is not None:
        words += f"; base model {prompt.base:,}"
    return f"{words}; training image {', '.join(map(str, prompt.training[:3]))}{', …' if len(prompt.training) > 3 else ''}."


def _brought(found: PromptAudit, shown: Comparison) -> list[tuple[str, str, str | None]]:
    """Return the captions that bring their image back by the criterion of captions, those of most samples first: text, facts, pictures."""
    if found.near is None:
        return []
    chosen = [at for at, one in enumerate(found.prompts) if one.group == "train" and one.near]
    chosen.sort(key=lambda at: -(found.prompts[at].near or 0))
    first: dict[str, int] = {}  # caption -> the first image that has it
    for image, caption in enumerate(shown.training.captions or ()):
        if caption is not None:
            first.setdefault(comparable(caption), image)
    parts = []
    for at in chosen[:_BROUGHT]:
        prompt = found.prompts[at]
        facts = f"{prompt.near:,} of {prompt.samples:,} samples"
        if prompt.repeats is not None:
            facts += f"; seen {prompt.repeats:,} {'time' if prompt.repeats == 1 else 'times'} an epoch"
        strip = None
        if prompt.prompt is not None:
            strip = _strip(found, shown, at, first[comparable(prompt.prompt)], found.near)
        parts.append((_text(prompt), f"{facts}.", strip))
    return parts


def _worst(found: PromptAudit, shown: Comparison, at: int) -> str:
    """Return the row of pictures of a prompt that copies, with the training image that it copies most."""
    base = found.copied[:0] if found.base_copied is None else found.base_copied
    return _strip(found, shown, at, found.prompts[at].training[0], (found.copied >= 0, base >= 0))


def _strip(
    found: PromptAudit,
    shown: Comparison,
    at: int,
    image: int,
    flags: tuple[NDArray[np.bool_], NDArray[np.bool_]],
) -> str:
    """Return a row of pictures as the address of a PNG: a training image, then samples of a prompt, then the base model's at the same
    places; those with flags are framed."""
    samples = found.of_prompt[at]
    # The first copies stand first, so that a prompt of many seeds shows them.
    samples = samples[np.argsort(~flags[0][samples], kind="stable")][:_SHOWN]
    images = [(shown.training.images[image], _OTHER)]
    images += [(shown.samples.images[one], _COPY if flags[0][one] else _OTHER) for one in samples]
    if found.base is not None and len(flags[1]):
        images += [(found.base.images[one], _COPY if flags[1][one] else _OTHER) for one in samples]
    size = display_size(*shown.training.shape[1:])
    cells = [_framed(for_display(image, size), colour) for image, colour in images]
    gaps = [2 * _GAP if number in (0, len(samples)) else _GAP for number in range(len(cells) - 1)]
    parts: list[NDArray[np.uint8]] = []
    for cell, gap in zip(cells, [*gaps, 0], strict=True):
        parts += [cell, np.full((len(cell), gap, 3), 255, np.uint8)]
    return embedded_png(_png(np.concatenate(parts, axis=1)))


def _png(pixels: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _framed(image: NDArray[np.uint8], colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    height, width, _ = image.shape
    framed = np.empty((height + 2 * _FRAME, width + 2 * _FRAME, 3), np.uint8)
    framed[:] = np.array(colour, np.uint8)
    framed[_FRAME:-_FRAME, _FRAME:-_FRAME] = image
    return framed

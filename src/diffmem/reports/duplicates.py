"""Groups of near-duplicates as tables, JSON, CSV and a gallery."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffmem.data import ImageSet
from diffmem.files import json_bytes, write_folder
from diffmem.memorization.neighbours.groups import DuplicateGroups
from diffmem.reports.duplicates_gallery import ShownGroup, duplicates_figure
from diffmem.reports.html import png_bytes
from diffmem.reports.picture_page import PicturePage
from diffmem.text import count_text

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "duplicates_gallery",
    "duplicates_record",
    "duplicates_tables",
    "labels_differ",
    "radius_text",
    "write_duplicates",
]

FORMAT = "diffmem duplicates 1"
COLUMNS = ("group", "index", "name", "label", "class", "gap", "kept")
_HEADS = ("images", "apart", "labels", "names")
_GROUPS_SHOWN = 24
_IMAGES_SHOWN = 5
_ROWS_SHOWN = 10


def labels_differ(images: ImageSet, groups: DuplicateGroups, number: int) -> bool:
    """Return whether a group has images of several classes; false without labels."""
    return images.labels is not None and len(set(images.labels[groups.members[number]].tolist())) > 1


def radius_text(radius: float) -> str:
    """Return a radius with its unit, '1 grey level RMS'."""
    return f"{radius:g} grey {'level' if radius == 1 else 'levels'} RMS"


def duplicates_record(source: str, images: ImageSet, groups: DuplicateGroups) -> dict[str, Any]:
    """Return the groups as plain values for JSON.

    Keys: `format`, 'diffmem duplicates 1'; `source`, what was read; `fingerprint` of the set; `images`, their number;
    `radius`, in grey levels RMS, as are all distances; `groups_found`, `images_in_groups`, `images_to_remove` (all but
    the first of each group), `groups_of_several_classes`; and `groups`, the largest first and of equal size the nearest
    first. Each has `images`, a list of {`index`: position in the set, `name`, `label`: its class number or null,
    `gap`: distance to the nearest other image of the group} by index, of which the first is the one to keep;
    `nearest` and `widest`, the smallest and largest distance of two of its images (`widest` null where it was not
    measured); and `labels_differ`.
    """
    order = groups.by_size()
    records = []
    for number in order:
        members = groups.members[number].tolist()
        records.append(
            {
                "images": [
                    {
                        "index": index,
                        "name": images.names[index],
                        "label": None if images.labels is None else int(images.labels[index]),
                        "gap": gap,
                    }
                    for index, gap in zip(members, groups.gaps[number].tolist(), strict=True)
                ],
                "nearest": float(groups.nearest[number]),
                "widest": None if math.isnan(groups.widest[number]) else float(groups.widest[number]),
                "labels_differ": labels_differ(images, groups, number),
            }
        )
    return {
        "format": FORMAT,
        "source": source,
        "fingerprint": images.fingerprint,
        "images": len(images),
        "radius": groups.radius,
        "groups_found": len(groups),
        "images_in_groups": sum(map(len, groups.members)),
        "images_to_remove": groups.removed,
        "groups_of_several_classes": sum(record["labels_differ"] for record in records),
        "groups": records,
    }


def write_duplicates(source: str, images: ImageSet, groups: DuplicateGroups, folder: Path) -> list[Path]:
    """Write `duplicates.json` (see `duplicates_record`), `duplicates.csv`, `duplicates.html` and, if there is a group, `duplicates.png`.

    The CSV has a row per image in a group, in the order of the JSON: `group` (from 1 on), `index`, `name`, `label`,
    `class` (its name), `gap`, `kept` (1 for the image to keep, else 0). A file of an earlier call is replaced; without a
    group, its gallery is removed.

    Returns:
        The files.

    Raises:
        DiffmemError: A file cannot be written.
    """
    record = duplicates_record(source, images, groups)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    for number, group in enumerate(record["groups"], 1):
        for place, image in enumerate(group["images"]):
            label = image["label"]
            name = "" if label is None or images.class_names is None else images.class_names[label]
            shown = "" if label is None else label
            writer.writerow(
                (number, image["index"], image["name"], shown, name, image["gap"], int(place == 0))
            )
    contents = {"duplicates.csv": table.getvalue().encode()}
    shown = {}
    if len(groups):
        title, shown_groups, caption = duplicates_gallery(source, images, groups)
        contents["duplicates.png"] = png_bytes(duplicates_figure(title, shown_groups, caption))
        shown[f"{title}. {caption}"] = contents["duplicates.png"]
    contents["duplicates.html"] = _page(source, images, groups).render(shown)
    contents["duplicates.json"] = json_bytes(record)
    *others, numbers = write_folder(folder, contents, stale=["duplicates.png"])
    return [numbers, *others]


def _page(source: str, images: ImageSet, groups: DuplicateGroups) -> PicturePage:
    """Return what the page says beside the gallery."""
    inside = sum(map(len, groups.members))
    return PicturePage(
        "Near-duplicates",
        f"{Path(source).name}: {count_text(len(groups), 'group', 'groups')}",
        f"{inside:,} of {len(images):,} images ({inside / len(images):.2%}) have another within {radius_text(groups.radius)}."
        f" With the first of each group alone, {len(images) - groups.removed:,} images are left.",
        _HEADS,
        _largest(images, groups, _GROUPS_SHOWN),
        (
            "Distances are in grey levels RMS per pixel value. Groups are chains: two images of one can be farther apart than the radius.",
            "All groups are in duplicates.csv and duplicates.json.",
        ),
    )


def duplicates_gallery(
    source: str, images: ImageSet, groups: DuplicateGroups
) -> tuple[str, list[ShownGroup], str]:
    """Return the title, the groups and the caption of the gallery of at least one group."""
    order = groups.by_size()[:_GROUPS_SHOWN]
    shown = []
    for number in order:
        members = groups.members[number]
        first = members[:_IMAGES_SHOWN]
        shown.append(
            ShownGroup(
                f"{len(members):,} images, {_apart(groups, number)}",
                images.images[first],
                [f"no. {index}\n{_class(images, index)}".rstrip() for index in first.tolist()],
                len(members) - len(first),
                "labels differ" if labels_differ(images, groups, number) else "",
            )
        )
    chosen = (
        "all of them"
        if len(order) == len(groups)
        else f"the {len(order)} largest, of equal size the nearest first"
    )
    title = f"{Path(source).name}: {count_text(len(groups), 'group', 'groups')} within {radius_text(groups.radius)}"
    caption = (
        f"Shown: {chosen}; up to {_IMAGES_SHOWN} images of each, with their position in the set."
        " Distances in grey levels RMS per value: smallest, and largest where it differs."
    )
    return title, shown, caption


def duplicates_tables(source: str, images: ImageSet, groups: DuplicateGroups) -> list[Table]:
    """Return what the terminal shows: a summary, and the largest groups if there are any."""
    from rich.table import Table
    from rich.text import Text

    options: dict[str, Any] = {"title_justify": "left", "title_style": "bold", "box": None}
    summary = Table(title=Text(source), show_header=False, padding=(0, 2, 0, 0), **options)
    summary.add_column(style="dim", no_wrap=True)
    summary.add_column(overflow="fold")
    inside, differ = (
        sum(map(len, groups.members)),
        sum(labels_differ(images, groups, k) for k in range(len(groups))),
    )
    rows = {
        "images": f"{len(images):,}",
        "radius": radius_text(groups.radius),
        "groups": f"{len(groups):,}",
        "images in groups": f"{inside:,} ({inside / len(images):.2%})",
        "to remove": f"{groups.removed:,} ({groups.removed / len(images):.2%}): all but the first of each group",
        "labels differ": "no labels"
        if images.labels is None
        else f"in {count_text(differ, 'group', 'groups')}",
    }
    for name, value in rows.items():
        summary.add_row(name, value)
    if not len(groups):
        return [summary]
    more = "" if len(groups) <= _ROWS_SHOWN else f" ({_ROWS_SHOWN} of {len(groups):,})"
    largest = Table(title=f"Largest groups{more}", padding=(0, 2, 0, 0), **options)
    for name, justify in zip(_HEADS, ("right", "right", "left", "left"), strict=True):
        largest.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for cells in _largest(images, groups, _ROWS_SHOWN):
        largest.add_row(*cells[:2], *map(Text, cells[2:]))
    return [summary, largest]


def _largest(images: ImageSet, groups: DuplicateGroups, most: int) -> list[Sequence[str]]:
    """Return the largest groups as rows: how many images, how far apart, their labels and names."""
    rows: list[Sequence[str]] = []
    for number in groups.by_size()[:most]:
        members = groups.members[number].tolist()
        labels = list(dict.fromkeys(_class(images, index) for index in members))
        words = [images.names[index] for index in members[:3]]
        apart = _apart(groups, number, short=True)
        rows.append((f"{len(members):,}", apart, _listed(labels, 4), _listed(words, 3, len(members))))
    return rows


def _apart(groups: DuplicateGroups, number: int, short: bool = False) -> str:
    nearest, widest = groups.nearest[number], groups.widest[number]
    if widest == nearest:
        words = f"{nearest:.2f}"
    else:
        words = f"{nearest:.2f} to {'?' if math.isnan(widest) else format(widest, '.2f')}"
    return words if short else "exact copies" if widest == 0 else f"{words} apart"


def _class(images: ImageSet, index: int) -> str:
    if images.labels is None:
        return ""
    label = int(images.labels[index])
    return images.class_names[label] if images.class_names else str(label)


def _listed(words: Sequence[str], most: int, count: int | None = None) -> str:
    left = (len(words) if count is None else count) - min(most, len(words))
    return ", ".join(words[:most]) + (f" and {left:,} more" if left else "")

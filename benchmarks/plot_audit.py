"""The pictures and tables of docs/explanation/audit-criteria.md, from two self-tests.

    diffmem data build cifar-10-python.tar.gz photos.npz --size 20000 --selection random --seed 3
    diffmem audit --self-test --train photos.npz --transforms flip+shift2 --out photos
    diffmem audit --self-test --out digits
    python benchmarks/plot_audit.py photos/selftest.json digits/selftest.json docs/pictures

Prints the tables as Markdown.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from diffmem.auditing.positive_controls import POSITIVE_CONTROLS, make_controls
from diffmem.auditing.report.figures import PowerColumn, power_panels
from diffmem.auditing.selftest.records import SelfTestPart, SelfTestResult
from diffmem.data import open_images
from diffmem.files import write_bytes
from diffmem.reports.html import png_bytes
from diffmem.reports.style import SMALL_FONT_SIZE, new_figure

SHOWN = 7  # the digit that is changed


def planted_picture(path: Path) -> None:
    """Draw one digit with every change."""
    images = open_images("digits").images
    figure = new_figure(9.5, 2.9)
    places = figure.subplots(2, (len(POSITIVE_CONTROLS) + 1) // 2).ravel()
    for axes in places:
        axes.set_axis_off()
    for axes, kind in zip(places, POSITIVE_CONTROLS, strict=False):
        made = make_controls(images[[SHOWN]], kind.key, 0, images)[0, 0]
        axes.imshow(made, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_title(kind.key, fontsize=SMALL_FONT_SIZE)
    write_bytes(path, png_bytes(figure))


def power_picture(photos: SelfTestResult, digits: SelfTestResult, path: Path) -> None:
    """Draw what each criterion finds, without duplicates in the training set."""
    panels = []
    for words, result in (("photographs, 32 x 32", photos), ("digits, 8 x 8", digits)):
        columns = [PowerColumn(one.title, one.power, one.false_alarms) for one in result.parts[0].criteria]
        panels.append((words, columns))
    write_bytes(path, png_bytes(power_panels(panels)))


def table(photos: SelfTestPart, digits: SelfTestPart, keys: list[str]) -> str:
    """Return the fractions found, photographs / digits, in percent."""
    lines = [f"| control | {' | '.join(keys)} |", f"|---{'|---' * len(keys)}|"]
    for at, kind in enumerate(photos.criteria[0].power):
        cells = [
            f"{_number(photos.criterion(key).power[at].detected.value)} / {_number(digits.criterion(key).power[at].detected.value)}"
            for key in keys
        ]
        lines.append(f"| {kind.kind} | {' | '.join(cells)} |")
    alarms = [
        f"{_number(photos.criterion(key).false_alarms.value)} / {_number(digits.criterion(key).false_alarms.value)}"
        for key in keys
    ]
    lines.append(f"| *fresh images (false alarms)* | {' | '.join(alarms)} |")
    return "\n".join(lines)


def _number(share: float) -> str:
    return f"{100 * share:.0f}" if share == 0 or share >= 0.01 else f"{100 * share:.2g}"


def main() -> int:
    """Draw and print."""
    photos, digits = (SelfTestResult.model_validate_json(Path(name).read_bytes()) for name in sys.argv[1:3])
    target = Path(sys.argv[3])
    planted_picture(target / "audit_planted.png")
    power_picture(photos, digits, target / "audit_power.png")
    keys = [one.key for one in photos.parts[0].criteria]
    for at, part in enumerate(photos.parts):
        print(
            f"\n{part.duplication}: {part.training_images:,} / {digits.parts[at].training_images:,} training images"
        )
        print(table(part, digits.parts[at], keys))
        for result in (photos, digits):
            here = result.parts[at]
            print(here.found_from)
            print(here.false_verdicts)
            print([(row.kind, row.share, row.verdict) for row in here.shares if row.verdict is not None])
    print(np.min([one.smallest for one in photos.coverage if one.method == "clopper-pearson"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())

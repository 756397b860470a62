"""The page of an audit: the answer on top, what it rests on below, every number somewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffmem.attacks.flipd_record import FlipdRecord
from diffmem.auditing.records import AuditResult, PowerRecord
from diffmem.auditing.report.figures import (
    FALSE_ALARMS,
    copied_figure,
    copied_text,
    distance_figure,
    distance_text,
    kinds_of_power,
    power_figure,
    power_text,
)
from diffmem.auditing.report.gallery import AuditGallery, display_text, gallery_figure
from diffmem.auditing.report.text import (
    FINDING_TEXT,
    VERDICT_TEXT,
    area_text,
    chance_text,
    count_of_total,
    deciding_first,
    fine_percent,
    fine_rate,
    input_text,
    key_numbers,
    record_rows,
    space_text,
)
from diffmem.optimum.report.denoising_report import (
    COLUMNS,
    denoising_alt,
    denoising_figure,
    denoising_rows,
    reading_rows,
)
from diffmem.reports.html import embedded_png, png_bytes, render_page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["AuditPicture", "ReportPart", "audit_pictures", "page_of"]

_GALLERY_DPI = 100
_ROLES = {"training": "Training images", "heldout": "Held-out images", "samples": "Samples"}


@dataclass(frozen=True)
class AuditPicture:
    """A picture of the page, and the file of the folder that holds it as well.

    Attributes:
        name: Of the file.
        png: Its content.
        alt: What it shows, with its numbers.
        caption: Stands below it.
    """

    name: str
    png: bytes
    alt: str
    caption: str

    @property
    def uri(self) -> str:
        """Its address inside the page."""
        return embedded_png(self.png)


@dataclass(frozen=True)
class ReportPart:
    """A part of the page that an audit adds, and its files.

    Attributes:
        html: A section, already escaped.
        files: Name -> content; the names are among `PARTS` of the module that writes.
    """

    html: str
    files: Mapping[str, bytes]


def audit_pictures(result: AuditResult, galleries: Mapping[str, AuditGallery]) -> list[AuditPicture]:
    """Return the pictures that an audit can fill; a private one shows no gallery whatever is given."""
    found = []
    if result.distances:
        found.append(
            _picture(
                "audit_distances.png", distance_figure(result), distance_text(result),
                "Distances of samples and of null images (not copied) to their nearest training images. The axis is logarithmic, so that"
                " single samples show. A separate group on the left are copies; where both outlines agree, samples are"
                " as far from the training images as fresh images are.",
            )
        )  # fmt: skip
    if not result.private:
        found += _galleries(galleries)
    if result.copies is not None and any(one.times > 1 for one in result.copies.most_copied):
        found.append(
            _picture(
                "audit_copied.png", copied_figure(result), copied_text(result),
                "How many of the flagged samples copy each training image. 'Held 3 times': the training set holds that many exact"
                " copies of it.",
            )
        )  # fmt: skip
    if any(one.power for one in result.criteria):
        found.append(
            _picture(
                "audit_power.png", power_figure(result), power_text(result),
                "Positive controls: copies of these training images, unchanged and changed, and the fraction that each criterion finds. A"
                " dark cell: the criterion finds such copies. A light one: it would miss them, and a clean audit does not exclude them."
                " Intervals are in the table below.",
            )
        )  # fmt: skip
    check = None if result.model is None else result.model.check
    if check is not None and check.points:
        found.append(
            _picture(
                "audit_denoising.png", denoising_figure(check), denoising_alt(check),
                "The error with which the model finds noisy training images again, against the noise level. A model that was read as it"
                " was trained lies below the dotted and the dashed line; how far below the Gaussian it lies shows what it has learned"
                " beyond mean and covariance.",
            )
        )  # fmt: skip
    return found


def _galleries(galleries: Mapping[str, AuditGallery]) -> list[AuditPicture]:
    found = []
    size = "".join({display_text(one.samples.shape) for one in galleries.values()})
    if "worst" in galleries:
        found.append(
            _picture(
                "audit_worst.png", gallery_figure(galleries["worst"]), galleries["worst"].text,
                "Above each column: number of the sample → number of the training image. Below: distance to the nearest over that to the"
                f" second nearest training image, and distance in RMS grey levels. {size}",
            )
        )  # fmt: skip
    if "near" in galleries:
        found.append(
            _picture(
                "audit_near.png", gallery_figure(galleries["near"]), galleries["near"].text,
                "The samples with the smallest ratios that no deciding criterion flags, not otherwise selected: what"
                f" non-copies look like here. If they look like copies, the audit has missed some. {size}",
            )
        )  # fmt: skip
    return found


def _picture(name: str, figure: Figure, alt: str, caption: str) -> AuditPicture:
    dpi = _GALLERY_DPI if name in ("audit_worst.png", "audit_near.png") else 160
    return AuditPicture(name, png_bytes(figure, dpi), alt, caption)


def page_of(result: AuditResult, pictures: Sequence[AuditPicture], parts: Sequence[ReportPart] = ()) -> str:
    """Return an audit with its pictures and further parts as one self-contained HTML page; all that comes from the record is escaped."""
    copies = result.copies
    check = None if result.model is None else result.model.check
    return render_page(
        "audit.html",
        package=__package__,
        result=result,
        parts=[one.html for one in parts],
        word=VERDICT_TEXT[result.verdict.verdict],
        mark=result.verdict.verdict.replace(" ", "-"),
        keys=key_numbers(result),
        warnings=result.notes,
        rows=deciding_first(result.criteria),
        tests=_tests(result),
        readings=_readings(result),
        statistics=_statistics(result),
        criterion_notes=[(one.title, note) for one in result.criteria for note in one.notes],
        pictures={one.name.removeprefix("audit_").removesuffix(".png"): one for one in pictures},
        matches=[] if copies is None else copies.worst,
        copied=[] if copies is None else copies.most_copied,
        bins=_bins(result),
        power=_power(result),
        power_heads=["Positive control", *(one.title for one in result.criteria if one.power)],
        attacks=[] if result.membership is None else result.membership.attacks,
        quantiles=[] if result.flipd is None else _quantiles(result.flipd),
        check=check,
        errors=[] if check is None else denoising_rows(check),
        error_heads=["Noise level", *COLUMNS],
        other_models=[] if check is None else reading_rows(check),
        inputs=[(_ROLES[one.role], input_text(one)) for one in result.inputs],
        asked=f"The audit was to exclude a rate of copies of {fine_percent(result.target)}; seed {result.seed}.",
        space=[] if result.space is None else space_text(result.space, result),
        findings=FINDING_TEXT,
        count_of=count_of_total,
        rate_of=fine_rate,
        percent_of=fine_percent,
        area_of=area_text,
        chance_of=chance_text,
        fields_of=record_rows,
    )


def _tests(result: AuditResult) -> list[list[str]]:
    """Return every test as a row."""
    return [
        [
            f"{one.key}, {test.test}", f"{test.strictness:.3g}", f"{test.flagged:,}", f"{test.events:,}", f"{test.others:,}",
            f"{test.share:.3f}", f"{test.p_value:.2g}", f"{test.level:.2g}",
        ]
        for one in result.criteria
        for test in one.tests
    ]  # fmt: skip


def _readings(result: AuditResult) -> list[list[str]]:
    """Return every other reading as a row."""
    return [
        [
            one.text, f"{one.copies:,} of {one.samples:,}", f"{one.same_pictures:,}", f"{one.median_distance:.2f}",
            f"{one.usual_distance:.2f}", one.remedy,
        ]
        for one in result.readings
    ]  # fmt: skip


def _statistics(result: AuditResult) -> list[list[str]]:
    """Return plain statistics, each as a row of a value for each set."""
    if result.sample_check is None:
        return []
    columns = [list(record_rows(one)) for one in result.sample_check.statistics.values()]
    return [[cells[0][0], *(text for _, _, text in cells)] for cells in zip(*columns, strict=True)]


def _bins(result: AuditResult) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Return each histogram as rows of (bin, samples, null), without bins that are empty in both."""
    found = []
    for record in result.distances:
        null: Sequence[int | None] = record.null or [None] * len(record.samples)
        rows = [
            (f"{low:.6g} to {high:.6g}", f"{count:,}", "–" if other is None else f"{other:,}")
            for low, high, count, other in zip(
                record.edges[:-1], record.edges[1:], record.samples, null, strict=True
            )
            if count or other
        ]
        name = "Ratio of distances" if record.quantity == "ratio" else "Distance, RMS grey levels"
        found.append((name, rows))
    return found


def _power(result: AuditResult) -> list[list[str]]:
    """Return rows of a kind and what each criterion finds with intervals, and the false alarms last."""
    columns = [one for one in result.criteria if one.power]
    if not columns:
        return []
    found = [{power.key: _power_cell(power) for power in one.power} for one in columns]
    kinds = kinds_of_power([one.power for one in columns])
    rows = [[text, *(one.get(key, "–") for one in found)] for key, text in kinds.items()]
    return [*rows, [FALSE_ALARMS, *("–" if one.null is None else fine_rate(one.null) for one in columns)]]


def _power_cell(power: PowerRecord) -> str:
    cell = f"{fine_rate(power.detected)}, {count_of_total(power.detected)}"
    if power.traced is not None:
        cell += f"; traced {fine_rate(power.traced)}, {count_of_total(power.traced)}"
    return cell


def _quantiles(record: FlipdRecord) -> tuple[list[str], list[list[str]]]:
    """Return the heads, with the shares of the quantiles of FLIPD, and a row of values for each group of images."""
    groups = {
        "samples": record.samples, "planted": record.planted, "control": record.control, "unmarked": record.unmarked,
    }  # fmt: skip
    shares = list(record.samples)
    rows = [
        [name, *(f"{values[share]:.4g}" for share in shares)]
        for name, values in groups.items()
        if values is not None
    ]
    return ["Images", *(f"{100 * float(share):g}%" for share in shares)], rows

"""`measure`: R_mem of generated images; `measure_run`: of all snapshots of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffmem.api.inputs import Images, as_images
from diffmem.console import warn
from diffmem.data import ImageSet
from diffmem.distributed import world
from diffmem.environment import choose_device
from diffmem.errors import UserError
from diffmem.files import write_bytes, write_json
from diffmem.memorization import Measurement, Neighbours, Rate, RatioRule, protocol_id
from diffmem.memorization import measure as measure_images
from diffmem.memorization.examples import Example
from diffmem.memorization.features import open_features
from diffmem.progress import parts_of, show_progress
from diffmem.reports.gallery import gallery_figure
from diffmem.reports.html import png_bytes
from diffmem.runs.opening import open_run, remember_data, snapshots_of
from diffmem.runs.recipe import MeasureConfig
from diffmem.runs.records import RunRecord
from diffmem.sampling import SamplerConfig
from diffmem.text import html_table

__all__ = ["Measured", "MeasuredRun", "measure", "measure_run"]

_SHOWN = 8


@dataclass(frozen=True, eq=False)
class Measured:
    """R_mem of generated images, with the images.

    Attributes:
        numbers: What was measured.
        threshold: A sample whose d1 / d2 is below it is memorized.
        samples: The generated images.
        training: The training images.
        heldout: Images that were not trained on, or none.
    """

    numbers: Measurement
    threshold: float
    samples: ImageSet
    training: ImageSet
    heldout: ImageSet | None

    @property
    def rate(self) -> Rate:
        """R_mem with its interval."""
        return self.numbers.rate

    @property
    def null(self) -> Rate | None:
        """The same rule on held-out images; none without them."""
        return self.numbers.null

    @property
    def warnings(self) -> list[str]:
        """Sentences that a reader of the numbers must see."""
        return self.numbers.warnings

    @property
    def neighbours(self) -> Neighbours:
        """The nearest distinct training images of each sample."""
        return self.numbers.neighbours

    def rows(self) -> list[tuple[str, str]]:
        """Return the numbers with their names, as text."""
        found = self.numbers
        return [
            ("R_mem", str(found.rate)),
            (
                "null rate (held-out images)",
                "not measured: give heldout" if found.null is None else str(found.null),
            ),
            (
                "distinct training images copied",
                f"{found.distinct_replicated} of {found.training_images - found.duplicates}",
            ),
            ("mean distance to the nearest", f"{found.mean_nearest_rms:.2f} grey levels RMS"),
            ("protocol", found.protocol),
        ]

    def __str__(self) -> str:
        null = "null not measured" if self.null is None else f"null {self.null}"
        return "\n".join([f"R_mem {self.rate}, {null}", *(f"note: {text}" for text in self.warnings)])

    def _repr_html_(self) -> str:
        return html_table("Memorization", [*self.rows(), *(("note", text) for text in self.warnings)])

    def save(self, out: str | Path) -> Path:
        """Write the numbers to a .json file, and the neighbours beside it.

        Raises:
            UserError: The file has another ending.
            DiffmemError: A file cannot be written.
        """
        path = _with_ending(Path(out), ".json")
        sets = {
            "samples": self.samples.fingerprint,
            "train": self.training.fingerprint,
            "heldout": self.heldout.fingerprint if self.heldout else None,
        }
        write_json(path, {**self.numbers.to_json(), "fingerprints": sets})
        self.neighbours.save(path.with_suffix(".neighbours.npz"))
        return path

    def gallery(self, out: str | Path) -> Path:
        """Draw the eight samples of smallest ratio beside their neighbours to a .png file.

        Raises:
            UserError: The file has another ending.
            DiffmemError: It cannot be written.
        """
        path = _with_ending(Path(out), ".png")
        worst = np.argsort(self.numbers.ratio, kind="stable")[:_SHOWN]
        pairs = self.neighbours.indices[worst]
        shown = Example(
            "The samples of smallest ratio",
            self.samples.images[worst],
            self.training.images[pairs[:, 0]],
            self.training.images[pairs[:, 1]],
            self.numbers.ratio[worst],
            self.threshold,
            selection=f"The {len(worst)} of {len(self.samples):,} samples whose ratio is smallest",
        )
        write_bytes(path, png_bytes(gallery_figure(shown)))
        return path


def _with_ending(path: Path, ending: str) -> Path:
    if path.suffix.lower() != ending:
        raise UserError(f"{path.name!r} must end in {ending}; give the file this ending.")
    return path


def measure(
    samples: Images,
    training: Images,
    *,
    heldout: Images | None = None,
    threshold: float = 1 / 3,
    index: str | Path | None = None,
    device: str | None = None,
) -> Measured:
    """Measure how many generated images copy a training image: R_mem with its interval, and the null rate beside it.

    Args:
        samples: Generated images.
        training: The whole training set, in the form in which the model saw it.
        heldout: Images of the same kind that were not trained on, for the null rate.
        threshold: A sample is memorized if its nearest training image is closer than this times the second nearest.
        index: File that keeps the index of the training images for the next measurement; made if it is not there.
        device: Where distances are computed: 'cpu', 'cuda' or 'cuda:N'; by default a GPU where there is one.

    Returns:
        What was measured: `rate`, `null`, `warnings`, `neighbours`.

    Raises:
        UserError: Images cannot be read, differ in shape, or are too few.
    """
    device, rule = choose_device(device), RatioRule(threshold)
    made, images = as_images(samples), as_images(training)
    fresh = None if heldout is None else as_images(heldout)
    with show_progress("Measuring") as progress:
        found = measure_images(
            made.images, images.images, heldout=None if fresh is None else fresh.images, criterion=rule,
            index=None if index is None else Path(index), device=device, progress=progress,
        )  # fmt: skip
    return Measured(found, threshold, made, images, fresh)


@dataclass(frozen=True, eq=False)
class MeasuredRun:
    """R_mem of every snapshot of a run.

    Attributes:
        record: What was measured.
        details: The rest of what `save` writes: protocol, sampler, fingerprints, folder.
    """

    record: RunRecord
    details: dict[str, object]

    def __str__(self) -> str:
        null = "null not measured" if self.record.null is None else f"null {self.record.null}"
        lines = [f"epoch {one.epoch:,.4g}: R_mem {one.memorized}" for one in self.record.evaluations]
        return "\n".join([*lines, null])

    def _repr_html_(self) -> str:
        rows = [(f"epoch {one.epoch:,.4g}", str(one.memorized)) for one in self.record.evaluations]
        return html_table("R_mem by snapshot", [*rows, ("null rate", str(self.record.null))])

    def save(self, out: str | Path) -> Path:
        """Write the numbers to a .json file.

        Raises:
            UserError: The file has another ending.
            DiffmemError: It cannot be written.
        """
        path = _with_ending(Path(out), ".json")
        write_json(path, {**self.record.model_dump(mode="json"), **self.details})
        return path


def measure_run(
    folder: str | Path,
    *,
    training: str | Path | None = None,
    heldout: Images | None = None,
    sampler: SamplerConfig | None = None,
    config: MeasureConfig | None = None,
    device: str | None = None,
) -> MeasuredRun:
    """Generate from every snapshot of a run and measure, unless it is done already; all is kept in the run's folder.

    Args:
        folder: Folder of the run, made by `train` or a study, finished or not.
        training: Its training images; may be left out if they were named before, or a study keeps them.
        heldout: Images that were not trained on, for the null rate.
        sampler: How images are generated.
        config: How many images are generated, the threshold, and which Frechet distance is computed.
        device: 'cpu', 'cuda' or 'cuda:N'; by default a GPU where there is one.

    Raises:
        UserError: An argument is wrong, or the folder is not that of a run.
    """
    device, where, here = choose_device(device), Path(folder), world()
    sampling, chosen = sampler or SamplerConfig(), config or MeasureConfig()
    if not where.is_dir():
        raise UserError(
            f"There is no folder {where}; name the folder of a run, made by diffmem train or a study."
        )
    for remark in sampling.remarks():
        warn(f"{remark}.")
    points = here.broadcast(snapshots_of(where, warn) if here.is_main else [])
    features = None if chosen.frechet is None else open_features(chosen.frechet, device)
    fresh = None if heldout is None else as_images(heldout)
    with show_progress("Reading images") as progress:
        run = open_run(where, None if training is None else str(training), fresh, progress)
    if training is not None:
        remember_data(where, str(training))
    with show_progress("Measuring") as progress:
        for seen, part in parts_of(progress, points):
            run.evaluate(seen, sampling, chosen.samples, features, device=device, progress=part, warn=warn)
        run.measure_null(device=device, warn=warn)
    details: dict[str, object] = {
        "protocol": protocol_id(RatioRule(chosen.threshold)),
        "sampling": sampling.describe(),
        "fingerprints": {
            "train": run.training_set.fingerprint,
            "heldout": fresh.fingerprint if fresh else None,
        },
        "folder": str(where),
    }
    return MeasuredRun(run.record(sampling, chosen, where, points), details)

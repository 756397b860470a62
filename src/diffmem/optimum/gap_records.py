"""How far models are from their optimum, as typed records: the content of `gap.json`.

All squared distances are means over the C * H * W values of an image, for pixel values in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from diffmem.memorization.rates import MeanRecord, Rate
from diffmem.memorization.records import Record

__all__ = ["Correlation", "GapCurve", "GapInputs", "GapPoint", "GapResult", "RunGap", "positions_and_rmem"]

GapInputs = Literal["training", "heldout", "trajectory"]
"""Where D is compared: on noisy training images, on noisy held-out images, on states of the model's own sampling."""


class GapPoint(Record):
    """The model D, the optimum D* and the Gaussian G of its training set, on the same noisy images of one noise level.

    The last four fields are none on the model's own trajectories, where there is no clean image y.
    """

    sigma: float = Field(description="Noise level, for pixel values in [-1, 1].")
    to_optimum: MeanRecord = Field(description="|D - D*|^2.")
    to_gaussian: MeanRecord = Field(description="|D - G|^2.")
    between: MeanRecord = Field(description="|D* - G|^2.")
    position: MeanRecord | None = Field(
        description="mean <D - D*, G - D*> / mean |G - D*|^2: projection of the model on the line from D* (0) to G (1), the Gaussian."
        " None if D* and G are equal."
    )
    loss: MeanRecord | None = Field(
        default=None, description="|D - y|^2: the training loss without its weight, on training images."
    )
    optimum_loss: MeanRecord | None = Field(
        default=None,
        description="|D* - y|^2: on training images, in expectation, the least that any function can reach.",
    )
    excess: MeanRecord | None = Field(default=None, description="|D - y|^2 - |D* - y|^2, paired.")
    weight: float | None = Field(
        description="lambda(sigma), by which training multiplied the loss (and summed over the values of an image); none if the model"
        " was not trained."
    )


class GapCurve(Record):
    """The gap over noise levels at one kind of input."""

    kind: GapInputs
    samples: int = Field(description="Inputs at each noise level; the same images and noise at all.")
    points: list[GapPoint] = Field(description="Ascending in sigma.")
    position: MeanRecord | None = Field(
        description="Mean of the points' positions over the band: the noise levels where D* and G differ, |D* - G|^2 being at least a"
        " tenth of its maximum. None if they never do."
    )
    band: tuple[float, float] | None = Field(description="Lowest and highest noise level of the band.")


class RunGap(Record):
    """The gap of one snapshot of one run, or of a model made elsewhere."""

    run_id: str = Field(description="Of a model made elsewhere, the first digits of its SHA-256.")
    folder: str = Field(description="The folder of the run, or the path of the model.")
    images: int = Field(description="Number of training images N.")
    conditional: bool
    images_seen: int | None = Field(
        description="Images seen at the snapshot; none of a model made elsewhere."
    )
    epoch: float | None
    rmem: Rate | None = Field(
        description="R_mem of this snapshot, if it was measured: share of generated images with d1 / d2 below 1/3."
    )
    curves: list[GapCurve]
    notes: list[str] = Field(default_factory=list)

    def curve(self, kind: GapInputs) -> GapCurve | None:
        """Return the curve of a kind, none if it was not measured."""
        return next((curve for curve in self.curves if curve.kind == kind), None)


def positions_and_rmem(runs: Sequence[RunGap], kind: GapInputs) -> list[tuple[MeanRecord, Rate]]:
    """Return the position at a kind of input and R_mem of the runs that have both."""
    curves = [(run.curve(kind), run.rmem) for run in runs]
    return [(curve.position, rmem) for curve, rmem in curves if curve and curve.position and rmem is not None]


class Correlation(Record):
    """Spearman's rank correlation of the position with R_mem over runs, with its 95% interval."""

    kind: GapInputs
    value: float
    low: float
    high: float
    runs: int


class GapResult(Record):
    """The gap of some runs: the content of `gap.json`."""

    format: int = Field(default=1, description="Version of this layout.")
    samples: int = Field(description="Noisy images asked for at each noise level.")
    seed: int = Field(description="Seed of images and noise.")
    sampling: str = Field(description="The sampler of the trajectories, in words.")
    runs: list[RunGap]
    correlations: list[Correlation] = Field(
        default_factory=list,
        description="For each kind, over the runs that have both numbers, if they are five or more.",
    )

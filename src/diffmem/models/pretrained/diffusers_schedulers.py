"""With what noise the network in a diffusers folder was trained, as its scheduler's settings say it.

Settings that change what a network predicts, and are not known here, are refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, Self, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from diffmem.errors import UserError
from diffmem.models.continuous import Coefficients, ContinuousProcess, edm
from diffmem.models.discrete import (
    BetaSchedule,
    DiscreteProcess,
    Prediction,
    Timesteps,
    betas_of,
    clipped,
    levels_of,
    thresholded,
    zero_terminal,
)
from diffmem.models.pretrained.diffusers_files import (
    EDM_STEPPERS,
    KARRAS_VE,
    OTHER_BETAS,
    SCORE_SDE_VE,
    STEPPERS,
    TRAINERS,
    Parts,
    read_settings,
)
from diffmem.models.pretrained.recognition import WAYS_ON, unlike
from diffmem.models.weights import naming

__all__ = [
    "EdmSettings",
    "KarrasVeSettings",
    "OtherBetasSettings",
    "PartSettings",
    "ScheduleSettings",
    "SchedulerSettings",
    "VarianceExplodingSettings",
    "process_of",
    "read_part",
    "read_scheduler",
]


_OF_OTHER_KINDS = (
    "literal_error",
    "none_required",
)  # values that make sense, of models that are not supported


class PartSettings(BaseModel):
    """The settings of a part that are needed here; the library checks the others."""

    model_config = ConfigDict(frozen=True, extra="ignore")


_Settings = TypeVar("_Settings", bound=PartSettings)


class SchedulerSettings(PartSettings):
    """What a network was trained with; defaults are those of the library's DDPM and DDIM schedulers."""

    num_train_timesteps: int = Field(1000, ge=2, le=1_000_000)
    beta_start: float = Field(1e-4, ge=0, lt=1)
    beta_end: float = Field(0.02, ge=0, lt=1)
    beta_schedule: BetaSchedule = "linear"
    trained_betas: list[float] | None = None
    prediction_type: Prediction = "epsilon"
    predict_epsilon: bool = True
    rescale_betas_zero_snr: bool = False
    clip_sample: bool = True
    clip_sample_range: float = Field(1.0, gt=0)
    thresholding: bool = False
    dynamic_thresholding_ratio: float = Field(0.995, ge=0, le=1)
    sample_max_value: float = Field(1.0, gt=0)
    variance_type: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.predict_epsilon and (
            self.prediction_type == "epsilon" or "prediction_type" not in self.model_fields_set
        ):
            raise ValueError(
                'predict_epsilon false is an old setting for "prediction_type": "sample"; write that alone'
            )
        if self.trained_betas is not None and len(self.trained_betas) != self.num_train_timesteps:
            raise ValueError(
                f"trained_betas has {len(self.trained_betas)} entries for {self.num_train_timesteps} num_train_timesteps"
            )
        return self

    def levels(self) -> Tensor:
        """Return the noise level of each timestep, as `levels_of`."""
        betas = betas_of(self.beta_schedule, self.num_train_timesteps, self.beta_start, self.beta_end)
        if self.trained_betas is not None:
            betas = torch.tensor(self.trained_betas, dtype=torch.float32)
        return levels_of(zero_terminal(betas) if self.rescale_betas_zero_snr else betas)

    def finish(self) -> Callable[[Tensor], Tensor] | None:
        """Return what the scheduler does to each prediction of a clean image; none if it leaves it alone."""
        if self.thresholding:
            return thresholded(self.dynamic_thresholding_ratio, self.sample_max_value)
        return clipped(self.clip_sample_range) if self.clip_sample else None


class StepperSettings(SchedulerSettings):
    """What a network was trained with, as a scheduler says it that only steps in another way."""

    clip_sample: bool = False
    use_flow_sigmas: Literal[False] = False
    timestep_type: Literal["discrete"] = "discrete"


class OtherBetasSettings(StepperSettings):
    """The same of a scheduler of the library whose default betas are others.

    A scheduler of such a class that was made from another one has these in the place of that one's own defaults.
    """

    beta_start: float = Field(0.00085, ge=0, lt=1)
    beta_end: float = Field(0.012, ge=0, lt=1)

    @model_validator(mode="after")
    def _of_a_training(self) -> Self:
        if self.doubts and self.beta_schedule == "linear":
            raise ValueError(
                "betas of 0.00085 to 0.012 with beta_schedule 'linear' are the defaults of this class, which from_config writes where"
                " DDPM's 0.0001 to 0.02 were, so the noise of the training is not known. Copy the scheduler_config.json of the training; if"
                " these are its betas, write DDPMScheduler as the _class_name"
            )
        return self

    @property
    def doubts(self) -> bool:
        """Whether the betas may be those of the class, and not those of the training."""
        usual = {name: type(self).model_fields[name].default for name in ("beta_start", "beta_end")}
        counts = self.trained_betas is None and self.beta_schedule != "squaredcos_cap_v2"
        return counts and all(getattr(self, name) == value for name, value in usual.items())


class _ContinuousSettings(PartSettings):
    """What a network of continuous time was trained with."""

    sigma_min: float = Field(gt=0, allow_inf_nan=False)
    sigma_max: float = Field(gt=0, allow_inf_nan=False)
    variance_type: None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.sigma_min < self.sigma_max:
            raise ValueError(f"sigma_min {self.sigma_min:g} is not below sigma_max {self.sigma_max:g}")
        return self


class EdmSettings(_ContinuousSettings):
    """EDM's preconditioning (Karras et al. 2022, Table 1); for v_prediction, the library's networks have the other sign."""

    sigma_min: float = Field(0.002, gt=0, allow_inf_nan=False)
    sigma_max: float = Field(80.0, gt=0, allow_inf_nan=False)
    sigma_data: float = Field(0.5, gt=0, allow_inf_nan=False)
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    thresholding: bool = False

    def process(self) -> ContinuousProcess:
        """Return what the network was trained for."""
        process = edm(self.sigma_data, self.sigma_min, self.sigma_max)
        if self.prediction_type == "epsilon":
            return process

        def coefficients(sigma: Tensor) -> Coefficients:
            of_edm = process.coefficients(sigma)
            return of_edm._replace(out=-of_edm.out)

        return replace(process, text=f"{process.text}, v prediction of diffusers", coefficients=coefficients)


class VarianceExplodingSettings(_ContinuousSettings):
    """Song et al. 2021, "Score-Based Generative Modeling through SDEs", section 3.4: the score F of images in [0, 1]; their units."""

    sigma_min: float = Field(0.01, gt=0, allow_inf_nan=False)
    sigma_max: float = Field(1348.0, gt=0, allow_inf_nan=False)

    def process(self) -> ContinuousProcess:
        """Return what the network was trained for: D = x + s^2 F(x, s), with images and s in [0, 1] units."""
        return ContinuousProcess(
            "score of images in [0, 1] (VE)",
            lambda s: Coefficients(1.0, s.square(), 1.0, s),
            self.sigma_min,
            self.sigma_max,
            unit_range=True,
        )


class KarrasVeSettings(VarianceExplodingSettings):
    """The same network, with noise levels that are named in units of [-1, 1] (Karras et al. 2022, equation 213)."""

    sigma_min: float = Field(0.02, gt=0, allow_inf_nan=False)
    sigma_max: float = Field(100.0, gt=0, allow_inf_nan=False)

    def process(self) -> ContinuousProcess:
        """Return what the network was trained for."""
        return replace(super().process(), sigma_min=self.sigma_min / 2, sigma_max=self.sigma_max / 2)


ScheduleSettings = SchedulerSettings | EdmSettings | VarianceExplodingSettings
"""The settings of a scheduler."""


def read_part(
    what: str, kinds: Mapping[str, type[_Settings]], path: Path, root: Path, default: str | None = None
) -> _Settings:
    """Return the settings of a part of a folder.

    Args:
        what: The part, for messages.
        kinds: The settings of each class of the library that the part may have.
        path: Where its settings are.
        root: The folder that it must belong to.
        default: The class of the part where its settings do not say it.

    Raises:
        UserError: It is of another class, or a setting is not supported; the message names the file and the first of these.
    """
    settings = read_settings(path, root)
    name = settings.get("_class_name", default)
    if not isinstance(name, str) or name not in kinds:
        raise UserError(
            f"{path}, of diffusers: the {what} {name!r:.80} is not supported: {unlike(name, kinds)}"
        )
    try:
        return kinds[name].model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        reason = first["msg"].removeprefix("Value error, ")
        if first["loc"]:
            key = str(first["loc"][0])
            reason = f"{key} {settings.get(key)!r:.80} is not supported: {reason[:1].lower()}{reason[1:]}"
        ways = f" {WAYS_ON}" if first["type"] in _OF_OTHER_KINDS else ""
        raise UserError(f"{path}, of diffusers: {reason}.{ways}") from error


def read_scheduler(parts: Parts) -> ScheduleSettings:
    """Return the settings of the scheduler; see `read_part`."""
    kinds: dict[str, type[ScheduleSettings]] = {
        **dict.fromkeys(TRAINERS, SchedulerSettings),
        **dict.fromkeys(STEPPERS, StepperSettings),
        **dict.fromkeys(OTHER_BETAS, OtherBetasSettings),
        **dict.fromkeys(EDM_STEPPERS, EdmSettings),
        SCORE_SDE_VE: VarianceExplodingSettings,
        KARRAS_VE: KarrasVeSettings,
    }
    found = read_part("scheduler", kinds, parts.scheduler, parts.scheduler_root, parts.scheduler_kind)
    named = kinds.get(parts.scheduler_kind, type(found))
    if issubclass(named, SchedulerSettings) != isinstance(found, SchedulerSettings) or (
        not isinstance(found, SchedulerSettings) and named is not type(found)
    ):
        raise UserError(
            f"{parts.scheduler} has another kind of noise than the {parts.scheduler_kind} that model_index.json names. Correct the one that"
            " is not of the training."
        )
    return found


def process_of(
    parts: Parts, scheduler: ScheduleSettings, timesteps: Timesteps | None, clip: bool
) -> DiscreteProcess | ContinuousProcess:
    """Return what the network was trained for; errors name the scheduler's file.

    Args:
        parts: Of the folder.
        scheduler: Its scheduler.
        timesteps: See `DiscreteProcess`; none for 'interpolated'.
        clip: Whether predictions are clipped or thresholded as the scheduler does.

    Raises:
        UserError: Betas are impossible, or a network of continuous time is asked for timesteps or thresholds.
    """
    with naming(parts.scheduler):
        if isinstance(scheduler, SchedulerSettings):
            finish = scheduler.finish() if clip else None
            return DiscreteProcess(
                scheduler.levels(), scheduler.prediction_type, timesteps or "interpolated", finish
            )
        if timesteps is not None:
            raise UserError("It names noise levels and no timesteps; leave the argument timesteps out.")
        if clip and isinstance(scheduler, EdmSettings) and scheduler.thresholding:
            raise UserError(
                "Thresholds of predictions at continuous noise levels are not supported; leave the argument clip out."
            )
        return scheduler.process()

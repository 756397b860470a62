"""The choices of a sampler, with the defaults of the study of memorization: deterministic Heun, 18 steps."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from diffmem.settings import idle_settings

__all__ = ["DiscretizationName", "SamplerConfig", "ScalingName", "ScheduleName", "image_cost"]

DiscretizationName = Literal["edm", "vp", "ve", "iddpm"]
ScheduleName = Literal["linear", "vp", "ve"]
ScalingName = Literal["none", "vp"]


def image_cost(evaluations: int) -> float:
    """Return the cost of generating an image, in images trained: a training step costs about three network evaluations.

    Args:
        evaluations: Network evaluations for one image.
    """
    return evaluations / 3


class SamplerConfig(BaseModel):
    """How to solve the sampling equation; notation of Karras et al. 2022, Table 1 and Algorithms 1 and 2.

    All noise levels (sigma) are in [-1, 1] units of the images. The defaults give the 35 evaluations per
    image with which Gu et al. (TMLR 2025) measure memorization.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    solver: Literal["heun", "euler"] = Field(
        default="heun",
        description="'heun' is second order (2 steps - 1 evaluations), 'euler' first order (steps).",
    )
    steps: int = Field(
        default=18, ge=1, le=100_000, description="Number of steps from the highest noise level to zero."
    )
    sigma_min: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Lowest noise level before zero; none: the discretization's own (edm: 0.002).",
    )
    sigma_max: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Highest noise level, where sampling starts; none: the discretization's own (edm: 80).",
    )
    rho: float = Field(
        default=7.0,
        gt=0,
        allow_inf_nan=False,
        description="Exponent of the 'edm' discretization: larger puts more steps at low noise.",
    )
    alpha: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Where a step evaluates a second time: 1 is its end (Heun), 1/2 the midpoint.",
    )
    discretization: DiscretizationName = Field(default="edm", description="Which noise levels are visited.")
    schedule: ScheduleName = Field(
        default="linear", description="sigma(t): 'linear' is t, 've' is sqrt(t), 'vp' is variance preserving."
    )
    scaling: ScalingName = Field(
        default="none", description="s(t): 'none' is 1, 'vp' is 1 / sqrt(1 + sigma^2)."
    )
    S_churn: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="Amount of fresh noise over the whole run; 0 is deterministic.",
    )
    S_min: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="Fresh noise is added only at noise levels from here,",
    )
    S_max: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="up to here; none for no upper limit."
    )
    S_noise: float = Field(
        default=1.0,
        gt=0,
        allow_inf_nan=False,
        description="Standard deviation of the fresh noise (1.003 to 1.007 in EDM).",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.sigma_min is not None and self.sigma_max is not None and self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min ({self.sigma_min:g}) must be below sigma_max ({self.sigma_max:g})")
        if self.S_max is not None and self.S_min > self.S_max:
            raise ValueError(f"S_min ({self.S_min:g}) must not be above S_max ({self.S_max:g})")
        return self

    @property
    def evaluations(self) -> int:
        """How often the denoiser is evaluated for one image."""
        return 2 * self.steps - 1 if self.solver == "heun" else self.steps

    @property
    def image_cost(self) -> float:
        """Cost of generating an image, in images trained."""
        return image_cost(self.evaluations)

    def remarks(self, prefix: str = "") -> list[str]:
        """Return which settings were changed but have no effect beside the others, and why; see `idle_settings`."""
        found = list[str]()
        if self.discretization != "edm":
            found += idle_settings(self, prefix, ("rho",), f"{prefix}discretization is {self.discretization}")
        if self.solver == "euler":
            found += idle_settings(self, prefix, ("alpha",), f"{prefix}solver is euler")
        if self.S_churn == 0:
            found += idle_settings(self, prefix, ("S_min", "S_max", "S_noise"), f"{prefix}S_churn is 0")
        return found

    def describe(self) -> str:
        """Return the sampler in words, for example for a report."""
        name = (
            "Euler"
            if self.solver == "euler"
            else "Heun"
            if self.alpha == 1
            else f"second-order (alpha {self.alpha:g})"
        )
        kind = (
            "deterministic"
            if self.S_churn == 0
            else f"stochastic (S_churn {self.S_churn:g}, S_noise {self.S_noise:g})"
        )
        plural = "" if self.steps == 1 else "s"
        words = [
            f"{kind} {name} sampler, {self.steps} step{plural} ({self.evaluations} evaluations per image)"
        ]
        rho = f" (rho {self.rho:g})" if self.discretization == "edm" else ""
        words.append(f"{self.discretization} noise levels{rho}")
        if self.sigma_min is not None or self.sigma_max is not None:
            top = "default" if self.sigma_max is None else f"{self.sigma_max:g}"
            bottom = "default" if self.sigma_min is None else f"{self.sigma_min:g}"
            words.append(f"sigma from {top} down to {bottom}")
        if (self.schedule, self.scaling) != ("linear", "none"):
            words.append(f"schedule {self.schedule}, scaling {self.scaling}")
        return ", ".join(words)

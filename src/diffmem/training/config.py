"""`TrainingConfig`: the training procedure T as typed, hashable settings. Durations are in epochs of the training set."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from diffmem.settings import idle_settings

__all__ = ["EmaConfig", "EvaluationConfig", "TrainingConfig"]


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EmaConfig(_Config):
    """The exponential moving average of the weights, with which images are generated.

    The four modes are those of the paper's training code (Gu et al. 2025; `schedule.ema_beta` has the formulas). With a half-life of 10
    epochs: mode1 shrinks the decay with the data set; mode2, the paper's default, ends at 0.99929 a step for every size and batch;
    mode3 is 0.99929 for batches of 512 from the start; mode4 ends at `final` exactly, 0 turning the average off.
    """

    mode: Literal["mode1", "mode2", "mode3", "mode4"] = Field(
        "mode2",
        description="How the decay depends on the sizes of set and batch, as in the paper's code (see EmaConfig).",
    )
    half_life: float = Field(
        10.0, ge=0, description="Half-life of the average, in epochs (modes 1, 2 and 4)."
    )
    ramp: float = Field(
        0.05, gt=0, description="The half-life is at most this share of the images seen (modes 1, 2 and 4)."
    )
    final: float = Field(0.99929, ge=0, lt=1, description="Decay per step after the ramp (mode 4 only).")


class EvaluationConfig(_Config):
    """When snapshots are taken, to be measured.

    'log': `count` points spaced evenly in the logarithm of the epochs, the last one at the end, the same for every size, so
    that maxima over snapshots compare. 'study': every 2,508.8 thousand images at batch 512, as the paper's code did. 'doubling':
    from `start` epochs on `per_doubling` points each time that the epochs double, and one at the end; more epochs add points
    and move none, so that a training can be extended.
    """

    schedule: Literal["log", "study", "doubling"] = Field(
        "log",
        description="When R_mem is measured: 'log', evenly in log epochs; 'study', as the paper's code did; 'doubling', per_doubling"
        " times each time that the epochs double.",
    )
    count: int = Field(8, ge=1, le=1000, description="Number of points ('log' only).")
    first: float = Field(0.02, gt=0, le=1, description="First point as a share of all epochs ('log' only).")
    start: float = Field(50.0, gt=0, description="First point in epochs ('doubling' only).")
    per_doubling: int = Field(
        2, ge=1, le=20, description="Points each time that the epochs double ('doubling' only)."
    )


class TrainingConfig(_Config):
    """The training procedure T. The defaults are the paper's basic setup (Gu et al. 2025; 40,000 epochs at batch 512)."""

    epochs: float = Field(40_000, gt=0, description="Passes over the training set.")
    batch_size: int = Field(
        512, ge=1, description="Images per step; images repeat within a batch larger than the set."
    )
    optimizer: Literal["adam", "adamw", "sgd"] = Field(
        "adam", description="'adam' couples the weight decay (L2), 'adamw' does not; or 'sgd'."
    )
    learning_rate: float = Field(2e-4, gt=0, description="Learning rate after the warm-up.")
    warmup: float = Field(200.0, ge=0, description="Epochs in which the learning rate rises linearly from 0.")
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        (0.9, 0.999), description="Adam's decay rates."
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD's momentum.")
    weight_decay: float = Field(0.0, ge=0, description="Weight decay.")
    ema: EmaConfig = EmaConfig()
    order: Literal["cyclic", "shuffled"] = Field(
        "cyclic",
        description="'cyclic': one shuffle, repeated for ever, as in the paper's code; 'shuffled': a new order each epoch.",
    )
    rounding: Literal["exact", "kimg"] = Field(
        "exact",
        description="'kimg' truncates durations to thousands of images, as the paper's code did.",
    )
    p_mean: float = Field(-1.2, description="Mean of ln(sigma) in training (EDM preconditioning only).")
    p_std: float = Field(
        1.2, gt=0, description="Standard deviation of ln(sigma) in training (EDM preconditioning only)."
    )
    precision: Literal["float32", "tf32", "bf16"] = Field(
        "float32",
        description="Arithmetic of the network: 'tf32' on GPUs; 'bf16' on GPUs and on processors that have it (AVX512_BF16, AMX).",
    )
    compile: bool = Field(
        False, description="Compile the network with torch.compile (needs a C++ compiler on a CPU)."
    )
    evaluations: EvaluationConfig = EvaluationConfig()

    def describe(self) -> str:
        """Return the procedure in words, for reports."""
        decay = f", weight decay {self.weight_decay:g}" if self.weight_decay else ""
        name = {"adam": "Adam", "adamw": "AdamW", "sgd": f"SGD (momentum {self.momentum:g})"}[self.optimizer]
        if self.optimizer != "sgd" and self.betas != (0.9, 0.999):
            name += f" (betas {self.betas[0]:g}, {self.betas[1]:g})"
        average = {"mode3": "", "mode4": f", final decay {self.ema.final:g}"}.get(self.ema.mode, "")
        if self.ema.mode != "mode3":
            average = f" (half-life {self.ema.half_life:g} epochs{average})"
        return (
            f"{self.epochs:g} epochs, batch {self.batch_size}, {name} at learning rate {self.learning_rate:g}{decay},"
            f" warm-up {self.warmup:g} epochs, EMA {self.ema.mode}{average}, {self.order} order, {self.precision}"
        )

    def remarks(self, preconditioning: str) -> list[str]:
        """Return which settings were changed but have no effect beside the others, and why; see `idle_settings`.

        Args:
            preconditioning: Of the model.
        """
        ema, points, found = self.ema, self.evaluations, list[str]()
        optimizer, mode = f"training.optimizer is {self.optimizer}", f"training.ema.mode is {ema.mode}"
        schedule = f"training.evaluations.schedule is {points.schedule}"
        found += idle_settings(
            self, "training.", ("betas",) if self.optimizer == "sgd" else ("momentum",), optimizer
        )
        if preconditioning != "edm":
            why = f"model.preconditioning is {preconditioning}"
            found += idle_settings(self, "training.", ("p_mean", "p_std"), why)
        if ema.mode != "mode4":
            names = ("half_life", "ramp", "final") if ema.mode == "mode3" else ("final",)
            found += idle_settings(ema, "training.ema.", names, mode)
        if points.schedule != "log":
            found += idle_settings(points, "training.evaluations.", ("count", "first"), schedule)
        if points.schedule != "doubling":
            found += idle_settings(points, "training.evaluations.", ("start", "per_doubling"), schedule)
        return found

"""The quickstart: a small study on real handwritten digits that finishes in minutes on two CPU cores."""

from __future__ import annotations

from diffmem.models.config import ModelConfig
from diffmem.runs.recipe import DataConfig, MeasureConfig, StudyRecipe
from diffmem.training.config import EmaConfig, EvaluationConfig, TrainingConfig

__all__ = ["quickstart_recipe"]


def quickstart_recipe(fast: bool = False) -> StudyRecipe:
    """Return the quickstart's recipe.

    Unconditional DDPM++ networks of 0.10 M parameters with EDM preconditioning, trained for the same number
    of epochs on 16 to 112 of the 1,797 digits that scikit-learn ships: the largest takes as long by itself as the
    three others as a group, so that two cores end at the same time. Noise levels in training are
    concentrated where 8x8 digits become distinct, and the average of the weights spans 50 epochs, since a run
    here has only some thousand steps.

    Args:
        fast: A one-minute setting that shows the path, not the effect: fewer sizes, epochs and samples.
    """
    return StudyRecipe(
        title="Quickstart: memorization of handwritten digits" + (" (one-minute setting)" if fast else ""),
        data=DataConfig(source="digits", selection="random", seed=0, heldout=500),
        sizes=(16, 48) if fast else (16, 32, 64, 112),
        model=ModelConfig(
            architecture="ddpmpp",
            preconditioning="edm",
            channels=12,
            multipliers=(1, 2),
            blocks=1,
            attention=(),
            dropout=0.0,
        ),
        training=TrainingConfig(
            epochs=250 if fast else 1100,
            batch_size=32,
            learning_rate=4e-3,
            warmup=50,
            p_mean=-0.8,
            p_std=0.9,
            ema=EmaConfig(mode="mode1", half_life=50),
            evaluations=EvaluationConfig(count=3, first=0.05)
            if fast
            else EvaluationConfig(count=5, first=0.2),
        ),
        measure=MeasureConfig(samples=64 if fast else 200),
    )

"""T: how a denoiser learns."""

from diffmem.training.config import EmaConfig, EvaluationConfig, TrainingConfig
from diffmem.training.loop import Training, training_snapshots
from diffmem.training.trainer import Trainer

__all__ = ["EmaConfig", "EvaluationConfig", "Trainer", "Training", "TrainingConfig", "training_snapshots"]

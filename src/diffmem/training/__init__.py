"""T: how a denoiser learns."""

from diffmem.training.config import EmaConfig, EvaluationConfig, TrainingConfig
from diffmem.training.loop import train
from diffmem.training.trainer import Trainer

__all__ = ["EmaConfig", "EvaluationConfig", "Trainer", "TrainingConfig", "train"]

"""T: how a denoiser learns.

Modules: `config` (typed settings), `schedule` (durations in epochs as functions of N), `loss`, `randomness` (order and noise
as functions of seed and position), `flat` (parameters in one vector), `trainer` (the state and its step), `loop` (a run's
folder: metrics, snapshots, resuming).
"""

from diffmem.training.config import EmaConfig, EvaluationConfig, TrainingConfig
from diffmem.training.loop import train
from diffmem.training.trainer import Trainer

__all__ = ["EmaConfig", "EvaluationConfig", "Trainer", "TrainingConfig", "train"]

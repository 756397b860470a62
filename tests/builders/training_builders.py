"""Shared by the tests of training: a tiny conditional denoiser and trainings that take milliseconds."""

from __future__ import annotations

import numpy as np

from diffmem.models import ModelConfig, build_denoiser
from diffmem.models.weights import read_tensors
from diffmem.training import EvaluationConfig, Trainer, Training, TrainingConfig, training_snapshots
from diffmem.training.loop import STATE_FILE
from diffmem.training.schedule import evaluation_images

# Fourier features are random buffers, and dropout has masks of its own for each step: both must survive resuming.
MODEL = ModelConfig(
    embedding="fourier", channels=8, multipliers=(1,), blocks=1, attention=(), dropout=0.13
)  # fmt: skip
SHAPE = (1, 4, 4)
IMAGES = np.random.default_rng(0).integers(0, 256, (6, *SHAPE), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])
SHORT = TrainingConfig(
    epochs=20, batch_size=4, learning_rate=1e-3, warmup=2, evaluations=EvaluationConfig(count=4, first=0.2)
)
POINTS = evaluation_images(SHORT, len(IMAGES))


def denoiser(model=MODEL, labels=3, seed=1):
    return build_denoiser(model, SHAPE, labels, seed)


def trainer(model=MODEL, labels=LABELS, seed=5, images=IMAGES, **changes):
    config = TrainingConfig(**{**SHORT.model_dump(), **changes})
    return Trainer(denoiser(model, 0 if labels is None else 3), images, labels, config, seed)


def tensors(one):
    """A copy of a trainer's state."""
    return {name: tensor.clone() for name, tensor in one.state().items()}


def snapshots(folder):
    """The content of each snapshot; the order of the words in a safetensors header is not fixed."""
    content = {}
    for path in sorted((folder / "snapshots").iterdir()):
        read, words = read_tensors(path)
        content[path.name] = ({name: tensor.numpy().tobytes() for name, tensor in read.items()}, words)
    return content


def results(folder):
    """All that a finished run leaves: its snapshots, metrics and state."""
    state, words = read_tensors(folder / STATE_FILE)
    held = {name: tensor.numpy().tobytes() for name, tensor in state.items()}
    return snapshots(folder), (folder / "metrics.jsonl").read_text(), held, words


def train(one, model, folder, tag, *, on_snapshot=lambda current: None, **more):
    """Train as far as `on_snapshot`, which is called at each evaluation point, does not return True."""
    training = Training(one, model, folder, tag, **more)
    for reached in training_snapshots([training]):
        assert reached is training
        if on_snapshot(one) is True:
            break


def finish(folder, **more):
    train(trainer(), MODEL, folder, "tag", **more)
    return results(folder)


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}

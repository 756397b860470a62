"""Metrics for other programs. The JSONL file of a run is always written; this turns it into TensorBoard events (an extra)."""

from __future__ import annotations

from pathlib import Path

from diffmem.errors import UserError
from diffmem.training.loop import read_metrics

__all__ = ["require_tensorboard", "write_tensorboard"]


def require_tensorboard() -> None:
    """Check that TensorBoard can be written, before anything is trained.

    Raises:
        UserError: The package is not installed.
    """
    try:
        import tensorboard  # noqa: F401
    except ImportError as error:
        raise UserError(
            "TensorBoard is not installed; run pip install 'diffmem[tensorboard]' or leave --tensorboard out."
        ) from error


def write_tensorboard(folder: Path) -> None:
    """Write a run's metrics as events into its `tensorboard` folder; steps are thousands of images seen."""
    from torch.utils.tensorboard.writer import SummaryWriter

    for old in (folder / "tensorboard").glob("events.*"):
        old.unlink()  # events of an earlier call would be drawn twice
    writer = SummaryWriter(str(folder / "tensorboard"))
    for record in read_metrics(folder):
        for key in ("loss", "learning_rate", "epoch"):
            if record[key] is not None:
                writer.add_scalar(f"training/{key}", record[key], record["images_seen"] // 1000)
    writer.close()

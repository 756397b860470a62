"""The training loop of one run's folder: steps, metrics, snapshots, a state to resume from.

A folder holds, as far as training has come:

- `metrics.jsonl`: a line for each logged point (images_seen, epoch, loss, learning_rate);
- `snapshots/<images seen>.safetensors`: the averaged denoiser at each evaluation point;
- `training-state.safetensors`: the newest state, replaced as training goes on.

Processes that run together train one run. The first of them reads and writes the folder, which the others need not see.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from diffmem.distributed import world
from diffmem.errors import DiffmemError, UserError
from diffmem.files import write_text
from diffmem.interrupt import Agreement, StopRequest
from diffmem.models.config import ModelConfig
from diffmem.models.weights import read_tensors, save_denoiser, write_tensors
from diffmem.progress import NO_PROGRESS, Progress
from diffmem.training.schedule import evaluation_images, learning_rate
from diffmem.training.trainer import Trainer

__all__ = [
    "METRICS_FILE",
    "STATE_FILE",
    "read_metrics",
    "require_tensorboard",
    "snapshot_path",
    "snapshots_in",
    "training_snapshots",
    "write_tensorboard",
]

STATE_FILE = "training-state.safetensors"
METRICS_FILE = "metrics.jsonl"
_LOGGED_POINTS = 100
_SECONDS_BETWEEN_STATES = 60.0
_SECONDS_BETWEEN_REPORTS = 1.0


def snapshot_path(folder: Path, seen: int) -> Path:
    """Return where the snapshot after `seen` images lies."""
    return folder / "snapshots" / f"{seen:010d}.safetensors"


def snapshots_in(folder: Path) -> list[int]:
    """Return the images seen at the snapshots in a run's folder, ascending; files whose names are no numbers do not count."""
    names = [path.stem for path in (folder / "snapshots").glob("*.safetensors")]
    return sorted(int(name) for name in names if name.isascii() and name.isdecimal())


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the metrics of a run, a record for each line up to one that a crash cut short; none if there are no metrics yet."""
    path, found = folder / METRICS_FILE, []
    with suppress(ValueError, KeyError, TypeError, OverflowError):
        for line in path.read_text("utf-8", "replace").splitlines() if path.exists() else []:
            record = json.loads(line)
            found.append({**record, "images_seen": int(record["images_seen"])})
    return found


def _read_state(
    folder: Path, tag: str, points: list[int], warn: Callable[[str], None]
) -> dict[str, Tensor] | None:
    """Return the state to go on from; none if training starts anew."""
    path = folder / STATE_FILE
    if not path.exists():
        return None
    try:
        state, words = read_tensors(path)
    except DiffmemError as error:
        warn(f"{error} Training starts again.")
        return None
    if words.get("run") != tag:
        warn(f"{path} belongs to another run; it was not used. Training starts again.")
        return None
    seen = int(state.get("seen", 0))
    if any(point < seen and not snapshot_path(folder, point).exists() for point in points):
        return None  # a snapshot was lost or removed as damaged, and from this state on it would never be made again
    return state


def training_snapshots(
    trainer: Trainer,
    model: ModelConfig,
    folder: Path,
    tag: str,
    *,
    progress: Progress = NO_PROGRESS,
    warn: Callable[[str], None] = print,
) -> Iterator[int]:
    """Train to the end, or from where an earlier call was stopped, and yield at each evaluation point the images seen.

    By then the snapshot is written, and the trainer holds it. Who leaves the loop ends the training there; a later call goes on
    from this point. What is done with a snapshot must be repeatable, since a run that is killed meanwhile yields it again, and
    a stop takes effect in it at once. At any other time the state is saved on a stop, so that the weights are, bit for bit on
    a CPU, those of an undisturbed run.

    Processes that run together call it together, and leave it together. A stop that one of them is asked for reaches all after
    the same step, within about half a second or a step, whichever is longer. Training may go on with another number of
    processes.

    Args:
        trainer: A new trainer.
        model: The configuration its denoiser was built from, kept in each snapshot.
        folder: The run's folder; that of the first process is used.
        tag: Identity of the run; a state with another tag is not used.
        progress: Reports the images seen, of all images.
        warn: Warned of a damaged state that is not used.

    Raises:
        DiffmemError: The loss or a weight became NaN or infinite, a file cannot be written, another process ended, or the
            processes hold different weights.
        KeyboardInterrupt: A stop was requested; the state is saved.
    """
    config, size, here = trainer.config, trainer.size, world()
    points = evaluation_images(config, size)
    state = here.from_main(lambda: _read_state(folder, tag, points, warn))
    if state is not None:
        trainer.load_state(state)
        del state  # as large as the trainer
    metrics = (
        [one for one in read_metrics(folder) if one["images_seen"] <= trainer.seen] if here.is_main else []
    )
    stride = max(config.batch_size, trainer.total // _LOGGED_POINTS)

    def save() -> None:
        state = trainer.state()
        if here.is_main:
            write_text(folder / METRICS_FILE, "".join(json.dumps(one) + "\n" for one in metrics))
            write_tensors(folder / STATE_FILE, state, {"run": tag})

    saved = told = time.monotonic()
    with StopRequest() as stop:
        agreement = Agreement(stop)
        while True:
            # The process may have died between saving the state and the end of what is done with a snapshot.
            if trainer.seen in points:
                trainer.check_average()
                trainer.check_agreement()
                if here.is_main:
                    words = {"images_seen": str(trainer.seen), "epoch": repr(trainer.seen / size), "run": tag}
                    save_denoiser(trainer.ema, model, snapshot_path(folder, trainer.seen), words)
                save()
                stop.honour_together()
                with stop.at_once():
                    yield trainer.seen
                saved = time.monotonic()
            if trainer.seen >= trainer.total:
                break
            before = trainer.seen
            trainer.step()
            seen = trainer.seen
            if seen in points or seen // stride > before // stride:
                metrics.append(
                    {
                        "images_seen": seen,
                        "epoch": seen / size,
                        "loss": trainer.take_loss(),
                        "learning_rate": learning_rate(config, size, before),
                    }
                )
                progress(seen, trainer.total)
                told = time.monotonic()
            elif time.monotonic() - told > _SECONDS_BETWEEN_REPORTS:
                progress(seen, trainer.total)
                told = time.monotonic()
            stopping, saving = agreement.reach(time.monotonic() - saved > _SECONDS_BETWEEN_STATES)
            if (stopping or saving) and seen not in points:
                save()
                saved = time.monotonic()
                if stopping:
                    here.wait()  # nobody ends while the first still writes: a launcher would end it too
                    raise KeyboardInterrupt
        stop.honour_together()


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

"""The training loop of a run's folder, or of several: steps, metrics, snapshots, a state to resume from.

A folder holds, as far as training has come:

- `metrics.jsonl`: a line for each logged point (images_seen, epoch, loss, learning_rate);
- `snapshots/<images seen>.safetensors`: the averaged denoiser at each evaluation point;
- `training-state.safetensors`: the newest state, replaced as training goes on.

Runs that are trained together each leave these files. Processes that run together train one run; the first of them reads and
writes the folder, which the others need not see.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from diffmem.distributed import world
from diffmem.errors import DiffmemError, UserError
from diffmem.files import rename_file, unfinished, write_text
from diffmem.interrupt import Agreement, StopRequest
from diffmem.models.config import ModelConfig
from diffmem.models.weights import read_tensors, save_denoiser, write_tensors
from diffmem.progress import NO_PROGRESS, Progress
from diffmem.training.grouped import TrainerGroup
from diffmem.training.schedule import evaluation_images, learning_rate
from diffmem.training.trainer import Trainer

__all__ = [
    "METRICS_FILE",
    "STATE_FILE",
    "Training",
    "read_metrics",
    "require_tensorboard",
    "snapshot_path",
    "snapshots_in",
    "training_snapshots",
    "write_tensorboard",
]

STATE_FILE = "training-state.safetensors"
_NEXT_STATE_FILE = "training-state-next.safetensors"
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


@dataclass(eq=False)
class Training:
    """One training, and the folder that it leaves its files in.

    Attributes:
        trainer: A new trainer.
        model: The configuration its denoiser was built from, kept in each snapshot.
        folder: The run's folder; that of the first process is used.
        tag: Identity of the run; a state with another tag is not used.
        progress: Reports the images seen, of all images.
        warn: Warned of a damaged state that is not used.
    """

    trainer: Trainer
    model: ModelConfig
    folder: Path
    tag: str
    progress: Progress = NO_PROGRESS
    warn: Callable[[str], None] = print

    def __post_init__(self) -> None:
        trainer = self.trainer
        self.points = frozenset(evaluation_images(trainer.config, trainer.size))
        self._stride = max(trainer.config.batch_size, trainer.total // _LOGGED_POINTS)
        self._metrics: list[dict[str, Any]] = []
        self._told = 0.0

    def read_state(self, name: str = STATE_FILE) -> dict[str, Tensor] | None:
        """Return the state in a file, from which training can go on; none if there is no such state."""
        path = self.folder / name
        if not path.exists():
            return None
        try:
            state, words = read_tensors(path)
        except DiffmemError as error:
            self.warn(f"{error} Training starts again.")
            return None
        if words.get("run") != self.tag:
            self.warn(f"{path} belongs to another run; it was not used. Training starts again.")
            return None
        seen = int(state.get("seen", 0))
        if any(point < seen and not snapshot_path(self.folder, point).exists() for point in self.points):
            return None  # a snapshot was lost or removed as damaged, and from this state on it would never be made again
        return state

    def begin(self, state: dict[str, Tensor] | None) -> None:
        """Go on from a state, or begin anew without one."""
        if state is not None:
            self.trainer.load_state(state)
        if world().is_main:
            held = read_metrics(self.folder)
            self._metrics = [one for one in held if one["images_seen"] <= self.trainer.seen]
            states = [self.folder / _NEXT_STATE_FILE, *unfinished(self.folder, "training-state")]
            for path in (*states, *unfinished(self.folder / "snapshots")):  # of a process that was killed
                path.unlink(missing_ok=True)
        self._told = time.monotonic()

    def write_state(self, name: str = STATE_FILE) -> None:
        """Write the metrics so far, and the state."""
        state = self.trainer.state()
        if world().is_main:
            metrics = "".join(json.dumps(one) + "\n" for one in self._metrics)
            write_text(self.folder / METRICS_FILE, metrics)
            write_tensors(self.folder / name, state, {"run": self.tag})

    def check(self) -> None:
        """Refuse weights that are no numbers, or of which the processes hold different ones.

        Raises:
            DiffmemError: See above.
        """
        self.trainer.check_average()
        self.trainer.check_agreement()

    def write_snapshot(self) -> None:
        """Write the averaged denoiser, which was checked."""
        trainer = self.trainer
        if world().is_main:
            epoch = repr(trainer.seen / trainer.size)
            words = {"images_seen": str(trainer.seen), "epoch": epoch, "run": self.tag}
            save_denoiser(trainer.ema, self.model, snapshot_path(self.folder, trainer.seen), words)

    def note_step(self) -> None:
        """Log and report the step that was done, where that is due."""
        trainer, now = self.trainer, time.monotonic()
        seen = trainer.seen
        before = seen - trainer.config.batch_size
        logged = seen in self.points or seen // self._stride > before // self._stride
        if logged:
            self._metrics.append(
                {
                    "images_seen": seen,
                    "epoch": seen / trainer.size,
                    "loss": trainer.take_loss(),
                    "learning_rate": learning_rate(trainer.config, trainer.size, before),
                }
            )
        if logged or now - self._told > _SECONDS_BETWEEN_REPORTS:
            self.progress(seen, trainer.total)
            self._told = now


def training_snapshots(trainings: Sequence[Training]) -> Iterator[Training]:
    """Train to the end, or from where an earlier call was stopped, and yield each training at its evaluation points.

    By then the snapshot is written, and the trainer holds it. Who leaves the loop ends the trainings there; a later call goes on
    from this point. What is done with a snapshot must be repeatable, since a run that is killed meanwhile yields it again, and
    a stop takes effect in it at once. At any other time the states are saved on a stop, so that the weights are, bit for bit on
    a CPU, those of an undisturbed run.

    Several trainings are stepped together (see `TrainerGroup`), each to its own end. Their states are those of one place, however
    the process ended; where others went on with some of them meanwhile, those that are at one place go on together, one such
    group after the other.

    Processes that run together call it together, with one training, and leave it together. A stop that one of them is asked for
    reaches all after the same step, within about half a second or a step, whichever is longer. Training may go on with another
    number of processes.

    Raises:
        UserError: The trainings do not fit together.
        DiffmemError: A loss or a weight became NaN or infinite, a file cannot be written, another process ended, or the
            processes hold different weights.
        KeyboardInterrupt: A stop was requested; the states are saved.
    """
    for together in _begun(trainings):
        yield from _trained(together)


def _begun(trainings: Sequence[Training]) -> list[list[Training]]:
    """Give each training its state, and return those together that are at one place."""
    places: dict[int, list[Training]] = {}
    for one, state in zip(trainings, world().from_main(lambda: _states(trainings)), strict=True):
        one.begin(state)
        places.setdefault(one.trainer.seen, []).append(one)
    return [together for _, together in sorted(places.items())]


def _states(trainings: Sequence[Training]) -> list[dict[str, Tensor] | None]:
    """Return the state that each training goes on from: where several were saved together, states of one place."""
    found = [one.read_state() for one in trainings]
    places = {int(state["seen"]) for state in found if state is not None}
    for index, one in enumerate(trainings):
        # The next states are renamed when all are written: one that is renamed says that all others count.
        later, held = one.read_state(_NEXT_STATE_FILE), found[index]
        if later is None or int(later["seen"]) not in places:
            continue
        if held is None or held["seen"] < later["seen"]:
            found[index] = later
            # It counts for the next process, too.
            rename_file(one.folder / _NEXT_STATE_FILE, one.folder / STATE_FILE)
    return found


def _save(trainings: Sequence[Training]) -> None:
    """Save the states of trainings that are at one place, all or none."""
    if len(trainings) == 1:
        trainings[0].write_state()
        return
    for one in trainings:
        one.write_state(_NEXT_STATE_FILE)
    for one in trainings:
        rename_file(one.folder / _NEXT_STATE_FILE, one.folder / STATE_FILE)


def _trained(trainings: Sequence[Training]) -> Iterator[Training]:
    """Step trainings that are at one place."""
    here, left, group = world(), list(trainings), None
    saved = time.monotonic()
    with StopRequest() as stop:
        agreement = Agreement(stop)
        while True:
            # The process may have died between saving the state and the end of what is done with a snapshot.
            due = [one for one in left if one.trainer.seen in one.points]
            if due:
                if group is not None:
                    group.settle()
                for one in due:
                    one.check()
                # The states first: who is killed between the snapshots of two that end here has the other's, too, and no step is
                # done alone that was done together.
                _save(left)
                for one in due:
                    one.write_snapshot()
                stop.honour_together()
                for one in due:
                    with stop.at_once():
                        yield one
                saved = time.monotonic()
            going = [one for one in left if one.trainer.seen < one.trainer.total]
            if not going:
                break
            if len(going) == 1:
                group = None
            elif group is None or going != left:
                group = TrainerGroup([one.trainer for one in going])
            left = going
            (left[0].trainer if group is None else group).step()
            for one in left:
                one.note_step()
            stopping, saving = agreement.reach(time.monotonic() - saved > _SECONDS_BETWEEN_STATES)
            if (stopping or saving) and not any(one.trainer.seen in one.points for one in left):
                if group is not None:
                    group.settle()
                _save(left)
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

"""A run's folder: whatever stops a training, going on ends like an undisturbed run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from parameters import these
from training_builders import MODEL, POINTS, SHORT, files, finish, snapshots, train, trainer

import diffmem
from diffmem.errors import DiffmemError, UserError
from diffmem.models.weights import load_denoiser
from diffmem.training import EmaConfig, EvaluationConfig, loop
from diffmem.training.loop import STATE_FILE, snapshot_path
from diffmem.training.schedule import learning_rate


def test_a_run_leaves_its_snapshots_its_metrics_and_its_state(tmp_path):
    one = trainer()
    train(one, MODEL, tmp_path, "tag")
    assert one.seen == one.total == POINTS[-1]
    assert files(tmp_path) == {STATE_FILE, "metrics.jsonl"} | {
        f"snapshots/{seen:010d}.safetensors" for seen in POINTS
    }


def test_a_snapshot_is_the_average_at_its_point(tmp_path):
    one, copies = trainer(), {}
    x, labels = torch.randn(3, 1, 4, 4), torch.tensor([0, 1, 2])

    def keep(current):
        copies[current.seen] = current.ema(x, 0.5, labels).clone()

    train(one, MODEL, tmp_path, "tag", on_snapshot=keep)
    assert list(copies) == POINTS
    for seen, output in copies.items():
        loaded, model, words = load_denoiser(snapshot_path(tmp_path, seen))
        torch.testing.assert_close(loaded(x, 0.5, labels), output)
        assert model == MODEL
        assert words["images_seen"] == str(seen)
        assert float(words["epoch"]) == seen / 6
        assert words["run"] == "tag"


def test_metrics_tell_each_interval_once_and_in_order(tmp_path):
    train(trainer(), MODEL, tmp_path, "tag")
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["images_seen"] for record in records] == list(range(4, POINTS[-1] + 1, 4))
    for record in records:
        assert record["epoch"] == record["images_seen"] / 6
        assert record["loss"] > 0
        assert record["learning_rate"] == learning_rate(SHORT, 6, record["images_seen"] - 4)


def test_a_run_of_many_steps_logs_means_over_even_intervals(tmp_path, monkeypatch):
    one, losses = trainer(), []
    for _ in range(30):
        one.step()
        losses.append(one.take_loss())
    monkeypatch.setattr(loop, "_LOGGED_POINTS", 5)
    train(trainer(), MODEL, tmp_path, "tag")
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    seen = [record["images_seen"] for record in records]
    assert seen == sorted({24, 48, 72, 96, 120, *POINTS})
    for before, record in zip([0, *seen], records, strict=False):
        steps = losses[before // 4 : record["images_seen"] // 4]
        assert record["loss"] == pytest.approx(sum(steps) / len(steps))


def test_progress_counts_images_up_to_the_end(tmp_path):
    told = []
    train(trainer(), MODEL, tmp_path, "tag", progress=lambda done, total, note="": told.append((done, total)))
    assert [total for _, total in told] == [POINTS[-1]] * len(told)
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert told[-1][0] == POINTS[-1]


def test_long_steps_are_told_one_by_one_and_not_only_at_each_hundredth(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_LOGGED_POINTS", 2)
    told = []
    for seconds in (1000.0, 0.0):
        monkeypatch.setattr(loop, "_SECONDS_BETWEEN_REPORTS", seconds)
        seen = []
        train(
            trainer(),
            MODEL,
            tmp_path / str(seconds),
            "tag",
            progress=lambda done, *_, to=seen: to.append(done),
        )
        told.append(seen)
    assert len(told[0]) < len(told[1]) == POINTS[-1] // 4


def test_a_finished_run_repeats_only_its_last_measurement(tmp_path, undisturbed):
    finish(tmp_path)
    called = []
    assert finish(tmp_path, on_snapshot=lambda current: called.append(current.seen)) == undisturbed
    assert called == [POINTS[-1]]


@pytest.mark.parametrize(
    ("kind", "call"),
    these([(signal.SIGINT, 1), (signal.SIGTERM, 17), (signal.SIGINT, 29)], (signal.SIGTERM, 17)),
)
def test_a_stop_between_snapshots_loses_nothing(tmp_path, undisturbed, kind, call):
    told = []

    def stop(done, total, note=""):
        told.append(done)
        if len(told) == call:
            os.kill(os.getpid(), kind)

    one = trainer()
    with pytest.raises(KeyboardInterrupt):
        train(one, MODEL, tmp_path, "tag", progress=stop)
    assert one.seen == told[-1] < POINTS[-1]
    resumed = []
    assert finish(tmp_path, progress=lambda done, total, note="": resumed.append(done)) == undisturbed
    assert resumed[0] == told[-1] + 4  # it went on, and did not start again


@pytest.mark.parametrize("kind", these([signal.SIGINT, signal.SIGTERM], signal.SIGINT))
def test_a_stop_during_a_measurement_takes_effect_at_once_and_the_measurement_is_repeated(
    tmp_path, undisturbed, kind
):
    def stop(current):
        if current.seen == POINTS[1]:
            os.kill(os.getpid(), kind)
            pytest.fail("the measurement went on after the stop")

    with pytest.raises(KeyboardInterrupt):
        train(trainer(), MODEL, tmp_path, "tag", on_snapshot=stop)
    measured = []
    assert finish(tmp_path, on_snapshot=lambda current: measured.append(current.seen)) == undisturbed
    assert measured == POINTS[1:]


def test_an_error_in_a_measurement_loses_no_training(tmp_path, undisturbed):
    def fail(current):
        raise RuntimeError("measuring failed")

    with pytest.raises(RuntimeError, match="measuring failed"):
        train(trainer(), MODEL, tmp_path, "tag", on_snapshot=fail)
    resumed = []
    assert finish(tmp_path, progress=lambda done, total, note="": resumed.append(done)) == undisturbed
    assert resumed[0] == POINTS[0] + 4


CHILD = """
import sys, time
from pathlib import Path
from training_builders import MODEL, train, trainer
from diffmem.training import loop
loop._SECONDS_BETWEEN_STATES = 0.0  # a state after each step, so that the end may fall into the writing of one
measured = []  # from then on it takes seconds: it is killed before the end, however late the other process wakes up
told = lambda current: (measured.append(current), print("measured", current.seen, flush=True))
slowly = lambda *_: time.sleep(0.5 * bool(measured))
train(trainer(), MODEL, Path(sys.argv[1]), "tag", on_snapshot=told, progress=slowly)
"""


def test_a_killed_process_goes_on_to_the_same_end(tmp_path, undisturbed):
    paths = [str(Path(__file__).parents[1] / "builders"), str(Path(diffmem.__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    ) as child:
        assert child.stdout.readline() == f"measured {POINTS[0]}\n"
        child.kill()
    assert child.returncode == -signal.SIGKILL
    assert not snapshot_path(tmp_path, POINTS[-1]).exists()
    for path in (
        tmp_path / STATE_FILE,
        snapshot_path(tmp_path, POINTS[1]),
    ):  # it may have ended in these writes
        path.with_name(f".{path.name}.0123abcd.tmp").touch()
    warnings = []
    found = finish(tmp_path, warn=warnings.append)
    assert found == undisturbed
    assert warnings == []
    assert not [name for name in files(tmp_path) if name.endswith(".tmp")]


def test_the_state_is_saved_now_and_then_between_snapshots(tmp_path, undisturbed, monkeypatch):
    monkeypatch.setattr(loop, "_SECONDS_BETWEEN_STATES", 0.0)

    class PowerCutError(Exception):
        pass

    def cut(done, total, note=""):
        if done == POINTS[0] + 12:
            raise PowerCutError  # unlike a stop, it gives the loop no chance to save

    with pytest.raises(PowerCutError):
        train(trainer(), MODEL, tmp_path, "tag", progress=cut)
    resumed = []
    assert finish(tmp_path, progress=lambda done, total, note="": resumed.append(done)) == undisturbed
    assert resumed[0] == POINTS[0] + 12


def test_a_diverged_training_stops_with_a_remedy_and_leaves_no_snapshot(tmp_path):
    one = trainer(optimizer="sgd", learning_rate=1e12, warmup=0)
    with pytest.raises(DiffmemError, match=r"loss became (nan|inf).*training\.learning_rate") as caught:
        train(one, MODEL, tmp_path, "tag")
    assert not isinstance(caught.value, UserError)
    assert "\n" not in str(caught.value)
    assert files(tmp_path) == set()


def test_weights_spoilt_by_the_last_update_reach_no_snapshot(tmp_path):
    one = trainer(
        epochs=8 / 6,
        optimizer="sgd",
        learning_rate=3e38,
        warmup=0,
        ema=EmaConfig(mode="mode4", final=0),
        evaluations=EvaluationConfig(count=1),
    )
    with pytest.raises(DiffmemError, match=r"weights became NaN.*training\.learning_rate"):
        train(one, MODEL, tmp_path, "tag")
    assert files(tmp_path) == set()


def test_training_leaves_the_global_random_state_and_the_handlers_of_signals_alone(tmp_path):
    before = torch.random.get_rng_state()
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    finish(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


def test_the_global_random_state_does_not_matter_to_training(tmp_path, undisturbed):
    torch.manual_seed(4321)
    assert finish(tmp_path) == undisturbed


def test_measurements_may_use_the_global_generator(tmp_path, undisturbed):
    assert finish(tmp_path, on_snapshot=lambda current: torch.manual_seed(7)) == undisturbed


def test_a_measurement_can_end_training_and_a_later_call_goes_on_from_there(tmp_path, undisturbed):
    one = trainer()
    train(one, MODEL, tmp_path, "tag", on_snapshot=lambda current: current.seen == POINTS[1])
    assert one.seen == POINTS[1]
    assert len(snapshots(tmp_path)) == 2
    assert finish(tmp_path) == undisturbed


def test_a_training_that_a_measurement_ended_ends_again_without_another_step(tmp_path, monkeypatch):
    def stop(current):
        return current.seen == POINTS[1]

    train(trainer(), MODEL, tmp_path, "tag", on_snapshot=stop)
    again = trainer()
    monkeypatch.setattr(type(again), "step", lambda self: pytest.fail("it had ended"))
    train(again, MODEL, tmp_path, "tag", on_snapshot=stop)
    assert again.seen == POINTS[1]


def test_two_seeds_train_to_different_weights(tmp_path, undisturbed):
    train(trainer(seed=6), MODEL, tmp_path, "tag")
    assert snapshots(tmp_path).keys() == undisturbed[0].keys()
    assert snapshots(tmp_path) != undisturbed[0]

"""Several trainings in one loop: each leaves what it leaves alone, and whatever stops them, going on ends like undisturbed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from parameters import these
from training_builders import LABELS, MODEL, SHAPE, results, train, trainer

from diffmem.errors import DiffmemError
from diffmem.models.weights import load_denoiser
from diffmem.training import Training, loop, training_snapshots
from diffmem.training.loop import read_metrics, snapshot_path

# Two of one length, one shorter and one with points of its own.
SIZES = (6, 6, 3, 5)
IMAGES = np.random.default_rng(3).integers(0, 256, (6, *SHAPE), dtype=np.uint8)


def member(number):
    size, labels = SIZES[number], np.roll(LABELS, number)
    return trainer(seed=20 + number, images=IMAGES[:size], labels=labels[:size], optimizer="sgd", epochs=10)


def trainings(folder, numbers=range(4), **more):
    return [Training(member(number), MODEL, folder / str(number), str(number), **more) for number in numbers]


def finish(folder, numbers=range(4), **more):
    for _ in training_snapshots(trainings(folder, numbers, **more)):
        pass
    return [results(folder / str(number)) for number in numbers]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    return folder, finish(folder)


def test_each_training_leaves_what_it_leaves_alone_up_to_rounding(undisturbed, tmp_path):
    folder, _ = undisturbed
    for number in range(4):
        one, alone = member(number), tmp_path / str(number)
        train(one, MODEL, alone, str(number))
        names = {path.name for path in (alone / "snapshots").iterdir()}
        assert {path.name for path in (folder / str(number) / "snapshots").iterdir()} == names
        x, labels = torch.randn(3, *SHAPE), torch.tensor([0, 1, 2])
        for name in names:
            made, _, words = load_denoiser(folder / str(number) / "snapshots" / name)
            other, _, others = load_denoiser(alone / "snapshots" / name)
            assert words == others
            torch.testing.assert_close(made(x, 0.5, labels), other(x, 0.5, labels), rtol=1e-4, atol=1e-5)
        for made, other in zip(read_metrics(folder / str(number)), read_metrics(alone), strict=True):
            assert made.pop("loss") == pytest.approx(other.pop("loss"), rel=1e-4)
            assert made == other


def test_each_is_yielded_at_its_own_points_with_its_weights(tmp_path):
    met = []
    for one in training_snapshots(trainings(tmp_path)):
        assert one.trainer.seen in one.points
        saved = load_denoiser(snapshot_path(one.folder, one.trainer.seen))[0].state_dict()
        held = one.trainer.ema.state_dict()
        assert all(torch.equal(saved[name], held[name]) for name in saved)
        met.append((one.tag, one.trainer.seen))
    wanted = [(one.tag, seen) for one in trainings(tmp_path) for seen in one.points]
    assert sorted(met) == sorted(wanted)
    assert [seen for _, seen in met] == sorted(seen for _, seen in met)


def test_a_training_that_ended_is_not_touched_while_the_others_go_on(tmp_path):
    shortest, total = tmp_path / "2", member(2).total
    for one in training_snapshots(trainings(tmp_path)):
        if one.trainer.seen == total and one.tag == "2":
            before = {path: path.stat().st_mtime_ns for path in shortest.rglob("*")}
    assert {path: path.stat().st_mtime_ns for path in shortest.rglob("*")} == before


class PowerCutError(BaseException):
    """Unlike an error or a stop, it gives nobody a chance to save."""


def cut_off(folder, monkeypatch, cut):
    """Train until a write, which is not done."""
    replace, calls = Path.replace, []

    def count(self, target):
        calls.append(target)
        if len(calls) == cut:
            raise PowerCutError
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_SECONDS_BETWEEN_STATES", 0.0)  # states after each step
        patch.setattr(Path, "replace", count)
        with pytest.raises(PowerCutError):
            finish(folder)


@pytest.mark.parametrize("cut", these(range(2, 62, 3), 5, 23, 47))
def test_a_process_that_ends_in_any_write_goes_on_to_the_same_end(tmp_path, undisturbed, monkeypatch, cut):
    cut_off(tmp_path, monkeypatch, cut)
    assert finish(tmp_path, warn=pytest.fail) == undisturbed[1]


@pytest.mark.parametrize("cut", these(range(20, 30), 24))
def test_a_second_end_before_anything_more_is_saved_changes_nothing(tmp_path, undisturbed, monkeypatch, cut):
    cut_off(tmp_path, monkeypatch, cut)
    cut_off(tmp_path, monkeypatch, 3)
    assert finish(tmp_path, warn=pytest.fail) == undisturbed[1]


@pytest.mark.parametrize("call", these([1, 12, 25], 12))
def test_a_stop_between_snapshots_loses_nothing(tmp_path, undisturbed, call):
    told = []

    def stop(done, total, note=""):
        told.append(done)
        if len(told) == call:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        finish(tmp_path, progress=stop)
    assert finish(tmp_path, warn=pytest.fail) == undisturbed[1]


def test_trainings_at_several_places_go_on_each_from_its_own(tmp_path, undisturbed):
    finish(tmp_path, [0])
    alone = results(tmp_path / "0")
    for one in training_snapshots(trainings(tmp_path, [1])):
        if one.trainer.seen > 12:
            break
    reached = one.trainer.seen
    first: dict[str, int] = {}
    for one in training_snapshots(trainings(tmp_path)):
        first.setdefault(one.tag, one.trainer.seen)
    assert first["0"] == member(0).total
    assert first["1"] == reached
    assert results(tmp_path / "0") == alone
    assert results(tmp_path / "1")[0].keys() == undisturbed[1][1][0].keys()


def test_a_training_that_diverges_is_named_by_its_error_and_the_others_go_on_without_it(
    tmp_path, undisturbed
):
    broken = trainings(tmp_path)
    with torch.no_grad():
        broken[1].trainer.layout.vector.fill_(float("nan"))
    with pytest.raises(DiffmemError, match="loss became nan"):
        list(training_snapshots(broken))
    assert not (tmp_path / "1" / "snapshots").exists()

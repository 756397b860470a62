"""A run's folder whose files are damaged, of another run, or cannot be written: it is said, and training ends the same."""

from __future__ import annotations

import errno
import os
import resource
import signal
from pathlib import Path

import pytest
from parameters import these
from training_builders import MODEL, POINTS, files, finish, snapshots, tensors, train, trainer

from diffmem.errors import DiffmemError, UserError
from diffmem.models.weights import write_tensors
from diffmem.training.loop import STATE_FILE


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", these([truncate, flip, empty], flip))
def test_a_damaged_state_is_reported_and_training_starts_again_to_the_same_end(tmp_path, undisturbed, damage):
    finish(tmp_path)
    damage(tmp_path / STATE_FILE)
    warnings, told = [], []
    found = finish(
        tmp_path, warn=warnings.append, progress=lambda done, total, note="": told.append(done)
    )  # fmt: skip
    assert found == undisturbed
    assert told[0] == 4
    (warning,) = warnings
    assert STATE_FILE in warning
    assert "damaged" in warning
    assert warning.endswith("Training starts again.")
    assert "\n" not in warning


def test_the_state_of_another_run_is_reported_and_not_used(tmp_path, undisturbed):
    train(trainer(seed=6), MODEL, tmp_path, "other")
    warnings = []
    assert finish(tmp_path, warn=warnings.append) == undisturbed
    assert "another run" in warnings[0]


def test_the_state_of_another_architecture_is_refused(tmp_path):
    wider = MODEL.model_copy(update={"channels": 12})
    train(trainer(wider), wider, tmp_path, "tag")
    with pytest.raises(UserError, match="another architecture"):
        train(trainer(), MODEL, tmp_path, "tag")


@pytest.mark.parametrize(
    "tail",
    these(
        ['{"images_seen": 4', "[]\n", "{}\n", "null\n", '{"images_seen": 100000}\n'],
        '{"images_seen": 4',
        '{"images_seen": 100000}\n',
    ),
)
def test_a_spoilt_end_of_the_metrics_is_dropped(tmp_path, undisturbed, tail):
    def stop(current):
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(trainer(), MODEL, tmp_path, "tag", on_snapshot=stop)
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write(tail)
    assert finish(tmp_path) == undisturbed


def test_a_disk_that_fills_up_leaves_whole_files_and_the_run_goes_on_later(
    tmp_path, undisturbed, monkeypatch
):
    replace, calls = Path.replace, []

    def full(self, target):
        calls.append(target)
        if len(calls) > 5:  # three files at the first point, then the second state
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(DiffmemError, match="No space left") as caught:
            train(trainer(), MODEL, tmp_path, "tag")
    assert "\n" not in str(caught.value)
    assert files(tmp_path) == {STATE_FILE, "metrics.jsonl"} | {
        f"snapshots/{seen:010d}.safetensors" for seen in POINTS[:1]
    }
    whole, *_ = undisturbed
    assert snapshots(tmp_path) == {name: whole[name] for name in list(whole)[:1]}
    assert finish(tmp_path) == undisturbed


def test_a_write_that_the_system_cuts_short_leaves_no_part_of_a_file(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))  # bytes a file may have: less than a state
    try:
        with pytest.raises(DiffmemError, match=r"Cannot write .*\.safetensors: "):
            train(trainer(), MODEL, tmp_path, "tag")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(tmp_path) == {"metrics.jsonl"}  # which is whole


def test_a_state_that_lacks_a_part_is_refused(tmp_path):
    one = trainer()
    one.step()
    state = tensors(one)
    del state["ema"]
    write_tensors(tmp_path / STATE_FILE, state, {"run": "tag"})
    with pytest.raises(UserError, match="it lacks 'ema'"):
        train(trainer(), MODEL, tmp_path, "tag")

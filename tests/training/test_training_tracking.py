"""Metrics as TensorBoard events, read back with TensorBoard."""

from __future__ import annotations

import json
import sys

import pytest
from training_builders import MODEL, train, trainer

from diffmem.errors import UserError
from diffmem.training.loop import require_tensorboard, write_tensorboard


def scalars(folder):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    accumulator = reader.EventAccumulator(str(folder / "tensorboard"))
    accumulator.Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


def test_tensorboard_reads_the_metrics_of_a_run(tmp_path):
    pytest.importorskip("tensorboard")
    train(trainer(epochs=1000, batch_size=60), MODEL, tmp_path, "tag")
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    write_tensorboard(tmp_path)
    found = scalars(tmp_path)
    assert found.keys() == {"training/loss", "training/learning_rate", "training/epoch"}
    for key in ("loss", "learning_rate", "epoch"):
        steps, values = zip(*found[f"training/{key}"], strict=True)
        assert list(steps) == [record["images_seen"] // 1000 for record in records]
        assert list(values) == pytest.approx([record[key] for record in records], rel=1e-6)


def test_writing_again_replaces_the_earlier_events(tmp_path):
    pytest.importorskip("tensorboard")
    record = {"images_seen": 5000, "epoch": 5.0, "loss": 2.0, "learning_rate": 1e-4}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    write_tensorboard(tmp_path)
    (tmp_path / "metrics.jsonl").write_text(json.dumps({**record, "loss": 3.0}) + "\n")
    write_tensorboard(tmp_path)
    assert scalars(tmp_path)["training/loss"] == [(5, 3.0)]


def test_an_interval_without_a_loss_is_left_out(tmp_path):
    pytest.importorskip("tensorboard")
    record = {"images_seen": 5000, "epoch": 5.0, "loss": None, "learning_rate": 1e-4}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    write_tensorboard(tmp_path)
    assert scalars(tmp_path).keys() == {"training/learning_rate", "training/epoch"}


def test_a_missing_tensorboard_is_told_before_training(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UserError, match=r"pip install 'diffmem\[tensorboard\]'"):
        require_tensorboard()

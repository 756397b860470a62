"""A search whose runs train in jobs of a real SLURM, from the command line, as users start it."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from conftest import within

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(500)]

RECIPE = """
title: Tiny width search on digits
factor: channels
levels:
  "8": {model.channels: 8}
sizes: [8, 32]
data: {source: digits, selection: random, heldout: 40}
model: {preconditioning: edm, channels: 8, multipliers: [1, 2], blocks: 1, attention: [], dropout: 0.0}
training:
  epochs: 60
  batch_size: 16
  learning_rate: 4.0e-3
  warmup: 20
  p_mean: -0.8
  p_std: 0.9
  ema: {mode: mode1, half_life: 50}
  evaluations: {schedule: doubling, start: 30, per_doubling: 1}
measure: {samples: 40}
search: {tolerance: 0.3, start: 16, most_sizes: 2}
"""
LOCAL = "executor: inline\n"  # one thread, as in a job
SLURM = """
executor:
  kind: slurm
  partition: debug
  walltime: "00:20:00"
  cores_per_node: 1
  address: 127.0.0.1
"""
TIMES = ("seconds", "training_seconds", "sampling_seconds")


@pytest.fixture(scope="module")
def local_report(tmp_path_factory):
    """The report of the same search on this machine, apart from times."""
    folder = tmp_path_factory.mktemp("local")
    assert study(folder, LOCAL, "local").wait() == 0
    return report(folder / "local")


def study(folder, executor, out):
    (folder / "recipe.yaml").write_text(RECIPE + executor)
    words = ["study", "recipe.yaml", "--out", out, "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (folder / f"{out}.log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "diffmem", *words], cwd=folder, stderr=log, stdout=log, env=environment
        )


def report(folder):
    return without_times(json.loads((folder / "report.json").read_text()))


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(one) for key, one in value.items() if key not in TIMES}
    return [without_times(one) for one in value] if isinstance(value, list) else value


def status(folder):
    words = [sys.executable, "-m", "diffmem", "study", "status", str(folder)]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def test_a_search_says_why_it_waits_and_its_report_is_that_of_this_machine(slurm, tmp_path, local_report):
    slurm.drain()
    begin = time.monotonic()
    going = study(tmp_path, SLURM, "width")
    try:
        ((job, name),) = within(60, slurm.jobs).items()
        waiting = time.monotonic()
        assert name.startswith("width.")
        log = tmp_path / "width.log"
        within(15, lambda: "1 job pending: Nodes required for job are DOWN, DRAINED" in log.read_text())
        print(f"job after {waiting - begin:.0f} s, told {time.monotonic() - waiting:.0f} s later")
        within(15, lambda: "Waiting: 1 job pending: Nodes required" in status(tmp_path / "width"))
        assert f"; job {job}, " in log.read_text()
        assert set(slurm.jobs()) == {job}
        slurm.resume()
        assert going.wait(300) == 0
    finally:
        going.kill()
    assert report(tmp_path / "width") == local_report
    assert "executor.memory_gb: " in log.read_text()
    assert not slurm.jobs("PENDING", "RUNNING")
    assert "Waiting" not in status(tmp_path / "width")


def test_a_search_that_is_killed_goes_on_with_the_same_command_to_the_same_report(
    slurm, tmp_path, local_report
):
    first = study(tmp_path, SLURM, "width")
    (job,) = within(60, lambda: slurm.jobs("RUNNING"))
    within(60, lambda: list(tmp_path.glob("width/executor/tasks-*/1.jsonl")))
    first.kill()
    first.wait()
    assert not (tmp_path / "width/report.json").exists()
    second = study(tmp_path, SLURM, "width")
    try:
        assert second.wait(300) == 0
    finally:
        second.kill()
    assert f"had left in the queue: {job}" in (tmp_path / "width.log").read_text()
    assert report(tmp_path / "width") == local_report


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_search_that_is_asked_to_stop_cancels_its_jobs(slurm, tmp_path, number):
    going = study(tmp_path, SLURM, "width")
    within(60, lambda: slurm.jobs("RUNNING"))
    within(60, lambda: list(tmp_path.glob("width/executor/tasks-*/1.jsonl")))
    begin = time.monotonic()
    going.send_signal(number)
    assert going.wait(60) == 130 if number == signal.SIGINT else going.wait(60) != 0
    print(f"ended after {time.monotonic() - begin:.0f} s")
    within(10, lambda: not slurm.jobs("RUNNING", "PENDING"))
    assert not list(tmp_path.glob("width/executor/tasks-*"))

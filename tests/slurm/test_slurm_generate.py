"""Images that jobs of a real SLURM generate, from the command line, as users start it."""

import os
import subprocess
import sys

import numpy as np
import pytest
from models_tools import tiny

from conftest import within
from diffmem.models.config import ModelConfig
from diffmem.models.weights import save_denoiser

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(500)]

CLUSTER = """
kind: slurm
partition: debug
walltime: "00:20:00"
cores_per_node: 1
address: 127.0.0.1
"""


def generating(folder, out, *more):
    words = [
        "generate",
        "m.safetensors",
        out,
        "--seeds",
        "0-59",
        "--batch-size",
        "4",
        "--set",
        "steps=20",
        "--device",
        "cpu",
    ]
    with (folder / f"{out}.log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "diffmem", *words, *more],
            cwd=folder, stderr=log, stdout=log, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip


def test_images_are_those_of_this_machine_also_where_a_job_is_cancelled(slurm, tmp_path):
    fields = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (4,)}
    save_denoiser(tiny(), ModelConfig(architecture="ddpmpp", **fields), tmp_path / "m.safetensors")
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    assert generating(tmp_path, "here.npz").wait() == 0
    command = generating(tmp_path, "there.npz", "--executor", "cluster.yaml")
    within(120, lambda: list((tmp_path / "there.npz.shards").glob("shard-*")) or command.poll() is not None)
    assert command.poll() is None
    slurm.run("scancel", *slurm.jobs("running"))
    assert command.wait() == 0, (tmp_path / "there.npz.log").read_text()
    with np.load(tmp_path / "here.npz") as here, np.load(tmp_path / "there.npz") as there:
        np.testing.assert_array_equal(there["images"], here["images"])
    assert "done again" in (tmp_path / "there.npz.log").read_text()
    within(30, lambda: not slurm.jobs())

"""Several processes, started by torchrun as users start them, do what one process does."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from studies_builders import TINY

import diffmem
from diffmem.distributed import World, joined, under_torchrun, world
from diffmem.threads import one_thread
from distributed_program import everything

TESTS = Path(__file__).parent
PROGRAM = TESTS / "distributed_program.py"
ENVIRONMENT = {
    **{key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")},
    "PYTHONPATH": os.pathsep.join([str(TESTS / "builders"), str(Path(diffmem.__file__).parents[1])]),
    "OMP_NUM_THREADS": "1",
}
# Sums of float32 gradients in another order, carried through 30 steps of Adam.
TOLERANCE = {"rtol": 1e-3, "atol": 2e-5}


def launcher(*options):
    return [sys.executable, "-m", "torch.distributed.run", *map(str, options)]


def start(processes, folder, action, disturb="none 0 0", last_text=""):
    return subprocess.Popen(
        [*launcher("--standalone", f"--nproc-per-node={processes}"), str(PROGRAM), str(folder), action],
        env={**ENVIRONMENT, "DISTURB": disturb, "LAST_WORDS": last_text},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(child, seconds=100):
    out, err = child.communicate(timeout=seconds)
    return child.returncode, out, err


def found(folder, rank):
    with np.load(folder / f"rank{rank}" / "found.npz") as held:
        return dict(held)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    (folder / "rank0").mkdir()
    with one_thread():
        everything(folder / "rank0")  # in this process, which torchrun did not start
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    words = "the disk of this machine burns"  # when all is done, so that the folder holds a whole run
    code, out, err = finish(start(2, folder, "everything", last_text=words))
    assert code != 0
    assert (folder / "rank1/found.npz").exists(), err
    return folder, out, err


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    folder = tmp_path_factory.mktemp("three")
    code, out, err = finish(start(3, folder, "everything"))
    assert code == 0, err
    return folder, out


@pytest.fixture(params=[2, pytest.param(3, marks=pytest.mark.slow)])
def together(request):
    folder, out, *_ = request.getfixturevalue("pair" if request.param == 2 else "three")
    return request.param, folder, out


def snapshots(folder):
    return {path.name: load_file(path) for path in sorted((folder / "rank0/run/snapshots").iterdir())}


def state_of(folder):
    return int(load_file(folder / "rank0/run/training-state.safetensors")["seen"])


def test_without_torchrun_there_is_one_process_that_agrees_with_itself():
    assert not under_torchrun()
    with joined() as here:
        assert here == world() == World(0, 1)
        assert here.is_main
        assert here.any(True)
        assert not here.any(False)
        assert here.broadcast("word") == here.from_main(lambda: "word") == "word"
        assert here.gather("word") == ["word"]
        here.wait()
        tensor = torch.tensor([1.0, 2.0])
        here.all_reduce(tensor)
        assert tensor.tolist() == [1.0, 2.0]


def test_training_does_not_depend_on_the_number_of_processes(together, alone):
    # trap 15: random numbers drawn from seed * world + rank made 1 and 8 processes train on different noise
    _, folder, _ = together
    ours, theirs = snapshots(folder), snapshots(alone)
    assert ours.keys() == theirs.keys()
    for seen, tensors in ours.items():
        for name, tensor in tensors.items():
            # A key's bias has no gradient but rounding, which Adam magnifies; it changes no output.
            if not name.endswith("qkv.bias"):
                torch.testing.assert_close(tensor, theirs[seen][name], **TOLERANCE, msg=f"{seen} {name}")


def test_all_processes_end_with_the_same_weights(together):
    processes, folder, _ = together
    for rank in range(1, processes):
        for key in ("weights", "ema"):
            np.testing.assert_array_equal(found(folder, rank)[key], found(folder, 0)[key])


def test_the_logged_loss_is_the_mean_over_all_processes(together, alone):
    _, folder, _ = together
    ours, theirs = (
        [json.loads(line) for line in (one / "rank0/run/metrics.jsonl").read_text().splitlines()]
        for one in (folder, alone)
    )
    assert [line["images_seen"] for line in ours] == [line["images_seen"] for line in theirs]
    np.testing.assert_allclose([line["loss"] for line in ours], [line["loss"] for line in theirs], rtol=1e-4)


def test_the_first_process_alone_writes_and_speaks_and_every_process_measures(together, alone):
    processes, folder, out = together
    assert out == f"process 0 of {processes}\n"
    assert (folder / "rank0/run/training-state.safetensors").is_file()
    for rank in range(processes):
        assert rank == 0 or not (folder / f"rank{rank}/run").exists()
        np.testing.assert_array_equal(found(folder, rank)["measured"], found(alone, 0)["measured"])


def test_generated_images_are_those_of_one_process_bit_for_bit_in_every_process(together, alone):
    # trap 21: the original's gather needed as many images on every process, and hung or failed on 3, 6 and 7 of them
    processes, folder, _ = together
    for rank in range(processes):
        for key in ("images", "labels", "seeds"):
            np.testing.assert_array_equal(found(folder, rank)[key], found(alone, 0)[key])


def test_each_batch_is_generated_by_one_process_and_kept_by_it(together, alone):
    processes, folder, _ = together
    calls = [int(found(folder, rank)["calls"]) for rank in range(processes)]
    assert sum(calls) == int(found(alone, 0)["calls"])
    assert max(calls) - min(calls) <= 3  # one batch of three evaluations
    assert all(int(found(folder, rank)["calls_again"]) == 0 for rank in range(processes))
    held = [path.name for rank in range(processes) for path in (folder / f"rank{rank}/shards").iterdir()]
    assert sorted(held) == sorted(path.name for path in (alone / "rank0/shards").iterdir())


@pytest.mark.parametrize("queries", [11, 2, 1, 0])
def test_neighbours_are_those_of_one_process_whatever_the_numbers(together, alone, queries):
    # trap 21: fewer queries than processes, and numbers that do not divide
    processes, folder, _ = together
    for rank in range(processes):
        for key in (f"distances{queries}", f"indices{queries}"):
            np.testing.assert_array_equal(found(folder, rank)[key], found(alone, 0)[key])


def test_shares_of_the_images_in_several_processes_give_the_optimum_of_all(together, alone):
    processes, folder, _ = together
    expected = found(alone, 0)
    for rank in range(processes):
        mine = found(folder, rank)
        np.testing.assert_allclose(mine["means"], expected["means"], atol=2e-6)
        np.testing.assert_allclose(mine["weights_of_optimum"], expected["weights_of_optimum"], atol=1e-5)


def test_a_batch_smaller_than_the_number_of_processes_is_refused(together):
    processes, folder, _ = together
    for rank in range(processes):
        assert f"1 images cannot be split among {processes} processes" in str(found(folder, rank)["refusal"])


def test_an_error_ends_the_job_and_is_told_first_and_once(pair):
    *_, err = pair
    assert err.count("rank 1: error: the disk of this machine burns\n") == 1
    before, _, behind = err.partition("rank 1: error: the disk of this machine burns")
    assert "Traceback" not in before
    assert "closed" not in before
    assert "Another process of this job" not in before
    assert "exitcode  : 1" in behind  # torchrun names the process that failed first


@pytest.mark.slow
def test_stops_and_kills_end_the_job_and_lose_nothing(pair, tmp_path):
    child = start(2, tmp_path, "disturbed")
    line = child.stdout.readline()
    assert line.startswith("seen "), child.communicate()
    child.send_signal(signal.SIGTERM)
    code, out, err = finish(child, 60)
    assert code != 0
    stopped = state_of(tmp_path)
    assert stopped == int((line + out).split()[-1])  # both processes stopped after the same step
    assert stopped < 80
    assert err.count("Stopped. What was done is kept") == 1

    code, out, err = finish(start(2, tmp_path, "disturbed", "kill 1 80"), 60)
    assert code != 0
    assert "SIGKILL" in err  # torchrun tells the cause
    assert out.startswith(f"seen {stopped + 4}\n")  # it went on, and did not start again
    assert stopped < state_of(tmp_path) <= 80

    code, out, err = finish(start(2, tmp_path, "disturbed"), 60)
    assert code == 0, err
    undisturbed, disturbed = snapshots(pair[0]), snapshots(tmp_path)
    assert undisturbed.keys() == disturbed.keys()
    for seen, tensors in undisturbed.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, disturbed[seen][name]), (seen, name)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_two_machines_generate_the_images_of_the_optimum_with_the_command_line(tmp_path):
    data, port = tmp_path / "data.npz", free_port()
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 4), dtype=np.uint8)
    np.savez(data, images=images.transpose(0, 2, 3, 1))
    words = ["generate", "--optimum", data, "--seeds", "0-6", "--batch-size", "2", "--device", "cpu"]
    meeting = ("--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={port}")
    nodes = []
    for rank in (0, 1):
        home = tmp_path / f"node{rank}"
        home.mkdir()
        command = [*launcher(*meeting, f"--node-rank={rank}"), "-m", "diffmem", *words, home / "s.npz"]
        nodes.append(
            subprocess.Popen(
                list(map(str, command)), env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        )  # fmt: skip
    ends = [finish(node, 60) for node in nodes]
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert ends[0][1].count("7 images of 4x4x3 from the optimum of 5 images") == 1
    assert ends[1][1] == ""
    assert [path.name for path in (tmp_path / "node0").iterdir()] == ["s.npz"]
    assert list((tmp_path / "node1").iterdir()) == []
    with np.load(tmp_path / "node0/s.npz") as held:
        made = held["images"]
    distances = np.abs(made[:, None].astype(int) - images[None]).max(axis=(2, 3, 4))
    assert (distances.min(axis=1) <= 1).all()  # the optimum copies


@pytest.mark.slow
def test_a_grid_is_trained_by_both_processes_together_and_reported_by_the_first(tmp_path):
    recipe = tmp_path / "grid.yaml"
    recipe.write_text(json.dumps(TINY))
    words = ["study", recipe, "--out", tmp_path / "grid", "--device", "cpu"]
    command = [*launcher("--standalone", "--nproc-per-node=2"), "-m", "diffmem", *words]
    done = subprocess.run(
        list(map(str, command)), env=ENVIRONMENT, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report.html") == 1
    (level,) = json.loads((tmp_path / "grid/report.json").read_text())["levels"]
    assert [run["size"] for run in level["runs"]] == [4, 8]

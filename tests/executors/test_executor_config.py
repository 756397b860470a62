import importlib.util
import os
from typing import Any

import pytest
import torch
import yaml

from diffmem.errors import UserError
from diffmem.executors import open as open_module
from diffmem.executors.config import ExecutorConfig, walltime_seconds
from diffmem.executors.open import InlinePool, open_pool
from diffmem.executors.pool import Task
from diffmem.executors.processes import LocalPool
from diffmem.settings import validated


def read(text: str) -> Any:
    """Read the `executor:` of a recipe."""
    return validated(ExecutorConfig, yaml.safe_load(text), "recipe.yaml")


def test_a_word_is_a_kind_and_a_mapping_has_its_settings():
    assert read("inline") == ExecutorConfig(kind="inline")
    assert read("local").processes is None
    config = read("{kind: local, processes: 4, gpus: [0, 1], runs_per_gpu: 2}")
    assert (config.processes, config.gpus, config.runs_per_gpu) == (4, (0, 1), 2)
    slurm = read(
        '{kind: slurm, partition: gpu, walltime: "04:00:00", gpus_per_node: 8, processes_per_run: 4}'
    )
    assert slurm.runs_per_node == 2
    assert walltime_seconds(slurm.walltime) == 14_400
    assert ExecutorConfig.model_validate(slurm.model_dump(exclude_unset=True)) == slurm


@pytest.mark.parametrize(
    ("given", "seconds"), [("00:00:59", 60), ("00:01:00", 60), ("00:01:59", 120), ("49:59:01", 180_000)]
)
def test_a_time_limit_is_rounded_up_to_the_minutes_that_schedulers_count_in(given, seconds):
    config = ExecutorConfig(kind="slurm", cores_per_node=1, walltime=given, minutes_to_save=0.1)
    assert walltime_seconds(config.walltime) == seconds
    assert config.walltime.endswith(":00")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "cloud",
            "kind = 'cloud': input should be 'inline', 'local', 'parsl', 'slurm', 'pbs' or 'kubernetes'",
        ),
        ("{kind: local, proceses: 4}", "unknown key 'proceses'. Did you mean 'processes'?"),
        ("{kind: inline, processes: 4}", "processes means nothing to the executor 'inline', only to local"),
        ("{kind: local, walltime: '01:00:00'}", "walltime means nothing to the executor 'local'"),
        (
            "{kind: pbs, nodes: 2, cores_per_node: 4, walltime: '01:00:00'}",
            "nodes means nothing to the executor 'pbs'",
        ),
        ("parsl", "the executor 'parsl' needs path"),
        ("slurm", "the executor 'slurm' needs walltime"),
        ("{kind: slurm, walltime: '01:00:00'}", "'slurm' needs gpus_per_node or cores_per_node"),
        ("{kind: pbs, walltime: '01:00:00'}", "the executor 'pbs' needs cores_per_node"),
        ("{kind: kubernetes, image: x, cores_per_node: 4, memory_gb: 8}", "needs volumes"),
        (
            "{kind: slurm, cores_per_node: 4, walltime: 12:00:00}",
            "walltime = 43200: a time limit reads 'HH:MM:SS' in quotes",
        ),
        (
            "{kind: slurm, cores_per_node: 4, walltime: '4 h'}",
            "walltime = '4 h': a time limit reads 'HH:MM:SS'",
        ),
        (
            "{kind: slurm, cores_per_node: 4, walltime: '00:10:00'}",
            "leaves too little before the 5 minutes to save",
        ),
        ("{kind: local, gpus: [1, 1]}", "gpus repeats a value: [1, 1]"),
        ("{kind: local, processes: 0}", "processes = 0: input should be greater than or equal to 1"),
        ("{kind: local, runs_per_gpu: 2, processes_per_run: 2}", "runs_per_gpu must be 1"),
        (
            "{kind: slurm, walltime: '01:00:00', gpus_per_node: 2, processes_per_run: 4}",
            "2 GPUs on a machine are not enough for a run of 4 processes",
        ),
    ],
)
def test_settings_that_do_not_fit_are_told_with_their_value(text, words):
    with pytest.raises(UserError) as caught:
        read(text)
    assert words in str(caught.value)


def test_a_task_s_content_is_json_wherever_it_runs():
    assert Task("one", "m:f", {"sizes": (1, 2)}).content == {"sizes": [1, 2]}
    with pytest.raises(TypeError):
        Task("one", "m:f", {"path": object()})
    with pytest.raises(ValueError):
        Task("one", "m:f", {"epsilon": float("nan")})


def opened(text, device="cpu", tmp_path=None, **more):
    return open_pool(read(text), device=device, folder=tmp_path, **more)


@pytest.fixture
def made(monkeypatch):
    """The arguments with which local pools were made."""
    found = []

    class Recorded(LocalPool):
        def __init__(self, slots, **more):
            found.append((slots, more))
            super().__init__(slots, **more)

    monkeypatch.setattr(open_module, "LocalPool", Recorded)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)), raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return found


def test_on_a_cpu_there_is_a_process_for_each_core(made):
    assert isinstance(opened("inline"), InlinePool)
    assert [opened(text).slots for text in ("local", "{kind: local, processes: 4}")] == [6, 4]
    assert opened("{kind: local, processes_per_run: 3}").slots == 2
    assert all(more["gpus"] == () if "gpus" in more else True for _, more in made)
    opened("local", threads=2)
    assert made[-1][1]["threads"] == 2


def test_on_gpus_there_is_a_process_for_each_gpu_or_several(made, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    texts = ("local", "{kind: local, gpus: [1, 3], runs_per_gpu: 2}", "{kind: local, processes_per_run: 2}")
    assert [opened(text, "cuda").slots for text in texts] == [4, 4, 2]
    assert [more["gpus"] for _, more in made] == [["0", "1", "2", "3"], ["1", "3"], ["0", "1", "2", "3"]]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5,6,7")
    opened("{kind: local, gpus: [1, 3]}", "cuda")
    assert made[-1][1]["gpus"] == ["5", "7"]


@pytest.mark.parametrize(
    ("text", "device", "words"),
    [
        ("{kind: local, gpus: [0]}", "cpu", "the device is 'cpu'"),
        ("{kind: local, gpus: [2]}", "cuda", "executor.gpus = [2]: torch sees 2 GPUs here"),
        ("{kind: local, gpus: [-1]}", "cuda", "executor.gpus = [-1]"),
        ("{kind: local, processes_per_run: 3}", "cuda", "there are only 2 GPUs"),
    ],
)
def test_gpus_that_are_not_there_are_told(made, monkeypatch, text, device, words):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError) as caught:
        opened(text, device)
    assert words in str(caught.value)


def test_a_preset_says_where_its_tasks_compute_and_another_device_is_refused(tmp_path):
    text = '{kind: slurm, walltime: "01:00:00", cores_per_node: 4%s}'
    assert read(text % "").device == "cpu"
    assert read(text % ", gpus_per_node: 2").device == "cuda"
    assert read("local").device is None
    with pytest.raises(
        UserError, match="= None, but the device is 'cuda': give --device cpu, or name gpus_per_node"
    ):
        opened(text % "", "cuda", tmp_path)
    with pytest.raises(UserError, match="= 2, but the device is 'cpu': give --device cuda, or leave out"):
        opened(text % ", gpus_per_node: 2", "cpu", tmp_path)


def test_the_share_of_a_worker_is_its_part_of_the_cores(monkeypatch):
    monkeypatch.setattr("diffmem.executors.processes.available_cores", lambda: 8)
    found = [LocalPool(slots, processes=each)._threads for slots, each in ((4, 1), (2, 2), (3, 1), (16, 1))]
    assert found == [2, 2, 2, 1]


def test_without_parsl_the_remedy_is_told(tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "parsl" else real(name))
    with pytest.raises(UserError, match=r"pip install 'diffmem\[cluster\]'"):
        opened("{kind: parsl, path: cluster.py}", tmp_path=tmp_path)

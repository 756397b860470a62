"""Which device a command runs on, alone and under torchrun."""

from pathlib import Path

import pytest
import torch

from diffmem.__main__ import _wants_gpu
from diffmem.environment import choose_device, has_bfloat16
from diffmem.errors import UserError


@pytest.fixture
def gpus(monkeypatch):
    def have(there, local=None, size=1):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
        words = {
            "RANK": "0",
            "WORLD_SIZE": str(size),
            "LOCAL_RANK": str(local),
            "MASTER_ADDR": "h",
            "MASTER_PORT": "1",
        }
        for name, value in words.items():
            if local is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)

    return have


@pytest.mark.parametrize(
    ("wanted", "there", "chosen"),
    [
        (None, False, "cpu"),
        (None, True, "cuda"),
        ("cpu", True, "cpu"),
        ("cuda", True, "cuda"),
        ("cuda:1", True, "cuda:1"),
    ],
)
def test_one_process_uses_a_gpu_where_there_is_one(gpus, wanted, there, chosen):
    gpus(there)
    assert choose_device(wanted) == chosen


@pytest.mark.parametrize(
    ("wanted", "there", "chosen"),
    [(None, False, "cpu"), (None, True, "cuda:3"), ("cpu", True, "cpu"), ("cuda", True, "cuda:3")],
)
def test_under_torchrun_each_process_of_a_machine_has_a_gpu_of_its_own(gpus, wanted, there, chosen):
    gpus(there, local=3, size=4)
    assert choose_device(wanted) == chosen


def test_one_gpu_for_several_processes_is_refused(gpus):
    gpus(True, local=1, size=2)
    with pytest.raises(UserError, match=r"'cuda:0' names one GPU, but 2 processes.*--device cuda"):
        choose_device("cuda:0")


@pytest.mark.parametrize("local", [None, 1])
def test_a_gpu_that_is_not_there_is_refused(gpus, local):
    gpus(False, local=local, size=2)
    with pytest.raises(UserError, match="--device cpu"):
        choose_device("cuda")


@pytest.mark.parametrize(
    ("words", "there", "gpu"),
    [
        ([], True, True),
        ([], False, False),
        (["--device", "cpu"], True, False),
        (["--device=cpu"], True, False),
        (["--device", "cuda"], True, True),
        (["train", "cpu"], True, True),
    ],
)
def test_processes_are_connected_between_gpus_unless_the_cpu_is_asked_for(gpus, words, there, gpu):
    gpus(there)
    assert _wants_gpu(words) is gpu


CPU = Path("/proc/cpuinfo")


@pytest.mark.skipif(not CPU.exists(), reason="only Linux lists what a processor can do")
def test_a_processor_has_bfloat16_where_linux_lists_it():
    assert has_bfloat16() == ("bf16" in CPU.read_text())


@pytest.mark.parametrize(("held", "expected"), [(True, True), (False, False)])
def test_older_versions_of_torch_are_asked_too(held, expected, monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: held)
    assert has_bfloat16() is expected

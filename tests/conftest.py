"""Fixtures that several packages share."""

from __future__ import annotations

import gc
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from parameters import ALL
from undrawn import undrawn_figures

# Whether a test passes does not depend on how busy the machine is, nor on luck; DIFFMEM_TESTS=all draws new examples each time, of which
# `make test-slow` takes the tests marked slow or thorough.
settings.register_profile(
    "steady",
    deadline=None,
    derandomize=not ALL,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("steady")

CIFAR_TOOL = Path(__file__).resolve().parents[2] / "shared" / "tools" / "make_cifar10_archive.py"


def pytest_collection_finish() -> None:
    """What was imported stays: a search for garbage, which takes half a second with it, passes it over."""
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """What torch draws without a generator does not depend on which tests ran before, in this process or another."""
    import torch  # not for the process that only hands out the tests

    torch.manual_seed(4321)


@pytest.fixture(scope="session")
def cifar_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CIFAR-10 archive of real images: 500 for training and 100 for testing."""
    return small_archive(tmp_path_factory, 50)


@pytest.fixture(scope="session")
def cifar_archive_of_1000(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with 1,000 images for training."""
    return small_archive(tmp_path_factory, 100)


def small_archive(tmp_path_factory: pytest.TempPathFactory, per_class: int) -> Path:
    if not CIFAR_TOOL.is_file():
        pytest.skip("the CIFAR-10 archive builder is not beside the repository")
    out = tmp_path_factory.mktemp("cifar") / "cifar-10-python.tar.gz"
    subprocess.run(
        [sys.executable, str(CIFAR_TOOL), str(out), "--per-class", str(per_class)],
        check=True,
        capture_output=True,
    )
    return out


@pytest.fixture
def undrawn():
    """Figures are made, but files of one pixel are written in their place: for tests of what stands beside the pictures."""
    with undrawn_figures():
        yield


@pytest.fixture
def few_controls(monkeypatch):
    """Audits plant copies of 30 training images where 200 are usual: for tests of what they do not decide."""
    from diffmem.auditing import compare

    monkeypatch.setattr(compare, "measure_power", partial(compare.measure_power, count=30))

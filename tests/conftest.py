"""Fixtures that several rooms share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CIFAR_TOOL = Path(__file__).resolve().parents[2] / "shared" / "tools" / "make_cifar10_archive.py"


@pytest.fixture(scope="session")
def cifar_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CIFAR-10 archive of real images: 500 for training and 100 for testing."""
    if not CIFAR_TOOL.is_file():
        pytest.skip("the CIFAR-10 archive builder is not beside the repository")
    out = tmp_path_factory.mktemp("cifar") / "cifar-10-python.tar.gz"
    subprocess.run(
        [sys.executable, str(CIFAR_TOOL), str(out), "--per-class", "50"], check=True, capture_output=True
    )
    return out

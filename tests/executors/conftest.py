"""Processes that these tests start find the tests' own work."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import diffmem


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    places = [str(Path(__file__).parents[1] / "builders"), str(Path(diffmem.__file__).parents[1])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(places))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

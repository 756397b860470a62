"""A real SLURM for the tests of this folder, started once and ended with them."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

import one_node
import pytest

import diffmem


class Slurm:
    """What the tests ask of it.

    Attributes:
        folder: Where it lives.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *words: str) -> str:
        return one_node.command(self.folder, *words)

    def jobs(self, *states: str) -> dict[str, str]:
        """Return the jobs in the queue: id -> name."""
        words = ["squeue", "-h", "-o", "%i %j", *([f"--states={','.join(states)}"] if states else [])]
        rows = [line.split(maxsplit=1) for line in self.run(*words).splitlines()]
        return {row[0]: row[1] for row in rows}

    def drain(self) -> None:
        self.run("scontrol", "update", f"nodename={one_node.NODE}", "state=drain", "reason=test")

    def resume(self) -> None:
        self.run("scontrol", "update", f"nodename={one_node.NODE}", "state=resume")

    def forgets(self, after: int) -> None:
        one_node.configure(self.folder, min_job_age=after)


def within(seconds, condition):
    """Wait until a condition holds, and return what it is; fail after so many seconds."""
    begin = time.monotonic()
    while not (found := condition()):
        assert time.monotonic() - begin < seconds, f"waited {seconds} s"
        time.sleep(0.2)
    return found


@pytest.fixture(scope="session")
def _slurm():
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    try:
        one_node.start(folder)
    except one_node.CannotRunError as error:
        shutil.rmtree(folder, ignore_errors=True)
        pytest.skip(f"no SLURM here: {error}")
    yield Slurm(folder)
    one_node.stop(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def slurm(_slurm, monkeypatch):
    """A SLURM with an empty queue; processes that tests start find it, and the tests' own work."""
    monkeypatch.setenv("SLURM_CONF", str(_slurm.folder / "slurm.conf"))
    places = [str(Path(__file__).parents[1] / "builders"), str(Path(diffmem.__file__).parents[1])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(places))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    _slurm.resume()
    yield _slurm
    _slurm.resume()
    _slurm.run("scancel", f"--user={os.geteuid()}")
    within(30, lambda: not _slurm.jobs())

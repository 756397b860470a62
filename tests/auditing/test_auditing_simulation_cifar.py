"""Audits of photographs, simulated from a table of the nearest 60 of all 60,000 images of CIFAR-10: the rows of the documentation.

Hours for 2,000 draws a row (`benchmarks/audit_simulation.py`); here as many as tell a rule that is broken, with bounds to match.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from scipy.stats import binom

from diffmem.auditing.significance import FALSE_ALARM

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT.parent / "shared" / "tools" / "make_cifar10_archive.py"
sys.path.append(str(ROOT / "benchmarks"))

pytestmark = [pytest.mark.hours, pytest.mark.cifar, pytest.mark.timeout(4 * 3600)]

DRAWS = 60
FOUND = {  # copies among 10,000 samples, by kind: the share of audits that must find them
    "13 copies, noise2": 0.99,
    "5 copies, noise2": 0.90,
    "5 copies, noise4": 0.85,
    "13 copies, noise8": 0.90,
    "13 copies, jpeg50": 0.80,
    "13 copies, blur0.7": 0.80,
    "small: 15 copies, noise2": 0.90,
    "small: 15 copies, noise2, --deduplicated": 0.90,
}
CLEARED = {"no copies": 0.95, "fresh": 0.90, "small: 0 copies": 0.95}
"""How often "none found" must come out where nothing is copied."""


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    if not TOOL.is_file():
        pytest.skip("the CIFAR-10 archive builder is not beside the repository")
    from audit_simulation import Tables

    folder = tmp_path_factory.mktemp("cifar")
    archive = folder / "cifar-10-python.tar.gz"
    subprocess.run([sys.executable, str(TOOL), str(archive)], check=True, capture_output=True)
    return Tables(archive, folder / "tables")


def enough(share, draws):
    """The fewest successes that a true share gives but once in a thousand times."""
    return int(binom.ppf(0.001, draws, share))


def at_most(share, draws):
    return int(binom.ppf(0.999, draws, share))


@pytest.mark.parametrize("row", ["copies", "changed", "groups", "deduplicated", "small"])
def test_rare_copies_are_found_one_or_two_are_not_cleared_and_fresh_samples_are_not_accused(tables, row):
    from audit_simulation import simulate

    draws = DRAWS if row in ("copies", "changed") else DRAWS // 2
    for name, verdicts in simulate(tables, row, draws).items():
        total, found, none = verdicts.total(), verdicts["copies found"], verdicts["none found"]
        if name in FOUND:
            assert found >= enough(FOUND[name], total), (name, verdicts)
        elif "1 copies" in name or "2 copies" in name:
            assert none <= at_most(0.005, total), (name, verdicts)
        elif "not said" not in name:
            assert found <= at_most(FALSE_ALARM, total), (name, verdicts)
            for start, share in CLEARED.items():
                if name.startswith(start):
                    assert none >= enough(share, total), (name, verdicts)

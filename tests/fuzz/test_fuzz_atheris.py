"""The readers under a fuzzer that follows their branches; only where atheris is installed (the extra `fuzz`)."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz_kinds import HARNESSES

RUNS = 5000

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("atheris") is None,
        reason="atheris is not installed: pip install 'diffmem[fuzz]' (wheels for Linux only)",
    ),
]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", HARNESSES)
def test_no_run_of_the_fuzzer_finds_anything(tmp_path, kind):
    source = str(Path(__file__).resolve().parents[2] / "src")
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [
            sys.executable, str(Path(__file__).with_name("fuzz_atheris.py")), kind,
            f"-runs={RUNS}", "-seed=1", "-rss_limit_mb=2500", "-timeout=60", "-max_total_time=600",
        ],
        cwd=tmp_path, capture_output=True, text=True, errors="replace",
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(re.findall(r"Done (\d+) runs", done.stderr)[-1]) > 0

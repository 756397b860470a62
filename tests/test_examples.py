"""The scripts of `examples/`; `make examples` runs them all."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def test_there_are_examples():
    assert {path.stem for path in EXAMPLES} >= {
        "train_and_measure",
        "audit_samples",
        "audit_foreign_model",
        "find_emm",
    }


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_uses_the_public_names_alone(path):
    source = path.read_text()
    assert len(source.splitlines()) <= 40
    imported = {
        name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom)
        for name in [node.module]
    }
    assert not {name for name in imported if name and name.startswith("diffmem")}


@pytest.mark.slow  # `.ci/run` runs it whole
def test_an_example_runs(tmp_path):
    program = (ROOT / "examples" / "train_and_measure.py").read_text()
    # The same in a second: what is read, trained, generated, measured and drawn, with fewer epochs and samples.
    short = program.replace("epochs=500", "epochs=5").replace("range(200)", "range(20)")
    assert short != program
    done = subprocess.run(
        [sys.executable, "-c", short], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "R_mem" in done.stdout
    assert (tmp_path / "copies.png").is_file()

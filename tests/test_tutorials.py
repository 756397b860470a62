"""The tutorial for other trainers, run as it stands on small trained networks in their layouts."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from trained_checkpoints import WRITERS, write_trained

import diffmem as dm

PAGE = (Path(__file__).parents[1] / "docs/tutorial/my-run-has-finished.md").read_text("utf-8")
BLOCKS = dict(re.findall(r"```sh ?([\w-]*)\n(.*?)```", PAGE, re.DOTALL))
TRAINERS = [name for name in BLOCKS if name]
COPIES, NONE, UNKNOWN = 3, 0, 4


def run(command, folder):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=1800
    )


def test_each_part_of_the_tutorial_has_a_network_to_run_on():
    assert set(TRAINERS) <= set(WRITERS)
    assert len(TRAINERS) == 6


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_part_of_the_tutorial_leads_from_a_checkpoint_to_a_verdict(trainer, tmp_path):
    sets = run(BLOCKS[""], tmp_path)
    assert sets.returncode == 0, sets.stderr
    write_trained(trainer, tmp_path, dm.open_images(tmp_path / "train.npz"))
    commands = re.split(r"\n(?=diffmem)", BLOCKS[trainer].strip())
    for command in commands[:-1]:
        done = run(command, tmp_path)
        assert done.returncode == 0, done.stderr
    done = run(commands[-1], tmp_path)
    assert done.returncode in (COPIES, NONE, UNKNOWN), done.stderr
    assert (tmp_path / "audit" / "audit.html").is_file()

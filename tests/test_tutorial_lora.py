"""The tutorial on LoRAs, run as it stands on the emoji fine-tune."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs/tutorial/does-my-lora-copy.md").read_text("utf-8")
BLOCKS = dict(re.findall(r"```sh ([\w-]+)\n(.*?)```", PAGE, re.DOTALL))
CODES = {
    "files": [0],
    "info": [0],
    "audit": [3],
    "epochs": [3, 4],
    "ranks": [4],
}  # few prompts an epoch may not suffice


def test_the_tutorial_has_these_parts():
    assert BLOCKS.keys() == CODES.keys()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_tutorial_leads_from_a_folder_to_a_verdict_an_epoch_and_a_rank(tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed: pip install 'diffmem[text]'")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for name, command in BLOCKS.items():
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=3000,
        )
        assert done.returncode in CODES[name], f"{command}\n{done.stdout}\n{done.stderr}"
    prompts = json.loads((tmp_path / "audit" / "prompts.json").read_text())
    shares = {
        level["repeats"]: level["copied"]["count"] / level["copied"]["total"] for level in prompts["levels"]
    }
    assert shares[64] > shares[4] >= shares[1] == 0
    ranks = json.loads((tmp_path / "ranks" / "detectors.json").read_text())
    often = {path.read_text().strip() for path in (tmp_path / "emoji/dataset/64_images").glob("*.txt")}
    assert sum(one["prompt"] in often for one in ranks["ranked"][:10]) >= 8

"""Text-to-image pipelines with damaged settings, tokenizers and LoRA: each is opened, or refused in one line."""

from __future__ import annotations

import pytest
from fuzz_run import fuzz

folders = pytest.importorskip("fuzz_text_folders", reason="diffusers or transformers is not installed")


@pytest.mark.parametrize("name", folders.TEXT_FILES)
def test_a_damaged_part_is_opened_or_refused_in_one_line(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    found = fuzz(folders.TEXT_FOLDERS[f"text {name}"], 12, 0, tmp_path)[1]
    assert "\n".join(text for _, text, _ in found) == ""


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", folders.TEXT_FILES)
def test_hundreds_of_damaged_parts_are_opened_or_refused_in_one_line(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    found = fuzz(folders.TEXT_FOLDERS[f"text {name}"], 400, 1, tmp_path)[1]
    assert "\n".join(text for _, text, _ in found) == ""

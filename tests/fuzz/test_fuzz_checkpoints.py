"""Checkpoints of every layout, damaged in their bytes and in what they hold: each is opened, or refused in one line."""

from __future__ import annotations

import pickle
import pickletools

import pytest
from edm_pickle_builder import saved
from fuzz_checkpoints import LAYOUTS
from fuzz_harness import Harness
from fuzz_mutations import DEPTH, NEST, PROOF, Harm, with_nests
from fuzz_run import fuzz

from diffmem.errors import UserError

COUNT = 20


def found(kind, count, seed, folder, monkeypatch):
    monkeypatch.chdir(folder)
    return "\n".join(text for _, text, _ in fuzz(LAYOUTS[kind], count, seed, folder)[1])


@pytest.mark.parametrize("kind", LAYOUTS)
def test_a_damaged_checkpoint_is_opened_or_refused_in_one_line(tmp_path, monkeypatch, kind):
    assert not found(kind, COUNT, 0, tmp_path, monkeypatch)


@pytest.mark.parametrize("kind", ["diffusers-network", "diffusers-scheduler"])
def test_a_folder_with_damaged_settings_is_opened_or_refused_in_one_line(tmp_path, monkeypatch, kind):
    folder = pytest.importorskip("fuzz_folders").FOLDERS[kind]
    monkeypatch.chdir(tmp_path)
    assert "\n".join(text for _, text, _ in fuzz(folder, COUNT, 0, tmp_path)[1]) == ""


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", LAYOUTS)
def test_thousands_of_damaged_checkpoints_are_opened_or_refused_in_one_line(tmp_path, monkeypatch, kind):
    assert not found(kind, 3000, 1, tmp_path, monkeypatch)


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("old", [False, True])
def test_what_a_checkpoint_calls_is_not_carried_out(tmp_path, monkeypatch, kind, old):
    monkeypatch.chdir(tmp_path)
    layout = LAYOUTS[kind]
    tree = {**layout.tree, "state" if "arguments" in layout.tree else "step": {"a": Harm()}}
    made = layout.made if "arguments" not in layout.tree else dict
    with pytest.raises(UserError, match="mkdir"):
        layout.open(layout.place(saved(made(tree), not old), tmp_path))
    assert not PROOF.exists()


def test_pythons_own_reader_carries_out_what_the_damage_calls(tmp_path, monkeypatch):
    """So the test above can fail."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Harm(), 2))
    assert PROOF.is_dir()


def test_nests_are_written_where_the_damage_wants_them():
    content = with_nests(pickle.dumps({"a": NEST, "b": 1}, 2))
    opcodes = [opcode.name for opcode, _, _ in pickletools.genops(content)]
    assert opcodes.count("SETITEM") == DEPTH
    assert opcodes[-1] == "STOP"


def test_a_fuzzer_without_findings_would_find_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layout = LAYOUTS["pytorch-ddpm"]

    class Broken(type(layout)):
        def open(self, path):
            raise AttributeError(path.name)

    opened, findings = fuzz(Broken(*layout), 3, 0, tmp_path)
    assert (opened, len(findings)) == (0, 3)
    assert "AttributeError" in findings[0][1]
    harness = Harness((), layout.place, layout.open)
    assert harness.check(layout.parts(False).joined(layout.parts(False).pickle), tmp_path)

"""Folders of several checkpoints: the only one is opened, of several none is chosen silently."""

from __future__ import annotations

import shutil

import pytest
import torch
from edm_pickle_builder import pickled, snapshot
from edm_pickle_tools import SONG, STATE
from lucidrains_tools import checkpoint

from diffmem.errors import UserError
from diffmem.models import open_model
from diffmem.models.pretrained.checkpoints_in import checkpoints_in, step_of


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("model-12.pt", 12),
        ("ema_0.9999_010000.pt", 10_000),
        ("otcfm_cifar10_weights_step_400000.pt", 400_000),
        ("checkpoint_8.pth", 8),
        ("network-snapshot-0000123-0.050.pkl", 123),
        ("checkpoint-500", 500),
        ("ckpt.pt", -1),
    ],
)
def test_the_step_is_in_the_name(tmp_path, name, step):
    assert step_of(tmp_path / name) == step


def test_several_checkpoints_are_listed_newest_first_and_none_is_chosen(tmp_path):
    for name in ("model-2.pt", "model-10.pt", "opt000010.pt", "sample-2.png", ".model-11.pt"):
        (tmp_path / name).write_bytes(b"x" * 2_000_000)
    with pytest.raises(UserError, match="holds 2 checkpoints") as caught:
        open_model(tmp_path)
    assert "model-10.pt (step 10, 2.0 MB), model-2.pt (step 2, 2.0 MB). Name" in str(caught.value)
    assert str(tmp_path / "model-10.pt") in str(caught.value)


def test_many_checkpoints_are_counted(tmp_path):
    for number in range(30):
        (tmp_path / f"model-{number}.pt").touch()
    with pytest.raises(UserError, match=r"holds 30 checkpoints.* and 10 more"):
        open_model(tmp_path)


@pytest.mark.parametrize("inner", [".", "checkpoints"])
def test_the_only_checkpoint_of_a_folder_is_opened_and_said(tmp_path, inner):
    (tmp_path / inner).mkdir(exist_ok=True)
    path = tmp_path / inner / "model-1.pt"
    torch.save(checkpoint(), path)
    opened = open_model(tmp_path, (3, 8, 8), device="cpu")
    assert opened.origin.digest == open_model(path, (3, 8, 8), device="cpu").origin.digest
    assert opened.origin.notes[0] == "It is the only checkpoint in the folder that was given."


def test_folders_of_diffusers_training_examples_are_listed(tmp_path):
    for step in (500, 1000):
        (tmp_path / f"checkpoint-{step}" / "unet").mkdir(parents=True)
    (tmp_path / "scheduler").mkdir()
    with pytest.raises(UserError, match=r"checkpoint-1000 \(step 1,000\), checkpoint-500 \(step 500\)"):
        open_model(tmp_path)
    shutil.rmtree(tmp_path / "checkpoint-500")
    assert checkpoints_in(tmp_path) == [tmp_path / "checkpoint-1000"]


def test_of_the_steps_of_a_run_of_edm_the_newest_is_taken_but_no_length_of_its_average(tmp_path):
    for step in ("000001", "000002"):
        (tmp_path / f"network-snapshot-{step}.pkl").write_bytes(pickled(snapshot(STATE, SONG)))
    assert open_model(tmp_path).origin.path == tmp_path / "network-snapshot-000002.pkl"
    for length in ("0.050", "0.100"):
        (tmp_path / f"network-snapshot-0000003-{length}.pkl").touch()
    with pytest.raises(UserError, match=r"holds 2 EMA lengths.*0000003-0\.050\.pkl"):
        open_model(tmp_path)


@pytest.mark.parametrize("beside", ["refs", "blobs"])
def test_a_hubs_cache_is_known_by_what_lies_beside_its_snapshots(tmp_path, beside):
    cache = tmp_path / "models--x--y"
    path = cache / "snapshots" / "abc" / "model-1.pt"
    path.parent.mkdir(parents=True)
    (cache / beside).mkdir()  # a download by the hash of a revision makes no refs
    torch.save(checkpoint(), path)
    for given in (cache, tmp_path):  # and of the folder of all caches, the only one
        assert open_model(given, (3, 8, 8), device="cpu").origin.path == path
    (cache / "snapshots" / "def").mkdir()
    with pytest.raises(UserError, match=r"holds 2 revisions \(abc, def\); name one"):
        open_model(cache)


def test_a_hubs_cache_without_a_revision_is_no_run(tmp_path):
    for name in ("snapshots", "blobs"):
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match="the download did not end"):
        open_model(tmp_path)

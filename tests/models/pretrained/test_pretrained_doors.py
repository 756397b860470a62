"""Checkpoints of other trainers through `open_model`: read without their code, and exact."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from checkpoint_builders import FIXTURES, WITHOUT, worst_error

from diffmem.errors import UserError
from diffmem.models import open_model
from diffmem.models.pretrained.doors import DOORS, door_of

needs_fixtures = pytest.mark.skipif(not FIXTURES.is_dir(), reason=WITHOUT)

GUIDED = {"num_heads": 4, "noise_schedule": "linear", "diffusion_steps": 1000, "predict_xstart": False, "rescale_timesteps": True,
          "use_new_attention_order": False}  # fmt: skip


def facts(folder):
    return json.loads((FIXTURES / folder / "facts.json").read_text())


@needs_fixtures
@pytest.mark.parametrize(
    ("folder", "file", "trainer"),
    [
        ("lucidrains-v-sigmoid", "model-1.pt", "denoising-diffusion-pytorch 2.3.4"),
        ("lucidrains-x0-cosine-selfcond", "model-1.pt", "pred_x0"),
        ("lucidrains-cfg-cosine", "model.pt", "denoising-diffusion-pytorch"),
        ("pytorch-ddpm-t1000", "ckpt.pt", "pytorch-ddpm"),
    ],
)
def test_what_a_trainers_model_answered_is_what_its_checkpoint_answers(folder, file, trainer):
    shape = tuple(int(side) for side in np.load(FIXTURES / folder / "io.npz")["x"].shape[2:])
    model = open_model(FIXTURES / folder / file, shape, device="cpu")
    assert worst_error(model, FIXTURES / folder) <= 1e-5
    assert trainer in " ".join([model.origin.format, *model.origin.notes])
    assert model.origin.path == FIXTURES / folder / file


@needs_fixtures
def test_what_a_checkpoint_does_not_tell_is_asked_by_name_and_then_exact():
    folder = "improved-diffusion-linear"
    path = FIXTURES / folder / "ema_0.9_000002.pt"
    with pytest.raises(UserError, match="--model-set num_heads=4"):
        open_model(path)
    known = facts(folder)
    given = {key: known.get(key, value) for key, value in GUIDED.items()} | {
        "image_size": known["image_size"]
    }
    assert worst_error(open_model(path, settings=given, device="cpu"), FIXTURES / folder) <= 1e-5


def test_what_nobody_opens_has_no_door():
    assert door_of({"net": {"weight": torch.ones(2)}}) is None
    assert door_of([1, 2]) is None
    assert len({door.name for door in DOORS}) == len(DOORS)


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    path = tmp_path / "ckpt.pt"
    state = {
        "head.weight": torch.full((4, 3, 3, 3), torch.nan),
        "time_embedding.timembedding.0.weight": torch.ones(10, 4),
    }
    torch.save(
        {
            "net_model": state,
            "ema_model": state,
            "x_T": torch.ones(1, 3, 8, 8),
            "step": 1,
            "sched": {},
            "optim": {},
        },
        path,
    )
    with pytest.raises(UserError) as found:
        open_model(path)
    assert str(path) in str(found.value)

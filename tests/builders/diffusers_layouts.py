"""Folders in the layout of the diffusers library, written without it, and how they are refused."""

import json

import pytest

from diffmem.errors import UserError
from diffmem.models.pretrained.diffusers_folder import open_diffusers

PIPELINE = {
    "_class_name": "DDPMPipeline",
    "_diffusers_version": "0.42.1",
    "unet": ["diffusers", "UNet2DModel"],
    "scheduler": ["diffusers", "DDPMScheduler"],
}
NETWORK = {"_class_name": "UNet2DModel", "sample_size": 8, "block_out_channels": [8, 8]}
SCHEDULER = {"_class_name": "DDPMScheduler", "num_train_timesteps": 100}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def bare(folder, network=None, scheduler=None):
    write(folder / "config.json", {**NETWORK, **(network or {})})
    write(folder / "scheduler_config.json", {**SCHEDULER, **(scheduler or {})})
    return folder


def refused(action):
    with pytest.raises(UserError) as error:
        action()
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700
    return str(error.value)


def refused_folder(folder):
    return refused(lambda: open_diffusers(folder))

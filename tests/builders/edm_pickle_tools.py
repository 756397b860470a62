"""Snapshots of EDM's training code that are what they should be, opened, and how others are refused."""

from __future__ import annotations

import pytest
import torch
from edm_pickle_builder import Call, pickled, snapshot
from models_tools import images, tiny

from diffmem.errors import UserError
from diffmem.models.pretrained.edm_pickle import open_edm_pickle
from diffmem.models.pretrained.foreign import from_edm_state_dict

SIZES = {
    "img_resolution": 8,
    "img_channels": 3,
    "label_dim": 0,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
}
SONG = {**SIZES, "class_name": "VPPrecond", "model_type": "SongUNet", "model_channels": 8}
NCSN = {
    **SONG,
    "class_name": "VEPrecond",
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1],
    "label_dim": 3,
}
ADM = {
    **SIZES,
    "class_name": "EDMPrecond",
    "model_type": "DhariwalUNet",
    "model_channels": 16,
    "label_dim": 3,
}
NETWORKS = {
    "song": (tiny().state_dict(), SONG),
    "ncsn": (tiny("ncsnpp", embedding="fourier", num_labels=3).state_dict(), NCSN),
    "adm": (tiny("adm", channels=16, num_labels=3).state_dict(), ADM),
}
STATE = NETWORKS["song"][0]
GOOD = pickled(snapshot(STATE, SONG))


def opened(tmp_path, content, **options):
    path = tmp_path / "network-snapshot-000000.pkl"
    path.write_bytes(content)
    return open_edm_pickle(path, **options)


def refused(tmp_path, content, **options):
    """The words of the refusal, which are one line that names the file."""
    with pytest.raises(UserError) as error:
        opened(tmp_path, content, **options)
    words = str(error.value)
    assert "\n" not in words
    assert "network-snapshot-000000.pkl" in words
    assert len(words) < 2000
    return words


def same(ours, state, config):
    """Whether a denoiser has the numbers, and gives the images, of one built directly."""
    theirs = from_edm_state_dict(state, config)
    assert (ours.image_shape, ours.num_labels) == (theirs.image_shape, theirs.num_labels)
    assert (ours.sigma_min, ours.sigma_max) == (theirs.sigma_min, theirs.sigma_max)
    labels = torch.arange(2) if ours.num_labels else None
    noisy, sigma = images(2), torch.tensor([0.3, 5.0])
    return torch.equal(ours(noisy, sigma, labels), theirs(noisy, sigma, labels))


def rebuilt(storage, offset, shape, stride, *more):
    return Call(torch._utils._rebuild_tensor_v2, storage, offset, shape, stride, False, {}, *more)

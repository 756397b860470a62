from __future__ import annotations

import pytest
import torch
from models_tools import images, random_state

from diffmem.models.networks.families import DhariwalUNet
from diffmem.models.networks.unet import UNetSettings

NOISE = torch.tensor([0.3])


def settings(**options):
    shape = {"resolution": 8, "image_channels": 3, "dropout": 0.1}
    return UNetSettings(
        **{**shape, "base_width": 64, "multipliers": (1, 2), "blocks": 1, "attention": (), **options}
    )


def network(**options):
    made = DhariwalUNet(settings(**options))
    made.load_state_dict(random_state(made))
    return made.eval()


def heads(made):
    blocks = [(name, block) for part in (made.enc, made.dec) for name, block in part.items()]
    return {name: block.heads for name, block in blocks if getattr(block, "heads", 0)}


def test_attention_is_in_every_block_of_its_resolutions_and_in_the_first_of_the_coarsest():
    assert heads(network()) == {"4x4_in0": 2}
    assert heads(network(attention=(8,))) == {
        "8x8_block0": 1, "4x4_in0": 2, "8x8_block1": 1,
    }  # fmt: skip
    assert sum("block" in name for name in heads(network(attention=(4,), blocks=2))) == 3


def test_a_narrow_network_has_no_attention():
    assert heads(network(base_width=16, attention=(8, 4))) == {}


def test_the_first_convolution_has_the_width_of_the_first_level():
    assert network(base_width=16, multipliers=(3, 1)).enc["8x8_conv"].weight.shape == (48, 3, 3, 3)


def test_labels_join_the_embedding_without_a_bias():
    made = network(base_width=16, num_labels=5)
    assert made.map_label.bias is None
    assert made.map_label.weight.shape == (64, 5)


def test_a_resolution_change_alone_has_no_convolution_in_its_skip():
    names = [
        name for name in network(base_width=16).state_dict() if "_down.skip" in name or "_up.skip" in name
    ]
    assert names == ["enc.4x4_down.skip.resample_filter", "dec.8x8_up.skip.resample_filter"]


@pytest.mark.parametrize("num_labels", [0, 5])
def test_an_untrained_network_returns_zero(num_labels):
    made = DhariwalUNet(settings(num_labels=num_labels, base_width=16))
    labels = torch.tensor([1, 4]) if num_labels else None
    assert not made(images(2), NOISE, labels).any()

"""The network of EDM2 keeps magnitudes; that it computes the paper's formulas is shown where its files are opened."""

from __future__ import annotations

import pytest
import torch
from edm2_builder import ARGUMENTS, state_of
from models_tools import images

from diffmem.models.networks.edm2_unet import EDM2Settings, EDM2UNet, prepared

SETTINGS = EDM2Settings(
    resolution=32,
    image_channels=3,
    num_labels=0,
    widths=(32, 64),
    noise_width=32,
    embedding_width=64,
    blocks=2,
    attention=(16,),
    head_channels=16,
    label_balance=0.5,
    concat_balance=0.5,
    residual_balance=0.3,
    attention_balance=0.3,
    clip=256,
)
WIDE = {
    **ARGUMENTS, "img_resolution": 32, "label_dim": 0, "model_channels": 32, "num_blocks": 2, "attn_resolutions": [16],
    "channels_per_head": 16,
}  # fmt: skip


def tensors(**gains):
    named = {name.removeprefix("unet."): tensor for name, tensor in state_of(WIDE).items()}
    named = {name: tensor for name, tensor in named.items() if not name.startswith("logvar_")}
    told = {name: gains.get(name.rpartition(".")[2]) for name in named}
    return {
        name: tensor if told[name] is None else torch.tensor(told[name]) for name, tensor in named.items()
    }


def test_each_output_of_a_prepared_layer_has_a_weight_of_the_length_of_its_gain():
    made = prepared(tensors(out_gain=0.25, emb_gain=-2.0))
    assert not any(name.endswith("gain") for name in made)
    for name, weight in made.items():
        if name.endswith("weight"):
            length = 0.25 if name == "out_conv.weight" else 2 if "emb_linear" in name else 1
            lengths = weight.flatten(1).norm(dim=1)
            torch.testing.assert_close(lengths, torch.full_like(lengths, length), rtol=1e-3, atol=0)


def test_the_network_takes_exactly_the_prepared_tensors():
    network, given = EDM2UNet(SETTINGS), tensors()
    made = prepared(given)
    assert {name: tensor.shape for name, tensor in network.state_dict().items()} == {
        name: tensor.shape for name, tensor in made.items()
    }
    assert set(network.gains) == given.keys() - made.keys()


@pytest.mark.parametrize("noise", [-1.5, 0.0, 1.0])
def test_random_weights_keep_the_magnitude_of_what_they_are_given(noise):
    network = EDM2UNet(SETTINGS)
    network.load_state_dict(prepared(tensors(out_gain=1.0, emb_gain=0.0)), assign=True)
    with torch.no_grad():
        made = network(images(4, size=32), torch.full((4,), noise))
    assert float(made.square().mean().sqrt()) == pytest.approx(1, abs=0.25)

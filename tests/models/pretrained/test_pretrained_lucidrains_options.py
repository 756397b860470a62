"""Options of denoising-diffusion-pytorch that its files do not tell: given as settings, or taken to be the default, with a note."""

from __future__ import annotations

import pytest
import torch
from lucidrains_tools import checkpoint, guided, small
from models_tools import images

from diffmem.errors import UserError
from diffmem.models.networks.lucidrains_settings import Untold
from diffmem.models.networks.lucidrains_unet import load_unet
from diffmem.models.pretrained.lucidrains import open_lucidrains

SHAPE = (3, 8, 8)


def refused(*arguments):
    with pytest.raises(UserError) as error:
        open_lucidrains(*arguments)
    return str(error.value)


def test_images_that_were_left_in_0_to_1_have_levels_of_twice_the_width():
    """The clean image is 0.25 of [0, 1], which is -0.5 of [-1, 1], at every level."""
    made = checkpoint(objective="pred_x0")
    made["ema"]["ema_model.model.final_conv.weight"] *= 0
    made["ema"]["ema_model.model.final_conv.bias"] = torch.full((3,), 0.25)
    scaled, left = (open_lucidrains(made, SHAPE, {"auto_normalize": value}) for value in (True, False))
    assert (left[0].sigma_min, left[0].sigma_max) == (2 * scaled[0].sigma_min, 2 * scaled[0].sigma_max)
    torch.testing.assert_close(left[0](images(2), 0.7), torch.full((2, *SHAPE), -0.5))
    assert "As the settings say: images were left in [0, 1] (auto_normalize False)." in left[1]
    network, x, sigma = open_lucidrains(checkpoint(), SHAPE)[0], images(2), 0.7
    unit = open_lucidrains(checkpoint(), SHAPE, {"auto_normalize": False})[0]
    assert torch.equal(unit(x, sigma), 2 * network((x + 1) / 2, sigma / 2) - 1)


def test_timesteps_are_embedded_with_the_base_that_is_given():
    made = checkpoint()
    tensors = {name.removeprefix("model."): one for name, one in made["model"].items() if "model." in name}
    embedding = load_unet(tensors, 3, Untold(base=500.0)).time_mlp[0]
    angles = torch.tensor([7.0])[:, None] * 500.0 ** (-torch.arange(4) / 3)
    torch.testing.assert_close(embedding(torch.tensor([7.0])), torch.cat([angles.sin(), angles.cos()], 1))
    usual, same, other = (
        open_lucidrains(made, SHAPE, settings)[0](images(2), 0.7)
        for settings in (None, {"sinusoidal_pos_emb_theta": 10_000}, {"sinusoidal_pos_emb_theta": 500})
    )
    assert torch.equal(usual, same)
    assert not torch.allclose(usual, other, rtol=1e-3)


def test_groups_of_versions_with_group_norm_are_taken_to_be_8_or_as_given():
    made = checkpoint(small(group_norm=True), version="1.9.4")
    usual, same, other = (
        open_lucidrains(made, SHAPE, settings)
        for settings in (None, {"resnet_block_groups": 8}, {"resnet_block_groups": 4})
    )
    x = images(2)
    assert torch.equal(usual[0](x, 0.7), same[0](x, 0.7))
    assert not torch.allclose(usual[0](x, 0.7), other[0](x, 0.7), rtol=1e-3)
    assert "GroupNorm has resnet_block_groups 8" in usual[1][3]
    assert "GroupNorm of 3 groups does not fit" in refused(made, SHAPE, {"resnet_block_groups": 3})
    assert "takes no setting 'resnet_block_groups'" in refused(
        checkpoint(), SHAPE, {"resnet_block_groups": 8}
    )


def test_networks_of_classes_with_group_norm_may_have_standardised_weights_and_are_refused():
    made = guided()
    for name in [name for name in made if ".block" in name and name.endswith("norm.g")]:
        width = made[name].shape[1]
        made[name.replace("norm.g", "norm.weight")] = torch.ones(width)
        made[name.replace("norm.g", "norm.bias")] = torch.zeros(width)
        del made[name]
    assert "standardised the weights of convolutions, and the file does not tell" in refused(made, SHAPE)

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from models_tools import images, random_state

from diffmem.errors import UserError
from diffmem.models.networks.layers import Init
from diffmem.models.networks.unet import BlockStyle, UNetBlock

STYLE = BlockStyle(
    embedding_channels=6,
    channels_per_head=None,
    dropout=0.0,
    skip_scale=math.sqrt(0.5),
    eps=1e-6,
    taps=(1, 1),
    project_resampled_skip=True,
    adaptive_scale=False,
    init=Init(),
    init_zero=Init(weight=1e-5),
    init_attention=Init(),
)
ADM_STYLE = replace(
    STYLE,
    channels_per_head=64,
    skip_scale=1.0,
    project_resampled_skip=False,
    adaptive_scale=True,
    init_zero=Init(weight=0.0),
)
EMBEDDING = torch.linspace(-1, 1, 12).reshape(2, 6)


def filled(inputs, outputs, style=STYLE, **options):
    block = UNetBlock(inputs, outputs, style, **options)
    block.load_state_dict(random_state(block))
    return block.eval()


@pytest.mark.parametrize("style", [STYLE, ADM_STYLE])
@pytest.mark.parametrize(("resample", "size"), [("none", 8), ("up", 16), ("down", 4)])
def test_a_block_changes_width_and_resolution(style, resample, size):
    block = filled(8, 12, style, resample=resample)
    assert block(images(2, channels=8), EMBEDDING).shape == (2, 12, size, size)


def test_a_block_whose_residual_branch_is_zero_is_its_skip():
    x = images(2, channels=8)
    assert torch.equal(UNetBlock(8, 8, ADM_STYLE)(x, EMBEDDING), x)
    scaled = UNetBlock(8, 8, replace(STYLE, init_zero=Init(weight=0.0)))(x, EMBEDDING)
    torch.testing.assert_close(scaled, x * math.sqrt(0.5))


def test_a_resampled_skip_without_projection_is_only_resampled():
    x = images(2, channels=8)
    y = UNetBlock(8, 8, ADM_STYLE, resample="down")(x, EMBEDDING)
    torch.testing.assert_close(y, x.reshape(2, 8, 4, 2, 4, 2).mean(dim=(3, 5)))
    assert UNetBlock(8, 8, STYLE, resample="down").skip.weight.shape == (8, 8, 1, 1)


@pytest.mark.parametrize("style", [STYLE, ADM_STYLE])
def test_the_embedding_matters(style):
    block, x = filled(8, 8, style), images(2, channels=8)
    assert not torch.allclose(block(x, EMBEDDING), block(x, EMBEDDING + 1), atol=1e-2)


@pytest.mark.parametrize(("outputs", "heads"), [(32, 0), (64, 1), (96, 1), (128, 2), (192, 3)])
def test_adm_has_one_head_for_each_64_channels(outputs, heads):
    block = UNetBlock(8, outputs, ADM_STYLE, attention=True)
    assert block.heads == heads
    assert ("qkv.weight" in block.state_dict()) == bool(heads)


def test_a_width_that_does_not_divide_into_heads_is_refused():
    with pytest.raises(UserError, match="224 channels cannot be split into 3 equal heads"):
        UNetBlock(224, 224, ADM_STYLE, attention=True)


@pytest.mark.parametrize("style", [STYLE, ADM_STYLE])
def test_attention_does_not_know_where_a_pixel_is(style):
    block = filled(128, 128, style, attention=True)
    x = images(2, 4, channels=128)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))

    def shuffled(tensor):
        return tensor.flatten(2)[:, :, order].reshape(tensor.shape)

    with torch.no_grad():
        torch.testing.assert_close(
            block._attend(shuffled(x)), shuffled(block._attend(x)), atol=1e-5, rtol=1e-4
        )


def test_attention_over_equal_pixels_returns_their_value():
    block = filled(64, 64, ADM_STYLE, attention=True)
    x = images(1, 1, channels=64).expand(1, 64, 4, 4)
    with torch.no_grad():
        value = block.qkv(x).reshape(1, 1, 64, 3, 16)[:, :, :, 2].reshape(1, 64, 4, 4)
        torch.testing.assert_close(block._attend(x), block.proj(value), atol=1e-5, rtol=1e-4)


def test_dropout_acts_in_training_only():
    x = images(2, channels=8)
    block = filled(8, 8, replace(STYLE, dropout=0.5))
    assert torch.equal(block(x, EMBEDDING), filled(8, 8)(x, EMBEDDING))
    block.train()
    torch.manual_seed(0)
    assert not torch.equal(block(x, EMBEDDING), block(x, EMBEDDING))

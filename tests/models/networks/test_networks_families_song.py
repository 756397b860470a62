from __future__ import annotations

import math

import pytest
import torch
from models_tools import images, random_state

from diffmem.models.networks.families import SongSettings, SongUNet
from diffmem.models.networks.layers import FourierEmbedding, PositionalEmbedding

NOISE = torch.tensor([0.3])


def settings(**options):
    shape = {"resolution": 8, "image_channels": 3, "dropout": 0.13}
    return SongSettings(
        **{**shape, "base_width": 8, "multipliers": (1, 2), "blocks": 1, "attention": (), **options}
    )


def network(**options):
    made = SongUNet(settings(**options))
    made.load_state_dict(random_state(made))
    return made.eval()


def attending(made):
    return [
        name for part in (made.enc, made.dec) for name, block in part.items() if getattr(block, "heads", 0)
    ]


def test_attention_is_in_every_encoder_block_and_the_last_decoder_block_of_a_resolution():
    assert attending(network(blocks=2, attention=(8,))) == [
        "8x8_block0", "8x8_block1", "4x4_in0", "8x8_block2",
    ]  # fmt: skip


def test_the_coarsest_level_attends_once_without_being_asked():
    assert attending(network()) == ["4x4_in0"]


def test_the_decoder_mirrors_the_encoder():
    made = network(blocks=1, multipliers=(1, 2, 1))
    assert list(made.dec) == [
        "2x2_in0", "2x2_in1", "2x2_block0", "2x2_block1",
        "4x4_up", "4x4_block0", "4x4_block1",
        "8x8_up", "8x8_block0", "8x8_block1",
        "8x8_aux_norm", "8x8_aux_conv",
    ]  # fmt: skip


def test_the_skip_decoder_makes_an_image_at_each_level():
    names = [name for name in network(decoder="skip").dec if "aux" in name]
    assert names == ["4x4_aux_norm", "4x4_aux_conv", "8x8_aux_up", "8x8_aux_norm", "8x8_aux_conv"]


@pytest.mark.parametrize("kind", ["positional", "fourier"])
@pytest.mark.parametrize("multiple", [1, 2])
def test_the_embedding_has_its_kind_and_size(kind, multiple):
    made = network(embedding=kind, noise_multiplier=multiple, num_labels=3)
    assert isinstance(made.map_noise, PositionalEmbedding if kind == "positional" else FourierEmbedding)
    assert made.map_layer0.weight.shape == (32, 8 * multiple)
    assert made.map_label.weight.shape == (8 * multiple, 3)


@pytest.mark.parametrize("encoder", ["standard", "skip", "residual"])
def test_with_every_skip_masked_the_decoder_sees_the_last_encoder_output_only(encoder):
    def outputs(mask):
        made = network(encoder=encoder, skip_mask=mask)
        list(made.enc.values())[-1].register_forward_hook(lambda *_: images(1, 4, channels=16))
        with torch.no_grad():
            return [made(images(1, seed=seed), NOISE, None) for seed in (1, 2)]

    assert torch.equal(*outputs((False,) * 4))
    assert not torch.equal(*outputs((True, False, False, False)))


def test_a_batch_may_share_one_noise_level():
    made, x = network(), images(3)
    with torch.no_grad():
        shared, repeated = made(x, NOISE, None), made(x, NOISE.repeat(3), None)
    torch.testing.assert_close(shared, repeated, rtol=1e-4, atol=1e-5)


def test_residual_branches_start_small_and_the_output_smaller():
    torch.manual_seed(0)
    made = SongUNet(settings(base_width=32))
    bound = math.sqrt(6 / (2 * 32 * 9))
    assert made.enc["8x8_block0"].conv0.weight.abs().max() > 0.99 * bound
    assert made.enc["8x8_block0"].conv1.weight.abs().max() <= 1e-5 * bound
    with torch.no_grad():
        assert made(images(1), NOISE, None).abs().max() < 1e-3

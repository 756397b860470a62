from __future__ import annotations

import pytest
import torch
from models_tools import tiny

from diffmem.errors import UserError
from diffmem.models.pretrained.foreign import from_edm_state_dict

CONFIG = {
    "class_name": "training.networks.VPPrecond",
    "model_type": "SongUNet",
    "img_resolution": 8,
    "img_channels": 3,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
}
STATE = tiny().state_dict()


def refused(config, state=None):
    """The words of the refusal, which are one line."""
    with pytest.raises(UserError) as error:
        from_edm_state_dict(STATE if state is None else state, config)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_foreign_denoiser_is_ready_to_evaluate():
    state = {name: value.double() for name, value in STATE.items()}
    denoiser = from_edm_state_dict(state, CONFIG)
    assert not denoiser.training
    assert not any(parameter.requires_grad for parameter in denoiser.parameters())
    assert {parameter.dtype for parameter in denoiser.parameters()} == {torch.float32}
    assert (denoiser.image_shape, denoiser.num_labels) == ((3, 8, 8), 0)


def test_a_foreign_denoiser_does_not_share_memory_with_the_checkpoint():
    state = {name: value.clone() for name, value in STATE.items()}
    denoiser = from_edm_state_dict(state, CONFIG)
    for value in state.values():
        value.zero_()
    assert torch.equal(denoiser.state_dict()["model.map_layer0.weight"], STATE["model.map_layer0.weight"])


@pytest.mark.parametrize(
    ("arguments", "low", "high"),
    [
        ({"class_name": "VPPrecond"}, 0.0010005, 152.17),
        ({"class_name": "VEPrecond"}, 0.02, 100),
        ({"class_name": "EDMPrecond", "sigma_max": 80}, 0, 80),
        ({"class_name": "VEPrecond", "sigma_min": 0.01, "sigma_max": 50}, 0.01, 50),
    ],
)
def test_the_noise_range_is_that_of_the_wrapper(arguments, low, high):
    denoiser = from_edm_state_dict(STATE, {**CONFIG, **arguments})
    assert denoiser.sigma_min == pytest.approx(low, abs=1e-7)
    assert denoiser.sigma_max == pytest.approx(high, abs=5e-3)


def test_arguments_of_training_are_accepted():
    from_edm_state_dict(STATE, {**CONFIG, "use_fp16": True, "label_dropout": 0.1, "dropout": 0.13})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_block": 1}, ["'num_block'", "Did you mean 'num_blocks'?"]),
        ({"sigma_data": 0.5}, ["'sigma_data'", "VPPrecond"]),
        ({"class_name": "iDDPMPrecond"}, ["iDDPMPrecond with SongUNet", "DhariwalUNet"]),
        ({"class_name": None}, ["class_name", "EDMPrecond"]),
        ({"model_type": "DiT"}, ["'DiT'", "SongUNet"]),
        ({"embedding_type": "learned"}, ["embedding_type 'learned'", "fourier"]),
        ({"encoder_type": "plain"}, ["encoder_type 'plain'", "residual"]),
        ({"decoder_type": "residual"}, ["decoder_type 'residual'", "skip"]),
        ({"img_resolution": 0}, ["img_resolution", "not 0"]),
        ({"img_resolution": 7}, ["img_resolution 7", "multiple of 2"]),
        ({"img_channels": "three"}, ["img_channels", "'three'"]),
        ({"num_blocks": 1.5}, ["num_blocks", "1.5"]),
        ({"num_blocks": True}, ["num_blocks", "True"]),
        ({"model_channels": 7}, ["model_channels 7", "even"]),
        ({"model_channels": 2}, ["2 channels", "groups"]),
        ({"label_dim": -1}, ["label_dim", "-1"]),
        ({"channel_mult": []}, ["channel_mult", "empty"]),
        ({"channel_mult": "12"}, ["channel_mult", "'12'"]),
        ({"channel_mult": [1, "x"]}, ["channel_mult", "'x'"]),
        ({"channel_mult": [1, 1.5]}, ["channel_mult", "1.5"]),
        ({"channel_mult": 2}, ["channel_mult", "2"]),
        ({"attn_resolutions": [0]}, ["attn_resolutions", "0"]),
        ({"resample_filter": [1, 2, 1]}, ["resample_filter", "even number"]),
        ({"resample_filter": [1, -1]}, ["resample_filter", "sum"]),
        ({"resample_filter": []}, ["resample_filter", "even number"]),
        ({"resample_filter": [1, float("nan")]}, ["resample_filter", "nan"]),
        ({"dropout": "much"}, ["dropout", "'much'"]),
        ({"beta_d": float("nan")}, ["beta_d", "nan"]),
        ({"M": 0}, ["M must be", "0"]),
        ({"skip_connections": [1, 1, 1]}, ["skip_connections) has 3 entries", "4 encoder outputs: 8x8_conv"]),
        ({"skip_connections": []}, ["skip_connections) has 0 entries", "4 encoder outputs"]),
        ({"skip_connections": [1, 1, 2, 0]}, ["skip_connections", "0 and 1"]),
        ({"skip_connections": "1,1,1,1"}, ["skip_connections", "'1,1,1,1'"]),
        ({"skip_connections": 1}, ["skip_connections", "1"]),
    ],
)
def test_a_bad_argument_is_named(arguments, words):
    message = refused({**CONFIG, **arguments})
    for word in words:
        assert word in message


@pytest.mark.parametrize("key", ["img_resolution", "img_channels"])
def test_a_missing_argument_is_named(key):
    assert key in refused({name: value for name, value in CONFIG.items() if name != key})


def test_a_missing_tensor_is_named():
    name = "model.dec.8x8_block1.conv1.bias"
    message = refused(CONFIG, {key: value for key, value in STATE.items() if key != name})
    assert f"lacks 1 tensor(s) of this network, first {name!r}" in message


def test_an_unknown_tensor_is_named_with_the_nearest_known_one():
    state = {**STATE, "model.enc.8x8_block0.conv0.wait": torch.zeros(1)}
    message = refused(CONFIG, state)
    assert "'model.enc.8x8_block0.conv0.wait'" in message
    assert "Did you mean 'model.enc.8x8_block0.conv0.weight'?" in message


def test_a_tensor_of_another_shape_is_named_with_both_shapes():
    message = refused(CONFIG, {**STATE, "model.map_layer1.bias": torch.zeros(5)})
    assert "'model.map_layer1.bias'" in message
    assert "(5,)" in message
    assert "(32,)" in message


def test_the_tensors_of_another_network_are_refused():
    assert "num_blocks" in refused(CONFIG, tiny(blocks=2).state_dict())
    assert "model_channels" in refused(CONFIG, tiny(channels=16).state_dict())


def test_an_augmentation_map_needs_its_argument():
    state = {**STATE, "model.map_augment.weight": torch.zeros(8, 9)}
    assert "augment_dim" in refused(CONFIG, state)
    from_edm_state_dict(state, {**CONFIG, "augment_dim": 9})


def test_a_filter_that_contradicts_its_argument_is_refused():
    name = next(name for name in STATE if name.endswith("resample_filter"))
    message = refused(CONFIG, {**STATE, name: torch.tensor([[[[0.4, 0.1], [0.4, 0.1]]]])})
    assert name in message
    assert "resample_filter" in message

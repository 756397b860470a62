"""Folders whose parts do not fit each other."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers_tools import WEIGHTS, copy_of, noisy, refused, saved, scheduler_of, tiny_unet
from parameters import amount
from safetensors.torch import load_file, save_file

from diffmem.errors import UserError
from diffmem.models.pretrained.diffusers_folder import open_diffusers


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("plain"), tiny_unet(), scheduler_of())


def changed(plain, target, **settings):
    """A copy with other settings of the network."""
    folder = copy_of(plain, target)
    config = json.loads((plain / "config.json").read_text()) | settings
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"block_outchannels": [8, 8]}, "Did you mean 'block_out_channels'"),
        ({"quantization_config": {"quant_method": "x"}}, "weights are quantized"),
        ({"sample_size": None}, "does not tell the size that was trained on; write it"),
        ({"block_out_channels": [8, 16]}, "shape"),
        ({"block_out_channels": [10**6, 10**6]}, "shape"),
        ({"block_out_channels": [10**9, 10**9]}, "describes no network"),
        ({"num_class_embeds": 10**12}, "class_embedding"),
        ({"layers_per_block": 2}, "lack"),
        ({"layers_per_block": 10**9}, "layers_per_block"),
        ({"down_block_types": ["DownBlock2D", "DownBlock2D"]}, "not one of this network"),
        ({"down_block_types": ["DownBlock2D", "Nothing"]}, "Nothing"),
        ({"down_block_types": None}, "describes no network"),
        ({"norm_num_groups": 3}, "describes no network"),
        ({"act_fn": "nothing"}, "describes no network"),
        ({"attention_head_dim": 0}, "describes no network"),
    ],
)
def test_settings_that_the_weights_do_not_fit_are_refused(tmp_path, plain, settings, word):
    assert word in refused(changed(plain, tmp_path, **settings))


def test_a_network_that_does_not_run_is_refused(tmp_path, plain):
    folder = changed(plain, tmp_path)
    tensors = load_file(plain / WEIGHTS)
    tensors["conv_out.bias"] = torch.full((3,), 3e38)
    save_file(tensors, folder / WEIGHTS)
    denoiser = open_diffusers(folder)  # large, but a number
    assert bool(torch.isfinite(denoiser(noisy(1), 0.5)).all())
    tensors["conv_out.weight"] = torch.full_like(tensors["conv_out.weight"], 3e38)
    save_file(tensors, folder / WEIGHTS)
    assert "not finite" in refused(folder)


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_the_first_tensor_that_does_not_fit_is_named(tmp_path, plain, change):
    folder, tensors = copy_of(plain, tmp_path), load_file(plain / WEIGHTS)
    bias = tensors.pop("conv_in.bias")
    if change == "extra":
        tensors |= {"conv_in.bias": bias, "conv_in.bias2": bias.clone()}
    elif change == "shape":
        tensors["conv_in.bias"] = torch.zeros(9)
    save_file(tensors, folder / WEIGHTS)
    told = refused(folder)
    assert "'conv_in.bias2'" in told if change == "extra" else "'conv_in.bias'" in told


JUNK = [None, -1, 0, 2.5, "text", [], [1], {"a": 1}, True, 10**30]


@pytest.mark.thorough
def test_a_setting_of_any_other_type_is_refused_in_one_line_or_makes_a_network_that_runs(tmp_path, plain):
    config = json.loads((plain / "config.json").read_text())
    opened, seen = 0, set()
    pairs = [(key, junk) for key in config if not key.startswith("_") for junk in JUNK][:: amount(3, 1)]
    for key, junk in pairs:
        folder = changed(plain, tmp_path, **{key: junk})
        told = ""
        try:
            denoiser = open_diffusers(folder)
        except UserError as error:
            told = str(error)
            seen.add(key)
        assert "\n" not in told, (key, junk)
        if not told:
            opened += 1
            assert bool(torch.isfinite(denoiser(torch.zeros(1, *denoiser.image_shape), 1.0)).all())
    assert 0 < opened < len(pairs) / 2
    assert {"sample_size", "in_channels", "block_out_channels", "layers_per_block", "act_fn"} <= seen

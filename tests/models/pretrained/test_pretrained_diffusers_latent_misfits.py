"""Latent folders whose autoencoder or transformer does not fit."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from diffusers_tools import (
    WEIGHTS,
    diffusers,
    refused,
    scheduler_of,
    tiny_autoencoder,
    tiny_transformer,
    tiny_unet,
)
from parameters import amount
from safetensors.torch import load_file, save_file

from diffmem.errors import UserError
from diffmem.models import open_diffusers


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dit")
    transformer, vae = tiny_transformer(), tiny_autoencoder()
    diffusers.DiTPipeline(transformer=transformer, vae=vae, scheduler=scheduler_of()).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path, pristine):
    return shutil.copytree(pristine, tmp_path / "model")


def change(folder, part, **settings):
    path = folder / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.mark.parametrize(
    ("part", "settings", "word"),
    [
        ("vae", {"block_outchannels": [8, 8]}, "Did you mean 'block_out_channels'"),
        ("vae", {"block_out_channels": [8, 16]}, "shape"),
        ("vae", {"block_out_channels": [10**6, 10**6]}, "shape"),
        ("vae", {"layers_per_block": 2}, "lack"),
        ("vae", {"layers_per_block": 10**9}, "layers_per_block"),
        ("vae", {"use_quant_conv": False}, "not one of this network"),
        ("vae", {"down_block_types": ["DownEncoderBlock2D"]}, "vae"),
        ("vae", {"down_block_types": None}, "describes no network"),
        ("vae", {"norm_num_groups": 3}, "describes no network"),
        ("transformer", {"num_layers": 3}, "lack"),
        ("transformer", {"num_layers": 10**9}, "num_layers"),
        ("transformer", {"patch_size": 4}, "shape"),
        ("transformer", {"num_embeds_ada_norm": 6}, "shape"),
        ("transformer", {"num_attention_heads": 0}, "transformer"),
        ("transformer", {"caption_channels": 8}, "caption_channels"),
        ("transformer", {"attention_head_dim": 10**9}, "transformer"),
    ],
)
def test_settings_that_the_weights_do_not_fit_are_refused(folder, part, settings, word):
    change(folder, part, **settings)
    told = refused(folder)
    assert word in told
    assert f"/{part}" in told


def test_a_network_of_other_latents_is_refused_with_both_numbers(tmp_path):
    unet, scheduler = tiny_unet(), scheduler_of()
    diffusers.DDPMPipeline(unet=unet, scheduler=scheduler).save_pretrained(tmp_path)
    tiny_autoencoder().save_pretrained(tmp_path / "vae")
    told = refused(tmp_path)
    assert "in_channels 3 does not fit the codes" in told
    assert "4 channels" in told


def test_a_network_of_latents_without_its_autoencoder_is_told_where_to_put_it(tmp_path):
    unet, scheduler = tiny_unet(in_channels=4, out_channels=4), scheduler_of()
    diffusers.DDPMPipeline(unet=unet, scheduler=scheduler).save_pretrained(tmp_path)
    assert "as vae" in refused(tmp_path)


@pytest.mark.parametrize("part", ["vae", "transformer"])
@pytest.mark.parametrize("change_of", ["missing", "extra", "file"])
def test_the_first_tensor_that_does_not_fit_is_named(folder, part, change_of):
    path = folder / part / WEIGHTS
    tensors = load_file(path)
    name = sorted(tensors)[0]
    if change_of == "file":
        path.unlink()
    elif change_of == "extra":
        save_file(tensors | {"extra": torch.ones(2)}, path)
    else:
        save_file({key: tensor for key, tensor in tensors.items() if key != name}, path)
    word = {"missing": name, "extra": "extra", "file": WEIGHTS}[change_of]
    assert word in refused(folder)


@pytest.mark.parametrize("end", ["encoder", "decoder"])
def test_an_autoencoder_that_makes_no_numbers_is_refused(folder, end):
    path = folder / "vae" / WEIGHTS
    tensors = load_file(path)
    tensors[f"{end}.conv_out.weight"] = torch.full_like(tensors[f"{end}.conv_out.weight"], 3e38)
    save_file(tensors, path)
    assert "not finite" in refused(folder)


JUNK = [None, -1, 0, 2.5, "text", [], [1], {"a": 1}, True, 10**30]


@pytest.mark.thorough
@pytest.mark.parametrize("part", ["vae", "transformer"])
def test_a_setting_of_any_other_type_is_refused_in_one_line_or_makes_a_network_that_runs(folder, part):
    path = folder / part / "config.json"
    config = json.loads(path.read_text())
    opened, seen = 0, set()
    pairs = [(key, junk) for key in config if not key.startswith("_") for junk in JUNK][:: amount(3, 1)]
    for key, junk in pairs:
        path.write_text(json.dumps(config | {key: junk}))
        told = ""
        try:
            denoiser = open_diffusers(folder)
        except UserError as error:
            told = str(error)
            seen.add(key)
        assert "\n" not in told, (key, junk)
        if not told:
            opened += 1
            z = denoiser(torch.zeros(1, *denoiser.image_shape), 1.0)
            assert bool(torch.isfinite(denoiser.decode(z)).all())
    assert 0 < opened < len(pairs) / 2
    needed = {"scaling_factor", "latent_channels"} if part == "vae" else {"num_layers", "sample_size"}
    assert needed <= seen

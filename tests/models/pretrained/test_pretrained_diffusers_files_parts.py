"""Which autoencoder and which transformer belong to a folder, and what of their settings is refused, without the library."""

from __future__ import annotations

import pytest
from diffusers_layouts import PIPELINE, SCHEDULER, bare, refused_folder, write

from diffmem.models.pretrained.diffusers_files import find_parts

AUTOENCODER = {"_class_name": "AutoencoderKL", "block_out_channels": [8, 8], "latent_channels": 3}


@pytest.mark.parametrize("place", ["vae", "vqvae"])
@pytest.mark.parametrize("home", ["unet", "unet_ema", "model"])
def test_the_autoencoder_of_a_bare_network_is_in_it_or_beside_a_unet(tmp_path, home, place):
    bare(tmp_path / home)
    assert find_parts(tmp_path / home).autoencoder is None
    write(tmp_path / place / "config.json", AUTOENCODER)
    beside = find_parts(tmp_path / home).autoencoder
    assert beside is None if home == "model" else beside.samefile(tmp_path / place / "config.json")
    (tmp_path / place).rename(tmp_path / home / place)
    parts = find_parts(tmp_path / home)
    assert parts.autoencoder.samefile(tmp_path / home / place / "config.json")
    assert parts.autoencoder_root == tmp_path / home


def test_two_autoencoders_are_refused(tmp_path):
    bare(tmp_path)
    for place in ("vae", "vqvae"):
        write(tmp_path / place / "config.json", AUTOENCODER)
    assert "two autoencoders" in refused_folder(tmp_path)


def test_a_pipeline_says_which_autoencoder_is_its_own(tmp_path):
    bare(tmp_path)
    write(tmp_path / "vae/config.json", AUTOENCODER)
    write(tmp_path / "vqvae/config.json", AUTOENCODER)
    index = {**PIPELINE, "_class_name": "LDMPipeline", "vqvae": ["diffusers", "AutoencoderKL"]}
    write(tmp_path / "model_index.json", index)
    assert find_parts(tmp_path).autoencoder == tmp_path / "vqvae/config.json"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"_class_name": "AutoencoderTiny"}, "AutoencoderTiny"),
        ({"_class_name": ["AutoencoderKL"]}, "['AutoencoderKL']"),
        ({"_class_name": "VQModel"}, "does not say scaling_factor"),
        ({"scaling_factor": 0}, "scaling_factor 0"),
        ({"scaling_factor": None}, "scaling_factor None"),
        ({"scaling_factor": float("inf")}, "scaling_factor inf"),
        ({"shift_factor": float("nan")}, "shift_factor nan"),
        ({"latents_mean": [0.1, 0.2, 0.3]}, "latents_mean"),
        ({"latents_std": [1.0, 2.0, 3.0]}, "latents_std"),
        ({"in_channels": 1}, "in_channels 1 and out_channels 3 differ"),
        ({"in_channels": 4}, "in_channels 4"),
        ({"latent_channels": 4}, "have 4 channels"),
        ({"latent_channels": 0}, "latent_channels 0"),
        ({"block_out_channels": []}, "block_out_channels"),
        ({"block_out_channels": [8] * 15}, "pixels"),
        ({"layers_per_block": 0}, "layers_per_block"),
    ],
)
def test_settings_of_an_autoencoder_that_are_not_supported_are_refused(tmp_path, changes, word):
    write(tmp_path / "vae/config.json", AUTOENCODER | changes)
    told = refused_folder(bare(tmp_path))
    assert word in told
    assert "config.json" in told


def test_a_shift_that_the_pipeline_would_leave_out_is_refused(tmp_path):
    bare(tmp_path)
    write(tmp_path / "vae/config.json", AUTOENCODER | {"shift_factor": 0.1})
    index = {**PIPELINE, "_class_name": "LDMPipeline", "vae": ["diffusers", "AutoencoderKL"]}
    write(tmp_path / "model_index.json", index)
    assert "shift_factor 0.1 is not used by LDMPipeline" in refused_folder(tmp_path)


def test_an_autoencoder_behind_a_link_out_of_the_folder_is_refused(tmp_path):
    write(tmp_path / "elsewhere/config.json", AUTOENCODER)
    bare(tmp_path / "model")
    (tmp_path / "model/vae").symlink_to(tmp_path / "elsewhere")
    assert "link" in refused_folder(tmp_path / "model")


TRANSFORMER = {"_class_name": "DiTTransformer2DModel", "sample_size": 8, "in_channels": 4}


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"_class_name": "PixArtTransformer2DModel"}, "PixArtTransformer2DModel"),
        ({"norm_type": "ada_norm_single"}, "norm_type 'ada_norm_single'"),
        ({"sample_size": 9}, "multiples of 2"),
        ({"sample_size": 0}, "multiples of 2"),
        ({"sample_size": [8, 8]}, "sample_size"),
        ({"sample_size": 1024}, "262,144 pixels"),
        ({"out_channels": 5}, "out_channels 5"),
        ({"num_layers": 0}, "num_layers"),
        ({"num_embeds_ada_norm": None}, "num_embeds_ada_norm"),
        ({"in_channels": 3}, "in_channels 3"),
    ],
)
def test_settings_of_a_transformer_that_are_not_supported_are_refused(tmp_path, changes, word):
    index = {**PIPELINE, "_class_name": "DiTPipeline", "unet": None}
    index |= {"transformer": ["diffusers", "Transformer2DModel"], "vae": ["diffusers", "AutoencoderKL"]}
    write(tmp_path / "model_index.json", index)
    write(tmp_path / "vae/config.json", AUTOENCODER | {"latent_channels": 4})
    write(tmp_path / "scheduler/scheduler_config.json", SCHEDULER)
    write(tmp_path / "transformer/config.json", TRANSFORMER | changes)
    assert word in refused_folder(tmp_path)

from __future__ import annotations

import math

import pytest
import torch
from models_tools import images, tiny
from pydantic import ValidationError

from diffmem.errors import UserError
from diffmem.models.config import ModelConfig, build_denoiser, count_parameters
from diffmem.models.pretrained.foreign import from_edm_state_dict


def size(config=None, shape=(3, 32, 32), num_labels=0):
    """Parameters of a network that is planned but not filled."""
    with torch.device("meta"):
        return count_parameters(build_denoiser(config or ModelConfig(), shape, num_labels=num_labels))


def test_the_basic_setup_has_the_parameters_of_the_study():
    assert size() == 35_125_251
    assert size(ModelConfig(blocks=4, preconditioning="edm")) == 55_732_739
    assert size(ModelConfig(architecture="ncsnpp", preconditioning="ve")) == 35_788_035


@pytest.mark.parametrize(("width", "millions"), [(128, 35.13), (192, 78.98), (256, 140.37), (320, 219.29)])
def test_width_has_the_parameters_of_the_study(width, millions):
    assert round(size(ModelConfig(channels=width)) / 1e6, 2) == millions


@pytest.mark.parametrize(
    ("blocks", "millions"), [(2, 35.13), (4, 55.73), (6, 76.34), (8, 96.95), (10, 117.56), (12, 138.16)]
)
def test_depth_has_the_parameters_of_the_study(blocks, millions):
    assert round(size(ModelConfig(blocks=blocks)) / 1e6, 2) == millions


@pytest.mark.parametrize("num_labels", [1, 10, 1000, 50_000])
def test_a_class_adds_one_row_of_the_base_width(num_labels):
    assert size(num_labels=num_labels) == 35_125_251 + 128 * num_labels + 128


@pytest.mark.parametrize(("resolution", "attention"), [(16, 8), (8, 4)])
def test_smaller_images_need_the_same_parameters(resolution, attention):
    config = ModelConfig(attention=(attention,))
    assert size(config, (3, resolution, resolution)) == 35_125_251


def test_skip_masks_and_preconditioning_and_fourier_features_add_no_parameters():
    assert size(ModelConfig(skip_mask=(False,) * 9)) == 35_125_251
    assert size(ModelConfig(preconditioning="edm")) == 35_125_251
    assert size(ModelConfig(embedding="fourier")) == 35_125_251


def test_adm_on_64_pixels_has_the_published_size():
    # Karras et al. 2022, Table 7: 296 million parameters with the 1,000 classes of ImageNet.
    assert round(size(ModelConfig(architecture="adm"), (3, 64, 64), num_labels=1000) / 1e6) == 296


@pytest.mark.parametrize("architecture", ["ddpmpp", "ncsnpp", "adm"])
def test_starting_weights_are_a_function_of_the_seed(architecture):
    config = ModelConfig(architecture=architecture, channels=8, multipliers=(1, 2), blocks=1)
    first, again, other = (build_denoiser(config, (3, 8, 8), 4, seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["model.map_layer0.weight"], other["model.map_layer0.weight"])


def test_building_leaves_the_global_random_state_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    tiny()
    assert torch.equal(torch.get_rng_state(), before)


def test_starting_weights_of_labels_have_the_scale_of_their_family():
    song = build_denoiser(ModelConfig(channels=64, multipliers=(1,), blocks=1), (3, 8, 8), 500)
    bound = math.sqrt(6 / (500 + 64))
    assert 0.99 * bound < song.model.map_label.weight.abs().max() <= bound
    adm = ModelConfig(architecture="adm", channels=64, multipliers=(1,), blocks=1)
    assert build_denoiser(adm, (3, 8, 8), 500).model.map_label.weight.std().item() == pytest.approx(
        1, rel=0.02
    )


# What this package computed at its first version, from random parameters of a fixed seed.
GOLDEN = {
    "ddpmpp": [0.02517, 1.01175, 1.65751, -1.71428, -2.60739],
    "ncsnpp": [0.12857, 1.007, 2.1074, -0.8355, -2.15783],
    "adm": [-0.02189, 0.99516, 1.59338, -1.39109, -2.32509],
}
STARTING = [0.1995606, -0.1709451, -0.0750822]


@pytest.mark.parametrize("architecture", GOLDEN)
def test_the_output_of_a_fixed_network_stays(architecture):
    with torch.no_grad():
        y = tiny(architecture, num_labels=3, channels=16)(images(2), 0.5, torch.tensor([0, 2]))
    found = [y.mean().item(), y.std().item(), *y[1, 2, 3, :3].tolist()]
    assert found == pytest.approx(GOLDEN[architecture], rel=1e-4, abs=1e-4)


def test_the_starting_weights_of_a_seed_stay():
    config = ModelConfig(channels=8, multipliers=(1, 2), blocks=1)
    weights = build_denoiser(config, (3, 8, 8), seed=1).state_dict()
    assert weights["model.map_layer0.weight"][0, :3].tolist() == pytest.approx(STARTING, rel=1e-5)


def test_what_is_not_given_has_the_defaults_of_the_family():
    basic, adm = ModelConfig(), ModelConfig(architecture="adm", blocks=2)
    assert (basic.channels, basic.multipliers, basic.blocks, basic.attention) == (128, (2, 2, 2), 2, (16,))
    assert (basic.preconditioning, basic.embedding, basic.dropout) == ("vp", "positional", 0.13)
    assert (adm.channels, adm.multipliers, adm.blocks, adm.attention) == (192, (1, 2, 3, 4), 2, (32, 16, 8))
    assert ModelConfig(architecture="ncsnpp").embedding == "fourier"


def test_a_config_survives_json():
    config = ModelConfig(architecture="ncsnpp", skip_mask=(True,) * 8 + (False,), attention=())
    assert ModelConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"chanels": 64}, "chanels"),
        ({"architecture": "dit"}, "architecture"),
        ({"preconditioning": "flow"}, "preconditioning"),
        ({"channels": 30}, "channels"),
        ({"channels": 0}, "channels"),
        ({"multipliers": ()}, "multipliers"),
        ({"multipliers": (1, 0)}, "multipliers must be at least 1"),
        ({"blocks": 0}, "blocks"),
        ({"dropout": 1.0}, "dropout"),
        ({"skip_mask": (True, False)}, "skip_mask has 2 entries.*9 encoder outputs"),
        ({"architecture": "adm", "embedding": "fourier"}, "adm has a positional embedding only"),
    ],
)
def test_a_bad_field_is_named(fields, named):
    with pytest.raises(ValidationError, match=named):
        ModelConfig(**fields)


@pytest.mark.parametrize("shape", [(3, 32, 16), (3, 30, 30), (3, 2, 2), (1, 7, 7)])
def test_images_that_do_not_fit_are_refused(shape):
    with pytest.raises(UserError, match=f"{shape[2]}x{shape[1]} do not fit a U-Net of 3 resolutions"):
        build_denoiser(ModelConfig(channels=8), shape)


@pytest.mark.parametrize("fields", [{"channels": 132}, {"architecture": "adm", "channels": 224}])
def test_a_width_that_cannot_be_normalised_or_attended_is_refused_before_training(fields):
    config = ModelConfig(**fields, multipliers=(1,), blocks=1)
    with torch.device("meta"), pytest.raises(UserError, match="Choose a base width"):
        build_denoiser(config, (3, 8, 8))


def test_a_model_is_described_in_words():
    words = ModelConfig(channels=64, attention=(), skip_mask=(True,) * 8 + (False,)).describe()
    for part in (
        "DDPM++",
        "VP",
        "128 128 128",
        "2 block",
        "the coarsest only",
        "positional",
        "0.13",
        "111111110",
    ):
        assert part in words
    assert "attention at 16" in ModelConfig(architecture="ncsnpp").describe()


@pytest.mark.parametrize("architecture", ["ddpmpp", "ncsnpp", "adm"])
def test_a_built_denoiser_equals_the_edm_network_of_the_same_settings(architecture):
    denoiser = tiny(architecture, num_labels=3)
    adm = architecture == "adm"
    arguments = {
        "class_name": "VPPrecond", "model_type": "DhariwalUNet" if adm else "SongUNet", "img_resolution": 8,
        "img_channels": 3, "label_dim": 3, "model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1,
        "attn_resolutions": [4],
    }  # fmt: skip
    if architecture == "ncsnpp":
        arguments |= {
            "embedding_type": "fourier", "encoder_type": "residual", "channel_mult_noise": 2,
            "resample_filter": [1, 3, 3, 1],
        }  # fmt: skip
    x, labels = images(2), torch.tensor([0, 2])
    with torch.no_grad():
        assert torch.equal(
            denoiser(x, 0.5, labels), from_edm_state_dict(denoiser.state_dict(), arguments)(x, 0.5, labels)
        )

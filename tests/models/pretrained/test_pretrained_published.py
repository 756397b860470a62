"""Published files are told by name and shapes; what their users say goes before, and a name without the shapes is not believed."""

from __future__ import annotations

import pytest
import torch
from checkpoint_builders import guided_diffusion

from diffmem.errors import UserError
from diffmem.models.pretrained import published
from diffmem.models.pretrained.guided_diffusion import CHOICES, SETTINGS, open_guided_diffusion
from diffmem.models.pretrained.published import published_settings

# What the two README files name of each: base channels, multipliers by image size, blocks a level, classes, resolutions changed by blocks.
MULTIPLIERS = {32: (1, 2, 2, 2), 64: (1, 2, 3, 4), 128: (1, 1, 2, 3, 4), 256: (1, 1, 2, 2, 4, 4), 512: (0.5, 1, 1, 2, 2, 4, 4)}  # fmt: skip
README = {
    "64x64_diffusion.pt": (192, 64, 3, 1000, True),
    "128x128_diffusion.pt": (256, 128, 2, 1000, True),
    "256x256_diffusion.pt": (256, 256, 2, 1000, True),
    "256x256_diffusion_uncond.pt": (256, 256, 2, 0, True),
    "512x512_diffusion.pt": (256, 512, 2, 1000, True),
    "lsun_horse.pt": (256, 256, 2, 0, True),
    "cifar10_uncond_50M_500K.pt": (128, 32, 3, 0, False),
    "imagenet64_uncond_100M_1500K.pt": (128, 64, 3, 0, False),
    "imagenet64_cond_270M_250K.pt": (192, 64, 3, 1000, False),
    "lsun_uncond_100M_1200K_bs128.pt": (128, 256, 2, 0, False),
}


def shapes_alone(width, side, blocks, classes, by_blocks):
    """The tensors of a published network that are looked at, without numbers."""
    levels = MULTIPLIERS[side]
    first, deepest = int(levels[0] * width), int(levels[-1] * width)
    count = len(levels) * blocks + len(levels)
    change = "in_layers.2" if by_blocks else "op"
    shapes = {
        "time_embed.0.weight": (4 * width, width),
        "input_blocks.0.0.weight": (first, 3, 3, 3),
        "out.2.weight": (6, first, 3, 3),
        "middle_block.0.in_layers.0.weight": (deepest,),
        f"input_blocks.{blocks + 1}.0.{change}.weight": (first, first, 3, 3),
        **{f"input_blocks.{i}.0.in_layers.0.weight": (1,) for i in range(1, count) if i != blocks + 1},
        **({"label_emb.weight": (classes, 4 * width)} if classes else {}),
    }
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


@pytest.mark.parametrize("name", README)
def test_a_published_file_has_the_settings_that_its_authors_name(name):
    tensors = shapes_alone(*README[name])
    settings, text = published_settings(name, tensors, {}, sized=False)
    assert settings["image_size"] == README[name][1]
    assert settings["predict_xstart"] is False
    assert set(settings) <= set(SETTINGS)
    assert all(settings[key] in values for key, values in CHOICES.items())
    assert text.startswith(f"By its name, {name}, and its shapes")
    other = dict(tensors)
    other["middle_block.0.in_layers.0.weight"] = torch.empty(3, device="meta")
    assert published_settings(name, other, {}, sized=False)[0] == {}
    assert published_settings(f"my_{name}", tensors, {}, sized=False) == ({}, None)


def test_of_the_published_networks_those_of_64_pixels_alone_have_the_new_order_and_the_large_ones_linear_rates():
    found = {
        name: published_settings(name, shapes_alone(*one), {}, sized=False)[0] for name, one in README.items()
    }
    assert [name for name, one in found.items() if one["use_new_attention_order"]] == ["64x64_diffusion.pt"]
    assert {one["noise_schedule"] for one in found.values() if one["image_size"] > 64} == {"linear"}
    assert {one["noise_schedule"] for one in found.values() if one["image_size"] <= 64} == {"cosine"}
    assert [name for name, one in found.items() if one["rescale_timesteps"]] == [
        "cifar10_uncond_50M_500K.pt",
        "imagenet64_uncond_100M_1500K.pt",
    ]


SMALL = {
    "image_size": 8, "num_heads": 4, "use_new_attention_order": False, "noise_schedule": "cosine", "diffusion_steps": 1000,
    "rescale_timesteps": False, "predict_xstart": False,
}  # fmt: skip


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A file whose name and shapes are those of a published network, which is a small one here."""
    tensors = guided_diffusion(outputs=6)
    monkeypatch.setitem(published._PUBLISHED, "small.pt", (published._shapes_of(tensors), SMALL))
    return tensors, tmp_path / "small.pt"


def test_what_a_name_tells_is_used_where_its_user_says_nothing_and_is_said(small):
    tensors, path = small
    by_name, notes = open_guided_diffusion(tensors, beside=path)
    by_hand, _ = open_guided_diffusion(tensors, settings=SMALL)
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(by_name(x, 1.0), by_hand(x, 1.0))
    assert any("By its name, small.pt" in note and "noise_schedule=cosine" in note for note in notes)


def test_what_its_user_says_goes_before_the_name(small):
    tensors, path = small
    said = {"noise_schedule": "linear", "num_head_channels": 16}
    denoiser, notes = open_guided_diffusion(tensors, (3, 16, 16), said, beside=path)
    by_hand, _ = open_guided_diffusion(
        tensors, (3, 16, 16), {**SMALL, "image_size": 16, "noise_schedule": "linear", "num_heads": 2}
    )
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(denoiser(x, 1.0), by_hand(x, 1.0))
    (note,) = (note for note in notes if "By its name" in note)
    assert not any(word in note for word in ("noise_schedule", "num_heads", "image_size"))


def test_a_name_without_its_shapes_is_not_believed(small):
    _, path = small
    tensors = guided_diffusion()
    with pytest.raises(UserError, match="does not tell"):
        open_guided_diffusion(tensors, beside=path)
    _, notes = open_guided_diffusion(tensors, settings=SMALL, beside=path)
    assert any("the name was not believed" in note for note in notes)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cd_imagenet64_l2.pt", "no denoiser"),
        ("ct_bedroom256.pt", "no denoiser"),
        ("target_model050000.pt", "no denoiser"),
        ("edm_cat256_ema.pt", "EDM's preconditioning"),
        ("otcfm_cifar10_weights_step_400000.pt", "torchcfm, whose networks predict a velocity"),
    ],
)
def test_networks_of_other_trainers_whose_tensors_look_alike_are_refused_by_name(tmp_path, name, words):
    with pytest.raises(UserError, match=words):
        open_guided_diffusion(guided_diffusion(), settings=SMALL, beside=tmp_path / name)

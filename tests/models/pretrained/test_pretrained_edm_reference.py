"""`from_edm_state_dict` computes what the EDM networks compute: random tensors, many configurations."""

from __future__ import annotations

import itertools

import edm_reference
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models_tools import images, random_state
from parameters import few

from diffmem.models.pretrained import foreign
from diffmem.models.pretrained.foreign import from_edm_state_dict

SIGMAS = (0.002, 0.05, 0.5, 3.0, 80.0)
LEVELS = {1: [2], 2: [1, 2], 3: [1, 2, 1], 4: [2, 1, 1, 2]}


def song_config(wrapper="VPPrecond", **arguments):
    return {
        "class_name": f"training.networks.{wrapper}",
        "model_type": "SongUNet",
        "img_resolution": 8,
        "img_channels": 3,
        "model_channels": 8,
        "channel_mult": [1, 2],
        "num_blocks": 1,
        "attn_resolutions": [4],
        **arguments,
    }


def adm_config(wrapper="EDMPrecond", **arguments):
    return {
        "class_name": wrapper,
        "model_type": "DhariwalUNet",
        "img_resolution": 8,
        "img_channels": 3,
        "model_channels": 16,
        "channel_mult": [1, 2],
        "num_blocks": 1,
        "attn_resolutions": [4],
        **arguments,
    }


def template(config):
    """The names and shapes of the network's tensors, filled with random numbers."""
    known = foreign._settings(config)
    network = foreign._network(known)
    return {f"model.{name}": value for name, value in random_state(network, seed=3).items()}


def close(ours, theirs, tolerance=1e-5):
    """Whether the relative root mean square difference of each image is within the tolerance."""
    error = (ours - theirs).flatten(1).norm(dim=1)
    return bool((error <= tolerance * theirs.flatten(1).norm(dim=1)).all())


def cases(denoiser, config):
    """Noisy images, sigmas and labels: one sigma for each image, one for all, and labels left out."""
    channels, size, _ = denoiser.image_shape
    classes = config.get("label_dim", 0)
    vector = torch.tensor(SIGMAS)
    noise = images(len(SIGMAS), size, seed=1, channels=channels)
    labels = torch.arange(len(SIGMAS)) % classes if classes else None
    yield noise * vector.reshape(-1, 1, 1, 1), vector, labels
    yield noise[:2] * 0.7, 0.7, labels if labels is None else labels[:2]
    if classes:
        yield noise * vector.reshape(-1, 1, 1, 1), vector, None


def compare(config, state=None, given_state=None):
    """Compare the denoised images and the raw outputs; every tensor but the filters must have been used."""
    state = template(config) if state is None else state
    denoiser = from_edm_state_dict(state if given_state is None else given_state, config)
    raw = []
    denoiser.model.register_forward_hook(lambda module, inputs, output: raw.append(output))
    for x, sigma, labels in cases(denoiser, config):
        with torch.no_grad():
            ours = denoiser(x, sigma, labels)
            theirs, theirs_raw, read = edm_reference.denoise(state, config, x, sigma, labels)
        assert ours.dtype == torch.float32
        assert close(raw.pop(), theirs_raw)
        assert close(ours, theirs)
    unread = {name for name in state if not name.endswith("resample_filter")} - read
    assert unread <= {"model.map_augment.weight"}


def compare_in_float64(config):
    """Compare the raw outputs in float64, where rounding neither hides a difference nor grows into one."""
    state = template(config)
    denoiser = from_edm_state_dict(state, config)
    network = denoiser.model.double()
    for x, sigma, labels in cases(denoiser, config):
        level = torch.as_tensor(sigma, dtype=torch.float32).reshape(-1, 1, 1, 1)
        _, _, c_in, c_noise = denoiser.preconditioning.coefficients(level)
        classes = torch.full((1,), -1) if config["label_dim"] and labels is None else labels
        with torch.no_grad():
            ours = network((c_in * x).double(), c_noise.flatten().double(), classes)
            theirs = edm_reference.denoise(state, config, x, sigma, labels, dtype=torch.float64)[1]
        assert ours.dtype == torch.float64
        assert close(ours, theirs, 1e-9)


@pytest.mark.parametrize(
    ("encoder", "decoder", "taps"),
    list(itertools.product(("standard", "skip", "residual"), ("standard", "skip"), ([1, 1], [1, 3, 3, 1]))),
)
def test_every_encoder_decoder_and_filter_agrees(encoder, decoder, taps):
    compare(
        song_config(
            encoder_type=encoder,
            decoder_type=decoder,
            resample_filter=taps,
            channel_mult=[1, 2, 2],
            label_dim=5,
        )
    )


@pytest.mark.parametrize("wrapper", ["VPPrecond", "VEPrecond", "EDMPrecond"])
@pytest.mark.parametrize("embedding", ["positional", "fourier"])
@pytest.mark.parametrize("noise", [1, 2])
def test_every_preconditioning_and_embedding_agrees(wrapper, embedding, noise):
    compare(song_config(wrapper, embedding_type=embedding, channel_mult_noise=noise))


@pytest.mark.parametrize("levels", few([1, 2, 3, 4], 2))
@pytest.mark.parametrize("blocks", few([1, 2, 3], 2))
@pytest.mark.parametrize("make", [song_config, adm_config])
def test_every_depth_agrees(make, levels, blocks):
    compare(make(channel_mult=LEVELS[levels], num_blocks=blocks, attn_resolutions=[8, 2]))


@pytest.mark.parametrize("wrapper", ["VPPrecond", "VEPrecond", "EDMPrecond"])
@pytest.mark.parametrize("label_dim", [0, 5])
def test_adm_without_heads_agrees(wrapper, label_dim):
    state = template(adm_config(wrapper, label_dim=label_dim))
    assert not any("qkv" in name for name in state)
    compare(adm_config(wrapper, label_dim=label_dim))


@pytest.mark.parametrize(("channels", "multipliers"), [(64, [1, 2]), (96, [1, 2]), (32, [1, 2]), (32, [4])])
@pytest.mark.parametrize("attention", few([[], [4], [8, 4]], 2))
def test_adm_with_heads_agrees(channels, multipliers, attention):
    config = adm_config(
        model_channels=channels, channel_mult=multipliers, attn_resolutions=attention, label_dim=5
    )
    assert any("in0.qkv" in name for name in template(config))
    compare(config)


@pytest.mark.parametrize("attention", [[], [8], [4], [8, 4], [16]])
def test_song_attention_sets_agree(attention):
    compare(song_config(attn_resolutions=attention, num_blocks=2))


@pytest.mark.parametrize("encoder", ["standard", "skip", "residual"])
@pytest.mark.parametrize("mask", ["1111", "0000", "0111", "1101", "0010"])
def test_masked_skips_agree(encoder, mask):
    compare(song_config(encoder_type=encoder, skip_connections=[int(keep) for keep in mask]))


@pytest.mark.parametrize("mask", ["0000", "0111", "1101"])
def test_masked_skips_of_adm_agree(mask):
    compare(adm_config(skip_connections=[int(keep) for keep in mask]))


def test_a_mask_may_be_written_as_words():
    state = template(song_config())
    x = images(2)
    numbers = from_edm_state_dict(state, song_config(skip_connections=[0, 1, 1, 0]))
    words = from_edm_state_dict(state, song_config(skip_connections=["0", "1", "1", "0"]))
    truths = from_edm_state_dict(state, song_config(skip_connections=[False, True, True, False]))
    assert torch.equal(numbers(x, 1.0), words(x, 1.0))
    assert torch.equal(numbers(x, 1.0), truths(x, 1.0))


@pytest.mark.parametrize("make", [song_config, adm_config])
def test_the_augmentation_map_is_ignored(make):
    state = template(make(augment_dim=9))
    width = state["model.map_layer0.weight"].shape[1]
    compare(make(augment_dim=9), state={**state, "model.map_augment.weight": torch.randn(width, 9)})


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@pytest.mark.parametrize("encoder", ["standard", "residual"])
def test_tensors_of_other_float_types_agree(dtype, encoder):
    config = song_config(
        "VEPrecond", embedding_type="fourier", encoder_type=encoder, resample_filter=[1, 3, 3, 1]
    )
    compare(config, state={name: value.to(dtype) for name, value in template(config).items()})


@pytest.mark.parametrize("taps", [[1, 1], [1, 3, 3, 1]])
def test_filters_may_be_left_out(taps):
    config = song_config(encoder_type="residual", decoder_type="skip", resample_filter=taps)
    state = template(config)
    bare = {name: value for name, value in state.items() if not name.endswith("resample_filter")}
    assert len(bare) < len(state)
    compare(config, state=state, given_state=bare)


@pytest.mark.parametrize("channels", [1, 4])
def test_images_need_not_have_three_channels(channels):
    compare(song_config(img_channels=channels, decoder_type="skip", encoder_type="skip"))


def test_wrapper_arguments_are_used():
    compare(song_config("VPPrecond", beta_d=10.0, beta_min=0.3, M=200))
    compare(adm_config("EDMPrecond", sigma_data=0.8))


def test_absent_arguments_have_the_defaults_of_the_format():
    # 4 levels of 4 blocks, 128 channels, attention at 16: what a SongUNet without any arguments is.
    config = {"class_name": "VPPrecond", "img_resolution": 16, "img_channels": 1}
    spelled = {
        "model_type": "SongUNet", "label_dim": 0, "model_channels": 128, "channel_mult": [1, 2, 2, 2],
        "channel_mult_emb": 4, "num_blocks": 4, "attn_resolutions": [16], "embedding_type": "positional",
        "channel_mult_noise": 1, "encoder_type": "standard", "decoder_type": "standard",
        "resample_filter": [1, 1],
    }  # fmt: skip
    with torch.device("meta"):
        assert shapes(config) == shapes({**config, **spelled})
    compare({**config, "channel_mult": [1], "model_channels": 8})


def test_an_edm_wrapper_holds_adm_by_default():
    config = {"class_name": "EDMPrecond", "img_resolution": 64, "img_channels": 3, "label_dim": 1000}
    with torch.device("meta"):
        found = shapes(config)
        network = foreign._network(foreign._settings(config))
    # The published ImageNet-64 model of this configuration has 296 million parameters.
    assert round(sum(value.numel() for value in network.parameters()) / 1e6) == 296
    assert found["map_label.weight"] == (768, 1000)
    assert found["dec.8x8_in0.qkv.weight"] == (3 * 768, 768, 1, 1)


def shapes(config):
    known = foreign._settings(config)
    network = foreign._network(known)
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


@st.composite
def configurations(draw):
    wrapper = draw(st.sampled_from(["VPPrecond", "VEPrecond", "EDMPrecond"]))
    levels, blocks = draw(st.integers(1, 4)), draw(st.integers(1, 2))
    shared = {
        "label_dim": draw(st.sampled_from([0, 1, 5])),
        "channel_mult": draw(st.lists(st.integers(1, 2), min_size=levels, max_size=levels)),
        "num_blocks": blocks,
        "attn_resolutions": draw(st.lists(st.sampled_from([8, 4, 2, 1]), unique=True)),
        "channel_mult_emb": draw(st.integers(1, 4)),
        "skip_connections": draw(
            st.none()
            | st.lists(st.integers(0, 1), min_size=levels * (blocks + 1), max_size=levels * (blocks + 1))
        ),
    }
    if draw(st.booleans()):
        return adm_config(wrapper, **shared, model_channels=draw(st.sampled_from([8, 32])))
    return song_config(
        wrapper,
        **shared,
        embedding_type=draw(st.sampled_from(["positional", "fourier"])),
        channel_mult_noise=draw(st.integers(1, 2)),
        encoder_type=draw(st.sampled_from(["standard", "skip", "residual"])),
        decoder_type=draw(st.sampled_from(["standard", "skip"])),
        resample_filter=draw(st.sampled_from([[1, 1], [1, 3, 3, 1]])),
    )


@settings(max_examples=30)
@given(configurations())
def test_any_configuration_agrees_in_float64(config):
    compare_in_float64(config)

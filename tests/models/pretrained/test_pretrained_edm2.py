"""Networks of EDM2 are opened and answer as their trainer's model and the paper's formulas do."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from checkpoint_builders import FIXTURES, WITHOUT, worst_error
from edm2_builder import ARGUMENTS, RAW_MEAN, RAW_STD, codes_encoder, denoised, snapshot2, state_of
from edm_pickle_builder import EasyDict, Other, damaged, pickled, saved, snapshot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models_tools import images
from parameters import amount

from diffmem.errors import UserError
from diffmem.models import Latent, open_model
from diffmem.models.continuous import ContinuousDenoiser, edm
from diffmem.models.pretrained.recognition import described
from diffmem.sampling.config import SamplerConfig
from diffmem.sampling.generate import generate

NAME = "network-snapshot-0002097-0.050.pkl"
STATE = state_of(ARGUMENTS)
GOOD = pickled(snapshot2(STATE, ARGUMENTS))


def opened(tmp_path, content, name=NAME, **options):
    path = tmp_path / name
    path.write_bytes(content)
    return open_model(path, device="cpu", **options)


def refused(tmp_path, content, **options):
    """The words of the refusal, which are one line that names the file."""
    with pytest.raises(UserError) as error:
        opened(tmp_path, content, **options)
    words = str(error.value)
    assert "\n" not in words
    assert NAME in words
    return words


def error(made, wanted):
    return float((made - wanted).norm() / wanted.norm())


def container(name):
    """A fixture's tensors and arguments in the container of its trainer."""
    folder = FIXTURES / name
    facts = json.loads((folder / "arguments.json").read_text())
    with np.load(folder / "state.npz", allow_pickle=False) as file:
        state = {key: torch.from_numpy(file[key]) for key in file}
    if facts["class"] == "Precond":
        return snapshot2(state, facts["arguments"], source="raise SystemExit('this was executed')")
    return snapshot(state, {**facts["arguments"], "class_name": facts["class"]})


@pytest.mark.skipif(not FIXTURES.is_dir(), reason=WITHOUT)
@pytest.mark.parametrize(
    "name", ["edm2-cond", "edm-ddpmpp_edm_cond", "edm-ncsnpp_ve_uncond", "diffmemorize-ddpmpp_skip"]
)
def test_a_snapshot_answers_as_its_trainers_own_model_with_and_without_labels(tmp_path, name):
    denoiser = opened(tmp_path, pickled(container(name)))
    assert worst_error(denoiser, FIXTURES / name) < 2e-6
    with np.load(FIXTURES / name / "io.npz", allow_pickle=False) as file:
        for x, sigma, wanted in zip(file["x"], file["sigma"], file.get("D_null", []), strict=False):
            made = denoiser(torch.from_numpy(x), float(sigma))
            assert error(made, torch.from_numpy(wanted)) < 2e-6


CHANGES = {
    "as published": {},
    "without classes": {"label_dim": 0},
    "grey, three levels, two blocks": {
        "img_channels": 1, "channel_mult": [1, 1, 2], "num_blocks": 2, "attn_resolutions": [8, 2],
    },
    "other balances": {"label_balance": 0.2, "concat_balance": 0.7, "res_balance": 0.4, "attn_balance": 0.6},
    "other widths of the embedding": {"channel_mult_noise": 3, "channel_mult_emb": 5},
    "heads too wide for the fine level": {"channels_per_head": 8, "attn_resolutions": [8, 4]},
    "clipped": {"clip_act": 0.5},
    "never clipped": {"clip_act": None, "sigma_data": 0.7, "logvar_channels": 128},
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_d_is_that_of_the_papers_formulas(tmp_path, change):
    arguments = {**ARGUMENTS, **CHANGES[change]}
    state = state_of(arguments)
    denoiser = opened(tmp_path, pickled(snapshot2(state, arguments)))
    labels = torch.tensor([0, 3]) if arguments["label_dim"] else None
    for sigma in (0.05, 1.0, 20.0):
        x = (1 + sigma) * images(2, channels=arguments["img_channels"])
        for given_labels in (labels, None):
            wanted = denoised(state, arguments, x, sigma, given_labels)
            assert error(denoiser(x, sigma, given_labels), wanted) < 3e-6


def test_one_of_the_formulas_left_out_would_be_seen(tmp_path):
    """The settings that the test above changes do matter, by far more than it allows."""
    x = images(2)
    plain = denoised(STATE, ARGUMENTS, x, 1.0)
    for changed in ({"res_balance": 0.4}, {"attn_balance": 0.6}, {"concat_balance": 0.7}, {"clip_act": 0.5}):
        assert error(denoised(STATE, {**ARGUMENTS, **changed}, x, 1.0), plain) > 1e-3


def test_gains_are_divided_in_the_precision_of_the_file(tmp_path):
    wide = {name: tensor.float() if name.endswith("gain") else tensor for name, tensor in STATE.items()}
    as_trained, otherwise = (opened(tmp_path, pickled(snapshot2(s, ARGUMENTS))) for s in (STATE, wide))
    x = images(2)
    assert 1e-6 < error(otherwise(x, 1.0), as_trained(x, 1.0)) < 1e-3
    assert "divided in float16" in " ".join(as_trained.origin.notes)
    assert "divided in float32" in " ".join(otherwise.origin.notes)


def test_the_scale_of_a_weight_does_not_matter(tmp_path):
    scaled = {name: 8 * tensor if name.endswith("weight") else tensor for name, tensor in STATE.items()}
    x = images(2)
    plain, larger = (opened(tmp_path, pickled(snapshot2(s, ARGUMENTS)))(x, 1.0) for s in (STATE, scaled))
    assert error(larger, plain) < 2e-3  # what is left is the 1e-4 beside each norm


@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_torch_are_opened_too(tmp_path, zipped):
    x = images(2)
    made = opened(tmp_path, saved(snapshot2(STATE, ARGUMENTS), zipped))(x, 1.0)
    assert torch.equal(made, opened(tmp_path, GOOD)(x, 1.0))


def test_the_name_of_the_file_tells_the_ema_length_and_the_images_seen(tmp_path):
    notes = " ".join(opened(tmp_path, GOOD).origin.notes)
    assert "EMA length 0.050 after 2,097 thousand images (by the file's name)" in notes
    assert "4 classes; without a label, the network is given zeros" in notes
    notes = " ".join(opened(tmp_path, GOOD, name="model.pkl").origin.notes)
    assert "whose EMA length the file's name does not tell" in notes


def test_of_a_run_with_several_ema_lengths_one_must_be_named(tmp_path):
    for name in ("network-snapshot-0001048-0.050.pkl", "network-snapshot-0001048-0.100.pkl", NAME):
        (tmp_path / name).write_bytes(GOOD)
    assert open_model(tmp_path).origin.path == tmp_path / NAME
    other = tmp_path / "network-snapshot-0002097-0.100.pkl"
    other.write_bytes(GOOD)
    with pytest.raises(UserError, match="holds 2 EMA lengths of its newest step") as refused:
        open_model(tmp_path)
    told = str(refused.value)
    assert NAME in told
    assert f"{other.name} (step 2,097" in told
    assert f"for example {tmp_path / NAME}" in told


def test_a_training_state_points_to_the_network_snapshots_of_its_step(tmp_path):
    path = tmp_path / "training-state-0002097.pt"
    average = {"stds": [0.05, 0.1], "emas": [STATE, STATE]}
    optimizer = {
        "state": {0: {"step": torch.tensor(1.0)}},
        "param_groups": [{"lr": 0.01, "betas": (0.9, 0.99)}],
    }
    loss = {"_init_args": (), "_init_kwargs": EasyDict(P_mean=-0.4), "P_mean": -0.4}
    state = {
        "state": EasyDict(cur_nimg=1),
        "net": STATE,
        "loss_fn": loss,
        "optimizer": optimizer,
        "ema": average,
    }
    path.write_bytes(saved(state, zipped=True))
    with pytest.raises(UserError, match=r"training state of EDM2.*network-snapshot-0002097-\*\.pkl"):
        open_model(path)
    assert "network-snapshot-000100.pkl" in described(
        tmp_path / "training-state-000100.pt", {"net": {}, "optimizer_state": {}}
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"model_channels": 2**20}, "has shape"),
        ({"num_blocks": 10**9}, "claims 2,000,000,000 blocks"),
        ({"channels": 8}, "no argument 'channels'"),
        ({"resample_filter": [1, 3, 3, 1]}, "must be [1, 1]"),
        ({"res_balance": 1.5}, "res_balance must be 0 to 1"),
        ({"sigma_data": 0.0}, "sigma_data must be positive"),
        ({"channel_mult": []}, "does not fit the 0 resolutions"),
        ({"img_resolution": 7}, "does not fit the 2 resolutions"),
        ({"label_dim": 5}, "emb_label"),
        ({"label_dim": 0}, "emb_label"),
    ],
)
def test_arguments_unlike_the_tensors_are_refused(tmp_path, arguments, words):
    assert words in refused(tmp_path, pickled(snapshot2(STATE, {**ARGUMENTS, **arguments})))


def test_channels_without_equal_heads_are_refused(tmp_path):
    uneven = {**ARGUMENTS, "model_channels": 5, "channels_per_head": 3}
    assert "do not fit each other" in refused(tmp_path, pickled(snapshot2(state_of(uneven), uneven)))


def test_a_missing_or_a_useless_tensor_is_named(tmp_path):
    without = {name: tensor for name, tensor in STATE.items() if name != "unet.dec.4x4_in0.emb_gain"}
    assert "first 'dec.4x4_in0.emb_gain'" in refused(tmp_path, pickled(snapshot2(without, ARGUMENTS)))
    broken = {**STATE, "unet.out_gain": torch.tensor(torch.nan)}
    assert "'out_gain' holds numbers that are not finite" in refused(
        tmp_path, pickled(snapshot2(broken, ARGUMENTS))
    )


def test_an_encoder_that_is_not_known_is_refused(tmp_path):
    unknown = snapshot2(STATE, ARGUMENTS, Other("AudioEncoder", ""))
    assert "encoder 'AudioEncoder' with 3 channels is not supported" in refused(tmp_path, pickled(unknown))
    latents = {**ARGUMENTS, "img_channels": 4}
    told = refused(tmp_path, pickled(snapshot2(state_of(latents), latents)))
    assert "encoder 'StandardRGBEncoder' with 4 channels" in told
    assert "scales 4 channels, but the network has 3" in refused(
        tmp_path, pickled(snapshot2(STATE, ARGUMENTS, codes_encoder()))
    )


def test_a_network_for_pixels_takes_no_settings(tmp_path):
    assert "takes no settings" in refused(tmp_path, GOOD, settings={"vae": str(tmp_path)})


LATENTS = {**ARGUMENTS, "img_channels": 4}
LATENT_STATE = state_of(LATENTS)


def latent_snapshot(**options):
    return pickled(snapshot2(LATENT_STATE, LATENTS, codes_encoder(**options)))


def test_a_network_for_latents_asks_for_the_folder_of_its_autoencoder(tmp_path):
    words = refused(tmp_path, latent_snapshot())
    assert "--model-set vae=FOLDER" in words
    assert "stabilityai/sd-vae-ft-mse" in words
    assert "there is no folder" in refused(
        tmp_path, latent_snapshot(), settings={"vae": str(tmp_path / "absent")}
    )


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    tools = pytest.importorskip("diffusers_tools")
    network = tools.tiny_autoencoder(latent_channels=4).eval()
    folder = tmp_path_factory.mktemp("vae")
    network.save_pretrained(folder)
    return network, folder


@pytest.mark.parametrize("stored", [True, False])
def test_latents_are_those_of_the_autoencoder_fed_images_of_zero_to_one(tmp_path, autoencoder, stored):
    network, folder = autoencoder
    denoiser = opened(tmp_path, latent_snapshot(stored=stored), settings={"vae": str(folder)})
    assert isinstance(denoiser, Latent)
    assert (denoiser.image_shape, denoiser.pixel_shape) == ((4, 8, 8), (3, 16, 16))
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (RAW_MEAN, RAW_STD))
    x = images(2, size=16).clamp(-1, 1)
    codes = network.encode((x + 1) / 2).latent_dist.mean
    torch.testing.assert_close(denoiser.encode(x), (codes - mean) * 0.5 / std, rtol=1e-4, atol=1e-5)
    z = images(2, channels=4)
    decoded = 2 * network.decode(z * std / 0.5 + mean).sample - 1
    torch.testing.assert_close(denoiser.decode(z), decoded, rtol=1e-4, atol=1e-4)
    assert error(denoiser(z, 2.0), denoised(LATENT_STATE, LATENTS, z, 2.0)) < 3e-6
    assert "this was read there, not run" in " ".join(denoiser.origin.notes)


def test_another_map_of_the_codes_is_read_from_the_encoders_arguments(tmp_path, autoencoder):
    content = latent_snapshot(stored=False, raw_mean=[1, 2, 3, 4], raw_std=[2, 2, 2, 2], final_std=1)
    denoiser = opened(tmp_path, content, settings={"vae": str(autoencoder[1])})
    x = images(2, size=16)
    codes = autoencoder[0].encode((x + 1) / 2).latent_dist.mean
    wanted = (codes - torch.tensor([1.0, 2, 3, 4])[:, None, None]) / 2
    torch.testing.assert_close(denoiser.encode(x), wanted, rtol=1e-4, atol=1e-5)


def test_two_autoencoders_make_two_models(tmp_path, autoencoder):
    tools = pytest.importorskip("diffusers_tools")
    other = tools.tiny_autoencoder(latent_channels=4, block_out_channels=(8, 16))
    other.save_pretrained(tmp_path / "other")
    digests = {
        opened(tmp_path, latent_snapshot(), settings={"vae": str(folder)}).origin.digest
        for folder in (autoencoder[1], tmp_path / "other")
    }
    assert len(digests) == 2


def test_an_autoencoder_of_other_codes_is_refused(tmp_path):
    tools = pytest.importorskip("diffusers_tools")
    tools.tiny_autoencoder(latent_channels=3).save_pretrained(tmp_path / "vae")
    words = refused(tmp_path, latent_snapshot(), settings={"vae": str(tmp_path / "vae")})
    assert "have 3 channels; the network denoises 4" in words


def test_the_trainers_own_sampler_ends_at_the_images_of_the_optimum():
    """32 steps from 80 to 0.002 with rho 7; the network is the closed-form optimum through the inverse of the head."""
    training = images(5, size=4, channels=1).double().clamp(-1, 1)

    def network(scaled, noise, labels):
        sigma = (4 * noise.double()).exp()[:, None, None, None]
        total = sigma**2 + 0.25
        x = scaled.double() * total.sqrt()
        weights = (
            -(x[:, None] - training).square().sum((2, 3, 4)) / (2 * sigma.flatten()[:, None] ** 2)
        ).softmax(1)
        clean = torch.einsum("nm,mchw->nchw", weights, training)
        return ((clean - 0.25 / total * x) * total.sqrt() / (0.5 * sigma)).float()

    denoiser = ContinuousDenoiser(network, edm(0.5), (1, 4, 4))
    config = SamplerConfig(steps=32, sigma_min=0.002, sigma_max=80, rho=7)
    made = torch.from_numpy(generate(denoiser, range(4), config).images).int()
    wanted = ((training + 1) * 127.5).round().int()
    assert int((made[:, None] - wanted).abs().amax((2, 3, 4)).min(1).values.max()) <= 1


FUZZ = settings(
    deadline=60_000, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
SMALLEST = {**ARGUMENTS, "channel_mult": [1], "img_resolution": 4, "label_dim": 2, "attn_resolutions": []}
SMALL = snapshot2(state_of(SMALLEST), SMALLEST)
SEEDS = [pickled(SMALL, 4), pickled(SMALL, 2), saved(SMALL, True), latent_snapshot()]


@pytest.mark.thorough
@settings(FUZZ, max_examples=amount(60, 400))
@given(st.sampled_from(SEEDS).flatmap(damaged))
def test_damage_gives_a_user_error_or_a_denoiser_and_nothing_else(tmp_path, content):
    told = None
    try:
        denoiser = opened(tmp_path, content)
    except UserError as error:
        told = str(error)
    assert denoiser.image_shape[0] in (1, 3) if told is None else NAME in told

import json
import os

import checkpoint_builders
import pytest
import torch
from edm_pickle_builder import pickled, snapshot
from edm_pickle_tools import SONG, STATE
from safetensors.torch import save_file

from diffmem.errors import UserError
from diffmem.files import sha256_file
from diffmem.models import (
    FunctionDenoiser,
    ModelConfig,
    build_denoiser,
    open_edm_pickle,
    open_model,
    origin_of,
    save_denoiser,
)

TINY = ModelConfig(architecture="ddpmpp", channels=4, multipliers=(1,), blocks=1, attention=(), dropout=0.0)


@pytest.fixture
def saved(tmp_path):
    denoiser = build_denoiser(TINY, (1, 8, 8), 0, 0)
    (tmp_path / "snapshots").mkdir()
    for seen in ("000000010", "000000020"):
        save_denoiser(denoiser, TINY, tmp_path / "snapshots" / f"{seen}.safetensors", {"epoch": seen})
    return tmp_path


def test_of_a_runs_folder_the_last_snapshot_is_opened(saved):
    opened = open_model(saved)
    assert opened.origin.name == "000000020.safetensors at epoch 000000020"
    assert opened.origin.format == "diffmem snapshot"
    assert opened.origin.digest == sha256_file(saved / "snapshots" / "000000020.safetensors")
    assert opened.image_shape == (1, 8, 8)


def test_a_snapshot_is_known_by_its_content_whatever_its_name(saved):
    path = (saved / "snapshots" / "000000010.safetensors").rename(saved / "model.weights")
    assert open_model(path).origin.format == "diffmem snapshot"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "There is no file or folder"),
        (lambda path: os.mkfifo(path), "There is no file or folder"),
        (lambda path: path.mkdir(), "no folder of a model"),
        (lambda path: (path / "snapshots").mkdir(parents=True), "no snapshot yet"),
        (lambda path: path.write_bytes(b""), "model"),
        (lambda path: path.write_bytes(b"hello"), "model"),
        (lambda path: path.write_bytes(b"\x80\x04cos\nsystem\n"), "system"),
    ],
)
def test_what_is_no_model_is_refused_in_one_line(tmp_path, make, words):
    path = tmp_path / "model"
    make(path)
    with pytest.raises(UserError, match=words) as caught:
        open_model(path)
    assert "\n" not in str(caught.value)


def test_a_damaged_snapshot_is_the_users_to_mend(saved):
    path = saved / "snapshots" / "000000020.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        open_model(saved)


def test_an_edm_pickle_gives_its_averaged_weights(tmp_path):
    path = tmp_path / "network-snapshot-000010.pkl"
    path.write_bytes(pickled(snapshot(STATE, SONG)))
    opened = open_model(path)
    assert opened.origin.format == "EDM pickle"
    x = torch.randn(1, *opened.image_shape)
    assert torch.equal(opened(x, 1.0), open_edm_pickle(path)(x, 1.0))


def test_a_folder_of_diffusers_is_known_by_its_settings(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel"}))
    with pytest.raises(UserError, match=r"scheduler_config\.json"):
        open_model(tmp_path)


@pytest.mark.parametrize("name", ["x" * 5000, "~nobody-of-this-name/model", "a\nb"])
def test_a_name_that_no_file_can_have_is_refused_in_one_line(name):
    with pytest.raises(UserError) as caught:
        open_model(name)
    assert "\n" not in str(caught.value)


def test_a_snapshot_that_claims_an_endless_header_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    with path.open("wb") as stream:
        stream.write((2**32).to_bytes(8, "little"))
        stream.truncate(2**33)
    with pytest.raises(UserError, match="the limit is"):
        open_model(path)


def test_models_of_the_callers_own_are_told_apart_by_what_they_answer():
    half, third = (
        FunctionDenoiser(lambda x, sigma, labels, by=by: x / by, (1, 4, 4), 0.002, 80) for by in (2, 3)
    )
    digests = [origin_of(denoiser).digest for denoiser in (half, half, third)]
    assert digests[0] == digests[1] != digests[2]


def test_what_was_read_is_named(saved):
    assert open_model(saved).origin.path == saved / "snapshots" / "000000020.safetensors"


def test_another_network_of_an_edm_pickle_is_opened_by_its_name(tmp_path):
    path = tmp_path / "training-state-000010.pkl"
    path.write_bytes(pickled({"net": snapshot(STATE, SONG)["ema"]}))
    with pytest.raises(UserError, match="'net'"):
        open_model(path)
    opened = open_model(path, weights="net")
    assert opened.origin.name == f"{path.name}, weights 'net'"
    assert opened.image_shape == (3, 8, 8)


def test_weights_are_not_chosen_where_a_file_holds_one_network(saved):
    with pytest.raises(
        UserError,
        match="weights 'net' is for EDM pickles, checkpoints and folders checkpoint-N; a diffmem snapshot holds one network",
    ):
        open_model(saved, weights="net")


def test_a_model_of_another_shape_than_wanted_is_refused(saved):
    assert open_model(saved, (1, 8, 8)).image_shape == (1, 8, 8)
    with pytest.raises(UserError, match=r"\(1, 8, 8\) \(C, H, W\), not \(3, 32, 32\)"):
        open_model(saved, image_shape=(3, 32, 32))


def test_a_resolution_is_the_size_of_the_images_whatever_their_channels(saved):
    assert open_model(saved, resolution=8).image_shape == (1, 8, 8)
    assert open_model(saved, (1, 8, 8), resolution=(8, 8)).image_shape == (1, 8, 8)
    with pytest.raises(UserError, match=r"\(1, 8, 8\) \(C, H, W\), not 8 x 16 pixels"):
        open_model(saved, resolution=(8, 16))
    with pytest.raises(UserError, match=r"The resolution 16x16 is not that of .*\(1, 8, 8\)"):
        open_model(saved, (1, 8, 8), resolution=16)


def test_the_tensors_of_an_edm_network_are_opened_by_its_settings(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(STATE, path)
    pickle = tmp_path / "network-snapshot-000010.pkl"
    pickle.write_bytes(pickled(snapshot(STATE, SONG)))
    opened, x = open_model(path, settings=SONG), torch.randn(1, 3, 8, 8)
    assert opened.origin.format == "EDM state dict"
    assert torch.equal(opened(x, 1.0), open_model(pickle)(x, 1.0))


@pytest.mark.parametrize(
    ("state", "settings", "words"),
    [
        ({}, SONG, "lacks"),
        (STATE, {**SONG, "chanels": 4}, "no argument 'chanels'"),
        (
            {**STATE, "model.map_layer0.weight": STATE["model.map_layer0.weight"] * torch.nan},
            SONG,
            "not finite",
        ),
    ],
)
def test_tensors_that_do_not_fit_the_settings_are_refused_with_their_file(tmp_path, state, settings, words):
    path = tmp_path / "model.safetensors"
    save_file(state, path)
    with pytest.raises(UserError, match=rf"model\.safetensors.*{words}"):
        open_model(path, settings=settings)


def test_a_model_says_what_it_is(saved):
    text = str(open_model(saved))
    for part in (
        "SongUNet, 2,801 parameters, VP preconditioning",
        "1 x 8 x 8",
        "unconditional",
        "000000020.safetensors at epoch",
    ):
        assert part in text


def test_a_suggested_size_is_taken_where_the_file_tells_none_and_not_insisted_on(tmp_path):
    torch.save(checkpoint_builders.pytorch_ddpm(side=8), tmp_path / "ckpt.pt")
    rates = {"beta_1": 1e-4, "beta_T": 0.02}
    told = open_model(tmp_path / "ckpt.pt", settings=rates, suggested=(16, 16))
    assert told.image_shape == (3, 8, 8)
    without = checkpoint_builders.pytorch_ddpm(side=8)
    del without["x_T"]
    torch.save(without, tmp_path / "ckpt.pt")
    assert open_model(tmp_path / "ckpt.pt", settings=rates, suggested=(16, 16)).image_shape == (3, 16, 16)


GUIDED = {
    "num_heads": 4,
    "use_new_attention_order": False,
    "noise_schedule": "linear",
    "diffusion_steps": 1000,
    "predict_xstart": False,
}


def test_a_state_dict_is_the_same_model_in_safetensors_as_in_a_pickle(tmp_path):
    tensors = checkpoint_builders.guided_diffusion()
    torch.save(tensors, tmp_path / "ema_0.9999_000010.pt")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    one, other = (
        open_model(tmp_path / name, settings=GUIDED, resolution=8)
        for name in ("ema_0.9999_000010.pt", "model.safetensors")
    )
    x = torch.randn(1, 3, 8, 8)
    assert one.origin.format == other.origin.format
    assert torch.equal(one(x, 1.0), other(x, 1.0))
    with pytest.raises(UserError, match="does not tell num_heads"):
        open_model(tmp_path / "model.safetensors", resolution=8)


def test_settings_do_not_make_a_network_of_edm_of_other_tensors(tmp_path):
    save_file({"init_conv.weight": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="a trainer that is not known"):
        open_model(tmp_path / "model.safetensors", settings=GUIDED)


def test_settings_of_a_model_that_records_all_of_them_are_refused_and_not_left_out(saved):
    with pytest.raises(UserError, match="takes no settings, and 'sigma_data' was given"):
        open_model(saved, settings={"sigma_data": 1.0})

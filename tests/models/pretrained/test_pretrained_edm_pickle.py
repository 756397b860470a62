"""Snapshots of EDM's training code are opened, and misfits are named."""

from __future__ import annotations

import io

import edm_pickle_builder as builder
import numpy as np
import pytest
import torch
from edm_pickle_builder import network, pickled, saved, snapshot
from edm_pickle_tools import GOOD, NETWORKS, SONG, STATE, opened, rebuilt, refused, same
from parameters import these

from diffmem.errors import UserError
from diffmem.models.pretrained.edm_pickle import open_edm_pickle
from diffmem.models.pretrained.foreign import from_edm_state_dict
from diffmem.sampling.config import SamplerConfig
from diffmem.sampling.generate import generate

pytestmark = pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")


@pytest.mark.parametrize("protocol", these(range(6), 0, 4))
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_snapshot_gives_the_denoiser_of_its_tensors_and_arguments(tmp_path, kind, protocol):
    state, config = NETWORKS[kind]
    denoiser = opened(tmp_path, pickled(snapshot(state, config), protocol))
    assert same(denoiser, state, config)
    assert not denoiser.training
    assert not any(parameter.requires_grad for parameter in denoiser.parameters())


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", NETWORKS)
def test_files_of_either_format_of_torch_are_opened(tmp_path, kind, zipped):
    state, config = NETWORKS[kind]
    assert same(opened(tmp_path, saved(snapshot(state, config), zipped)), state, config)


def test_images_are_generated_from_a_snapshot(tmp_path):
    denoiser = opened(tmp_path, pickled(snapshot(*NETWORKS["ncsn"])))
    made = generate(denoiser, range(3), SamplerConfig(steps=2), batch_size=2)
    again = generate(from_edm_state_dict(*NETWORKS["ncsn"]), range(3), SamplerConfig(steps=2), batch_size=2)
    np.testing.assert_array_equal(made.images, again.images)
    assert made.images.shape == (3, 3, 8, 8)


@pytest.mark.parametrize("dtype", these([torch.float16, torch.bfloat16, torch.float64], torch.bfloat16))
def test_weights_of_another_precision_become_float32(tmp_path, dtype):
    state = {name: value.to(dtype) for name, value in STATE.items()}
    config = {**SONG, "use_fp16": True}
    denoiser = opened(tmp_path, pickled(snapshot(state, config)))
    assert {value.dtype for value in denoiser.state_dict().values()} == {torch.float32}
    assert same(denoiser, state, config)


def test_arguments_may_be_given_by_position_and_as_numpy_numbers(tmp_path):
    state, config = NETWORKS["ncsn"]
    first = ("img_resolution", "img_channels", "label_dim")
    by_name = {name: value for name, value in config.items() if name not in first}
    by_name["num_blocks"] = np.int64(1)
    by_name["channel_mult"] = (np.int32(1), 2)
    content = pickled(snapshot(state, by_name, args=(8, 3, np.int16(3), False, 0.05, 20.0)))
    assert same(opened(tmp_path, content), state, {**config, "sigma_min": 0.05, "sigma_max": 20.0})


def test_tensors_may_be_views_of_any_layout(tmp_path):
    value = snapshot(STATE, SONG)
    weight = value["ema"].model.enc["8x8_conv"].weight
    weight.data = weight.data.to(memory_format=torch.channels_last)
    bias = value["ema"].model.enc["8x8_conv"].bias
    bias.data = torch.cat([torch.zeros(3), bias.data])[3:]
    assert same(opened(tmp_path, pickled(value)), STATE, SONG)


def test_the_weights_of_augmentation_are_left_out(tmp_path):
    state = {**STATE, "model.map_augment.weight": torch.zeros(8, 9)}
    assert same(opened(tmp_path, pickled(snapshot(state, {**SONG, "augment_dim": 9}))), STATE, SONG)


def test_another_entry_may_be_asked_for(tmp_path):
    value = snapshot(STATE, SONG)
    other = {name: tensor * 0.5 if tensor.ndim == 1 else tensor for name, tensor in STATE.items()}
    value["net"] = network(other, SONG)
    assert same(opened(tmp_path, pickled(value), which="net"), other, SONG)


def test_an_absent_entry_is_answered_with_the_networks_there_are(tmp_path):
    words = refused(tmp_path, GOOD, which="net")
    assert "no network 'net': give one of 'ema'" in words
    assert "no network 'loss_fn'" in refused(tmp_path, GOOD, which="loss_fn")
    assert "a trainer that is not known: it holds no tensors" in refused(
        tmp_path, pickled({"ema": {"state": 1}})
    )
    assert "dictionary of networks" in refused(tmp_path, pickled(network(STATE, SONG)))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"There is no file .*absent\.pkl"):
        open_edm_pickle(tmp_path / "absent.pkl")


def test_a_missing_tensor_is_named(tmp_path):
    state = {name: value for name, value in STATE.items() if name != "model.map_layer0.weight"}
    assert "lacks 1 tensor(s) of this network, first 'model.map_layer0.weight'" in refused(
        tmp_path, pickled(snapshot(state, SONG))
    )


def test_an_unknown_tensor_is_named(tmp_path):
    state = {**STATE, "model.map_layer0.wait": torch.zeros(1)}
    assert "'model.map_layer0.wait'" in refused(tmp_path, pickled(snapshot(state, SONG)))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.full((32,), torch.nan), "not finite"),
        (torch.full((32,), torch.inf), "not finite"),
        (torch.full((32,), 1e300, dtype=torch.float64), "not finite"),
        (torch.zeros(32, dtype=torch.int64), "holds torch.int64"),
        (torch.zeros(32, dtype=torch.bool), "holds torch.bool"),
        (torch.zeros(31), "shape (31,)"),
    ],
)
def test_a_tensor_of_no_use_is_named(tmp_path, value, words):
    ema = network(STATE, SONG)
    ema.model.map_layer0.bias = None
    ema.model.map_layer0._parameters["bias"] = value
    told = refused(tmp_path, pickled({"ema": ema}))
    assert words in told
    assert "'model.map_layer0.bias'" in told


def test_tensors_that_share_their_numbers_are_refused(tmp_path):
    """A small file may not claim a large network by naming one storage many times."""
    storage = torch.zeros(max(value.numel() for value in STATE.values())).storage()
    ema = network(STATE, SONG)
    for module in ema.modules():
        for name, value in module._parameters.items():
            if value is not None:
                module._parameters[name] = rebuilt(storage, 0, tuple(value.shape), value.stride())
    with builder.imitated():
        stream = io.BytesIO()
        torch.save({"ema": ema}, stream)
    assert "share numbers" in refused(tmp_path, stream.getvalue())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda ema: ema.__dict__.pop("_init_kwargs"), "img_resolution"),
        (lambda ema: ema.__dict__.update(_init_kwargs=3), "constructor's arguments"),
        (lambda ema: ema.__dict__.update(_init_args=[8]), "constructor's arguments"),
        (lambda ema: ema.__dict__.update(_init_args=(8,) * 20), "by position"),
        (lambda ema: ema.__dict__.update(_init_args=(8,)), "twice"),
        (lambda ema: ema.__dict__.update(_init_kwargs={1: 2}), "without a name"),
        (lambda ema: ema.__dict__.update(_modules=3), "_modules"),
        (lambda ema: ema.__dict__.update(_parameters={"a.b": None}), "unusual name"),
        (lambda ema: ema.__dict__.update(_buffers={"a": 5}), "not a tensor"),
        (lambda ema: ema.__dict__.update(_modules={"a": 5}), "not a module"),
        (lambda ema: ema.__dict__.update(_init_kwargs={f"a{i}": 1 for i in range(300)}), "300 arguments"),
    ],
)
def test_an_incomplete_object_is_refused_in_words(tmp_path, change, words):
    ema = network(STATE, SONG)
    change(ema)
    assert words in refused(tmp_path, pickled({"ema": ema}))

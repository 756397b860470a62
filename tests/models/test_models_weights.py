from __future__ import annotations

import json
import math
import os
import struct
from pathlib import Path

import pytest
import torch
from models_tools import images, tiny

from diffmem.errors import DiffmemError, UserError
from diffmem.models.config import ModelConfig
from diffmem.models.weights import load_denoiser, read_tensors, save_denoiser, write_tensors

FIELDS = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (4,)}


@pytest.mark.parametrize("architecture", ["ddpmpp", "ncsnpp", "adm"])
def test_a_saved_denoiser_computes_the_same_after_loading(architecture, tmp_path):
    mask = (True, False, True, True)
    denoiser = tiny(architecture, num_labels=3, skip_mask=mask, preconditioning="edm")
    config = ModelConfig(architecture=architecture, preconditioning="edm", skip_mask=mask, **FIELDS)
    save_denoiser(denoiser, config, tmp_path / "net.safetensors", {"images_seen": "1000"})
    loaded, found, words = load_denoiser(tmp_path / "net.safetensors")
    denoiser.to(memory_format=torch.channels_last)  # as in training
    x, labels = images(2), torch.tensor([0, 2])
    assert torch.equal(loaded(x, 0.5, labels), denoiser(x, 0.5, labels))
    assert found == config
    assert words["images_seen"] == "1000"
    assert not loaded.training


def test_tensors_of_every_type_and_shape_come_back(tmp_path):
    tensors = {
        "scalar": torch.tensor(3),
        "half": torch.tensor([1.5, float("nan")], dtype=torch.float16),
        "empty": torch.zeros(0, 4),
        "transposed": torch.arange(6.0).reshape(2, 3).T,
        "flags": torch.tensor([True, False]),
    }
    write_tensors(tmp_path / "a.safetensors", tensors, {"word": "value"})
    found, words = read_tensors(tmp_path / "a.safetensors")
    assert words == {"word": "value"}
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0, equal_nan=True)


def test_a_missing_file_is_the_users_mistake(tmp_path):
    with pytest.raises(UserError, match=r"no file .*absent\.safetensors"):
        load_denoiser(tmp_path / "absent.safetensors")


@pytest.mark.parametrize("position", [-1, -200])
def test_a_changed_byte_is_noticed(tmp_path, position):
    path = tmp_path / "net.safetensors"
    save_denoiser(tiny(), ModelConfig(**FIELDS), path)
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises(DiffmemError, match="damaged"):
        load_denoiser(path)


@pytest.mark.parametrize("keep", [0, 7, 500, -1])
def test_a_truncated_file_is_noticed(tmp_path, keep):
    path = tmp_path / "net.safetensors"
    save_denoiser(tiny(), ModelConfig(**FIELDS), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DiffmemError, match="damaged"):
        load_denoiser(path)


def test_a_file_of_another_kind_is_refused(tmp_path):
    write_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(1)}, {"format": "other"})
    with pytest.raises(UserError, match="'other'"):
        load_denoiser(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "change",
    [{"model": "{}x"}, {"model": '{"chanels": 8}'}, {"image_shape": "[3, 8]"}, {"num_labels": "many"}],
)
def test_words_that_do_not_describe_a_network_are_refused(tmp_path, change):
    path = tmp_path / "net.safetensors"
    save_denoiser(tiny(), ModelConfig(**FIELDS), path)
    tensors, words = read_tensors(path)
    write_tensors(path, tensors, {**words, **change})
    with pytest.raises(UserError, match=r"net\.safetensors"):
        load_denoiser(path)


def test_tensors_of_another_architecture_are_named(tmp_path):
    path = tmp_path / "net.safetensors"
    save_denoiser(tiny(blocks=2), ModelConfig(**FIELDS), path)
    with pytest.raises(UserError, match=r"net\.safetensors: Tensor 'model\..*block"):
        load_denoiser(path)


def test_a_safetensors_file_of_another_program_is_refused_in_one_line(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "foreign.safetensors"
    save_file(tiny().state_dict(), path)
    with pytest.raises(DiffmemError, match=r"foreign\.safetensors") as caught:
        load_denoiser(path)
    assert "\n" not in str(caught.value)


def test_no_flipped_bit_gives_other_tensors(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors = {"a": torch.arange(12.0).reshape(3, 4), "b": torch.arange(5), "c": torch.ones(2, 6).half()}
    write_tensors(path, tensors, {"word": "value"})
    whole, refused = path.read_bytes(), 0
    for position in range(len(whole)):
        content = bytearray(whole)
        content[position] ^= 1 << position % 8
        path.write_bytes(content)
        try:
            found, _ = read_tensors(path)
        except DiffmemError as error:
            assert "\n" not in str(error)  # noqa: PT017 - some bits are those of the words
            refused += 1
        else:
            assert found.keys() == tensors.keys()
            assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert refused > 0.8 * len(whole)


def sparse(path, header, size=0):
    """A file of safetensors with any header, and holes instead of numbers."""
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(header)) + header)
        stream.truncate(8 + len(header) + size)


def one_tensor(*shape, kind="F32", size=0):
    return json.dumps({"a": {"dtype": kind, "shape": shape, "data_offsets": [0, size]}}).encode()


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ({"channels": 400_000}, "but this network needs"),
        ({"multipliers": [10**12, 10**12]}, "overflow"),
        ({"multipliers": [2**62, 2**62]}, "Cannot read"),
        ({"multipliers": [1] * 100_000}, "claims 1 blocks at each of 100000 resolutions"),
        ({"blocks": 10**9}, "claims 1000000000 blocks"),
        ({"blocks": 10**9, "skip_mask": [True]}, "claims 1000000000 blocks"),
        ({"blocks": "1000000000"}, "claims 1000000000 blocks"),
        ({"architecture": "optimum"}, "no weights to train"),
        ({"surprise\nin two lines": 1}, "does not describe a network"),
    ],
)
def test_a_configuration_of_absurd_sizes_is_refused_before_memory_is_spent(tmp_path, model, told):
    path = hostile_snapshot(
        tmp_path, model=json.dumps(json.loads(ModelConfig(**FIELDS).model_dump_json()) | model)
    )
    refused(path, told)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"model": "[" * 100_000}, "does not describe a network"),
        ({"model": "[]"}, "does not describe a network"),
        ({"image_shape": "[" * 100_000}, "does not describe a network"),
        ({"image_shape": "[3, 1e400, 8]"}, "does not describe a network"),
        ({"image_shape": "[3, 1073741824, 1073741824]"}, "no network has images of 3 x 1073741824"),
        ({"image_shape": "[0, 8, 8]"}, "no network has images"),
        ({"num_labels": "-3"}, "-3 classes"),
        ({"num_labels": "1000000000000"}, "1000000000000 classes"),
        ({"num_labels": "9" * 5000}, "does not describe a network"),
        ({"format": "x\n" * 10_000}, "not a denoiser written by diffmem"),
    ],
)
def test_words_that_mean_harm_are_refused_in_one_line(tmp_path, words, told):
    refused(hostile_snapshot(tmp_path, **words), told)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda tensor: tensor.fill_(math.nan), "not finite"),
        (lambda tensor: tensor.fill_(math.inf), "not finite"),
        (lambda tensor: tensor.long(), "torch.int64"),
        (lambda tensor: tensor.to(torch.complex64), "torch.complex64"),
    ],
)
def test_numbers_that_are_no_weights_are_refused_with_their_tensor(tmp_path, change, told):
    path = tmp_path / "net.safetensors"
    save_denoiser(tiny(), ModelConfig(**FIELDS), path)
    tensors, words = read_tensors(path)
    name = "model.map_layer0.weight"
    write_tensors(path, {**tensors, name: change(tensors[name])}, words)
    refused(path, f"{name}.*{told}")


@pytest.mark.parametrize(
    ("header", "size", "told"),
    [
        (one_tensor(2**38, size=2**40), 2**40, "the limit is 4,294,967,296"),
        (b"{" + b" " * 2**23, 1, "its header has"),
        (b'{"a":' + b"[" * 100_000, 0, "damaged"),
        (one_tensor(2**62, 4, 0), 0, "damaged"),
        (one_tensor(2, kind="F4", size=1), 1, "damaged"),
        (one_tensor(2, kind="F8_E8M0", size=2), 2, "damaged"),
        (one_tensor(2, kind="X9", size=2), 2, "damaged"),
        (b"", 0, "damaged"),
    ],
)
def test_a_header_that_means_harm_is_refused_in_one_line(tmp_path, header, size, told):
    path = tmp_path / "net.safetensors"
    sparse(path, header, size)
    refused(path, told)


def test_what_is_no_plain_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "net.safetensors")
    for path in (tmp_path / "net.safetensors", tmp_path, Path("a" * 5000), Path("a\0b")):
        with pytest.raises(UserError, match="There is no file"):
            load_denoiser(path)


def hostile_snapshot(folder, **words):
    path = folder / "net.safetensors"
    save_denoiser(tiny(), ModelConfig(**FIELDS), path)
    tensors, good = read_tensors(path)
    write_tensors(path, tensors, {**good, **words})
    return path


def refused(path, told):
    with pytest.raises(UserError, match=told) as caught:
        load_denoiser(path)
    assert str(caught.value).isprintable()
    assert path.name in str(caught.value)
    assert len(str(caught.value)) < 2000

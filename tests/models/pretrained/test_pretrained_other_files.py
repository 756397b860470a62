"""Files and folders of other programs, given as models: each is named for what it is, and none is called damaged."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save

from diffmem.errors import UserError
from diffmem.models import open_model
from diffmem.models.pretrained.other_files import other_file


def refusal(path):
    with pytest.raises(UserError) as error:
        open_model(path)
    return str(error.value)


def told(tmp_path, name, content):
    """The refusal of a file of these bytes, or of what torch saves."""
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    return refusal(path)


def tarred(**members):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, held in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(held)
            archive.addfile(info, io.BytesIO(held))
    return content.getvalue()


def zipped(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def arrays():
    buffer = io.BytesIO()
    np.savez(buffer, images=np.zeros((2, 3, 4, 4), np.uint8))
    return buffer.getvalue()


def named(*names):
    return {name: torch.ones(1) for name in names}


WITH_BOTH_WAYS = {
    "model.onnx": (b"\x08\x07\x12\x07pytorch\x1a\x05" + bytes(100), "a graph of ONNX"),
    "model.h5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5 file, as Keras writes it"),
    "weights.keras": (zipped(**{"model.weights.h5": b"", "config.json": b"{}"}), "a model of Keras"),
    "script.pt": (zipped(**{"a/code/net.py": b"", "a/data.pkl": b"", "a/constants.pkl": b""}), "a program of TorchScript"),
    "model.ckpt-100.index": (b"\0\0\2\1", "a part of a checkpoint of TensorFlow"),
    "model.ckpt-100.data-00000-of-00001": (bytes(64), "a part of a checkpoint of TensorFlow"),
    "flax_model.msgpack": (b"\x82\xa6params\x81\xa1a\x01", "as Flax (JAX) writes it"),
    "model.gguf": (b"GGUF\3\0\0\0" + bytes(40), "a file of GGUF"),
    "weights.bin": ({"layer.weight": torch.ones(2)}, "a trainer that is not known: it holds 1 tensors ('layer.weight', ...)"),
    "lightning.ckpt": ({"pytorch-lightning_version": "2.0", "state_dict": {"a.b": torch.ones(1)}}, "(PyTorch Lightning)"),
    "ddp.pt": (
        named("module.input_blocks.0.0.weight", "module.time_embed.0.weight"),
        "a network of improved-diffusion or guided-diffusion, in a file",
    ),
    "ckpt_199_.pt": (
        named("time_embedding.timembedding.0.weight"), "a network of pytorch-ddpm, in a file that this trainer does not write"
    ),
    "model-9.pt": (
        {"step": 1, "model": named("model.input_block.weight", "sqrt_recipm1_alphas_cumprod"), "ema": {}, "scaler": None},
        "a checkpoint of lucidrains' denoising-diffusion-pytorch, whose network is none that is read",
    ),
    "tensor.pt": (torch.zeros(2, 3, 4, 4), "one tensor of (2, 3, 4, 4)"),
    "uvit.pth": (named("pos_embed", "in_blocks.0.attn.qkv.weight", "out_blocks.0.norm1.weight"), "a network of U-ViT"),
    "00000100.pth": ({"model": {}, "model_ema": {"a": torch.ones(1)}, "config": {}}, "a checkpoint of k-diffusion"),
    "k.safetensors": (save({"a": torch.ones(1)}, {"config": json.dumps({"model": {"type": "image_v1"}})}), "a network of k-diffusion"),
    "flax.safetensors": (save({"a": torch.ones(1)}, {"format": "flax"}), "1 tensors ('a', ...)"),
}  # fmt: skip


@pytest.mark.parametrize("name", WITH_BOTH_WAYS)
def test_a_model_of_another_program_is_named_with_both_ways_on(tmp_path, name):
    content, words = WITH_BOTH_WAYS[name]
    text = told(tmp_path, name, content)
    assert words in text
    assert (
        text.index(name) < text.index(words[:10]) < text.index("--samples") < text.index("function_denoiser")
    )
    assert "damaged" not in text


OTHERWISE = {
    "model_index.json": (b'{\n  "_class_name": "DDPMPipeline"}', "the settings of a DDPMPipeline of diffusers and no tensors. Give its"),
    "config.yaml": (b"# run\nlr: 0.1\n", "is a text file ('# run', ...)"),
    "log.txt": ("l\u00e4uft\n".encode(), "is a text file"),
    "model.pt": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
    "page.safetensors": (b"<!DOCTYPE html><html>404", "is a web page"),
    "model.tar.gz": (b"\x1f\x8b\x08" + bytes(30), "is a compressed file: it holds no network. Unpack it"),
    "model.tar": (tarred(**{"model.pt": b"PK"}), "is an archive (tar): it holds no network. Unpack it"),
    "images.npz": (arrays(), "holds arrays of numpy"),
    "images.npy": (b"\x93NUMPY\1\0" + bytes(60), "is an array of numpy"),
    "image.png": (b"\x89PNG\r\n\x1a\n" + bytes(60), "is an image"),
    "photos.zip": (zipped(**{"a.png": b"\x89PNG"}), "is a zip that PyTorch did not write; it holds a.png"),
    "optimizer.bin": ({"state": {}, "param_groups": []}, "holds the state of an optimizer"),
    "opt050000.pt": ({"state": {0: {"exp_avg": torch.ones(1)}}, "param_groups": [{}]}, "the state of an optimizer"),
    "nothing.pt": ({}, "a checkpoint that holds nothing"),
    "random_states_0.pkl": ({"random_state": (), "torch_manual_seed": torch.ones(1)}, "the states of random generators"),
    "scheduler.bin": ({"last_epoch": 1, "_step_count": 2}, "the state of a schedule of learning rates"),
    "training-state-000100.pt": ({"net": named("a"), "optimizer_state": {}}, "Give the network-snapshot-*.pkl of the same step"),
    "64x64_classifier.pt": (named("input_blocks.0.0.weight", "time_embed.0.weight", "middle_block.0.a"), "classifier of guided-diffusion"),
    "vae.pt": (named("encoder.conv_in.weight", "decoder.conv_in.weight"), "is an autoencoder"),
    "edm.pt": (named("model.map_layer0.weight", "model.enc.8x8_conv.weight"), "without the arguments that it was made with"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERWISE)
def test_a_file_that_holds_no_denoiser_says_what_it_is_and_what_to_give_in_its_place(tmp_path, name):
    content, words = OTHERWISE[name]
    text = told(tmp_path, name, content)
    assert words in text
    assert "damaged" not in text


SAMPLES_ALONE = {
    "sd.ckpt": ({"state_dict": named("model.diffusion_model.input_blocks.0.0.weight", "cond_stage_model.a")}, "such as Stable Diffusion"),
    "sd.safetensors": (save(named("model.diffusion_model.input_blocks.0.0.weight")), "such as Stable Diffusion"),
    "pytorch_lora_weights.safetensors": (save(named("unet.down_blocks.0.attn.to_q.lora_A.weight")), "holds changes to a model (LoRA)"),
    "unet.safetensors": (save(named("conv_in.weight", "down_blocks.0.attentions.0.attn2.to_q.weight")), "UNet2DConditionModel"),
    "DiT-XL-2-256x256.pt": (named("x_embedder.proj.weight", "t_embedder.mlp.0.weight", "blocks.0.adaLN_modulation.1.weight"), "DiT or SiT"),
}  # fmt: skip


@pytest.mark.parametrize("name", SAMPLES_ALONE)
def test_what_no_function_of_images_can_stand_for_is_to_be_audited_by_its_samples(tmp_path, name):
    content, words = SAMPLES_ALONE[name]
    text = told(tmp_path, name, content)
    assert words in text
    assert "--samples" in text
    assert "function_denoiser" not in text


def test_files_that_are_damaged_are_called_so(tmp_path):
    whole = io.BytesIO()
    torch.save(named("a"), whole)
    assert "damaged" in told(tmp_path, "cut.pt", whole.getvalue()[:-100])
    assert "damaged" in told(tmp_path, "cut.safetensors", save(named("a"))[:-2])
    assert "damaged" in told(tmp_path, "empty.pt", b"")


def test_safetensors_are_told_by_the_length_of_their_header_whatever_byte_it_begins_with(tmp_path):
    """Lengths whose first byte is an opening brace (0x7b), that of gzip (0x1f), of msgpack (0x88) or of ONNX (8)."""
    for first in (0x7B, 0x88, 0x1F, 0x08):
        header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).ljust(
            0x100 + first
        )
        content = struct.pack("<Q", len(header)) + header.encode() + bytes(4)
        assert content[0] == first
        assert "1 tensors ('a', ...)" in told(tmp_path, "weights.pt", content)


def test_a_folder_that_holds_no_model_says_what_it_holds(tmp_path):
    assert "it holds nothing" in refusal(tmp_path)
    (tmp_path / "notes.txt").write_text("a")
    text = refusal(tmp_path)
    assert "is no folder of a model; it holds notes.txt." in text
    assert "function_denoiser" in text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("saved_model.pb", "a folder of TensorFlow"),
        ("model.ckpt-1.data-00000-of-00001", "a folder of TensorFlow"),
        ("_CHECKPOINT_METADATA", "a checkpoint of Orbax (JAX)"),
    ],
)
def test_a_folder_of_another_program_is_named(tmp_path, name, words):
    (tmp_path / name).write_bytes(b"")
    assert words in refusal(tmp_path)


def test_whatever_a_file_begins_with_it_is_told_or_left_to_the_readers_and_nothing_fails(tmp_path):
    path = tmp_path / "file.pt"
    path.write_bytes(b"{}")
    random = np.random.default_rng(0)
    heads = [
        content if isinstance(content, bytes) else b"" for content, _ in (WITH_BOTH_WAYS | OTHERWISE).values()
    ]
    for _ in range(3000):
        head = bytearray(heads[random.integers(len(heads))][:64])
        for _ in range(random.integers(1, 4)):
            if head:
                head[random.integers(len(head))] = random.integers(256)
        if not head.startswith(b"PK\x03\x04"):
            told_of = other_file(path, bytes(head))
            assert told_of is None or told_of.startswith(str(path))

"""What can be refused without the library: settings, kinds of folders, and files of weights."""

from __future__ import annotations

import importlib.util
import os
import pickle
import sys
import zipfile

import pytest
import torch
from diffusers_layouts import NETWORK, PIPELINE, SCHEDULER, bare, refused, refused_folder, write
from safetensors.torch import save_file

from diffmem.models.pretrained.diffusers_files import find_parts, read_settings, read_weights, variant_of
from diffmem.models.pretrained.diffusers_folder import open_diffusers
from diffmem.models.pretrained.diffusers_schedulers import process_of, read_scheduler
from diffmem.models.pretrained.diffusers_settings import read_network

STEM = "diffusion_pytorch_model"
TENSORS = {"a.weight": torch.arange(4.0).reshape(2, 2), "b.weight": torch.ones(3)}


def test_a_missing_package_is_told_with_its_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install 'diffmem[diffusers]'" in refused_folder(bare(tmp_path))


def test_a_package_that_does_not_load_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert "torchvision" in refused_folder(bare(tmp_path))


@pytest.mark.parametrize("name", ["google/ddpm-cifar10-32", "file.txt"])
def test_what_is_no_folder_is_refused_and_never_downloaded(tmp_path, name):
    (tmp_path / "file.txt").write_text("text")
    assert "no folder" in refused_folder(tmp_path / name)


def test_an_empty_folder_is_refused(tmp_path):
    assert "config.json" in refused_folder(tmp_path)


def test_a_network_without_its_scheduler_is_refused(tmp_path):
    write(tmp_path / "config.json", NETWORK)
    assert "scheduler_config.json" in refused_folder(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"_class_name": "LDMPipeline"}, ["vae None", "AutoencoderKL or VQModel"]),
        ({"_class_name": "LDMPipeline", "vqvae": ["diffusers", "AutoencoderTiny"]}, ["vqvae 'AutoencoderTiny'"]),
        ({"_class_name": "LDMPipeline", "vqvae": ["diffusers", "VQModel"]}, ["lacks", "vqvae/config.json"]),
        ({"vae": ["diffusers", "AutoencoderKL"]}, ["lacks", "vae/config.json"]),
        ({"_class_name": "DiTPipeline", "vae": ["diffusers", "AutoencoderKL"]}, ["transformer None"]),
        (
            {"_class_name": "StableDiffusionPipeline", "text_encoder": ["transformers", "CLIPTextModel"]},
            ["text", "StableDiffusionPipeline", "samples"],
        ),
        (
            {"_class_name": "LDMTextToImagePipeline", "tokenizer": ["transformers", "BertTokenizer"]},
            ["text", "LDMTextToImagePipeline", "samples"],
        ),
        ({"_class_name": "ConsistencyModelPipeline"}, ["ConsistencyModelPipeline", "no denoiser", "samples"]),
        ({"_class_name": ["pipeline", "Mine"]}, ["Mine"]),
        ({"_class_name": None}, ["None"]),
        ({"unet": ["my_unet", "UNet2DModel"]}, ["my_unet"]),
        ({"unet": ["diffusers", "UNet2DConditionModel"]}, ["UNet2DConditionModel"]),
        ({"unet": ["diffusers"]}, ["unet None"]),
        ({"unet": None}, ["unet None"]),
        ({"scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}, ["FlowMatchEulerDiscreteScheduler", "velocity"]),
        ({"tokenizer": ["transformers", "CLIPTokenizer"]}, ["tokenizer"]),
    ],
)  # fmt: skip
def test_other_kinds_of_pipelines_are_refused_by_name(tmp_path, changes, words):
    bare(tmp_path)
    write(tmp_path / "model_index.json", {**PIPELINE, **changes})
    told = refused_folder(tmp_path)
    assert all(word in told for word in words), told


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"_class_name": "LCMScheduler"}, "'LCMScheduler' is not supported: it is distilled"),
        ({"_class_name": ["a"]}, "['a']"),
        ({"beta_schedule": "laplace"}, "beta_schedule 'laplace'"),
        ({"prediction_type": "flow_prediction"}, "prediction_type 'flow_prediction'"),
        ({"predict_epsilon": False}, "predict_epsilon"),
        ({"num_train_timesteps": 1}, "num_train_timesteps"),
        ({"num_train_timesteps": 10**12}, "num_train_timesteps"),
        ({"num_train_timesteps": "many"}, "num_train_timesteps"),
        ({"beta_end": 1.0}, "beta_end"),
        ({"beta_start": float("nan")}, "beta_start"),
        ({"beta_start": 0}, "timestep 0"),
        ({"beta_end": None}, "beta_end"),
        ({"trained_betas": [0.1, 0.2]}, "2 entries"),
        ({"trained_betas": [[0.1]]}, "trained_betas"),
        ({"clip_sample_range": 0}, "clip_sample_range"),
        ({"thresholding": "perhaps"}, "thresholding"),
    ],
)
def test_settings_of_a_scheduler_that_are_not_supported_are_refused(tmp_path, changes, word):
    told = refused_folder(bare(tmp_path, scheduler=changes))
    assert word in told
    assert "scheduler_config.json" in told


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "UNet2DConditionModel"),
        ({"sample_size": None}, "sample_size"),
        ({"sample_size": 9}, "multiples of 2"),
        ({"sample_size": 0}, "multiples of 2"),
        ({"sample_size": [8, 7]}, "multiples of 2"),
        ({"sample_size": [8, 8, 8]}, "sample_size"),
        ({"sample_size": 2**20}, "pixels"),
        ({"in_channels": 4}, "in_channels 4"),
        ({"out_channels": 6}, "out_channels 6"),
        ({"time_embedding_type": "fourier"}, "fourier"),
        ({"class_embed_type": "timestep"}, "class_embed_type"),
        ({"num_class_embeds": 0}, "num_class_embeds"),
        ({"block_out_channels": []}, "block_out_channels"),
        ({"block_out_channels": [8] * 100}, "block_out_channels"),
        ({"time_embedding_type": "learned", "num_train_timesteps": 99}, "num_train_timesteps 99"),
        ({"time_embedding_type": "learned"}, "num_train_timesteps None"),
    ],
)
def test_settings_of_a_network_that_are_not_supported_are_refused(tmp_path, changes, word):
    told = refused_folder(bare(tmp_path, network=changes))
    assert word in told
    assert "config.json" in told


def test_a_table_of_timesteps_has_no_timesteps_between(tmp_path):
    folder = bare(tmp_path, network={"time_embedding_type": "learned", "num_train_timesteps": 100})
    assert "nearest" in refused(lambda: open_diffusers(folder, timesteps="interpolated"))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b"1" * 10_000])
@pytest.mark.parametrize("name", ["config.json", "scheduler_config.json", "model_index.json"])
def test_a_file_of_settings_that_holds_none_is_refused(tmp_path, name, content):
    bare(tmp_path)
    (tmp_path / name).write_bytes(content)
    assert name in refused_folder(tmp_path)


def test_an_enormous_file_of_settings_is_not_read(tmp_path):
    with (tmp_path / "big.json").open("wb") as stream:
        stream.truncate(10**9)
    assert "1,000,000,000" in refused(lambda: read_settings(tmp_path / "big.json", tmp_path))


def test_the_parts_of_a_pipeline_are_in_subfolders_or_together(tmp_path):
    write(tmp_path / "a/model_index.json", PIPELINE)
    write(tmp_path / "a/unet/config.json", NETWORK)
    write(tmp_path / "a/scheduler/scheduler_config.json", SCHEDULER)
    parts = find_parts(tmp_path / "a")
    assert (parts.network.parent.name, parts.scheduler.parent.name) == ("unet", "scheduler")
    write(bare(tmp_path / "b") / "model_index.json", PIPELINE)
    parts = find_parts(tmp_path / "b")
    assert parts.network.parent == parts.scheduler.parent == tmp_path / "b"


@pytest.mark.parametrize("place", ["unet", "unet/scheduler", "scheduler"])
def test_the_scheduler_of_a_bare_network_is_in_it_or_beside_it(tmp_path, place):
    write(tmp_path / "unet/config.json", NETWORK)
    write(tmp_path / place / "scheduler_config.json", SCHEDULER)
    parts = find_parts(tmp_path / "unet")
    assert parts.scheduler.samefile(tmp_path / place / "scheduler_config.json")
    assert read_scheduler(parts).num_train_timesteps == 100


def test_a_scheduler_without_a_name_is_the_one_that_the_pipeline_names(tmp_path):
    bare(tmp_path)
    write(tmp_path / "scheduler_config.json", {"beta_schedule": "squaredcos_cap_v2"})
    assert "the scheduler ''" in refused(lambda: read_scheduler(find_parts(tmp_path)))
    write(tmp_path / "model_index.json", PIPELINE)
    assert read_scheduler(find_parts(tmp_path)).beta_schedule == "squaredcos_cap_v2"


def test_settings_left_out_are_the_defaults_of_the_library(tmp_path):
    write(tmp_path / "config.json", {"_class_name": "UNet2DModel", "sample_size": [16, 8]})
    write(tmp_path / "scheduler_config.json", {"_class_name": "DDIMScheduler"})
    parts = find_parts(tmp_path)
    levels = process_of(parts, read_scheduler(parts), None, clip=False).levels
    assert (len(levels), float(levels[-1])) == (1000, pytest.approx(157.4, rel=1e-3))
    assert read_network(parts).sides == (16, 8)


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    bare(tmp_path / "elsewhere")
    (tmp_path / "model").mkdir()
    for name in ("config.json", "scheduler_config.json"):
        (tmp_path / "model" / name).symlink_to(tmp_path / "elsewhere" / name)
    assert "link" in refused_folder(tmp_path / "model")


def test_a_link_of_a_whole_subfolder_is_refused(tmp_path):
    bare(tmp_path / "elsewhere")
    write(tmp_path / "model/model_index.json", PIPELINE)
    write(tmp_path / "model/scheduler/scheduler_config.json", SCHEDULER)
    (tmp_path / "model/unet").symlink_to(tmp_path / "elsewhere")
    assert "link" in refused_folder(tmp_path / "model")


def test_weights_behind_a_link_out_of_the_folder_are_refused(tmp_path):
    (tmp_path / "model").mkdir()
    save_file(TENSORS, tmp_path / "there.safetensors")
    (tmp_path / "model" / f"{STEM}.safetensors").symlink_to(tmp_path / "there.safetensors")
    assert "link" in refused(lambda: read_weights(tmp_path / "model", tmp_path / "model", False))


def test_links_of_a_hubs_cache_and_a_link_to_the_folder_itself_are_followed(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots/0f3"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    save_file(TENSORS, blobs / "abc")
    (snapshot / f"{STEM}.safetensors").symlink_to("../../blobs/abc")
    (tmp_path / "mine").symlink_to(snapshot)
    for folder in (snapshot, tmp_path / "mine"):
        assert same(read_weights(folder, folder, False))


def same(tensors):
    return tensors.keys() == TENSORS.keys() and all(torch.equal(tensors[n], TENSORS[n]) for n in TENSORS)


def shard(folder, ending):
    for index, (name, tensor) in enumerate(TENSORS.items()):
        path = folder / f"part{index}{ending}"
        save_file({name: tensor}, path) if ending == ".safetensors" else torch.save({name: tensor}, path)
    places = {name: f"part{index}{ending}" for index, name in enumerate(TENSORS)}
    write(folder / f"{STEM}{ending}.index.json", {"metadata": {}, "weight_map": places})
    return places


@pytest.mark.parametrize("ending", [".safetensors", ".bin"])
def test_weights_are_read_from_shards(tmp_path, ending):
    shard(tmp_path, ending)
    assert same(read_weights(tmp_path, tmp_path, ending == ".bin"))


def test_a_tensor_in_two_parts_is_refused(tmp_path):
    shard(tmp_path, ".safetensors")
    held = dict(list(TENSORS.items())[:2])
    save_file(held, tmp_path / "part1.safetensors")
    told = refused(lambda: read_weights(tmp_path, tmp_path, False))
    assert f"part1.safetensors holds {next(iter(held))!r}, which another part holds" in told


@pytest.mark.parametrize("name", ["../part0.safetensors", "/etc/passwd", "part0.bin", ""])
def test_an_index_may_name_only_files_beside_it(tmp_path, name):
    places = shard(tmp_path, ".safetensors")
    write(tmp_path / f"{STEM}.safetensors.index.json", {"weight_map": places | {"a.weight": name}})
    assert "index.json" in refused(lambda: read_weights(tmp_path, tmp_path, False))


@pytest.mark.parametrize("places", [None, [], {"a": 1}, {"a": "absent.safetensors"}])
def test_an_index_that_leads_nowhere_is_refused(tmp_path, places):
    write(tmp_path / f"{STEM}.safetensors.index.json", {"weight_map": places})
    assert "index.json" in refused(lambda: read_weights(tmp_path, tmp_path, False))


def test_a_pickle_is_read_only_if_that_is_allowed(tmp_path):
    torch.save(TENSORS, tmp_path / f"{STEM}.bin")
    assert "allow_pickle" in refused(lambda: read_weights(tmp_path, tmp_path, False))
    assert same(read_weights(tmp_path, tmp_path, True))


def test_safetensors_go_before_a_pickle(tmp_path):
    torch.save({"other": torch.ones(1)}, tmp_path / f"{STEM}.bin")
    save_file(TENSORS, tmp_path / f"{STEM}.safetensors")
    assert same(read_weights(tmp_path, tmp_path, True))


def test_variants_with_other_weights_are_named_and_not_taken(tmp_path):
    save_file(TENSORS, tmp_path / f"{STEM}.non_ema.safetensors")
    assert f"{STEM}.non_ema.safetensors" in refused(lambda: read_weights(tmp_path, tmp_path, True))


def test_variants_in_another_precision_are_taken_and_named(tmp_path):
    save_file(TENSORS, tmp_path / f"{STEM}.fp16.safetensors")
    assert read_weights(tmp_path, tmp_path, False).keys() == TENSORS.keys()
    assert variant_of(tmp_path) == "fp16"
    save_file(TENSORS, tmp_path / f"{STEM}.safetensors")
    assert variant_of(tmp_path) is None


@pytest.mark.parametrize("name", [f"{STEM}.fp16.bin", f"{STEM}.bin.index.fp16.json"])
def test_variants_of_pickles_are_read_if_pickles_are(tmp_path, name):
    if name.endswith(".json"):
        write(tmp_path / name, {"weight_map": shard(tmp_path, ".bin")})
        (tmp_path / f"{STEM}.bin.index.json").unlink()
    else:
        torch.save(TENSORS, tmp_path / name)
    assert f"({name})" in refused(lambda: read_weights(tmp_path, tmp_path, False))
    assert same(read_weights(tmp_path, tmp_path, True))
    assert variant_of(tmp_path) == "fp16"


def test_absent_weights_are_told(tmp_path):
    assert f"{STEM}.safetensors" in refused(lambda: read_weights(tmp_path, tmp_path, True))


class Attack:
    def __reduce__(self):
        return os.mkdir, ("done",)


@pytest.mark.parametrize("form", ["zip", "old", "plain"])
def test_a_pickle_that_runs_something_is_refused_and_nothing_runs(tmp_path, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"{STEM}.bin"
    if form == "plain":
        path.write_bytes(pickle.dumps(Attack()))
    else:
        torch.save({"a": Attack()}, path, _use_new_zipfile_serialization=form == "zip")
    told = refused(lambda: read_weights(tmp_path, tmp_path, True))
    assert "refused" in told
    assert "weights_only" not in told
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize(
    "content", [[], {"state_dict": TENSORS}, {1: torch.ones(1)}, {"a": 3}, torch.ones(2)]
)
def test_a_pickle_of_anything_but_named_tensors_is_refused(tmp_path, content):
    torch.save(content, tmp_path / f"{STEM}.bin")
    assert "refused" in refused(lambda: read_weights(tmp_path, tmp_path, True))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(1).expand(10**6, 10**6),
        torch.ones(3, device="meta"),
        torch.eye(3).to_sparse(),
    ],
    ids=["repeated", "without storage", "sparse"],
)
def test_tensors_that_are_not_stored_in_full_are_refused(tmp_path, tensor):
    torch.save({"a": tensor}, tmp_path / f"{STEM}.bin")
    assert "refused" in refused(lambda: read_weights(tmp_path, tmp_path, True))


def test_a_pickle_that_unpacks_to_far_more_than_its_size_is_refused(tmp_path):
    path = tmp_path / f"{STEM}.bin"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(64 * 2**20))
    assert "bomb" in refused(lambda: read_weights(tmp_path, tmp_path, True))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    save_file(TENSORS | {"b.weight": torch.tensor([1, value])}, tmp_path / f"{STEM}.safetensors")
    assert "b.weight" in refused(lambda: read_weights(tmp_path, tmp_path, False))


def test_weights_that_are_integers_are_refused(tmp_path):
    save_file(TENSORS | {"b.weight": torch.ones(3, dtype=torch.int8)}, tmp_path / f"{STEM}.safetensors")
    assert "int8" in refused(lambda: read_weights(tmp_path, tmp_path, False))


@pytest.mark.parametrize("ending", [".safetensors", ".bin"])
def test_weights_cut_short_or_overwritten_are_refused(tmp_path, ending):
    path = tmp_path / f"{STEM}{ending}"
    save_file(TENSORS, path) if ending == ".safetensors" else torch.save(TENSORS, path)
    whole = path.read_bytes()
    for damaged in [b"", whole[:4], whole[: len(whole) // 2], whole[:-1], b"\xff" * len(whole)]:
        path.write_bytes(damaged)
        assert f"{STEM}{ending}" in refused(lambda: read_weights(tmp_path, tmp_path, True))

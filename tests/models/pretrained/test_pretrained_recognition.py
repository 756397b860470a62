"""What stands in the way of a model that is not opened: what it is, and what to do; and the folders that trainers leave."""

from __future__ import annotations

import json
import shutil
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from checkpoint_builders import FIXTURES, WITHOUT, guided_diffusion, worst_error
from diffusers_tools import diffusers, saved, scheduler_of, tiny_unet
from safetensors.torch import load_file, save_file

from diffmem.errors import UserError
from diffmem.models import open_model
from diffmem.models.pretrained.recognition import described


def state(*names):
    """A state_dict as torch makes it: an OrderedDict with the attribute _metadata."""
    tensors = OrderedDict((name, torch.ones(2)) for name in names)
    tensors._metadata = OrderedDict({"": {"version": 1}})
    return tensors


TRAINERS = {
    "denoising-diffusion-pytorch": {
        "step": 1, "model": state("model.init_conv.weight"), "ema": state("ema_model.betas"), "opt": {}, "scaler": None,
    },
    "pytorch-ddpm": {"net_model": state("head.weight"), "ema_model": state("head.weight"), "x_T": torch.ones(1), "step": 1},
    "improved-diffusion or guided-diffusion": state("input_blocks.0.0.weight", "time_embed.0.weight", "out.2.bias"),
    "k-diffusion": {"config": {}, "model": state("a"), "model_ema": state("a")},
    "a trainer that is not known": {"net": state("layer.weight", "layer.bias"), "epoch": 3},
}  # fmt: skip


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("old", [False, True])
def test_a_sound_checkpoint_of_another_trainer_is_named_and_not_called_damaged(tmp_path, trainer, old):
    path = tmp_path / "checkpoint.pt"
    torch.save(TRAINERS[trainer], path, _use_new_zipfile_serialization=not old)
    with pytest.raises(UserError) as found:
        open_model(path)
    text = str(found.value)
    assert trainer in text
    assert "damaged" not in text
    assert "--samples" in text
    assert "function_denoiser" in text


OTHERS = {
    "scores": {"model": state("module.conv.weight"), "ema": {"shadow_params": [torch.ones(2)]}, "step": 1, "optimizer": {}},
    "mixed precision": {"model": state("conv.weight"), "ema": state("conv.weight"), "step": 1, "scaler": {}},
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_entries_that_many_trainers_write_name_no_trainer(tmp_path, name):
    torch.save(OTHERS[name], tmp_path / "checkpoint_1.pth")
    with pytest.raises(UserError, match="a trainer that is not known"):
        open_model(tmp_path / "checkpoint_1.pth")


@pytest.mark.parametrize("entry", ["model", "state_dict"])
def test_a_network_of_guided_diffusion_inside_of_another_file_is_to_be_saved_alone(entry):
    text = described(Path("last.pt"), {entry: guided_diffusion(), "optimizer": {}})
    assert "in a file that neither of these trainers writes" in text
    assert "save its state dict alone" in text


def test_of_an_unknown_trainer_the_first_names_are_shown(tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save({"net": state("layer.weight", "layer.bias")}, path)
    with pytest.raises(UserError, match=r"2 tensors \('layer.bias', 'layer.weight', \.\.\.\)"):
        open_model(path)


def test_a_training_state_of_edm_points_to_the_network_snapshot(tmp_path):
    text = described(tmp_path / "training-state-000100.pt", {"net": {}, "optimizer_state": {}})
    assert "network-snapshot-*.pkl of the same step" in text


def test_a_damaged_checkpoint_is_called_so(tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save(TRAINERS["k-diffusion"], path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match="damaged"):
        open_model(path)


def test_lone_safetensors_of_another_program_are_not_called_damaged(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"blocks.0.weight": torch.ones(2)}, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match="1 tensors") as found:
        open_model(path)
    assert "damaged" not in str(found.value)
    save_file({"a": torch.ones(2)}, path, metadata={"config": json.dumps({"model": {"type": "image_v1"}})})
    with pytest.raises(UserError, match="a network of k-diffusion"):
        open_model(path)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("plain"), tiny_unet(), scheduler_of())


@pytest.fixture
def folder(plain, tmp_path):
    return Path(shutil.copytree(plain, tmp_path / "model"))


def test_weights_beside_their_settings_are_those_of_a_folder_to_give(folder):
    (weights,) = folder.rglob("diffusion_pytorch_model.safetensors")
    with pytest.raises(UserError, match=f"Give its folder, {weights.parent}"):
        open_model(weights)


def answer(model):
    x = torch.randn(2, *model.image_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(x, 1.0)


def test_a_hubs_cache_opens_at_its_revision(folder, tmp_path):
    cache = tmp_path / "models--me--tiny"
    (cache / "refs").mkdir(parents=True)
    (cache / "blobs").mkdir()
    shutil.move(folder, cache / "snapshots" / "abc")
    (cache / "refs" / "main").write_text("abc")
    expected = answer(open_model(cache / "snapshots" / "abc"))
    assert torch.equal(answer(open_model(cache)), expected)
    (cache / "snapshots" / "old").mkdir()
    assert torch.equal(answer(open_model(cache)), expected)
    (cache / "refs" / "main").unlink()
    with pytest.raises(UserError, match=r"2 revisions \(abc, old\); name one"):
        open_model(cache)


@pytest.mark.parametrize("variant", ["fp16", "bf16"])
def test_a_variant_in_another_precision_is_read(folder, variant):
    expected = answer(open_model(folder))
    (weights,) = folder.rglob("diffusion_pytorch_model.safetensors")
    other = weights.with_name(f"diffusion_pytorch_model.{variant}.safetensors")
    weights.rename(other)
    opened = open_model(folder)
    assert torch.equal(answer(opened), expected)
    assert any(f"the variant {variant}" in note for note in opened.origin.notes)
    other.rename(weights.with_name("diffusion_pytorch_model.non_ema.safetensors"))
    with pytest.raises(UserError, match="non_ema"):
        open_model(folder)


def network_of(folder):
    (settings,) = (path for path in folder.rglob("config.json"))
    return settings.parent


@pytest.fixture
def checkpoint(folder, tmp_path):
    """checkpoint-500 of the library's training example, whose scheduler lies in the folder above."""
    home = tmp_path / "run" / "checkpoint-500"
    home.mkdir(parents=True)
    for name in ("unet", "unet_ema"):
        shutil.copytree(network_of(folder), home / name)
    (scheduler,) = folder.rglob("scheduler_config.json")
    (home.parent / "scheduler").mkdir()
    shutil.copy(scheduler, home.parent / "scheduler")
    path = home / "unet_ema" / "config.json"
    kept = json.loads(path.read_text())
    extra = {
        "decay": 0.9,
        "inv_gamma": 1.0,
        "min_decay": 0.0,
        "optimization_step": 5,
        "power": 0.75,
        "update_after_step": 0,
    }
    path.write_text(json.dumps(kept | extra | {"use_ema_warmup": True}))
    return home


def test_of_a_checkpoint_folder_the_averaged_weights_are_taken_and_said(checkpoint, folder):
    opened = open_model(checkpoint)
    assert torch.equal(answer(opened), answer(open_model(folder)))
    assert any("averaged weights" in note for note in opened.origin.notes)
    shutil.rmtree(checkpoint / "unet_ema")
    assert any("the raw ones were taken" in note for note in open_model(checkpoint).origin.notes)


def test_of_a_checkpoint_folder_the_raw_weights_are_taken_if_asked(checkpoint):
    path = checkpoint / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: 2 * tensor for name, tensor in load_file(path).items()}, path)
    raw = open_model(checkpoint, weights="raw")
    assert torch.equal(answer(raw), answer(open_model(checkpoint / "unet")))
    assert not torch.equal(answer(raw), answer(open_model(checkpoint)))
    assert any("raw weights of the checkpoint" in note for note in raw.origin.notes)
    with pytest.raises(UserError, match="'ema' or 'raw', not 'unet'"):
        open_model(checkpoint, weights="unet")
    shutil.rmtree(checkpoint / "unet")
    with pytest.raises(UserError, match="no raw weights"):
        open_model(checkpoint, weights="raw")


def test_raw_weights_beside_averaged_ones_are_noted(checkpoint):
    assert any("raw weights" in note for note in open_model(checkpoint / "unet").origin.notes)


def test_settings_of_a_folder_of_diffusers_are_refused_and_not_left_out(folder):
    with pytest.raises(
        UserError, match=r"takes no settings, and 'prediction_type' was given\..*scheduler_config"
    ):
        open_model(folder, settings={"prediction_type": "v_prediction"})


STEPPERS = [
    "DPMSolverMultistepScheduler",
    "EulerDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
    "SASolverScheduler",
    "DPMSolverSDEScheduler",
]
HEUN = "HeunDiscreteScheduler"


def rewrite(folder, **settings):
    """Change the settings of the scheduler of a folder."""
    (path,) = folder.rglob("scheduler_config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.mark.parametrize("kind", [*STEPPERS, HEUN])
def test_schedulers_that_only_step_otherwise_say_what_the_network_was_trained_with(folder, kind):
    expected = answer(open_model(folder))
    rewrite(folder, _class_name=kind)
    opened = open_model(folder)
    assert torch.equal(answer(opened), expected)
    assert not any("betas" in note for note in opened.origin.notes)


def converted(folder, **training):
    """Write the scheduler of a folder as the library makes another one of that of a training."""
    (path,) = folder.rglob("scheduler_config.json")
    heun = diffusers.HeunDiscreteScheduler.from_config(scheduler_of(**training).config)
    heun.save_pretrained(path.parent)
    return json.loads(path.read_text())


def test_betas_that_the_library_put_in_the_place_of_those_of_the_training_are_refused(folder):
    assert converted(folder)["beta_end"] == 0.012  # the training had 0.02
    with pytest.raises(UserError, match=r"noise of the training is not known.*DDPMScheduler"):
        open_model(folder)
    converted(folder, beta_start=1e-4, beta_end=0.02)
    open_model(folder)


def test_betas_that_may_be_those_of_the_scheduler_and_not_of_the_training_are_doubted(folder):
    converted(folder, beta_schedule="scaled_linear")
    assert any("every prediction is wrong" in note for note in open_model(folder).origin.notes)


def test_betas_that_do_not_count_are_not_doubted(folder):
    converted(folder, beta_schedule="squaredcos_cap_v2")
    assert not any("every prediction is wrong" in note for note in open_model(folder).origin.notes)


@pytest.mark.parametrize("kind", ["EDMEulerScheduler", "ScoreSdeVeScheduler"])
def test_a_pipeline_that_names_another_kind_of_noise_than_its_scheduler_is_refused(tmp_path, kind):
    home = saved(tmp_path, tiny_unet(), scheduler_of("DDIMScheduler"), "DDPMPipeline")
    rewrite(home, _class_name=kind)
    with pytest.raises(
        UserError, match=r"another kind of noise than the DDIMScheduler that model_index\.json"
    ):
        open_model(home)


def test_a_setting_of_long_ago_that_denies_what_is_said_now_is_refused(folder):
    rewrite(folder, predict_epsilon=False, prediction_type="epsilon")
    with pytest.raises(UserError, match="old setting"):
        open_model(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [("use_flow_sigmas", True), ("prediction_type", "flow_prediction"), ("timestep_type", "continuous")],
)
def test_other_noise_than_that_of_timesteps_is_refused(folder, key, value):
    rewrite(folder, _class_name="EulerDiscreteScheduler", **{key: value})
    with pytest.raises(UserError, match=key):
        open_model(folder)


def both_ways(text):
    return text.index("of diffusers") < text.index("--samples") < text.index("function_denoiser")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"beta_schedule": "laplace"}, "beta_schedule 'laplace' is not supported"),
        ({"_class_name": "VQDiffusionScheduler"}, "it must be DDPMScheduler, DDIMScheduler"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "predicts the velocity of a flow"),
    ],
)
def test_a_schedule_that_is_not_read_is_refused_with_the_reason_and_both_ways_on(folder, changes, reason):
    rewrite(folder, **changes)
    with pytest.raises(UserError) as error:
        open_model(folder)
    assert reason in str(error.value)
    assert both_ways(str(error.value))


def test_an_embedding_of_classes_that_is_not_read_is_refused_with_both_ways_on(folder):
    path = network_of(folder) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"class_embed_type": "timestep"}))
    with pytest.raises(UserError, match="class_embed_type 'timestep' is not supported") as error:
        open_model(folder)
    assert both_ways(str(error.value))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "is conditioned on text or other embeddings"),
        (
            {"architectures": ["CLIPTextModel"], "model_type": "clip"},
            "the network ['CLIPTextModel'] is not supported",
        ),
    ],
)
def test_a_network_of_another_class_is_not_asked_for_its_scheduler(tmp_path, settings, words):
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError) as error:
        open_model(tmp_path)
    assert words in str(error.value)
    assert "scheduler_config" not in str(error.value)


def test_a_part_of_a_pipeline_points_to_the_whole(folder):
    if not (folder / "model_index.json").exists():
        (folder / "model_index.json").write_text("{}")
    (folder / "scheduler").mkdir(exist_ok=True)
    with pytest.raises(UserError, match="Give the folder above it"):
        open_model(folder / "scheduler")


@pytest.mark.parametrize("kind", ["LCMScheduler", "CMStochasticIterativeScheduler", "TCDScheduler"])
def test_a_distilled_model_is_no_denoiser_and_no_function_can_stand_for_it(folder, kind):
    rewrite(folder, _class_name=kind)
    with pytest.raises(UserError, match="is no denoiser") as error:
        open_model(folder)
    assert "--samples" in str(error.value)
    assert "function_denoiser" not in str(error.value)


@pytest.mark.parametrize(
    ("channels", "words"), [(2, "grey images with an opacity"), (4, "images with an opacity (RGBA)")]
)
def test_a_pixel_model_with_an_opacity_is_named_and_its_samples_can_be_audited(tmp_path, channels, words):
    home = saved(tmp_path, tiny_unet(in_channels=channels, out_channels=channels), scheduler_of())
    with pytest.raises(UserError) as error:
        open_model(home)
    text = str(error.value)
    assert words in text
    assert text.index("have 1 or 3 channels") < text.index("--samples") < text.index("as vae")


ANSWERED = [
    "ddpm_fp16_variant", "ddpm_sharded_fp16_variant", "pndm_pipeline", "sched_dpm", "sched_euler", "train_example",
    "train_example/checkpoint-500",
]  # fmt: skip


@pytest.mark.skipif(not FIXTURES.is_dir(), reason=WITHOUT)
@pytest.mark.parametrize("name", ANSWERED)
def test_what_diffusers_answered_is_what_its_folder_answers(name):
    opened = open_model(FIXTURES / f"diffusers-{name}")
    with torch.no_grad():
        assert worst_error(opened, FIXTURES / f"diffusers-{name.split('/')[0]}") <= 1e-5

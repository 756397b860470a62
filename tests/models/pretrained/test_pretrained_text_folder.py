"""Hostile and unsuitable folders of text-to-image pipelines: each is refused in words, and nothing in it is run."""

import json
import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from text_pipelines import (
    PROMPTS,
    VOCABULARY,
    edited,
    refused,
    saved,
    stable_diffusion,
    stable_diffusion_xl,
    tokenizer,
)

from diffmem.models import open_model
from diffmem.models.pretrained.text_folder import find_text_parts, is_text_folder
from diffmem.models.pretrained.text_model import open_text_model
from diffmem.models.pretrained.tokenizers_clip import read_tokenizer


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return saved(stable_diffusion(), tmp_path_factory.mktemp("plain") / "model")


@pytest.fixture(scope="module")
def xl(tmp_path_factory):
    return saved(stable_diffusion_xl(), tmp_path_factory.mktemp("xl") / "model")


def open_(folder, prompts=PROMPTS):
    return open_text_model(folder, prompts, device="cpu")


@pytest.mark.parametrize(
    ("file", "changes", "told"),
    [
        ("model_index.json", {"_class_name": "StableDiffusionInpaintPipeline"}, "inpainting"),
        ("model_index.json", {"_class_name": "StableDiffusionControlNetPipeline"}, "conditioned on images"),
        ("model_index.json", {"_class_name": "LatentConsistencyModelPipeline"}, "distilled"),
        ("model_index.json", {"_class_name": "StableDiffusion3Pipeline"}, "velocity of a flow"),
        ("model_index.json", {"_class_name": "FluxPipeline"}, "velocity of a flow"),
        ("model_index.json", {"_class_name": ["pipeline", "MyPipeline"]}, "must be StableDiffusionPipeline"),
        ("model_index.json", {"_class_name": ...}, "must be StableDiffusionPipeline"),
        ("model_index.json", {"controlnet": ["diffusers", "ControlNetModel"]}, "conditioned on images"),
        ("model_index.json", {"image_encoder": ["transformers", "CLIPVisionModel"]}, "'image_encoder'"),
        ("model_index.json", {"unet": ["my_code", "UNet2DConditionModel"]}, "of 'my_code'"),
        ("model_index.json", {"unet": ["diffusers", "os.system"]}, "'os.system'"),
        ("model_index.json", {"text_encoder": [None, None]}, "text_encoder None"),
        ("model_index.json", {"vae": ["diffusers", "AutoencoderTiny"]}, "AutoencoderTiny"),
        ("model_index.json", {"scheduler": ["diffusers", "LCMScheduler"]}, "distilled"),
        ("model_index.json", {"scheduler": ["diffusers", "EDMEulerScheduler"]}, "EDMEulerScheduler"),
        ("model_index.json", {"_name_or_path": "stabilityai/sd-turbo"}, "distilled"),
        ("model_index.json", {"force_zeros_for_empty_prompt": "yes"}, "true or false"),
        ("unet/config.json", {"in_channels": 9}, "inpainting network"),
        ("unet/config.json", {"in_channels": 8}, "InstructPix2Pix"),
        ("unet/config.json", {"time_cond_proj_dim": 256}, "strength of guidance"),
        ("unet/config.json", {"num_class_embeds": 1000}, "upscaling"),
        ("unet/config.json", {"encoder_hid_dim_type": "ip_image_proj"}, "IP-Adapter"),
        ("unet/config.json", {"attention_type": "gated"}, "attention_type"),
        ("unet/config.json", {"addition_embed_type": "text_time"}, "does not fit StableDiffusionPipeline"),
        ("unet/config.json", {"_name_or_path": "SimianLuo/LCM_Dreamshaper_v7"}, "distilled"),
        ("unet/config.json", {"out_channels": 8}, "out_channels"),
        ("unet/config.json", {"cross_attention_dim": 48}, "does not fit the text encoders"),
        ("unet/config.json", {"layers_per_block": 10**9}, "layers must be"),
        ("unet/config.json", {"transformer_layers_per_block": 8}, "tensor(s)"),
        ("unet/config.json", {"transformer_layers_per_block": [[10**9]]}, "layers must be"),
        (
            "unet/config.json",
            {"transformer_layers_per_block": [64, 1], "layers_per_block": 64},
            "do not fit weights",
        ),
        ("unet/config.json", {"reverse_transformer_layers_per_block": [1, 10**9]}, "layers must be"),
        (
            "unet/config.json",
            {"reverse_transformer_layers_per_block": [1, 64], "layers_per_block": 8},
            "do not fit weights",
        ),
        ("unet/config.json", {"down_block_types": ["DownBlock2D"]}, "entries for 2 blocks"),
        ("unet/config.json", {"block_out_channels": [16, 10**12]}, "unet"),
        ("unet/config.json", {"sample_size": 10**9}, "pixels"),
        ("unet/config.json", {"sample_size": 7}, "multiples of"),
        ("unet/config.json", {"sample_size": None}, "sample_size"),
        ("vae/config.json", {"shift_factor": 0.1}, "shift_factor 0.1 is not used by StableDiffusionPipeline"),
        ("unet/config.json", {"new_switch": 3}, "'new_switch'"),
        ("vae/config.json", {"latent_channels": 16}, "does not fit the codes"),
        ("vae/config.json", {"latents_mean": [0.0]}, "latents_mean"),
        ("scheduler/scheduler_config.json", {"timestep_spacing": "trailing"}, "Turbo"),
        ("scheduler/scheduler_config.json", {"_class_name": "TCDScheduler"}, "distilled"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "mine"}, "beta_schedule"),
        ("text_encoder/config.json", {"model_type": "t5"}, "model_type"),
        ("text_encoder/config.json", {"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ("text_encoder/config.json", {"num_hidden_layers": 3}, "text_encoder"),
        ("text_encoder/config.json", {"vocab_size": 10**12}, "text_encoder"),
        ("text_encoder/config.json", {"vocab_size": 100}, "pieces have numbers"),
        ("text_encoder/config.json", {"hidden_act": "os.system"}, "hidden_act"),
        ("text_encoder/config.json", {"eos_token_id": 7}, "not the end of a prompt"),
        ("text_encoder/config.json", {"use_attention_mask": True}, "use_attention_mask"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 10**30}, "model_max_length"),
        ("tokenizer/tokenizer_config.json", {"auto_map": {"AutoTokenizer": "evil.T"}}, "auto_map"),
        ("tokenizer/tokenizer_config.json", {"do_lower_case": False}, "letters small"),
        ("tokenizer/tokenizer_config.json", {"pad_token": "<pad>"}, "lacks the piece"),
        ("tokenizer/tokenizer_config.json", {"pad_token": 7}, "no piece of text"),
        ("tokenizer/tokenizer.json", {"model": {"type": "Unigram"}}, "not of CLIP's tokenizer"),
        ("tokenizer/tokenizer.json", {"model": {"vocab": {"a": 0}, "merges": []}}, "lacks the piece"),
        (
            "tokenizer/tokenizer.json",
            {"model": {"vocab": VOCABULARY | {"x": 10**9}, "merges": []}},
            "numbers",
        ),
        (
            "tokenizer/tokenizer.json",
            {"model": {"vocab": VOCABULARY | {"ab": 0}, "merges": []}},
            "same number",
        ),
        (
            "tokenizer/tokenizer.json",
            {"model": {"vocab": VOCABULARY, "merges": ["a zz"]}},
            "not of its vocabulary",
        ),
        ("tokenizer/tokenizer.json", {"model": {"vocab": VOCABULARY, "merges": [[1, 2]]}}, "no pair"),
        (
            "tokenizer/tokenizer.json",
            {"added_tokens": [{"id": 190, "content": "<cat-toy>"}]},
            "textual inversion",
        ),
    ],
)
def test_what_would_be_read_wrongly_is_refused_by_name(plain, tmp_path, file, changes, told):
    folder = edited(plain, tmp_path / "model", file, **changes)
    assert told in refused(lambda: open_(folder))


def test_only_networks_of_sdxl_are_given_sizes(xl, tmp_path):
    folder = edited(xl, tmp_path / "model", "unet/config.json", addition_embed_type=None)
    assert "does not fit StableDiffusionXLPipeline" in refused(lambda: open_(folder))


def test_models_named_as_distilled_are_refused_and_others_with_such_letters_are_not(plain, tmp_path):
    named = saved(stable_diffusion(), tmp_path / "sdxl-turbo")
    assert "distilled" in refused(lambda: find_text_parts(named))
    other = saved(stable_diffusion(), tmp_path / "turbofan")
    assert find_text_parts(other).pipeline == "StableDiffusionPipeline"


@pytest.mark.parametrize(
    "part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler", "model_index.json"]
)
def test_every_missing_part_is_told(plain, tmp_path, part):
    shutil.copytree(plain, tmp_path / "model")
    target = tmp_path / "model" / part
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    text = refused(lambda: open_(tmp_path / "model"))
    assert part in text
    assert "lacks" in text


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_missing_foreign_and_broken_tensors_are_told(plain, tmp_path, part):
    shutil.copytree(plain, tmp_path / "model")
    (file,) = (tmp_path / "model" / part).glob("*.safetensors")
    tensors = load_file(file)
    name = next(iter(tensors))
    for changed, told in (
        ({key: value for key, value in tensors.items() if key != name}, "lacks 1 tensor"),
        (tensors | {"x.weight": torch.zeros(1)}, "'x.weight'"),
        (tensors | {name: torch.zeros(3)}, "has shape (3,)"),
        (tensors | {name: torch.full_like(tensors[name], torch.nan)}, "not finite"),
    ):
        save_file(changed, file)
        assert told in refused(lambda: open_(tmp_path / "model"))
    file.unlink()
    (
        file.parent / ("pytorch_model.bin" if part == "text_encoder" else "diffusion_pytorch_model.bin")
    ).write_bytes(b"x")
    assert "pickle" in refused(lambda: open_(tmp_path / "model"))


def test_a_link_out_of_the_folder_is_refused(plain, tmp_path):
    shutil.copytree(plain, tmp_path / "model")
    file = tmp_path / "model" / "tokenizer" / "tokenizer.json"
    shutil.move(file, tmp_path / "elsewhere.json")
    file.symlink_to(tmp_path / "elsewhere.json")
    assert "link out of its folder" in refused(lambda: open_(tmp_path / "model"))


def test_a_file_that_holds_a_whole_model_is_refused_with_how_to_convert_it(tmp_path):
    file = tmp_path / "juggernaut.safetensors"
    save_file({"model.diffusion_model.x": torch.zeros(1)}, file)
    text = refused(lambda: open_(file))
    assert "from_single_file('FILE.safetensors').save_pretrained('FOLDER')" in text
    assert "from_single_file" in refused(lambda: open_model(file))


def test_other_files_and_folders_are_told(tmp_path, plain):
    assert "There is no folder" in refused(lambda: open_(tmp_path / "nothing"))
    assert "model_index.json" in refused(lambda: open_(tmp_path))
    assert "no prompt" in refused(lambda: open_(plain, []))
    assert "open_text_model" in refused(lambda: open_model(plain))
    assert is_text_folder(plain)
    assert not is_text_folder(tmp_path)


def test_weights_in_half_precision_and_older_names_are_read(plain, tmp_path):
    shutil.copytree(plain, tmp_path / "model")
    for part in ("unet", "vae", "text_encoder"):
        (file,) = (tmp_path / "model" / part).glob("*.safetensors")
        half = {name: tensor.half() for name, tensor in load_file(file).items()}
        if part == "text_encoder":
            half = {f"text_model.{name}": tensor for name, tensor in half.items()}
            half["text_model.embeddings.position_ids"] = torch.arange(16)[None]
        file.unlink()
        save_file(half, file.with_suffix(".fp16.safetensors"))
    model, exact = open_(tmp_path / "model"), open_(plain)
    assert "variant fp16" in " ".join(model.denoiser.origin.notes)
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    error = (
        (model.denoiser(x, 1.0, torch.tensor([0])) - exact.denoiser(x, 1.0, torch.tensor([0]))).abs().max()
    )
    assert 0 < float(error) < 0.02


def test_the_older_files_of_a_tokenizer_are_read(plain, tmp_path):
    new = read_tokenizer(plain / "tokenizer", plain, len(VOCABULARY), 16)
    (tmp_path / "vocab.json").write_text(json.dumps(VOCABULARY | {"ca": 190, "cat</w>": 191}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n")
    config = {"model_max_length": 16, "bos_token": {"content": "<|startoftext|>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "special_tokens_map.json").write_text('{"pad_token": "!"}')
    old = read_tokenizer(tmp_path, tmp_path, 192, 16)
    assert old("a cat") == ([188, 94 + ord("a") - 33, 191, 189, *[0] * 12], False)
    assert new("a")[0] == [188, 94 + ord("a") - 33, *[189] * 14]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The library's tokenizer of SDXL's second encoder, and the one that is read from its files."""
    folder = tmp_path_factory.mktemp("tokenizer")
    theirs = tokenizer("!")
    theirs.save_pretrained(folder)
    return theirs, read_tokenizer(folder, folder, len(VOCABULARY), 16)


@given(st.text(max_size=20) | st.text("aB9!' \t\n<|>endoftext'stéΩ", max_size=40))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_numbers_of_prompts_are_those_of_the_library(both, text):
    theirs, ours = both
    wanted = theirs(text, padding="max_length", max_length=16, truncation=True).input_ids
    whole = theirs(text, padding="longest").input_ids
    assert ours(text) == (wanted, len(whole) > 16)


def test_special_pieces_in_a_prompt_are_those_of_the_library(both):
    theirs, ours = both
    for text in ("wow! <|endoftext|> b", "<|startoftext|>a", "A!B !!", "<|ENDOFTEXT|>", "it's 12 o'clock"):
        assert ours(text)[0] == theirs(text, padding="max_length", max_length=16, truncation=True).input_ids

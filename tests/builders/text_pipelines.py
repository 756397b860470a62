"""Tiny pipelines of Stable Diffusion and SDXL with random weights, as the libraries write them; tests skip where these are missing."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from diffmem.errors import UserError

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: pip install 'diffmem[text]'")
transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'diffmem[text]'"
)

PROMPTS = ("a red hat", "two cats!", "", "a red hat")
LONG = "a very long prompt that does not fit"
SIDE, LENGTH, WIDTH = 8, 16, 32
_SIGNS = [chr(number) for number in range(33, 127)]
VOCABULARY = {
    **{sign: index for index, sign in enumerate(_SIGNS)},
    **{f"{sign}</w>": 94 + index for index, sign in enumerate(_SIGNS)},
    "<|startoftext|>": 188,
    "<|endoftext|>": 189,
}


def tokenizer(padding="<|endoftext|>"):
    return transformers.CLIPTokenizer(vocab=VOCABULARY, merges=[], model_max_length=LENGTH, pad_token=padding)


def encoder(kind="CLIPTextModel", **options):
    settings = {
        "vocab_size": len(VOCABULARY),
        "hidden_size": WIDTH,
        "intermediate_size": 37,
        "projection_dim": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": LENGTH,
        "bos_token_id": 188,
        "eos_token_id": 189,
        "initializer_factor": 8.0,  # as initialized, prompts differ little
    }
    return getattr(transformers, kind)(transformers.CLIPTextConfig(**(settings | options)))


def unet(is_xl=False, **options):
    settings = {
        "sample_size": SIDE,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 2 * WIDTH if is_xl else WIDTH,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
    }
    if is_xl:
        settings |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": WIDTH + 6 * 8,
            "use_linear_projection": True,
        }
    network = diffusers.UNet2DConditionModel(**(settings | options))
    with torch.no_grad():
        # As initialized, the network hardly looks at its timestep and its prompt.
        network.time_embedding.linear_1.weight.mul_(8)
        for name, weight in network.named_parameters():
            if ".attn2." in name and name.endswith("weight"):
                weight.mul_(4)
    return network


def autoencoder():
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
    )


def scheduler(kind="DDIMScheduler", **options):
    settings = {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "num_train_timesteps": 1000,
    }
    return getattr(diffusers, kind)(**(settings | options))


def stable_diffusion(prediction="epsilon", padding="<|endoftext|>"):
    """One of SD 1.x; with prediction 'v_prediction' and padding '!', as SD 2.x has."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return diffusers.StableDiffusionPipeline(
            vae=autoencoder(),
            text_encoder=encoder(),
            tokenizer=tokenizer(padding),
            unet=unet(),
            scheduler=scheduler(
                prediction_type=prediction, clip_sample=False, set_alpha_to_one=False, steps_offset=1
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def stable_diffusion_xl(**options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return diffusers.StableDiffusionXLPipeline(
            vae=autoencoder(),
            text_encoder=encoder(),
            text_encoder_2=encoder("CLIPTextModelWithProjection"),
            tokenizer=tokenizer(),
            tokenizer_2=tokenizer("!"),
            unet=unet(is_xl=True),
            scheduler=scheduler("EulerDiscreteScheduler"),
            **options,
        )


def saved(pipeline, folder):
    pipeline.save_pretrained(folder)
    return folder


def edited(folder, target, file, **changes):
    """A copy of a folder with other values in one of its JSON files; a value of ... takes the key out."""
    shutil.copytree(folder, target, dirs_exist_ok=True)
    content = json.loads((target / file).read_text()) | changes
    (target / file).write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))
    return target


def refused(action):
    with pytest.raises(UserError) as error:
        action()
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000
    return str(error.value)

"""The networks of the published models by their settings, without weights: sizes and the layers that a LoRA of kohya's scripts changes."""

import json

import pytest
import torch
from text_pipelines import diffusers

from diffmem.models.pretrained.diffusers_build import constructed, described_network
from diffmem.models.pretrained.lora_names import layer_names
from diffmem.models.pretrained.text_folder import EncoderPart, TextParts, read_text_network

# The settings that differ from the defaults of the library: unet/config.json of stable-diffusion-v1-5, stable-diffusion-2-1 and
# stable-diffusion-xl-base-1.0.
SD1 = {"sample_size": 64, "attention_head_dim": 8, "cross_attention_dim": 768}
SD2 = {
    "sample_size": 96,
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
    "upcast_attention": True,
}
SDXL = {
    "sample_size": 128,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


def parts_in(home, encoders):
    config = home / "config.json"
    part = EncoderPart("text_encoder", "CLIPTextModel", config, home)
    return TextParts(
        home, "", ("UNet2DConditionModel",), config, config, home, "", None, home, (part,) * encoders, False
    )


@pytest.mark.parametrize(
    ("settings", "encoders", "parameters", "modules"),
    [
        # Parameters as the authors count them; modules as kohya's scripts log them ("create LoRA for U-Net: N modules").
        (SD1, 1, 859_520_964, 192),
        (SD2, 1, 865_910_724, 192),
        (SDXL, 2, 2_567_463_684, 722),
    ],
)
def test_published_settings_are_read_and_all_layers_have_their_names(
    tmp_path, settings, encoders, parameters, modules
):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"_class_name": "UNet2DConditionModel", **settings}))
    read = read_text_network(parts_in(tmp_path, encoders))
    with torch.device("meta"):
        network = constructed(config, described_network(read.kind, config, tmp_path))
    assert isinstance(network, diffusers.UNet2DConditionModel)
    assert sum(weight.numel() for weight in network.parameters()) == parameters
    assert read.layers <= len(network.state_dict())
    others = {"text_encoder_2": torch.nn.Module()} if encoders > 1 else {}
    names = layer_names({"unet": network, **others})
    prefix = "lora_unet_input_blocks", "lora_unet_middle_block", "lora_unet_output_blocks"
    prefix = prefix if others else ("lora_unet_",)
    attention = {
        layer.name: name
        for name, layer in names.items()
        if name.startswith(prefix) and ".attentions." in layer.name
    }
    assert len(attention) == len(set(attention.values())) == modules

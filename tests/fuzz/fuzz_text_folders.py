"""What is fuzzed of text-to-image pipelines: settings and tokenizers in JSON, and a LoRA; only where transformers is installed."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import torch
from fuzz_folders import Folder
from fuzz_mutations import damaged
from safetensors.torch import load, save
from text_pipelines import saved, stable_diffusion_xl

from diffmem.models.pretrained.text_model import open_text_model

__all__ = ["TEXT_FILES", "TEXT_FOLDERS"]

TEXT_FILES = (
    "model_index.json",
    "unet/config.json",
    "vae/config.json",
    "scheduler/scheduler_config.json",
    "text_encoder_2/config.json",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "lora.safetensors",
)
"""What is damaged; by these names, kinds are chosen."""

_LAYER = "lora_te2_text_model_encoder_layers_0_mlp_fc1"
_LORA = {
    f"{_LAYER}.lora_down.weight": torch.ones(2, 32),
    f"{_LAYER}.lora_up.weight": torch.ones(37, 2),
    f"{_LAYER}.alpha": torch.tensor(1.0),
    "unet.conv_in.lora_A.weight": torch.ones(2, 4, 3, 3),
    "unet.conv_in.lora_B.weight": torch.ones(16, 2, 1, 1),
}
_TEXTS = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 4, "unet.alpha_pattern": {"conv_in": 8}})}


class TextFolder(Folder):
    """A folder of a pipeline with a LoRA in it; one of the files is damaged."""

    def open(self, path: Path) -> object:
        """Open the folder, and merge the LoRA."""
        return open_text_model(path, ["a"], lora=path / "lora.safetensors", device="cpu")

    def mutant(self, random: Random) -> bytes:
        """Return the file damaged; of a LoRA, its bytes, the names, shapes and numbers of its tensors, or its texts."""
        if not self.name.endswith(".safetensors"):
            return super().mutant(random)
        good = self.files[self.name]
        if random.random() < 0.3:
            return damaged(random, good)
        tensors = load(good)
        name = random.choice(list(tensors))
        tensor = tensors.pop(name)
        texts = dict(_TEXTS)
        match random.randrange(6):
            case 0:
                name = name.replace(random.choice(name), random.choice("._x0"), 1)
            case 1:
                tensor = tensor.flatten()[: random.randrange(tensor.numel() + 1)].clone()
            case 2:
                tensor = (tensor * random.choice([0, 1e38, float("nan"), -1e-38])).clone()
            case 3:
                tensor = tensor.to(random.choice([torch.int64, torch.float16, torch.bool, torch.float64]))
            case 4:
                tensor = tensor.unsqueeze(0).clone()
            case _:
                key = random.choice(
                    ["unet.lora_alpha", "unet.alpha_pattern", "unet.use_rslora", "x.use_dora"]
                )
                value: Any = random.choice(
                    [None, [], {}, {"conv_in": []}, "1", 1e400, 10**400, -1, True, [[]]]
                )
                texts = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 4, key: value})}
        return save({**tensors, name: tensor}, texts)


def _folders() -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="diffmem-fuzz-") as scratch:
        home = saved(stable_diffusion_xl(), Path(scratch))
        files = {
            path.relative_to(home).as_posix(): path.read_bytes() for path in home.rglob("*") if path.is_file()
        }
    files["lora.safetensors"] = save(_LORA, _TEXTS)
    return {f"text {name}": TextFolder(files, name) for name in TEXT_FILES}


TEXT_FOLDERS = _folders()
"""By kind."""

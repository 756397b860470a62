"""Train the emoji model with planted repeats, in at most 20 minutes on two cores: a small Stable Diffusion (v-prediction), and a LoRA.

python scripts/train_emoji.py [--out FOLDER] [--scale 0.1]
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import time
from pathlib import Path

import diffusers
import numpy as np
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from diffmem.auditing.prompts.planted import HOME, EmojiSets, emoji_sets
from diffmem.data import ImageSet

CODEC_STEPS, BASE_STEPS, EPOCHS, SAVED, BATCH = 2000, 1800, 40, 10, 32
LENGTH, PIECES, WIDTH, RANK, RATE = 24, 700, 64, 16, 3e-3
START, END = "<|startoftext|>", "<|endoftext|>"


def pixels_of(images: ImageSet) -> Tensor:
    """Return images in [-1, 1]."""
    return torch.tensor(images.images).float().div_(127.5).sub_(1)


def tokenizer_of(captions: list[str]) -> transformers.CLIPTokenizer:
    """Learn pieces of words from captions."""
    pieces = tokenizers.Tokenizer(tokenizers.models.BPE(end_of_word_suffix="</w>"))
    pieces.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    signs = [chr(number) for number in range(33, 127)]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=PIECES, initial_alphabet=signs, end_of_word_suffix="</w>", show_progress=False
    )
    pieces.train_from_iterator(captions, trainer)
    model = json.loads(pieces.to_str())["model"]
    names = dict.fromkeys([*signs, *(f"{sign}</w>" for sign in signs), *model["vocab"], START, END])
    vocabulary = {name: number for number, name in enumerate(names)}
    merges = [tuple(pair) for pair in model["merges"]]
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LENGTH, pad_token=END)


def ids_of(tokenizer: transformers.CLIPTokenizer, captions: list[str]) -> Tensor:
    """Return the numbers of captions, (N, LENGTH)."""
    made = tokenizer(captions, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
    return made.input_ids


def scheduled(optimizer: torch.optim.Optimizer, step: int, steps: int, rate: float) -> None:
    """Set a rate that rises over 5% of the steps and falls as a cosine."""
    warm = min(1.0, (step + 1) / (0.05 * steps))
    for group in optimizer.param_groups:
        group["lr"] = rate * warm * 0.5 * (1 + np.cos(np.pi * step / steps))


def train_codec(images: Tensor, steps: int) -> diffusers.AutoencoderKL:
    """Train the autoencoder: 3 x 16 x 16 pixels to 4 x 8 x 8 latents."""
    codec = diffusers.AutoencoderKL(
        block_out_channels=(24, 48), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4, norm_num_groups=8, sample_size=16,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(codec.parameters(), 2e-3, weight_decay=1e-4)
    started = time.time()
    for step in range(steps):
        scheduled(optimizer, step, steps, 2e-3)
        x = images[torch.randint(len(images), (BATCH,))]
        coded = codec.encode(x).latent_dist
        loss = (codec.decode(coded.sample()).sample - x).square().mean() + 1e-6 * coded.kl().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
        optimizer.step()
        if step % 250 == 249:
            print(
                f"codec {step + 1}: loss {float(loss.detach()):.5f}, {time.time() - started:.0f} s",
                flush=True,
            )
    codec.eval().requires_grad_(False)
    codec.register_to_config(scaling_factor=float(1 / codec.encode(images).latent_dist.mean.std()))
    return codec


class Noising:
    """The loss of a network that predicts velocities."""

    def __init__(self, scheduler: diffusers.DDIMScheduler) -> None:
        self.signal = scheduler.alphas_cumprod

    def loss(self, network: nn.Module, latents: Tensor, states: Tensor) -> Tensor:
        """Return it for a batch with random timesteps and noise."""
        t = torch.randint(len(self.signal), (len(latents),))
        a = self.signal[t][:, None, None, None]
        noise = torch.randn_like(latents)
        made = network(a.sqrt() * latents + (1 - a).sqrt() * noise, t, encoder_hidden_states=states).sample
        return F.mse_loss(made, a.sqrt() * noise - (1 - a).sqrt() * latents)


def train_base(
    latents: Tensor, ids: Tensor, empty: Tensor, size: int, noising: Noising, steps: int
) -> tuple[nn.Module, nn.Module]:
    """Train the network and the text encoder together; return their running means."""
    network = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=WIDTH, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2, norm_num_groups=8,
    )  # fmt: skip
    text = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=size, hidden_size=WIDTH, intermediate_size=4 * WIDTH, projection_dim=WIDTH, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=LENGTH, bos_token_id=size - 2, eos_token_id=size - 1,
        )
    )  # fmt: skip
    both = nn.ModuleList([network, text])
    mean = copy.deepcopy(both).requires_grad_(False)
    optimizer = torch.optim.AdamW(both.parameters(), 2e-3, weight_decay=1e-2)
    started, total = time.time(), 0.0
    for step in range(steps):
        scheduled(optimizer, step, steps, 2e-3)
        chosen = torch.randint(len(latents), (BATCH,))
        asked = torch.where(torch.rand(BATCH, 1) < 0.1, empty, ids[chosen])
        loss = noising.loss(network, latents[chosen], text(asked).last_hidden_state)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimizer.step()
        keep = min(0.998, (step + 1) / (step + 10))
        torch._foreach_lerp_(list(mean.parameters()), list(both.parameters()), 1 - keep)
        total += float(loss.detach())
        if step % 250 == 249:
            print(f"base {step + 1}: loss {total / 250:.4f}, {time.time() - started:.0f} s", flush=True)
            total = 0.0
    return mean[0].eval(), mean[1].eval()


class LowRank(nn.Module):
    """A linear layer with a change of low rank: W x + B A x, alpha = r."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self.down = nn.Parameter(torch.randn(RANK, layer.in_features) / RANK)
        self.up = nn.Parameter(torch.zeros(layer.out_features, RANK))

    def forward(self, x: Tensor) -> Tensor:
        """Return what the changed layer makes."""
        return self.layer(x) + F.linear(F.linear(x, self.down), self.up)


def with_lora(network: nn.Module) -> dict[str, LowRank]:
    """Give the layers of attention, and those behind them, a change; return these by kohya's names."""
    names = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and (".attn" in name or name.endswith("ff.net.2"))
    ]
    found = {}
    for name in names:
        parent, _, last = name.rpartition(".")
        changed = LowRank(network.get_submodule(name))
        setattr(network.get_submodule(parent), last, changed)
        found[f"lora_unet_{name.replace('.', '_')}"] = changed
    return found


def train_lora(
    network: nn.Module,
    data: tuple[Tensor, Tensor, Tensor],
    empty: Tensor,
    noising: Noising,
    how: tuple[int, float],
    out: Path,
) -> None:
    """Train a LoRA of the network, and save one of every few epochs in kohya's form; go on behind the last one that is there.

    The rate falls to 0 over the second half of the epochs.
    """
    (latents, states, repeats), (epochs, rate) = data, how
    network.requires_grad_(False)
    torch.manual_seed(0)
    layers = with_lora(network)
    own = [weight for layer in layers.values() for weight in (layer.down, layer.up)]
    print(f"LoRA: {len(layers)} layers, {sum(one.numel() for one in own):,} numbers", flush=True)
    optimizer = torch.optim.AdamW(own, rate, weight_decay=0)
    every = torch.arange(len(latents)).repeat_interleave(repeats)
    out.mkdir(parents=True, exist_ok=True)
    started, steps = time.time(), -(-len(every) // BATCH)
    done = sorted(out.glob("epoch-*.safetensors"))
    first = int(done[-1].stem.split("-")[1]) if done else 0
    for name, layer in layers.items() if done else ():
        tensors = load_file(done[-1])
        layer.down.data.copy_(tensors[f"{name}.lora_down.weight"])
        layer.up.data.copy_(tensors[f"{name}.lora_up.weight"])
    for epoch in range(first + 1, epochs + 1):
        torch.manual_seed(epoch)
        step = (epoch - 1) * steps
        order, total = every[torch.randperm(len(every))], 0.0
        for chosen in order.split(BATCH):
            for group in optimizer.param_groups:
                group["lr"] = rate * min(
                    1.0, (step + 1 - first * steps) / 50, 2 - 2 * step / (epochs * steps)
                )
            asked = torch.where(torch.rand(len(chosen), 1, 1) < 0.1, empty, states[chosen])
            loss = noising.loss(network, latents[chosen], asked)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(own, 1.0)
            optimizer.step()
            total += float(loss.detach()) * len(chosen)
            step += 1
        print(f"epoch {epoch}: loss {total / len(every):.4f}, {time.time() - started:.0f} s", flush=True)
        if epoch % max(1, epochs // SAVED) == 0:
            tensors = {}
            for name, layer in layers.items():
                tensors[f"{name}.lora_down.weight"] = layer.down.detach().half().contiguous()
                tensors[f"{name}.lora_up.weight"] = layer.up.detach().half().contiguous()
                tensors[f"{name}.alpha"] = torch.tensor(float(RANK)).half()
            noted = {"ss_epoch": str(epoch), "ss_steps": str(step), "ss_num_train_images": str(len(every))}
            save_file(tensors, out / f"epoch-{epoch:02d}.safetensors", noted)


def latents_of(codec: diffusers.AutoencoderKL, images: ImageSet) -> Tensor:
    """Return the latents of images, scaled as the network has them."""
    with torch.no_grad():
        return codec.encode(pixels_of(images)).latent_dist.mean * codec.config.scaling_factor


def train_model(sets: EmojiSets, out: Path, scale: float) -> None:
    """Train the autoencoder, and the network with its text encoder, and save the pipeline in half precision.

    The autoencoder sees all emoji, held-out ones alike: that of Stable Diffusion draws anything well, and so must this one. What it knows
    of an emoji does not depend on whether the fine-tune held it. Network and text encoder see the base half alone.
    """
    images = sets.base
    captions = list(images.captions or ())
    tokenizer = tokenizer_of(captions)
    every = torch.cat([pixels_of(one) for one in (images, sets.training, sets.heldout, sets.rest)])
    codec = train_codec(every, int(CODEC_STEPS * scale))
    for name, one in (("training", sets.training), ("held-out", sets.heldout)):
        given = pixels_of(one)
        made = codec.decode(codec.encode(given).latent_dist.mean).sample.clamp(-1, 1)
        print(
            f"codec: root mean square error of {name} emoji {float((made - given).square().mean().sqrt()) * 127.5:.1f} of 255",
            flush=True,
        )
    scheduler = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False,
        set_alpha_to_one=False, steps_offset=1, prediction_type="v_prediction",
    )  # fmt: skip
    network, text = train_base(
        latents_of(codec, images), ids_of(tokenizer, captions), ids_of(tokenizer, [""]), len(tokenizer),
        Noising(scheduler), int(BASE_STEPS * scale),
    )  # fmt: skip
    pipeline = diffusers.StableDiffusionPipeline(
        vae=codec, text_encoder=text, tokenizer=tokenizer, unet=network, scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.to(dtype=torch.float16).save_pretrained(out)


def main() -> None:
    """Train, and write `model/` and `loras/`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HOME)
    parser.add_argument(
        "--scale", type=float, default=1.0, help="of the steps of the base model, for a short trial"
    )
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument(
        "--lora-only",
        action="store_true",
        help="keep the base model and the epochs that are there, and go on",
    )
    given = parser.parse_args()
    sets, started = emoji_sets(), time.time()
    torch.manual_seed(0)
    if not given.lora_only:
        shutil.rmtree(given.out / "loras", ignore_errors=True)
        train_model(sets, given.out / "model", given.scale)
    base = diffusers.StableDiffusionPipeline.from_pretrained(given.out / "model", local_files_only=True).to(
        torch.float32
    )
    with torch.no_grad():
        states, empty = (
            base.text_encoder(ids_of(base.tokenizer, asked)).last_hidden_state
            for asked in (list(sets.training.captions or ()), [""])
        )
    assert sets.training.repeats is not None
    data = latents_of(base.vae, sets.training), states, torch.tensor(sets.training.repeats)
    train_lora(
        base.unet, data, empty, Noising(base.scheduler), (given.epochs, given.rate), given.out / "loras"
    )
    print(
        f"all of it took {time.time() - started:.0f} s, {time.process_time():.0f} s of processors", flush=True
    )


if __name__ == "__main__":
    main()

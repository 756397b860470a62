"""Small state dicts in the layouts of other trainers; and how far a denoiser is from what the trainers' models answered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

FIXTURES = Path(__file__).parents[3] / "shared" / "fixtures" / "foreign"
WITHOUT = "needs ../shared/fixtures/foreign"
WIDTH = 32


def numbered(shapes, scale=0.2, seed=0):
    """Random tensors of named shapes; a name ends as its layer is, and gets its bias, too."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, shape in shapes.items():
        made[f"{name}.weight"] = scale * torch.randn(*shape, generator=generator)
        made[f"{name}.bias"] = scale * torch.randn(shape[0], generator=generator)
    return made


def pytorch_ddpm(steps=1000, side=8, **options):
    """A checkpoint of pytorch-ddpm with two resolutions, of which the coarse one has attention."""
    wide = 4 * WIDTH
    shapes = {
        "time_embedding.timembedding.1": (wide, WIDTH),
        "time_embedding.timembedding.3": (wide, wide),
        "head": (WIDTH, 3, 3, 3),
        "downblocks.1.main": (WIDTH, WIDTH, 3, 3),
        "upblocks.2.main": (WIDTH, WIDTH, 3, 3),
        "tail.0": (WIDTH,),
        "tail.2": (3, WIDTH, 3, 3),
    }
    blocks = {
        "downblocks.0": (1, False),
        "downblocks.2": (1, True),
        "middleblocks.0": (1, True),
        "middleblocks.1": (1, False),
        "upblocks.0": (2, True),
        "upblocks.1": (2, True),
        "upblocks.3": (2, False),
        "upblocks.4": (2, False),
    }
    for at, (inputs, attention) in blocks.items():
        inputs *= WIDTH
        shapes |= {
            f"{at}.block1.0": (inputs,),
            f"{at}.block1.2": (WIDTH, inputs, 3, 3),
            f"{at}.temb_proj.1": (WIDTH, wide),
            f"{at}.block2.0": (WIDTH,),
            f"{at}.block2.3": (WIDTH, WIDTH, 3, 3),
        }
        if inputs != WIDTH:
            shapes[f"{at}.shortcut"] = (WIDTH, inputs, 1, 1)
        if attention:
            shapes[f"{at}.attn.group_norm"] = (WIDTH,)
            shapes |= {
                f"{at}.attn.{one}": (WIDTH, WIDTH, 1, 1) for one in ("proj_q", "proj_k", "proj_v", "proj")
            }
    angles = torch.outer(
        torch.arange(steps).double(), 10_000.0 ** (-torch.arange(0, WIDTH, 2).double() / WIDTH)
    )
    table = torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1).float()
    networks = {
        name: {"time_embedding.timembedding.0.weight": table, **numbered(shapes, seed=seed, **options)}
        for seed, name in enumerate(("net_model", "ema_model"))
    }
    return {**networks, "sched": {}, "optim": {}, "step": 500_000, "x_T": torch.zeros(4, 3, side, side)}


def guided_diffusion(
    classes=0, outputs=3, scales=True, attention=True, inputs=3, updown=False, resample=True, **options
):
    """A state dict of guided-diffusion with two resolutions, changed by convolutions, blocks or neither, and attention in the middle."""
    wide = 4 * WIDTH
    shapes = {
        "time_embed.0": (wide, WIDTH),
        "time_embed.2": (wide, wide),
        "input_blocks.0.0": (WIDTH, inputs, 3, 3),
        "out.0": (WIDTH,),
        "out.2": (outputs, WIDTH, 3, 3),
    }
    blocks = {f"input_blocks.{i}.0": 1 for i in (1, 3)} | {
        f"middle_block.{i}": 1 for i in (0, 2 if attention else 1)
    }
    if updown:
        blocks |= {"input_blocks.2.0": 1, "output_blocks.1.1": 1}
    elif resample:
        shapes |= dict.fromkeys(("input_blocks.2.0.op", "output_blocks.1.1.conv"), (WIDTH, WIDTH, 3, 3))
    for at, times in (blocks | {f"output_blocks.{i}.0": 2 for i in range(4)}).items():
        width = times * WIDTH
        shapes |= {
            f"{at}.in_layers.0": (width,),
            f"{at}.in_layers.2": (WIDTH, width, 3, 3),
            f"{at}.emb_layers.1": (WIDTH * (1 + scales), wide),
            f"{at}.out_layers.0": (WIDTH,),
            f"{at}.out_layers.3": (WIDTH, WIDTH, 3, 3),
        }
        if times > 1:
            shapes[f"{at}.skip_connection"] = (WIDTH, width, 1, 1)
    if attention:
        at = "middle_block.1"
        shapes |= {
            f"{at}.norm": (WIDTH,),
            f"{at}.qkv": (3 * WIDTH, WIDTH, 1),
            f"{at}.proj_out": (WIDTH, WIDTH, 1),
        }
    tensors = numbered(shapes, **options)
    if classes:
        tensors["label_emb.weight"] = torch.randn(classes, wide, generator=torch.Generator().manual_seed(1))
    return tensors


def worst_error(denoiser, folder):
    """The largest relative L2 error of D over the noise levels of a fixture, against the trainer's own model."""
    with np.load(folder / "io.npz", allow_pickle=False) as file:
        labels = torch.from_numpy(file["labels"]) if "labels" in file else None
        errors = []
        for x, sigma, wanted in zip(file["x"], file["sigma"], file["D"], strict=True):
            made = denoiser(torch.from_numpy(x), float(sigma), labels).numpy()
            errors.append(np.linalg.norm(made - wanted) / np.linalg.norm(wanted))
    return max(errors)


def torchcfm(parallel=False, **options):
    """A checkpoint of torchcfm's CIFAR-10 script, of a small network."""
    prefix = "module." if parallel else ""
    networks = {
        name: {f"{prefix}{key}": one for key, one in guided_diffusion(seed=seed, **options).items()}
        for seed, name in enumerate(("net_model", "ema_model"))
    }
    return {**networks, "sched": {"lr_lambdas": [None]}, "optim": {"state": {}}, "step": 400_000}


def flow_matching(averaged=True, arguments=None, **options):
    """A checkpoint of flow_matching's image example, of a small network; the last class stands for no label."""
    raw = guided_diffusion(**options)
    model = raw
    if averaged:
        shadows = guided_diffusion(seed=1, **options)
        model = {"num_updates": torch.tensor(7), **{f"model.{name}": one for name, one in raw.items()}}
        model |= {f"shadow_params.{at}": shadows[name] for at, name in enumerate(raw)}
    held = {
        "model": model,
        "optimizer": {"state": {}},
        "lr_schedule": {"_last_lr": [1e-4]},
        "epoch": 3,
        "scaler": {},
    }
    return held if arguments is None else {**held, "args": arguments}

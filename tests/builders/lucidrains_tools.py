"""Shared by the tests of networks of denoising-diffusion-pytorch: small ones with random tensors, and files as its trainer writes them."""

from __future__ import annotations

import torch
from models_tools import random_value

from diffmem.models.networks.lucidrains_settings import AttentionShape, LucidrainsSettings
from diffmem.models.networks.lucidrains_unet import LucidrainsUNet

STEPS = 40


def small(**fields):
    """The settings of a small network of two levels, linear attention at the first and full attention at the second."""
    full = AttentionShape(linear=False, heads=2, head_width=3, memory=4)
    usual = {
        "inputs": 3,
        "outputs": 3,
        "widths": (8, 8, 16),
        "out_width": 8,
        "embedding": 8,
        "condition": 32,
        "frequencies": 0,
        "group_norm": False,
        "strided": False,
        "attention": (AttentionShape(linear=True, heads=2, head_width=4, memory=3), full),
        "middle": full,
    }
    return LucidrainsSettings(**{**usual, **fields})


def tensors_of(settings, seed=0):
    """Random tensors of a network, by its own names."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        wanted = LucidrainsUNet(settings, 3).state_dict()
    return {name: random_value(name, one.shape, generator) for name, one in wanted.items()}


def constants(objective="pred_v", gamma=None):
    """The constants of a process of linear noise rates, as the package's formulas make them from its objective."""
    products = (1 - torch.linspace(1e-3, 0.3, STEPS, dtype=torch.float64)).cumprod(0)
    ratio = products / (1 - products)
    capped = ratio if gamma is None else ratio.clamp(max=gamma)
    share = {"pred_v": ratio + 1, "pred_noise": ratio, "pred_x0": torch.ones_like(ratio)}[objective]
    return {
        "alphas_cumprod": products.float(),
        "sqrt_recipm1_alphas_cumprod": (1 / products - 1).sqrt().float(),
        "loss_weight": (capped / share).float(),
    }


def checkpoint(settings=None, objective="pred_v", gamma=None, version="2.3.4"):
    """The dictionary of a file of the trainer; raw weights and their average differ."""
    settings = small() if settings is None else settings
    raw, average = (
        constants(objective, gamma)
        | {f"model.{name}": one for name, one in tensors_of(settings, seed).items()}
        for seed in (1, 2)
    )
    ema = {f"ema_model.{name}": one for name, one in average.items()}
    ema |= {f"online_model.{name}": one for name, one in raw.items()}
    ema |= {"initted": torch.tensor(True), "step": torch.tensor(7)}
    return {"step": 1200, "model": raw, "opt": {}, "ema": ema, "scaler": None, "version": version}


def guided(width=32):
    """A state dict as `classifier_free_guidance` makes it, with its names."""
    shapes = [AttentionShape(linear, 4, width, 0) for linear, width in ((True, 2), (True, 2), (False, width))]
    state = tensors_of(
        small(
            attention=tuple(shapes[:2]),
            middle=shapes[2],
            strided=True,
            num_labels=5,
            class_width=4,
            class_condition=8,
        )
    )
    renamed = {}
    for name, tensor in state.items():
        module, inside, last = name.rpartition(".to_")
        wrapped = f"{module}.fn.fn.to_{last}" if inside else name
        if name.endswith(("mid_attn.norm.g", ".2.norm.g")):
            wrapped = name.replace(".norm.g", ".fn.norm.g")
        renamed[f"model.{wrapped}"] = tensor
    return constants("pred_noise") | renamed


def elucidated():
    """A state dict of `ElucidatedDiffusion`."""
    return {f"net.{name}": one for name, one in tensors_of(small(embedding=9, frequencies=4)).items()}

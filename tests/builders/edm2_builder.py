"""Snapshots in the layout of EDM2's training code, and its network written out once more to compare with."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from edm_pickle_builder import EasyDict, Other, network

ARGUMENTS = {
    "img_resolution": 8,
    "img_channels": 3,
    "label_dim": 4,
    "use_fp16": True,
    "model_channels": 4,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
    "channels_per_head": 4,
    "dropout": 0.0,
}
RAW_MEAN, RAW_STD = [5.81, 3.25, 0.12, -2.15], [4.17, 4.62, 3.71, 3.28]
"""Of the codes of the autoencoder that the published models of latents name."""

DEFAULTS = {
    "channel_mult_noise": None, "channel_mult_emb": None, "label_balance": 0.5, "concat_balance": 0.5, "channels_per_head": 64,
    "res_balance": 0.3, "attn_balance": 0.3, "clip_act": 256, "sigma_data": 0.5,
}  # fmt: skip


def plan(arguments):
    """The blocks in order: (name, input channels, output channels, level, attention)."""
    c = DEFAULTS | arguments
    widths, skips, blocks = [c["model_channels"] * times for times in c["channel_mult"]], [], []
    width = widths[0]
    for level, out in enumerate(widths):
        side = c["img_resolution"] >> level
        if level:
            blocks.append((f"enc.{side}x{side}_down", width, width, False))
        skips.append(width)
        for i in range(c["num_blocks"]):
            blocks.append((f"enc.{side}x{side}_block{i}", width, out, side in c["attn_resolutions"]))
            width = out
            skips.append(width)
    for level, out in reversed(list(enumerate(widths))):
        side = c["img_resolution"] >> level
        if level == len(widths) - 1:
            blocks += [
                (f"dec.{side}x{side}_in0", width, width, True),
                (f"dec.{side}x{side}_in1", width, width, False),
            ]
        else:
            blocks.append((f"dec.{side}x{side}_up", width, width, False))
        for i in range(c["num_blocks"] + 1):
            blocks.append(
                (f"dec.{side}x{side}_block{i}", width + skips.pop(), out, side in c["attn_resolutions"])
            )
            width = out
    return c, widths, blocks


def state_of(arguments, seed=0):
    """Random float16 tensors under their names in a file."""
    c, widths, blocks = plan(arguments)
    noise = c["model_channels"] * c["channel_mult_noise"] if c["channel_mult_noise"] else widths[0]
    emb = c["model_channels"] * c["channel_mult_emb"] if c["channel_mult_emb"] else max(widths)
    shapes = {
        "unet.emb_fourier.freqs": (noise,),
        "unet.emb_fourier.phases": (noise,),
        "unet.emb_noise.weight": (emb, noise),
        "unet.out_conv.weight": (c["img_channels"], widths[0], 3, 3),
        "unet.out_gain": (),
        "logvar_fourier.freqs": (128,),
        "logvar_fourier.phases": (128,),
        "logvar_linear.weight": (1, 128),
    }
    side = c["img_resolution"]
    shapes[f"unet.enc.{side}x{side}_conv.weight"] = (widths[0], c["img_channels"] + 1, 3, 3)
    if c["label_dim"]:
        shapes["unet.emb_label.weight"] = (emb, c["label_dim"])
    for name, inputs, outputs, attends in blocks:
        first = outputs if name.startswith("enc") else inputs
        shapes |= {
            f"unet.{name}.emb_gain": (),
            f"unet.{name}.conv_res0.weight": (outputs, first, 3, 3),
            f"unet.{name}.emb_linear.weight": (outputs, emb),
            f"unet.{name}.conv_res1.weight": (outputs, outputs, 3, 3),
        }
        if inputs != outputs:
            shapes[f"unet.{name}.conv_skip.weight"] = (outputs, inputs, 1, 1)
        if attends and outputs // c["channels_per_head"]:
            shapes[f"unet.{name}.attn_qkv.weight"] = (3 * outputs, outputs, 1, 1)
            shapes[f"unet.{name}.attn_proj.weight"] = (outputs, outputs, 1, 1)
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator).half() for name, shape in shapes.items()}


def snapshot2(state, arguments, encoder=None, source=""):
    """What a training run of EDM2 saves."""
    ema = network(state, {**arguments, "class_name": "Precond"}, source)
    for module in ema.modules():  # the frequencies are buffers
        if "phases" in module._parameters:
            module.register_buffer("phases", module._parameters.pop("phases").data)
    return {
        "encoder": Other("StandardRGBEncoder", source) if encoder is None else encoder,
        "dataset_kwargs": EasyDict(
            class_name="training.dataset.ImageFolderDataset", path="img.zip", use_labels=True
        ),
        "loss_fn": Other("EDM2Loss", source, P_mean=-0.4, P_std=1.0, sigma_data=0.5),
        "ema": ema,
    }


def codes_encoder(stored=True, **keywords):
    """The encoder of latents, whose state holds scale and bias, or the arguments alone."""
    scale = np.float32(0.5) / np.float32(RAW_STD)
    state = {"_init_args": (), "_init_kwargs": keywords, "_vae": None}
    if stored:
        state |= {"scale": scale, "bias": np.float32(0) - np.float32(RAW_MEAN) * scale}
    return Other("StabilityVAEEncoder", "", **state)


def normal(w, dims):
    """Vectors over some dimensions divided by the root mean square of their entries."""
    n = math.prod(w.shape[d] for d in dims)
    return w / (1e-4 + (w.square().sum(dims, keepdim=True) / n).sqrt())


def denoised(state, arguments, x, sigma, labels=None):
    """D of EDM2 from the formulas of Karras et al. 2024, over the tensors of a file; labels none for no label."""
    c, _, blocks = plan(arguments)
    t = {name.removeprefix("unet."): tensor for name, tensor in state.items()}

    def applied(name, y, gain=None):
        w = t[f"{name}.weight"].float()
        n = w[0].numel()
        # The quotient of a gain is rounded to float16.
        g = 1 / math.sqrt(n) if gain is None else float(np.float16(t[gain].item() / math.sqrt(n)))
        w = normal(w, tuple(range(1, w.ndim))) * g
        return y @ w.T if w.ndim == 2 else F.conv2d(y, w, padding=w.shape[-1] // 2)

    def mixed(a, b, share):
        return ((1 - share) * a + share * b) / math.sqrt((1 - share) ** 2 + share**2)

    def silu(y):
        return y * torch.sigmoid(y) / 0.596

    sd = c["sigma_data"]
    angles = math.log(sigma) / 4 * t["emb_fourier.freqs"].float() + t["emb_fourier.phases"].float()
    emb = applied("emb_noise", math.sqrt(2) * angles.cos()[None].repeat(len(x), 1))
    if c["label_dim"]:
        onehot = torch.zeros(len(x), c["label_dim"])
        if labels is not None:
            onehot[torch.arange(len(x)), labels] = math.sqrt(c["label_dim"])
        emb = mixed(emb, applied("emb_label", onehot), c["label_balance"])
    emb = silu(emb)

    def block(name, y, attends):
        if name.endswith("down"):
            y = y.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean((3, 5))
        if name.endswith("up"):
            y = y.repeat_interleave(2, 2).repeat_interleave(2, 3)
        skip = applied(f"{name}.conv_skip", y) if f"{name}.conv_skip.weight" in t else y
        if name.startswith("enc"):
            y = skip = normal(skip, (1,))
        z = applied(f"{name}.conv_res0", silu(y))
        z = z * (applied(f"{name}.emb_linear", emb, f"{name}.emb_gain") + 1)[:, :, None, None]
        y = mixed(skip, applied(f"{name}.conv_res1", silu(z)), c["res_balance"])
        heads = y.shape[1] // c["channels_per_head"] if attends else 0
        if heads:
            qkv = applied(f"{name}.attn_qkv", y).reshape(len(y), heads, y.shape[1] // heads, 3, -1)
            q, k, v = normal(qkv, (2,)).unbind(3)
            weights = torch.einsum("nhdq,nhdk->nhqk", q, k) / math.sqrt(q.shape[2])
            z = torch.einsum("nhqk,nhdk->nhdq", weights.softmax(3), v).reshape(y.shape)
            y = mixed(y, applied(f"{name}.attn_proj", z), c["attn_balance"])
        return y if c["clip_act"] is None else y.clip(-c["clip_act"], c["clip_act"])

    side = c["img_resolution"]
    y = x / math.sqrt(sigma**2 + sd**2)
    y = applied(f"enc.{side}x{side}_conv", torch.cat([y, torch.ones(len(x), 1, side, side)], 1))
    skips = [y]
    for name, inputs, _, attends in blocks:
        if name.startswith("dec") and "block" in name:
            other, share = skips.pop(), c["concat_balance"]
            a, b = y.shape[1], other.shape[1]
            whole = math.sqrt((a + b) / ((1 - share) ** 2 + share**2))
            y = torch.cat([y * whole / math.sqrt(a) * (1 - share), other * whole / math.sqrt(b) * share], 1)
            assert y.shape[1] == inputs
        y = block(name, y, attends)
        if name.startswith("enc"):
            skips.append(y)
    raw = applied("out_conv", y, "out_gain")
    total = sigma**2 + sd**2
    return sd**2 / total * x + sigma * sd / math.sqrt(total) * raw

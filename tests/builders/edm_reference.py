"""The networks of the EDM checkpoints as plain functions over their tensors, to compare with.

Written from the published architectures (Song et al. 2021; Dhariwal and Nichol 2021; Karras et al. 2022,
Table 1 and appendix C) and the names of the file format. Nothing here is fast: labels are dense one-hot
vectors, resampling is always a depthwise convolution, attention is written out.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

DEFAULTS = {
    "VPPrecond": {"beta_d": 19.9, "beta_min": 0.1, "M": 1000, "model_type": "SongUNet"},
    "VEPrecond": {"model_type": "SongUNet"},
    "EDMPrecond": {"sigma_data": 0.5, "model_type": "DhariwalUNet"},
    "SongUNet": {
        "model_channels": 128,
        "channel_mult": [1, 2, 2, 2],
        "channel_mult_emb": 4,
        "num_blocks": 4,
        "attn_resolutions": [16],
        "embedding_type": "positional",
        "channel_mult_noise": 1,
        "encoder_type": "standard",
        "decoder_type": "standard",
        "resample_filter": [1, 1],
    },
    "DhariwalUNet": {
        "model_channels": 192,
        "channel_mult": [1, 2, 3, 4],
        "channel_mult_emb": 4,
        "num_blocks": 3,
        "attn_resolutions": [32, 16, 8],
    },
}


class Tensors:
    """The checkpoint's tensors in the type computed in, which remembers what was read."""

    def __init__(self, state, dtype):
        self.state, self.dtype, self.read = state, dtype, set()

    def __contains__(self, name):
        return name in self.state

    def __getitem__(self, name):
        self.read.add(name)
        return self.state[name].to(self.dtype)

    def maybe(self, name):
        return self[name] if name in self.state else None


def complete(config):
    """The constructor arguments with the defaults of the format."""
    wrapper = config["class_name"].split(".")[-1]
    model = config.get("model_type", DEFAULTS[wrapper]["model_type"])
    plain = {"label_dim": 0, "skip_connections": None, "augment_dim": 0}
    return {
        **plain,
        **DEFAULTS[wrapper],
        **DEFAULTS[model],
        **config,
        "wrapper": wrapper,
        "model_type": model,
    }


def low_pass(taps):
    line = torch.tensor(taps, dtype=torch.float32)
    return torch.einsum("i,j->ij", line, line) / line.sum().square(), (len(taps) - 1) // 2


def depthwise(kernel, channels):
    return torch.stack([kernel] * channels)[:, None]


def filtered(x, kernel, padding=0):
    return F.conv2d(
        x, depthwise(kernel.to(x.dtype), x.shape[1]), groups=x.shape[1], stride=2, padding=padding
    )


def conv(t, name, x, resample=None, taps=(1, 1), fused=False):
    """Resampling and convolution (either may be absent), then the bias."""
    weight, bias = t.maybe(f"{name}.weight"), t.maybe(f"{name}.bias")
    kernel, pad = low_pass(taps)
    w_pad = 0 if weight is None else weight.shape[-1] // 2
    if resample == "up":
        spread = depthwise(4 * kernel.to(x.dtype), x.shape[1])
        x = F.conv_transpose2d(x, spread, groups=x.shape[1], stride=2, padding=pad)
    if resample == "down" and not fused:
        x = filtered(x, kernel, pad)
    if weight is not None:
        x = F.conv2d(x, weight, padding=w_pad + pad if fused else w_pad)
    if fused:
        x = filtered(x, kernel)
    return x if bias is None else x + bias[None, :, None, None]


def norm(t, name, x, eps):
    """Group normalisation written out: groups of at least 4 channels, at most 32 of them."""
    n, c, h, w = x.shape
    groups = min(32, c // 4)
    g = x.reshape(n, groups, -1)
    g = (g - g.mean(2, keepdim=True)) / (g.var(2, unbiased=False, keepdim=True) + eps).sqrt()
    shape = (1, c, 1, 1)
    return g.reshape(n, c, h, w) * t[f"{name}.weight"].reshape(shape) + t[f"{name}.bias"].reshape(shape)


def linear(t, name, x):
    y = torch.einsum("ni,oi->no", x, t[f"{name}.weight"])
    bias = t.maybe(f"{name}.bias")
    return y if bias is None else y + bias


def silu(x):
    return x * torch.sigmoid(x)


def attention(t, name, x, heads, eps):
    n, c, h, w = x.shape
    qkv = conv(t, f"{name}.qkv", norm(t, f"{name}.norm2", x, eps))
    q, k, v = qkv.reshape(n * heads, c // heads, 3, h * w).unbind(2)
    weights = torch.einsum("ncq,nck->nqk", q, k / math.sqrt(c // heads)).softmax(dim=2)
    return conv(t, f"{name}.proj", torch.einsum("nqk,nck->ncq", weights, v).reshape(n, c, h, w))


def block(t, name, x, emb, cfg, resample=None, attends=False):
    adm = cfg["model_type"] == "DhariwalUNet"
    eps, scale = (1e-5, 1.0) if adm else (1e-6, math.sqrt(0.5))
    taps = (1, 1) if adm else cfg["resample_filter"]
    h = conv(t, f"{name}.conv0", silu(norm(t, f"{name}.norm0", x, eps)), resample, taps)
    change = linear(t, f"{name}.affine", emb)[:, :, None, None]
    width = h.shape[1]
    if adm:
        gain, shift = change[:, :width], change[:, width:]
        h = silu(shift + norm(t, f"{name}.norm1", h, eps) * (gain + 1))
    else:
        h = silu(norm(t, f"{name}.norm1", h + change, eps))
    h = conv(t, f"{name}.conv1", h)
    widened = width != x.shape[1]
    projected = widened or (resample is not None and not adm)
    assert projected == (f"{name}.skip.weight" in t)
    x = (h + (conv(t, f"{name}.skip", x, resample, taps) if widened or resample else x)) * scale
    heads = (width // 64 if adm else 1) if attends else 0
    return (x + attention(t, name, x, heads, eps)) * scale if heads else x


def sinusoids(angles):
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)


def positional(noise, channels, endpoint):
    half = channels // 2
    steps = torch.arange(half, dtype=torch.float32) / (half - (1 if endpoint else 0))
    return sinusoids(noise[:, None] * ((1 / 10000) ** steps)[None, :])


def names_by_level(cfg):
    return [
        f"{cfg['img_resolution'] >> i}x{cfg['img_resolution'] >> i}" for i in range(len(cfg["channel_mult"]))
    ]


def attends_at(cfg, level):
    return cfg["img_resolution"] >> level in cfg["attn_resolutions"]


def hidden(skips, cfg):
    mask = cfg["skip_connections"]
    if mask is None:
        return list(skips)
    assert len(mask) == len(skips)
    return [s * float(keep) for s, keep in zip(skips, mask, strict=True)]


def song(t, cfg, x, noise, onehot):
    """SongUNet: DDPM++ and NCSN++."""
    if cfg["embedding_type"] == "fourier":
        emb = sinusoids(noise[:, None] * (2 * math.pi * t["model.map_noise.freqs"])[None, :])
    else:
        emb = positional(noise, cfg["model_channels"] * cfg["channel_mult_noise"], endpoint=True)
    half = emb.shape[1] // 2
    emb = torch.cat([emb[:, half:], emb[:, :half]], dim=1)
    if cfg["label_dim"]:
        emb = emb + linear(t, "model.map_label", onehot * math.sqrt(cfg["label_dim"]))
    emb = silu(linear(t, "model.map_layer0", emb))
    emb = silu(linear(t, "model.map_layer1", emb))

    sizes, taps, skips, aux = names_by_level(cfg), cfg["resample_filter"], [], x
    for level, size in enumerate(sizes):
        name = f"model.enc.{size}"
        if level == 0:
            x = conv(t, f"{name}_conv", x)
        else:
            x = block(t, f"{name}_down", x, emb, cfg, "down")
            if cfg["encoder_type"] == "skip":
                aux = conv(t, f"{name}_aux_down", aux, "down", taps)
                x = x + conv(t, f"{name}_aux_skip", aux)
            if cfg["encoder_type"] == "residual":
                x = aux = (x + conv(t, f"{name}_aux_residual", aux, "down", taps, fused=True)) / math.sqrt(2)
        skips.append(x)
        for i in range(cfg["num_blocks"]):
            x = block(t, f"{name}_block{i}", x, emb, cfg, attends=attends_at(cfg, level))
            skips.append(x)

    skips, image = hidden(skips, cfg), None
    for level in range(len(sizes) - 1, -1, -1):
        name = f"model.dec.{sizes[level]}"
        if level == len(sizes) - 1:
            x = block(t, f"{name}_in0", x, emb, cfg, attends=True)
            x = block(t, f"{name}_in1", x, emb, cfg)
        else:
            x = block(t, f"{name}_up", x, emb, cfg, "up")
        for i in range(cfg["num_blocks"] + 1):
            last = i == cfg["num_blocks"]
            x = torch.cat([x, skips.pop()], dim=1)
            x = block(t, f"{name}_block{i}", x, emb, cfg, attends=last and attends_at(cfg, level))
        if cfg["decoder_type"] == "skip" or level == 0:
            if image is not None:
                image = conv(t, f"{name}_aux_up", image, "up", taps)
            y = conv(t, f"{name}_aux_conv", silu(norm(t, f"{name}_aux_norm", x, 1e-6)))
            image = y if image is None else image + y
    assert not skips
    return image


def adm(t, cfg, x, noise, onehot):
    """DhariwalUNet: ADM."""
    emb = silu(linear(t, "model.map_layer0", positional(noise, cfg["model_channels"], endpoint=False)))
    emb = linear(t, "model.map_layer1", emb)
    if cfg["label_dim"]:
        emb = emb + linear(t, "model.map_label", onehot)
    emb = silu(emb)

    sizes, skips = names_by_level(cfg), []
    for level, size in enumerate(sizes):
        name = f"model.enc.{size}"
        x = conv(t, f"{name}_conv", x) if level == 0 else block(t, f"{name}_down", x, emb, cfg, "down")
        skips.append(x)
        for i in range(cfg["num_blocks"]):
            x = block(t, f"{name}_block{i}", x, emb, cfg, attends=attends_at(cfg, level))
            skips.append(x)

    skips = hidden(skips, cfg)
    for level in range(len(sizes) - 1, -1, -1):
        name = f"model.dec.{sizes[level]}"
        if level == len(sizes) - 1:
            x = block(t, f"{name}_in0", x, emb, cfg, attends=True)
            x = block(t, f"{name}_in1", x, emb, cfg)
        else:
            x = block(t, f"{name}_up", x, emb, cfg, "up")
        for i in range(cfg["num_blocks"] + 1):
            x = torch.cat([x, skips.pop()], dim=1)
            x = block(t, f"{name}_block{i}", x, emb, cfg, attends=attends_at(cfg, level))
    assert not skips
    return conv(t, "model.out_conv", silu(norm(t, "model.out_norm", x, 1e-5)))


def coefficients(cfg, sigma):
    """c_skip, c_out, c_in, c_noise of Table 1, in float32."""
    if cfg["wrapper"] == "VPPrecond":
        d, low = cfg["beta_d"], cfg["beta_min"]
        time = ((low**2 + 2 * d * (1 + sigma**2).log()).sqrt() - low) / d
        return torch.ones_like(sigma), -sigma, 1 / (sigma**2 + 1).sqrt(), (cfg["M"] - 1) * time
    if cfg["wrapper"] == "VEPrecond":
        return torch.ones_like(sigma), sigma, torch.ones_like(sigma), (0.5 * sigma).log()
    s = cfg["sigma_data"]
    total = sigma**2 + s**2
    return s**2 / total, sigma * s / total.sqrt(), 1 / total.sqrt(), sigma.log() / 4


def denoise(state, config, x, sigma, labels=None, dtype=torch.float32):
    """Return the denoised images, the network's raw output and the names of the tensors that were read.

    `sigma` is a number or a tensor (B,); `labels` holds class numbers, or is none for a zero one-hot vector.
    The network computes in `dtype`, its coefficients always in float32.
    """
    cfg, t = complete(config), Tensors(state, dtype)
    x = x.to(torch.float32)
    sigma = torch.as_tensor(sigma, dtype=torch.float32).reshape(-1, 1, 1, 1)
    c_skip, c_out, c_in, c_noise = coefficients(cfg, sigma)
    onehot = torch.zeros(len(x), cfg["label_dim"], dtype=dtype)
    if labels is not None:
        onehot = torch.eye(cfg["label_dim"], dtype=dtype)[labels]
    noise = c_noise.flatten().expand(len(x)).to(dtype)
    network = adm if cfg["model_type"] == "DhariwalUNet" else song
    raw = network(t, cfg, (c_in * x).to(dtype), noise, onehot)
    return c_skip * x + c_out * raw, raw, t.read

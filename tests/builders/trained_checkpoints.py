"""Small networks trained on digits, written in the layouts of other trainers: for checks and tutorials, which random weights cannot carry.

A checkpoint of random weights is opened by its own door, and its network is trained where it lies: its tensors are those of the
checkpoint. So every layout is trained by one loop, and nothing here knows a trainer's arithmetic but the door.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import checkpoint_builders
import edm_pickle_builder
import lucidrains_tools
import score_tools
import torch
from torch import nn

import diffmem as dm
from diffmem.models.config import build_denoiser
from diffmem.models.continuous import ContinuousDenoiser
from diffmem.models.denoiser import Denoiser
from diffmem.models.discrete import DiscreteDenoiser, DiscreteProcess, betas_of, levels_of
from diffmem.models.networks import score_unet
from diffmem.models.pretrained.doors import door_of

STEPS = 1500
_BATCH = 64
_RATE = 2e-3
_AVERAGED = 0.998
_TABLE = "timembedding.0"  # sines and cosines, which are not trained


@dataclass(frozen=True)
class Layout:
    """One trainer's file.

    Attributes:
        file: Its name, below the folder.
        random: Makes a checkpoint of random weights for images of some channels.
        channels: Of the images.
        settings: What the file does not tell.
        beside: Other files, by name, with their text.
        put_back: Puts a trained network into the checkpoint, where its tensors are no views of those.
    """

    file: str
    random: Callable[[], dict[str, Any]]
    channels: int = 3
    settings: Mapping[str, Any] = field(default_factory=dict)
    beside: Mapping[str, str] = field(default_factory=dict)
    put_back: Callable[[dict[str, Any], nn.Module], None] | None = None


def _put_back_scores(checkpoint: dict[str, Any], network: nn.Module) -> None:
    """Part queries, keys and values, which our network holds as one, into the maps of score_sde_pytorch; raw weights are as averaged."""
    unet = network.unet
    own, model = unet.state_dict(), checkpoint["model"]
    for name, sources in score_unet._sources(unet):
        for source, part in zip(sources, own[name].unflatten(0, (-1, len(sources))).unbind(1), strict=True):
            turned = part[:, :, 0, 0].T if ".NIN_" in source and part.ndim == 4 else part
            model[source].copy_(turned)
    trained = [
        one
        for name, one in model.items()
        if name != "module.sigmas" and not (name.endswith(".W") and "NIN" not in name)
    ]
    checkpoint["ema"]["shadow_params"] = [one.clone() for one in trained]


def _sigmoid_levels(steps: int = 1000) -> dict[str, torch.Tensor]:
    """The constants of the sigmoid schedule (Jabri et al. 2022, section 2.2; start -3, end 3, tau 1) and of objective v."""
    t = torch.linspace(0, 1, steps + 1, dtype=torch.float64) * 6 - 3
    signal = (torch.tensor(3.0).sigmoid() - t.sigmoid()) / (
        torch.tensor(3.0).sigmoid() - torch.tensor(-3.0).sigmoid()
    )
    products = (1 - (1 - signal[1:] / signal[:-1]).clamp(0, 0.999)).cumprod(0)
    return {
        "alphas_cumprod": products.float(),
        "sqrt_recipm1_alphas_cumprod": (1 / products - 1).sqrt().float(),
        "loss_weight": products.float(),
    }


def _lucidrains() -> dict[str, Any]:
    full = lucidrains_tools.AttentionShape(linear=False, heads=4, head_width=16, memory=4)
    linear = lucidrains_tools.AttentionShape(linear=True, heads=4, head_width=16, memory=4)
    settings = lucidrains_tools.small(
        inputs=1, outputs=1, widths=(32, 32, 64), out_width=32, embedding=32, condition=128,
        attention=(linear, full), middle=full,
    )  # fmt: skip
    made = lucidrains_tools.checkpoint(settings)
    for state, prefix in ((made["model"], ""), (made["ema"], "ema_model."), (made["ema"], "online_model.")):
        state |= {prefix + name: one.clone() for name, one in _sigmoid_levels().items()}
    return made


LAYOUTS = {
    "lucidrains": Layout("results/model-10.pt", _lucidrains, channels=1),
    "pytorch-ddpm": Layout(
        "logs/ckpt.pt",
        checkpoint_builders.pytorch_ddpm,
        beside={"logs/flagfile.txt": "--T=1000\n--beta_1=0.0001\n--beta_T=0.02\n"},
    ),
    "guided-diffusion": Layout(
        "checkpoints/ema_0.9999_003000.pt",
        lambda: checkpoint_builders.guided_diffusion(attention=True),
        settings={
            "num_heads": 4,
            "use_new_attention_order": False,
            "noise_schedule": "cosine",
            "diffusion_steps": 1000,
            "rescale_timesteps": False,
            "predict_xstart": False,
        },
    ),
    "torchcfm": Layout(
        "results/icfm_cifar10_weights_step_3000.pt",
        lambda: checkpoint_builders.torchcfm(scales=False),
        settings={"num_head_channels": 16},
    ),
    "flow-matching": Layout(
        "output/checkpoint.pth",
        checkpoint_builders.flow_matching,
        settings={"num_heads": 1},
    ),
    "score-sde": Layout(
        "checkpoints/checkpoint_3.pth",
        lambda: score_tools.checkpoint(width=32, sigmas=(50.0, 0.01, 1000)),
        settings={
            "sde": "vpsde",
            "continuous": True,
            "centered": True,
            "beta_min": 0.1,
            "beta_max": 20.0,
            "fir": False,
        },
        put_back=_put_back_scores,
    ),
}


def write_trained(name: str, folder: Path, images: dm.ImageSet, steps: int = STEPS) -> Path:
    """Train a small network on images and write it as its trainer would; return the file or folder to open.

    Args:
        name: Of the layout, in `WRITERS`.
        folder: Where to write.
        images: Square, of any channels.
        steps: Of the optimizer.
    """
    return WRITERS[name](folder, images, steps)


def opened_as_told(name: str, path: Path, images: dm.ImageSet) -> Denoiser:
    """Open what was written, with what its file does not tell."""
    layout = LAYOUTS.get(name)
    settings = None if layout is None else layout.settings or None
    return dm.open_model(path, settings=settings, resolution=images.shape[1])


def _checkpoint(layout: Layout, folder: Path, images: dm.ImageSet, steps: int) -> Path:
    checkpoint = layout.random()
    path = _place(folder / layout.file)
    for other, text in layout.beside.items():
        _place(folder / other).write_text(text)
    door = door_of(checkpoint)
    assert door is not None
    shape = (layout.channels, *images.shape[1:])

    def opened(weights: str) -> Denoiser | None:
        try:
            return door.open(checkpoint, shape, layout.settings or None, weights, path, "cpu")[0]
        except dm.UserError:
            return None

    averaged = opened("ema")
    assert averaged is not None
    trained = opened("raw") or averaged
    average = train(trained, _network(trained), pixels_of(images, layout.channels), steps)
    with torch.no_grad():
        for key, one in _network(averaged).state_dict().items():
            one.copy_(average[key])
        if layout.put_back is not None:
            layout.put_back(checkpoint, _network(averaged))
    torch.save(checkpoint, path)
    x = torch.zeros(1, *shape)
    again = opened("ema")
    assert again is not None
    assert torch.equal(again(x, 1.0), averaged(x, 1.0)), "the network is no view of its checkpoint"
    return path


def _edm(folder: Path, images: dm.ImageSet, steps: int) -> Path:
    """A network of EDM's DDPM++ with EDM preconditioning, in a pickle of its training code."""
    config = {
        "class_name": "EDMPrecond", "model_type": "SongUNet", "img_resolution": 8, "img_channels": 1, "label_dim": 0,
        "model_channels": 32, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4], "dropout": 0.0,
    }  # fmt: skip
    model = dm.ModelConfig(
        preconditioning="edm", channels=32, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0.0
    )
    denoiser = build_denoiser(model, (1, 8, 8), 0)
    average = train(denoiser, denoiser, pixels_of(images, 1), steps)
    path = _place(folder / "training-runs" / "00000-digits" / "network-snapshot-000192.pkl")
    path.write_bytes(edm_pickle_builder.pickled(edm_pickle_builder.snapshot(average, config)))
    return path


def _diffusers(folder: Path, images: dm.ImageSet, steps: int) -> Path:
    """A DDPMPipeline of diffusers."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(32, 64), norm_num_groups=8,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    denoiser = DiscreteDenoiser(
        lambda x, t, labels: unet(x, t).sample,
        DiscreteProcess(levels_of(betas_of("linear", 1000))),
        (1, 8, 8),
    )
    unet.load_state_dict(train(denoiser, unet, pixels_of(images, 1), steps))
    DDPMPipeline(unet=unet, scheduler=DDPMScheduler()).save_pretrained(folder / "ddpm-digits")
    return folder / "ddpm-digits"


WRITERS: dict[str, Callable[[Path, dm.ImageSet, int], Path]] = {
    **{name: partial(_checkpoint, layout) for name, layout in LAYOUTS.items()},
    "edm": _edm,
    "diffusers": _diffusers,
}


def _place(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def pixels_of(images: dm.ImageSet, channels: int) -> torch.Tensor:
    """Return images in [-1, 1] with so many channels."""
    pixels = torch.tensor(images.images).float() / 127.5 - 1
    return (
        pixels if pixels.shape[1] == channels else pixels.mean(1, keepdim=True).expand(-1, channels, -1, -1)
    )


def train(
    denoiser: Denoiser, network: nn.Module, images: torch.Tensor, steps: int, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Train the network of a denoiser in place, by denoising, and return the average of its weights."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    reset(network)
    for name, one in network.named_parameters():
        one.requires_grad_(_TABLE not in name)
    average = deepcopy(network.state_dict())
    optimizer = torch.optim.AdamW([one for one in network.parameters() if one.requires_grad], _RATE)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        y = images[torch.randint(len(images), (_BATCH,), generator=generator)]
        sigma = _levels(denoiser, generator)
        level = sigma[:, None, None, None].float()
        noisy = y + level * torch.randn(y.shape, generator=generator)
        weight = _weight(denoiser, sigma)[:, None, None, None].float()
        loss = (weight * (denoiser(noisy, sigma) - y).square()).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        rate.step()
        keep = min(_AVERAGED, (1 + step) / (10 + step))
        with torch.no_grad():
            for key, one in network.state_dict().items():
                if one.is_floating_point():
                    average[key].mul_(keep).add_(one.detach(), alpha=1 - keep)
    network.requires_grad_(False)
    return average


def _weight(denoiser: Denoiser, sigma: torch.Tensor) -> torch.Tensor:
    """What makes squared errors of D those of what the network itself predicts, whatever its head."""
    if isinstance(denoiser, DiscreteDenoiser):
        squares = sigma.square()
        return {
            "epsilon": 1 / squares,
            "sample": torch.ones_like(squares),
            "v_prediction": 1 + 1 / squares,
        }[denoiser.prediction]
    if isinstance(denoiser, ContinuousDenoiser):
        out = torch.as_tensor(denoiser.process.coefficients(sigma).out).expand(len(sigma))
        return out.double() ** -2
    return denoiser.preconditioning.loss_weight(sigma)


def _levels(denoiser: Denoiser, generator: torch.Generator) -> torch.Tensor:
    """Noise levels of a batch: of uniform timesteps, or of EDM's log-normal distribution where time is continuous."""
    if isinstance(denoiser, DiscreteDenoiser):
        return denoiser.levels[torch.randint(len(denoiser.levels), (_BATCH,), generator=generator)]
    drawn = (torch.randn(_BATCH, generator=generator, dtype=torch.float64) * 1.4 - 0.8).exp()
    return drawn.clamp(max(denoiser.sigma_min, 1e-3), denoiser.sigma_max)


def _network(denoiser: Denoiser) -> nn.Module:
    network = denoiser._network
    assert isinstance(network, nn.Module)
    return network


def reset(network: nn.Module) -> None:
    """Begin as a training would: every layer at PyTorch's usual values, gains at one."""
    for at, module in network.named_modules():
        begin = getattr(module, "reset_parameters", None)
        if begin is not None and _TABLE not in at:
            begin()
    with torch.no_grad():
        for name, one in network.named_parameters():
            if name.rpartition(".")[2] == "g":
                one.fill_(1)

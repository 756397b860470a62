"""Small networks that were trained for seconds, in the layouts of other trainers."""

from __future__ import annotations

import torch
from checkpoint_builders import guided_diffusion

from diffmem.models.discrete import betas_of, cosine_rates
from diffmem.models.networks.guided_unet import GuidedUNet, Heads


def started(network, last, seed=0):
    """The network with random weights, to be trained; its last layer is 0, as these trainers start."""
    network = network.to_empty(device="cpu").train().requires_grad_(True)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if value.ndim == 1 or name.startswith(last):
                value.fill_(float(name.endswith("weight") and not name.startswith(last)))
            else:
                value.normal_(std=value[0].numel() ** -0.5, generator=generator)
    return network


def trained(
    network, images, *, steps, target, signal, time_scale=1.0, labels=None, batch=64, rate=2e-3, seed=0
):
    """The averaged state dict of a network that was trained on images by the loss of discrete time.

    Args:
        images: uint8 (N, C, H, W).
        target: What the network learns to predict, of (y, n, a, b) with x_t = a y + b n.
        signal: Products of 1 - beta, (T,).
        time_scale: What timesteps are multiplied by.
    """
    torch.manual_seed(seed)
    data = torch.tensor(images).float() / 127.5 - 1
    signal = signal.float()
    optimiser = torch.optim.Adam(network.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    for step in range(steps):
        chosen = torch.randint(len(data), (batch,))
        y, t = data[chosen], torch.randint(len(signal), (batch,))
        n = torch.randn_like(y)
        a, b = signal[t].sqrt()[:, None, None, None], (1 - signal[t]).sqrt()[:, None, None, None]
        given = None if labels is None else torch.as_tensor(labels)[chosen]
        made = network(a * y + b * n, t if time_scale == 1 else t * time_scale, given)
        loss = (made - target(y, n, a, b)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            keep = min(0.995, (step + 1) / (step + 10))
            for name, value in network.state_dict().items():
                average[name].lerp_(value, 1 - keep)
    return average


def the_noise(y, n, a, b):
    return n


def the_image(y, n, a, b):
    return y


def the_velocity(y, n, a, b):
    return a * n - b * y


def signal_of(schedule, steps=1000):
    betas = betas_of("linear", steps).double() if schedule == "linear" else torch.tensor(cosine_rates(steps))
    return (1 - betas).cumprod(0)


def trained_guided(
    images, steps, *, new_order=False, schedule="linear", target=the_noise, heads=4, labels=None
):
    """A checkpoint of guided-diffusion, trained with its settings."""
    classes = 0 if labels is None else int(labels.max()) + 1
    channels = images.shape[1]
    tensors = guided_diffusion(classes=classes, outputs=channels, inputs=channels)
    network = started(GuidedUNet(tensors, Heads(number=heads, new_order=new_order)), "out.2")
    return trained(network, images, steps=steps, target=target, signal=signal_of(schedule), labels=labels)

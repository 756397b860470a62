"""Each trainer's own sampler, written from its published formula, and ours end at the same images: levels and ends are the trainer's.

A checkpoint is opened by its door; then its network is replaced by one that answers, in that trainer's units and times, with what the
closed-form optimum of a few images implies. The schedules here are computed from the trainers' options, not taken from the door.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from checkpoint_builders import flow_matching, guided_diffusion, pytorch_ddpm, torchcfm
from lucidrains_tools import STEPS, checkpoint, elucidated, guided
from optimum_tools import image_set, random_pixels
from scipy.integrate import solve_ivp
from score_tools import checkpoint as score_checkpoint

from diffmem.models.pretrained.doors import door_of
from diffmem.optimum.optimum import Optimum
from diffmem.sampling.config import SamplerConfig
from diffmem.sampling.samplers import sample_latents
from diffmem.sampling.seeds import SeededNoise

SHAPE = (3, 8, 8)
PIXELS = random_pixels(5, SHAPE)
IMAGES = torch.from_numpy(PIXELS).double() / 127.5 - 1
OPTIMUM = Optimum(image_set(PIXELS))
COUNT = 3
_NOWHERE = Path("nowhere")
NEAR = 0.05
"""How far an image may be from one of the set; these are more than ten times as far from each other."""


def column(values):
    return torch.as_tensor(values, dtype=torch.float64).reshape(-1, 1, 1, 1)


def clean_of(x_t, signal, spread):
    """The optimum for x_t = signal y + spread n."""
    m, s = column(signal), column(spread)
    return OPTIMUM(x_t.double() / m, (s / m).expand(len(x_t), 1, 1, 1).flatten()).double()


def noise(seed=0):
    return torch.randn(COUNT, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def nearest_of(x):
    """The image that each sample is at; it must be at one."""
    distance, at = (x.double()[:, None] - IMAGES).abs().amax((2, 3, 4)).min(1)
    assert float(distance.max()) < NEAR, distance
    return at.tolist()


def opened(held, settings=None, name="x.pt", tmp=None, shape=SHAPE):
    return door_of(held).open(held, shape, settings, "ema", (tmp or _NOWHERE) / name, "cpu")[0]


def sampled(denoiser, seed=0, **options):
    """What our sampler makes of the noise, by default between the ends of the denoiser's levels."""
    usual = {"steps": 30, "sigma_min": denoiser.sigma_min, "sigma_max": denoiser.sigma_max}
    generators = [torch.Generator().manual_seed(i) for i in range(COUNT)]
    fresh = SeededNoise(generators) if "S_churn" in options else None
    labels = torch.zeros(COUNT, dtype=torch.int64) if denoiser.num_labels else None
    return sample_latents(denoiser, noise(seed), labels, SamplerConfig(**{**usual, **options}), fresh)


def test_the_images_are_far_from_each_other():
    apart = (IMAGES[:, None] - IMAGES).abs().amax((2, 3, 4)) + 9 * torch.eye(len(IMAGES))
    assert float(apart.min()) > 10 * NEAR


def timed(products, kind):
    """A network that is told timesteps, which GuidedUNet would rescale; between them, products of 1 - beta are geometric."""
    logs = products.log()

    def network(x_t, time, labels=None):
        t = time.double()
        low = t.floor().long().clamp(max=len(logs) - 2)
        m2 = torch.lerp(logs[low], logs[low + 1], t - low).exp()
        m, s = column(m2.sqrt()), column((1 - m2).sqrt())
        clean = clean_of(x_t, m, s)
        predicted = (x_t.double() - m * clean) / s
        return {"noise": predicted, "image": clean, "v": m * predicted - s * clean}[kind].float()

    return network


def clean_from(raw, x, a, kind):
    """Ho et al. 2020, eq. 15 and before; Salimans and Ho 2022, appendix D."""
    if kind == "image":
        return raw
    return x / a.sqrt() - (1 / a - 1).sqrt() * raw if kind == "noise" else a.sqrt() * x - (1 - a).sqrt() * raw


def ancestral(network, products, kind, large=False):
    """Ho et al. 2020, Algorithm 2, with the posterior's variance (eq. 7) or beta, over all timesteps."""
    before = torch.cat([torch.ones(1, dtype=torch.float64), products[:-1]])
    x, generator = noise(), torch.Generator().manual_seed(1)
    for t in reversed(range(len(products))):
        a, earlier = products[t], before[t]
        beta = 1 - a / earlier
        raw = network(x.float(), torch.full((COUNT,), float(t))).double()
        clean = clean_from(raw, x, a, kind)
        mean = earlier.sqrt() * beta / (1 - a) * clean + (a / earlier).sqrt() * (1 - earlier) / (1 - a) * x
        variance = beta if large else beta * (1 - earlier) / (1 - a)
        x = mean + (
            variance.sqrt() * torch.randn(x.shape, generator=generator, dtype=torch.float64) if t else 0
        )
    return x


def ddim(network, products, kind):
    """Song et al. 2021, "Denoising Diffusion Implicit Models", eq. 12 with eta 0, over all timesteps."""
    x = noise()
    for t in reversed(range(len(products))):
        a, earlier = products[t], products[t - 1] if t else torch.tensor(1.0)
        clean = clean_from(network(x.float(), torch.full((COUNT,), float(t))).double(), x, a, kind)
        x = earlier.sqrt() * clean + (1 - earlier).sqrt() * (x - a.sqrt() * clean) / (1 - a).sqrt()
    return x


def linear(steps, first, last):
    return (1 - torch.linspace(first, last, steps, dtype=torch.float64)).cumprod(0)


def cosine(steps):
    """Nichol and Dhariwal 2021, eq. 17, rates capped at 0.999."""
    t = torch.arange(steps + 1, dtype=torch.float64) / steps
    signal = ((t + 0.008) / 1.008 * math.pi / 2).cos().square()
    return (signal[1:] / signal[:-1]).clamp(min=1 - 0.999).cumprod(0)


def lucidrains(objective):
    return checkpoint(objective=objective), None, linear(STEPS, 1e-3, 0.3)


GUIDED = {"num_heads": 4, "use_new_attention_order": False, "diffusion_steps": 50, "predict_xstart": False}
DISCRETE = {
    "lucidrains, noise": (lambda: lucidrains("pred_noise"), "noise", False),
    "lucidrains, image": (lambda: lucidrains("pred_x0"), "image", False),
    "lucidrains, v": (lambda: lucidrains("pred_v"), "v", False),
    "lucidrains, classes": (lambda: (guided(), None, linear(STEPS, 1e-3, 0.3)), "noise", False),
    # The variance that trainer samples with by default is fixedlarge.
    "pytorch-ddpm": (
        lambda: (pytorch_ddpm(steps=50), {"beta_1": 2e-3, "beta_T": 0.4}, linear(50, 2e-3, 0.4)), "noise", True,
    ),
    "guided-diffusion": (
        lambda: (guided_diffusion(outputs=6), {**GUIDED, "noise_schedule": "linear", "rescale_timesteps": False}, linear(50, 2e-3, 0.4)),
        "noise", False,
    ),
    "improved-diffusion": (
        lambda: (guided_diffusion(), {**GUIDED, "noise_schedule": "cosine", "rescale_timesteps": True}, cosine(50)), "noise", True,
    ),
    "improved-diffusion, image": (
        lambda: (
            guided_diffusion(), {**GUIDED, "noise_schedule": "cosine", "rescale_timesteps": True, "predict_xstart": True}, cosine(50),
        ),
        "image", True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DISCRETE)
def test_a_sampler_of_timesteps_and_ours_end_at_the_images_from_the_same_levels(tmp_path, name):
    make, kind, large = DISCRETE[name]
    held, settings, products = make()
    denoiser = opened(held, settings, tmp=tmp_path)
    levels = (1 / products - 1).sqrt()
    assert denoiser.sigma_max == pytest.approx(float(levels[-1]), rel=1e-4)
    assert denoiser.sigma_min == pytest.approx(float(levels[0]), rel=1e-4)
    network = timed(products, kind)
    nearest_of(ancestral(network, products, kind, large))
    denoiser._network = network
    ours, theirs = nearest_of(sampled(denoiser)), nearest_of(ddim(network, products, kind))
    # The first of few cosine steps leads from a level of thousands to one of tens: where it goes is no solution of the equation.
    assert ours == theirs or levels[-1] > 10 * levels[-2]


def edm_network(x, time, labels=None):
    """F of EDM's Table 1 with sigma_data 0.5, told ln(sigma) / 4."""
    sigma = column((4 * time.double()).exp())
    total = sigma.square() + 0.25
    state = x.double() * total.sqrt()
    clean = clean_of(state, torch.ones(1), sigma)
    return ((clean - 0.25 / total * state) * total.sqrt() / (0.5 * sigma)).float()


def test_elucidated_diffusions_own_settings_end_at_the_images():
    """Karras et al. 2022, Algorithm 2, with that class's defaults: 32 steps, 0.002 to 80, rho 7, S_churn 80, 0.05 to 50, 1.003."""
    ramp = torch.arange(32, dtype=torch.float64) / 31
    levels = torch.cat([(80 ** (1 / 7) + ramp * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7, torch.zeros(1)])
    x, generator = 80 * noise(), torch.Generator().manual_seed(1)

    def slope(x, sigma):
        total = sigma**2 + 0.25
        raw = edm_network((x / total.sqrt()).float(), (sigma.log() / 4).expand(COUNT)).double()
        return (x - 0.25 / total * x - 0.5 * sigma / total.sqrt() * raw) / sigma

    for sigma, after in pairwise(levels):
        gamma = min(80 / 32, math.sqrt(2) - 1) if 0.05 <= sigma <= 50 else 0
        higher = sigma * (1 + gamma)
        fresh = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        x = x + (higher**2 - sigma**2).sqrt() * 1.003 * fresh
        first = slope(x, higher)
        reached = x + (after - higher) * first
        x = x + (after - higher) * (first + slope(reached, after)) / 2 if after > 0 else reached
    nearest_of(x)
    denoiser = opened(elucidated())
    denoiser._network = edm_network
    churned = {"S_churn": 80, "S_min": 0.05, "S_max": 50, "S_noise": 1.003}
    assert set(nearest_of(sampled(denoiser, steps=32, sigma_min=0.002, sigma_max=80, **churned))) <= set(
        range(5)
    )


def straight(x, time, labels=None):
    """y - n of x = t y + (1 - t) n; at t = 0, where x is the noise, y is the mean."""
    t = column(time).clamp(min=1e-6)
    clean = clean_of(x, t, 1 - t)
    return (clean - (x.double() - t * clean) / (1 - t)).float()


def curved(x, time, labels=None):
    """The derivative of sin(pi t / 2) y + cos(pi t / 2) n."""
    angle = math.pi / 2 * column(time).clamp(min=1e-6)
    clean = clean_of(x, angle.sin(), angle.cos())
    return (
        math.pi / 2 * (angle.cos() * clean - angle.sin() * (x.double() - angle.sin() * clean) / angle.cos())
    ).float()


FLOWS = {
    "torchcfm, icfm": (torchcfm, {"path": "icfm", "num_head_channels": 32}, straight, 60),
    "torchcfm, si": (torchcfm, {"path": "si", "num_head_channels": 32}, curved, 60),
    "flow_matching": (flow_matching, {"num_heads": 1}, straight, 30),
}


@pytest.mark.parametrize("name", FLOWS)
def test_following_the_velocity_and_our_sampler_end_at_the_same_images(name):
    """dx/dt = v from noise at t = 0: Euler's steps in torchcfm's script (midpoint rule in flow_matching), to t = 1."""
    make, settings, network, steps = FLOWS[name]
    x, h = noise(), 1 / steps
    for step in range(steps):
        half = h / 2 if name == "flow_matching" else 0
        middle = x + half * network(x.float(), torch.full((COUNT,), step * h)).double()
        x = x + h * network(middle.float(), torch.full((COUNT,), step * h + half)).double()
    denoiser = opened(make(), settings)
    denoiser._network = network
    assert nearest_of(sampled(denoiser, steps=40, sigma_min=1e-3, sigma_max=1e3)) == nearest_of(x)


FIRST, LAST = 0.1, 20.0


def told_times(sub):
    """A network that predicts the noise at 999 t: Song et al. 2021, eq. 33 and 34."""

    def network(x_t, time, labels=None):
        t = time.double() / 999
        m = column((-(LAST - FIRST) * t**2 / 4 - FIRST * t / 2).exp())
        s = 1 - m**2 if sub else (1 - m**2).sqrt()
        return ((x_t.double() - m * clean_of(x_t, m, s)) / s).float()

    return network


@pytest.mark.parametrize("sde", ["vpsde", "subvpsde"])
def test_the_probability_flow_of_score_sde_and_our_sampler_end_at_the_same_images(sde):
    """Song et al. 2021, eq. 13 with VP's and sub-VP's drift and diffusion, by the trainer's RK45 from 1 to 1e-3 with tolerance 1e-5."""
    sub = sde == "subvpsde"
    network = told_times(sub)

    def slope(t, flat):
        x = torch.from_numpy(flat).reshape(COUNT, *SHAPE)
        rate = FIRST + t * (LAST - FIRST)
        kept = math.exp(-(LAST - FIRST) * t**2 / 2 - FIRST * t)  # m^2
        spread = 1 - kept if sub else math.sqrt(1 - kept)
        score = -network(x.float(), torch.full((COUNT,), 999 * t)).double() / spread
        diffusion = rate * (1 - kept**2) if sub else rate
        return (-rate * x / 2 - diffusion * score / 2).flatten().numpy()

    start = noise().flatten().numpy()
    end = solve_ivp(slope, (1, 1e-3), start, "RK45", rtol=1e-5, atol=1e-5).y[:, -1]
    settings = {
        "sde": sde,
        "continuous": True,
        "centered": True,
        "beta_min": FIRST,
        "beta_max": LAST,
        "fir": False,
    }
    denoiser = opened(score_checkpoint(), settings)
    kept = math.exp(-(LAST - FIRST) / 2 - FIRST)
    highest = (1 - kept) / math.sqrt(kept) if sub else math.sqrt((1 - kept) / kept)
    assert denoiser.sigma_max == pytest.approx(highest, rel=1e-6)
    denoiser._network = network
    assert nearest_of(sampled(denoiser)) == nearest_of(torch.from_numpy(end).reshape(COUNT, *SHAPE))


@pytest.mark.parametrize("centered", [False, True])
def test_the_predictor_of_ve_and_our_sampler_end_at_the_images(centered):
    """Song et al. 2021, appendix E, reverse diffusion over N geometric levels, from sigma_max; images in [0, 1] unless centered."""
    units = 1 if centered else 2

    def network(x, sigma, labels=None):
        """The score times sigma, as the network gives it with scale_by_sigma before that division."""
        s = column(sigma)
        state = x.double() if centered else 2 * x.double() - 1
        clean = clean_of(state, torch.ones(1), units * s)
        return (((clean if centered else (clean + 1) / 2) - x.double()) / s).float()

    steps = 100
    levels = 50 * (0.01 / 50) ** (torch.arange(steps, dtype=torch.float64) / (steps - 1))
    x, generator = 50 * noise(), torch.Generator().manual_seed(1)
    for at, sigma in enumerate(levels):
        after = levels[at + 1] if at + 1 < steps else torch.tensor(0.0)
        gap = sigma**2 - after**2
        score = network(x.float(), sigma.expand(COUNT)).double() / sigma
        mean = x + gap * score
        x = mean + gap.sqrt() * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    nearest_of(mean if centered else 2 * mean - 1)
    settings = {
        "sde": "vesde",
        "continuous": True,
        "centered": centered,
        "scale_by_sigma": True,
        "fir": False,
    }
    denoiser = opened(score_checkpoint(fourier=True, sigmas=(50.0, 0.01, 100)), settings)
    assert (denoiser.sigma_min, denoiser.sigma_max) == pytest.approx((units * 0.01, units * 50), rel=1e-5)
    denoiser._network = network
    nearest_of(sampled(denoiser))

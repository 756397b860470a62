"""EDM's iDDPM preconditioning: whole timesteps, of which the network is told the nearest, and outputs of a variance that are dropped."""

from __future__ import annotations

import pytest
import torch
from edm_pickle_builder import pickled, snapshot
from edm_pickle_tools import ADM, refused
from edm_reference import Tensors, adm, complete
from models_tools import images, random_state
from torch import nn

from diffmem.errors import UserError
from diffmem.models import open_model
from diffmem.models.networks.families import DhariwalUNet
from diffmem.models.networks.unet import UNetSettings
from diffmem.models.preconditioning import IDDPM, Preconditioned, iddpm_levels
from diffmem.models.pretrained.foreign import from_edm_state_dict
from diffmem.sampling.config import SamplerConfig
from diffmem.sampling.generate import generate

STEPS = 1000
LEVELS = iddpm_levels(STEPS)
CONFIG = {**ADM, "class_name": "iDDPMPrecond"}


def network_state():
    settings = UNetSettings(
        resolution=8,
        image_channels=3,
        num_labels=3,
        base_width=16,
        multipliers=(1, 2),
        blocks=1,
        attention=(4,),
        dropout=0.0,
    )
    state = random_state(DhariwalUNet(settings, with_variance=True))
    return {**{f"model.{name}": value for name, value in state.items()}, "u": LEVELS.float()}


STATE = network_state()


def test_the_levels_are_those_of_the_published_table():
    """Karras et al. 2022, Table 1: sigma_min and sigma_max of iDDPM; every other level has a closed form, as the products telescope."""
    assert len(LEVELS) == STEPS + 1
    assert float(LEVELS[0]) == pytest.approx(20291, abs=1)
    assert float(LEVELS[-2]) == pytest.approx(0.00642, abs=1e-5)
    assert float(LEVELS[-1]) == 0
    steps = torch.arange(1, STEPS + 1, dtype=torch.float64)
    signal = (torch.pi * steps / (2 * STEPS * 1.008)).sin().square()
    torch.testing.assert_close(
        LEVELS[1:], (signal[-1] / signal - 1).clamp(min=0).sqrt(), rtol=1e-6, atol=1e-7
    )


class _Settings:
    image_channels = 1


class _Inverted(nn.Module):
    """A network whose denoiser is the closed-form optimum of a few images: that optimum through the inverse of the head."""

    settings, resolution, num_labels = _Settings(), 4, 0

    def __init__(self, training):
        super().__init__()
        self.training_images = nn.Parameter(training, requires_grad=False)

    def optimum(self, x, sigma):
        distances = (x[:, None] - self.training_images).square().sum((2, 3, 4))
        weights = (-distances / (2 * sigma**2)).softmax(1)
        return torch.einsum("nm,mchw->nchw", weights, self.training_images)

    def forward(self, scaled, step, labels):
        sigma = float(LEVELS[STEPS - 1 - int(step[0])])
        x = scaled.double() * (1 + sigma**2) ** 0.5
        noise = (x - self.optimum(x, sigma)) / sigma
        return torch.cat([noise, torch.full_like(noise, torch.nan)], 1)


def test_at_the_levels_of_timesteps_d_is_that_of_the_timestep():
    network = _Inverted(images(5, size=4, channels=1).double().clamp(-1, 1))
    denoiser = Preconditioned(network, IDDPM(LEVELS.float()))
    for j in (0, 1, 2, 10, 300, 700, 998, 999):
        sigma = float(LEVELS[j])
        x = network.training_images[:2] + sigma * images(2, size=4, seed=j, channels=1).double()
        # In float32, x - sigma F is known to some 1e-7 of x.
        torch.testing.assert_close(
            denoiser(x, sigma).double(), network.optimum(x, sigma), rtol=0, atol=1e-6 * max(1, 4 * sigma)
        )


def test_samplers_end_at_the_images_of_the_optimum():
    """With levels between those of timesteps, too; from EDM's sigma_max of 80 and from its own."""
    network = _Inverted(images(5, size=4, channels=1).double().clamp(-1, 1))
    denoiser = Preconditioned(network, IDDPM(LEVELS.float()))
    bytes_ = ((network.training_images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).int()
    for config in (SamplerConfig(steps=40), SamplerConfig(steps=60, sigma_max=float(LEVELS[1]))):
        made = torch.from_numpy(generate(denoiser, range(4), config).images).int()
        apart = (made[:, None] - bytes_).abs().amax((2, 3, 4))
        assert int(apart.min(1).values.max()) <= 1


def test_between_two_levels_the_network_is_told_the_nearest():
    preconditioning = IDDPM(LEVELS.float())
    upper, lower = float(LEVELS[500]), float(LEVELS[501])
    middle = (upper + lower) / 2
    sigma = torch.tensor([upper, middle * 1.0001, middle * 0.9999, lower])
    skip, out, scale, told = preconditioning.coefficients(sigma)
    assert told.tolist() == [499, 499, 498, 498]
    assert skip == 1
    assert torch.equal(out, -sigma)
    torch.testing.assert_close(scale, 1 / (1 + sigma**2).sqrt())


def test_training_levels_are_those_of_timesteps():
    drawn = IDDPM(LEVELS.float()).noise_levels(torch.tensor([0.0, 0.5, 0.9999]), torch.zeros(3))
    assert torch.equal(drawn, LEVELS.float()[[0, 500, 999]])


@pytest.mark.parametrize("positional", [False, True])
def test_a_snapshot_answers_as_the_network_written_out(tmp_path, positional):
    path = tmp_path / "network-snapshot-000000.pkl"
    config, given = dict(CONFIG), ()
    if positional:
        first = ("img_resolution", "img_channels", "label_dim")
        given = (*(config.pop(name) for name in first), False, 0.001, 0.008, STEPS)
    path.write_bytes(pickled(snapshot(STATE, config, args=given)))
    denoiser = open_model(path, device="cpu")
    assert denoiser.sigma_max == pytest.approx(20291, abs=1)
    assert denoiser.num_labels == 3
    assert "D jumps between timesteps" in " ".join(denoiser.origin.notes)
    layout = complete({**CONFIG, "class_name": "EDMPrecond"})
    for sigma in (0.01, 0.7, 30.0):
        x = images(2) * (1 + sigma)
        told = torch.full((2,), float(STEPS - 1 - (LEVELS - sigma).abs().argmin()))
        for labels, onehot in ((torch.tensor([0, 2]), torch.eye(3)[[0, 2]]), (None, torch.zeros(2, 3))):
            raw = adm(Tensors(STATE, torch.float32), layout, x / (1 + sigma**2) ** 0.5, told, onehot)
            assert raw.shape[1] == 6
            wanted = x - sigma * raw[:, :3]
            assert (denoiser(x, sigma, labels) - wanted).norm() < 2e-6 * wanted.norm()


@pytest.mark.parametrize(
    ("change", "arguments", "words"),
    [
        ({"u": None}, {}, "the noise levels u"),
        ({}, {"M": 500}, r"shape \(501,\)"),
        ({"u": LEVELS.float() * 1.01}, {}, "not those of M, C_1 and C_2"),
        ({}, {"C_2": 0.01}, "not those of M, C_1 and C_2"),
        ({}, {"C_1": 0.0}, "no cosine schedule"),
        ({}, {"C_2": -1.0}, "no cosine schedule"),
        ({}, {"model_type": "SongUNet"}, "must be DhariwalUNet"),
        ({"model.out_conv.bias": torch.zeros(3)}, {}, "model.out_conv.bias"),
    ],
)
def test_what_does_not_fit_is_refused(change, arguments, words):
    state = {name: value for name, value in {**STATE, **change}.items() if value is not None}
    with pytest.raises(UserError, match=f"(?i){words}"):
        from_edm_state_dict(state, {**CONFIG, **arguments})


def test_a_snapshot_that_claims_more_timesteps_than_it_holds_is_refused(tmp_path):
    assert "1000000000 timesteps" in refused(tmp_path, pickled(snapshot(STATE, {**CONFIG, "M": 10**9})))

"""DDPM++ and NCSN++ in the layout of score_sde_pytorch against their formulas, layer by layer in float64."""

from __future__ import annotations

import pytest
import torch
from score_tools import Layer, answer, plan, tensors_of

from diffmem.errors import UserError
from diffmem.models.networks.score_unet import LAYERS, ScoreLayout, ScoreUNet

NETWORKS = {
    "DDPM++": ({}, False),
    "DDPM++ with filters": ({}, True),
    "NCSN++": ({"fourier": True, "pyramid": "residual"}, True),
    "NCSN++ of large images": (
        {"fourier": True, "pyramid": "input_skip", "output_skip": True, "multipliers": (1, 1, 2), "attention": (2,)},
        True,
    ),
    "pyramids without filters": ({"pyramid": "input_skip", "output_skip": True}, False),
    "no attention but in the middle": ({"attention": (), "blocks": 2, "multipliers": (2, 3)}, False),
    "attention everywhere, one channel": ({"attention": (0, 1), "channels": 1, "blocks": 2}, True),
    "one level": ({"multipliers": (2,), "attention": (0,), "blocks": 2}, False),
    "four levels": ({"multipliers": (1, 2, 2, 2), "blocks": 1, "attention": (1,)}, True),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("centered", [True, False])
def test_the_network_is_that_of_its_formulas(name, centered):
    options, fir = NETWORKS[name]
    layers = plan(**options)
    tensors = tensors_of(layers)
    layout = ScoreLayout.of(tensors)
    assert layout.multipliers == options.get("multipliers", (1, 2))
    assert layout.attention == options.get("attention", (1,))
    assert layout.fir == (
        True if options.get("pyramid") == "residual" else False if layout.scale == 1 else None
    )
    network = ScoreUNet(tensors, layout, 16, fir=fir, centered=centered)
    x, t = torch.randn(2, options.get("channels", 3), 16, 16), torch.tensor([0.3, 7.0])
    shown = x if centered else 2 * x - 1
    wanted = answer(tensors, layers, shown, t, fir)
    error = (network(x, t).double() - wanted).norm() / wanted.norm()
    assert error < 3e-6
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_random_numbers_of_the_caller_are_left_alone():
    tensors = tensors_of(plan())
    before = torch.get_rng_state()
    ScoreUNet(tensors, ScoreLayout.of(tensors), 8, fir=False, centered=True)
    assert torch.equal(torch.get_rng_state(), before)


def altered(change, options):
    tensors = tensors_of(plan(**options)) | {f"{LAYERS}.{name}": one for name, one in change.items()}
    return {name: one for name, one in tensors.items() if one is not None}


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ({"7.Conv_0.weight": torch.zeros(9, 16, 3, 3)}, {}, ["all_modules.7.Conv_0.weight", "(9, 16, 3, 3)"]),
        ({"5.Conv_0.weight": torch.zeros(9, 8, 3, 3)}, {}, ["[8, 9]", "no multiples"]),
        ({"18.weight": torch.zeros(8, 8), "18.bias": torch.zeros(8)}, {}, ["'module.all_modules.18.weight'"]),
        ({"3.Dense_0.bias": None}, {}, ["lacks", "all_modules.3.Dense_0.bias"]),
        ({"3.Extra.bias": torch.zeros(1)}, {}, ["biggan"]),
        ({"6.NIN_1.W": torch.zeros(16, 8)}, {}, ["all_modules.6.NIN_1.W", "(16, 8)"]),
        ({"2.weight": None, "2.bias": None}, {}, ["numbered"]),
        ({"x.weight": torch.zeros(1)}, {}, ["numbered"]),
        ({"3.Conv_0.bias": torch.full((8,), torch.nan)}, {}, ["not finite"]),
        ({"0.bias": None}, {}, ["do not begin"]),
        ({"3.NIN_0.W": torch.zeros(8, 8)}, {}, ["biggan"]),
        # What follows a combination by concatenation has twice the channels.
        (
            {"6.GroupNorm_0.weight": torch.zeros(16), "6.GroupNorm_0.bias": torch.zeros(16)},
            {"pyramid": "input_skip"},
            ["all_modules.6.GroupNorm_0.weight", "progressive_combine 'sum'"],
        ),
    ],
)
def test_tensors_of_another_network_are_refused_by_their_names(change, options, words):
    tensors = altered(change, options)
    with pytest.raises(UserError) as found:
        ScoreUNet(tensors, ScoreLayout.of(tensors), 8, fir=False, centered=True)
    for word in words:
        assert word in str(found.value)


def test_a_pyramid_of_residual_outputs_is_refused():
    layers = plan(**NETWORKS["NCSN++"][0])
    tensors = tensors_of([*layers[:-3], Layer("pyramid", 16, 8), *layers[-3:]])
    with pytest.raises(UserError, match=r"'pyramid'.* progressive 'none' or 'output_skip'"):
        ScoreUNet(tensors, ScoreLayout.of(tensors), 8, fir=True, centered=True)


def test_widths_that_such_networks_cannot_have_are_refused():
    with pytest.raises(UserError, match="even"):
        ScoreLayout.of(tensors_of(plan(width=9)))

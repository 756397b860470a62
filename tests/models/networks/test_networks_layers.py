from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from models_tools import images

from diffmem.errors import UserError
from diffmem.models.networks.layers import (
    Conv,
    FourierEmbedding,
    GroupNorm,
    Init,
    Linear,
    PositionalEmbedding,
)

INIT = Init()
TAPS = [(1, 1), (1, 3, 3, 1)]


@pytest.mark.parametrize(
    ("mode", "scale"),
    [
        ("xavier_uniform", math.sqrt(2 / (200 + 300))),
        ("kaiming_uniform", math.sqrt(1 / 200)),
        ("kaiming_normal", math.sqrt(1 / 200)),
    ],
)
def test_starting_weights_have_the_standard_deviation_of_their_mode(mode, scale):
    torch.manual_seed(0)
    weights = Init(mode).draw((300, 200), 200, 300)
    assert weights.std().item() == pytest.approx(scale, rel=0.02)
    assert abs(weights.mean().item()) < 0.02 * scale
    if mode.endswith("uniform"):
        assert math.sqrt(3) * scale * 0.99 < weights.abs().max() <= math.sqrt(3) * scale


def test_an_unknown_initialisation_is_refused():
    with pytest.raises(ValueError, match="orthogonal"):
        Init("orthogonal").draw((2, 2), 2, 2)


def test_factors_scale_weight_and_bias():
    torch.manual_seed(0)
    plain = Linear(30, 20, Init(weight=1.0, bias=1.0))
    torch.manual_seed(0)
    scaled = Linear(30, 20, Init(weight=0.5, bias=0.0))
    torch.testing.assert_close(scaled.weight, 0.5 * plain.weight)
    assert scaled.bias is not None
    assert not scaled.bias.any()


def test_a_linear_layer_may_lack_its_bias():
    layer = Linear(3, 2, INIT, bias=False)
    assert list(layer.state_dict()) == ["weight"]
    torch.testing.assert_close(layer(torch.eye(3)), layer.weight.T)


def test_halving_with_the_box_filter_takes_the_mean_of_four_pixels():
    x = images(2)
    blocks = x.reshape(2, 3, 4, 2, 4, 2)
    torch.testing.assert_close(Conv(3, 3, 0, INIT, resample="down")(x), blocks.mean(dim=(3, 5)))


def test_doubling_with_the_box_filter_repeats_pixels():
    x = images(2)
    repeated = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert torch.equal(Conv(3, 3, 0, INIT, resample="up")(x), repeated)


@pytest.mark.parametrize("taps", TAPS)
@pytest.mark.parametrize("resample", ["up", "down"])
def test_resampling_keeps_a_constant_away_from_the_border(taps, resample):
    y = Conv(3, 3, 0, INIT, resample=resample, taps=taps)(torch.full((1, 3, 16, 16), 0.7))
    torch.testing.assert_close(y[..., 2:-2, 2:-2], torch.full_like(y[..., 2:-2, 2:-2], 0.7))


@pytest.mark.parametrize("taps", TAPS)
def test_doubling_is_four_times_the_adjoint_of_halving(taps):
    fine, coarse = images(1, 8, seed=1).double(), images(1, 4, seed=2).double()
    down, up = (Conv(3, 3, 0, INIT, resample=kind, taps=taps) for kind in ("down", "up"))
    left, right = (down(fine) * coarse).sum(), (fine * up(coarse)).sum() / 4
    torch.testing.assert_close(left, right)


def test_the_long_filter_is_the_outer_product_of_its_taps():
    layer = Conv(1, 1, 0, INIT, resample="up", taps=(1, 3, 3, 1))
    spike = torch.zeros(1, 1, 5, 5)
    spike[0, 0, 2, 2] = 1
    line = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4
    torch.testing.assert_close(layer(spike)[0, 0, 3:7, 3:7], torch.outer(line, line))


@pytest.mark.parametrize("taps", TAPS)
@pytest.mark.parametrize("kernel", [1, 3])
def test_a_resampling_convolution_is_resampling_and_convolution(taps, kernel):
    x = images(2)
    for kind in ("up", "down"):
        layer = Conv(3, 5, kernel, Init(bias=1.0), resample=kind, taps=taps)
        resampled = Conv(3, 3, 0, INIT, resample=kind, taps=taps)(x)
        expected = F.conv2d(resampled, layer.weight, layer.bias, padding=kernel // 2)
        torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("taps", TAPS)
def test_filtering_after_a_convolution_of_the_padded_image_leaves_the_bias_alone(taps):
    layer = Conv(3, 5, 3, Init(bias=1.0), resample="down", taps=taps, filter_after=True)
    x, pad = images(2), (len(taps) - 1) // 2
    wide = F.pad(x, (1 + pad,) * 4)
    kernel = torch.outer(torch.tensor(taps).float(), torch.tensor(taps).float()) / sum(taps) ** 2
    smooth = F.conv2d(F.conv2d(wide, layer.weight), kernel.expand(5, 1, -1, -1), groups=5, stride=2)
    torch.testing.assert_close(layer(x), smooth + layer.bias.reshape(1, -1, 1, 1))
    assert layer(torch.zeros(1, 3, 8, 8)).var(dim=(2, 3)).max() == 0


def test_only_resampling_layers_store_a_filter():
    assert list(Conv(3, 3, 1, INIT).state_dict()) == ["weight", "bias"]
    assert list(Conv(3, 3, 0, INIT, resample="up").state_dict()) == ["resample_filter"]


@settings(max_examples=25)
@given(st.sampled_from([4, 8, 20, 128, 256]), st.integers(0, 100))
def test_normalised_groups_have_mean_zero_and_variance_one(channels, seed):
    x = 5 * images(2, 4, seed=seed, channels=channels) + 3
    groups = GroupNorm(channels, 1e-6)(x).reshape(2, min(32, channels // 4), -1)
    assert groups.mean(dim=2).abs().max() < 1e-5
    assert (groups.var(dim=2, unbiased=False) - 1).abs().max() < 1e-4


@pytest.mark.parametrize("channels", [2, 14, 144])
def test_channels_that_do_not_divide_into_groups_are_refused(channels):
    with pytest.raises(UserError, match=f"{channels} channels"):
        GroupNorm(channels, 1e-6)


def test_the_positional_embedding_spans_frequencies_from_one_to_one_ten_thousandth():
    noise = torch.tensor([0.0, 3.0, 999.0])
    closed = PositionalEmbedding(16, endpoint=True)(noise)
    opened = PositionalEmbedding(16, endpoint=False)(noise)
    torch.testing.assert_close(closed[:, 0], noise.cos())
    torch.testing.assert_close(closed[:, 8], noise.sin())
    torch.testing.assert_close(closed[:, 15], (noise / 10_000).sin())
    torch.testing.assert_close(opened[:, 15], (noise / 10_000 ** (7 / 8)).sin())


def test_the_fourier_embedding_is_cosines_and_sines_of_its_stored_frequencies():
    layer = FourierEmbedding(6)
    layer.freqs.copy_(torch.tensor([0.0, 0.25, 1.0]))
    expected = torch.tensor([[1.0, 0.0, 1.0, 0.0, 1.0, 0.0], [1.0, -1.0, 1.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(layer(torch.tensor([1.0, 2.0])), expected, atol=1e-5, rtol=0)


def test_fourier_frequencies_have_scale_sixteen_and_are_not_trained():
    torch.manual_seed(0)
    layer = FourierEmbedding(20_000)
    assert layer.freqs.std().item() == pytest.approx(16, rel=0.03)
    assert not list(layer.parameters())

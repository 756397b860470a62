"""The U-Net of denoising-diffusion-pytorch: what its tensors tell, that all of them count, and what its layers leave unchanged."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lucidrains_tools import small, tensors_of
from models_tools import images

from diffmem.errors import UserError
from diffmem.models.networks.lucidrains_settings import AttentionShape, Untold, settings_of
from diffmem.models.networks.lucidrains_unet import _Attention, load_unet

GUIDED = small(
    attention=tuple(AttentionShape(linear, 4, 2, 0) for linear in (True, True)),
    middle=AttentionShape(False, 2, 4, 0),
    strided=True,
    num_labels=3,
    class_width=5,
    class_condition=12,
)


def widths():
    return st.lists(st.sampled_from([4, 8, 12]), min_size=2, max_size=4).map(tuple)


@st.composite
def some_settings(draw):
    sizes = draw(widths())
    shapes = st.builds(AttentionShape, st.booleans(), st.integers(1, 3), st.integers(1, 5), st.integers(1, 4))
    return small(
        widths=sizes,
        out_width=draw(st.integers(1, 9)),
        embedding=draw(st.sampled_from([4, 8, 10])),
        condition=draw(st.integers(1, 9)),
        inputs=draw(st.sampled_from([3, 6])),
        outputs=draw(st.sampled_from([3, 6])),
        attention=tuple(draw(shapes) for _ in sizes[1:]),
        middle=dataclasses.replace(draw(shapes), linear=False),
    )


@settings(max_examples=25)
@given(some_settings())
def test_the_tensors_of_a_network_tell_its_settings_and_it_keeps_the_shape_of_images(wanted):
    state = tensors_of(wanted)
    assert settings_of(state) == wanted
    network = load_unet(state, 3)
    side = 2 ** (network.levels - 1)
    assert network(torch.ones(2, 3, side, 2 * side), torch.tensor([0.0, 3.0])).shape == (2, 3, side, 2 * side)


@pytest.mark.parametrize(
    ("wanted", "heads"), [(small(), None), (small(embedding=9, frequencies=4), None), (GUIDED, 2)]
)
def test_every_tensor_of_a_network_changes_what_it_predicts(wanted, heads):
    state = tensors_of(wanted)
    assert settings_of(state, Untold(heads)) == wanted
    x, t = images(2), torch.tensor([3.0, 30.0])
    labels = torch.tensor([wanted.num_labels, 1]) if wanted.num_labels else None
    network = load_unet(state, 3, Untold(heads))
    before = network(x, t, labels)
    for name, parameter in network.named_parameters():
        held = parameter.clone()
        parameter += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4))
        change = network(x, t, labels) - before
        assert float(change.norm() / before.norm()) > 1e-4, name
        parameter.copy_(held)


def test_group_norm_takes_the_place_of_the_rms_norm_where_the_tensors_are_its_own():
    state = tensors_of(small(group_norm=True))
    assert settings_of(state).group_norm
    shifted = {name: one + 5 if name == "downs.0.0.block1.proj.bias" else one for name, one in state.items()}
    x, t = images(2), torch.tensor([3.0, 30.0])
    # Eight groups of one channel each: a constant of a channel is its mean.
    torch.testing.assert_close(load_unet(shifted, 3)(x, t), load_unet(state, 3)(x, t), rtol=1e-4, atol=1e-4)


def test_the_weights_of_an_earlier_estimate_do_not_count_when_there_is_none():
    state = tensors_of(small(inputs=6))
    other = dict(state)
    other["init_conv.weight"] = torch.cat([torch.ones(8, 3, 7, 7), state["init_conv.weight"][:, 3:]], dim=1)
    x, t = images(2), torch.tensor([3.0, 30.0])
    assert torch.equal(load_unet(state, 3)(x, t), load_unet(other, 3)(x, t))


def test_a_learned_variance_is_left_out():
    state = tensors_of(small(outputs=6))
    x, t = images(2), torch.tensor([3.0, 30.0])
    alone = {name: one[:3] if name.startswith("final_conv") else one for name, one in state.items()}
    torch.testing.assert_close(load_unet(state, 3)(x, t), load_unet(alone, 3)(x, t))


def attention(linear, memory=3):
    layer = _Attention(6, AttentionShape(linear, 2, 4, memory))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return layer.requires_grad_(False)


@pytest.mark.parametrize("linear", [False, True])
def test_attention_permutes_with_the_pixels_and_does_not_see_their_brightness(linear):
    layer, x = attention(linear), images(2, 4, channels=6)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(6))

    def permuted(pixels):
        return pixels.flatten(2)[:, :, order].reshape(pixels.shape)

    torch.testing.assert_close(layer(permuted(x)), permuted(layer(x)), rtol=1e-4, atol=1e-5)
    scales = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(7)) + 0.5
    torch.testing.assert_close(layer(x * scales), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("linear", [False, True])
def test_attention_is_the_weighted_mean_that_its_formula_says(linear):
    layer, x = attention(linear), images(1, 2, channels=6).double()
    layer.double()
    normed = x[0] / x[0].norm(dim=0) * layer.norm.g[0] * 6**0.5
    q, k, v = (layer.to_qkv.weight[:, :, 0, 0] @ normed.reshape(6, 4)).reshape(3, 2, 4, 4)
    rows = []
    for head in range(2):
        learned = layer.mem_kv[:, head] if linear else layer.mem_kv[:, head].mT
        keys, values = torch.cat([learned[0], k[head]], dim=1), torch.cat([learned[1], v[head]], dim=1)
        for channel in range(4):
            for pixel in range(4):
                query = q[head, :, pixel]
                if linear:
                    shares = query.softmax(0) @ keys.softmax(1) / 2
                else:
                    shares = (query @ keys / 2).softmax(0)
                rows.append(shares @ values[channel])
    mixed = torch.stack(rows).reshape(1, 8, 2, 2)
    torch.testing.assert_close(layer(x), layer.to_out(mixed))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"extra.weight": torch.ones(2)}, "'extra.weight' is not one of this network"),
        ({"mid_block1.mlp.1.bias": torch.ones(5)}, "'mid_block1.mlp.1.bias' has shape (5,)"),
        ({"mid_block1.mlp.1.bias": None}, "lacks 1 tensor(s) of this network, first 'mid_block1.mlp.1.bias'"),
        ({"mid_attn.mem_kv": None}, "lacks the tensor 'mid_attn.mem_kv'"),
        ({"mid_attn.mem_kv": torch.ones(2)}, "'mid_attn.mem_kv' has shape (2,)"),
        (
            {"final_conv.bias": torch.full((3,), torch.nan)},
            "'final_conv.bias' holds numbers that are not finite",
        ),
        ({"final_conv.bias": torch.ones(3, dtype=torch.int64)}, "'final_conv.bias' holds torch.int64"),
        ({"time_mlp.1.weight": torch.ones(32, 7)}, "reads 7 channels"),
    ],
)
def test_tensors_that_are_not_exactly_those_of_a_network_are_refused(change, words):
    state = {name: one for name, one in (tensors_of(small()) | change).items() if one is not None}
    with pytest.raises(UserError) as error:
        load_unet(state, 3)
    assert words in str(error.value)


def test_a_network_without_levels_is_refused():
    state = {name: one for name, one in tensors_of(small()).items() if not name.startswith(("downs", "ups"))}
    with pytest.raises(UserError, match=r"lacks the tensor 'downs\.0"):
        load_unet(state, 3)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_images_of_other_channels_are_refused(channels):
    with pytest.raises(UserError, match=r"reads 3 channels.*image_shape"):
        load_unet(tensors_of(small()), channels)


def test_widths_that_eight_groups_do_not_divide_are_refused():
    state = tensors_of(small(group_norm=True))
    state["downs.0.3.1.weight"] = torch.ones(12, 32, 1, 1)
    with pytest.raises(UserError, match="GroupNorm of 8 groups does not fit"):
        load_unet(state, 3)

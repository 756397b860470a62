from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models_tools import images, tiny

from diffmem.errors import UserError
from diffmem.models.networks.unet import check_mask, encoder_outputs

FAMILIES = ["ddpmpp", "ncsnpp", "adm"]
MASKS = [tuple(bool(number >> bit & 1) for bit in range(4)) for number in range(16)]


def test_encoder_outputs_are_named_in_order():
    assert encoder_outputs(32, 3, 2) == [
        "32x32_conv", "32x32_block0", "32x32_block1",
        "16x16_down", "16x16_block0", "16x16_block1",
        "8x8_down", "8x8_block0", "8x8_block1",
    ]  # fmt: skip


@given(st.integers(1, 5), st.integers(1, 6))
def test_each_level_has_one_output_more_than_blocks(levels, blocks):
    names = encoder_outputs(64, levels, blocks)
    assert len(names) == len(set(names)) == levels * (blocks + 1)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_encoder_outputs_are_modules_of_the_encoder(architecture):
    network = tiny(architecture, blocks=2, multipliers=(1, 2, 1)).model
    names = [name for name in network.enc if "aux" not in name]
    assert names == encoder_outputs(8, 3, 2)


def test_no_mask_keeps_every_skip():
    assert check_mask(None, ["a", "b"]) == (True, True)
    assert check_mask([1, 0], ["a", "b"]) == (True, False)


def test_a_mask_of_another_length_names_the_outputs():
    with pytest.raises(UserError, match=r"3 entries.*4 encoder outputs: 8x8_conv, 8x8_block0") as error:
        check_mask([True] * 3, encoder_outputs(8, 2, 1))
    assert "\n" not in str(error.value)


def perturb(network, index):
    """Add noise to one encoder output on its way to the decoder only."""
    original = network.hide_masked

    def perturbed(skips):
        skips = list(skips)
        skips[index] = skips[index] + torch.linspace(-9, 9, skips[index].numel()).reshape(skips[index].shape)
        return original(skips)

    network.hide_masked = perturbed


@pytest.mark.parametrize("architecture", FAMILIES)
@pytest.mark.parametrize("mask", [(True, False, True, False), (False, True, True, True), (False,) * 4])
def test_the_output_depends_on_exactly_the_kept_skips(architecture, mask):
    x = images(2)
    expected = tiny(architecture, skip_mask=mask)(x, 1.0)
    for index, keep in enumerate(mask):
        denoiser = tiny(architecture, skip_mask=mask)
        perturb(denoiser.model, index)
        assert torch.equal(denoiser(x, 1.0), expected) == (not keep)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_mask_changes_neither_parameters_nor_shapes(architecture):
    full = tiny(architecture)
    masked = tiny(architecture, skip_mask=(False, True, False, True))
    assert full.state_dict().keys() == masked.state_dict().keys()
    assert all(torch.equal(value, masked.state_dict()[name]) for name, value in full.state_dict().items())
    assert full(images(2), 1.0).shape == masked(images(2), 1.0).shape


@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_mask_of_ones_is_no_mask(architecture):
    x = images(2)
    assert torch.equal(tiny(architecture)(x, 0.5), tiny(architecture, skip_mask=(True,) * 4)(x, 0.5))


@pytest.mark.parametrize("architecture", FAMILIES)
def test_every_mask_is_another_function(architecture):
    x = images(1)
    with torch.no_grad():
        outputs = [tiny(architecture, skip_mask=mask)(x, 1.0) for mask in MASKS]
    for i, first in enumerate(outputs):
        assert all(not torch.allclose(first, second, atol=1e-4) for second in outputs[:i])


def test_the_encoder_of_a_masked_residual_network_is_that_of_the_full_one():
    # The zeros replace what is stored for the decoder; the residual path runs on.
    x, seen = images(2), {}
    for mask in (None, (False,) * 4):
        denoiser = tiny("ncsnpp", skip_mask=mask)
        outputs = seen[mask] = []
        for module in denoiser.model.enc.values():
            module.register_forward_hook(lambda module, inputs, output, to=outputs: to.append(output))
        denoiser(x, 1.0)
    full, masked = seen.values()
    assert len(full) == 5
    assert all(torch.equal(a, b) for a, b in zip(full, masked, strict=True))


@pytest.mark.parametrize(("architecture", "scale"), [("ddpmpp", 5**0.5), ("adm", 1.0)])
def test_looking_up_a_label_is_the_product_with_its_one_hot_vector(architecture, scale):
    network = tiny(architecture, num_labels=5).model
    labels = torch.tensor([3, 0, 4, 3])
    cotangent = torch.randn(4, network.map_label.weight.shape[0], generator=torch.Generator().manual_seed(0))
    looked_up = network.label_embedding(labels, scale)
    gradient = torch.autograd.grad((looked_up * cotangent).sum(), list(network.map_label.parameters()))
    dense = network.map_label(scale * torch.eye(5)[labels])
    expected = torch.autograd.grad((dense * cotangent).sum(), list(network.map_label.parameters()))
    torch.testing.assert_close(looked_up, dense)
    for ours, theirs in zip(gradient, expected, strict=True):
        assert ours.layout == torch.strided
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("architecture", ["ddpmpp", "adm"])
def test_no_label_is_the_zero_vector_and_teaches_the_labels_nothing(architecture):
    network = tiny(architecture, num_labels=5).model
    rows = network.label_embedding(torch.tensor([-1, 2]))
    bias = network.map_label.bias
    assert torch.equal(rows[0], torch.zeros_like(rows[0]) if bias is None else bias)
    weight = torch.autograd.grad(rows[0].sum(), network.map_label.weight, allow_unused=True)[0]
    assert weight is None or not weight.any()


@pytest.mark.parametrize("architecture", FAMILIES)
@pytest.mark.parametrize("num_labels", [0, 4])
def test_every_parameter_learns(architecture, num_labels):
    denoiser = tiny(architecture, num_labels=num_labels, channels=32)
    labels = torch.tensor([0, 3]) if num_labels else None
    denoiser(images(2), torch.tensor([0.3, 2.0]), labels).square().sum().backward()
    silent = [
        name for name, value in denoiser.named_parameters() if value.grad is None or not value.grad.any()
    ]
    assert silent == []


@pytest.mark.parametrize("architecture", FAMILIES)
def test_the_output_of_an_image_does_not_depend_on_its_batch(architecture):
    denoiser = tiny(architecture, num_labels=4)
    x, sigma, labels = images(3), torch.tensor([0.1, 1.0, 20.0]), torch.tensor([2, -1, 0])
    with torch.no_grad():
        batch = denoiser(x, sigma, labels)
        alone = torch.cat([denoiser(x[i : i + 1], sigma[i : i + 1], labels[i : i + 1]) for i in range(3)])
        x[1] = 100.0
        disturbed = denoiser(x, sigma, labels)
    torch.testing.assert_close(batch, alone, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(batch[[0, 2]], disturbed[[0, 2]], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(batch[1], disturbed[1])


@settings(max_examples=10)
@given(st.permutations(range(4)))
def test_a_permuted_batch_gives_permuted_outputs(order):
    denoiser = tiny()
    x, sigma = images(4), torch.tensor([0.1, 1.0, 5.0, 20.0])
    with torch.no_grad():
        expected = denoiser(x, sigma)[order]
        torch.testing.assert_close(denoiser(x[order], sigma[order]), expected, rtol=1e-4, atol=1e-4)

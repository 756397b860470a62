"""Parameters in one vector train as separate tensors do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diffmem.training.flat import FlatParameters


def network():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 5, 3), nn.GroupNorm(1, 5), nn.SiLU(), nn.Flatten(), nn.Linear(20, 7)
    return nn.Sequential(*layers).double()


OPTIMIZERS = {
    "adam": lambda parameters: torch.optim.Adam(parameters, 1e-2, weight_decay=0.1, fused=True),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, 1e-2, weight_decay=0.1, fused=True),
    "sgd": lambda parameters: torch.optim.SGD(
        parameters, 1e-2, momentum=0.9, weight_decay=0.1, fused=True
    ),
}  # fmt: skip


def loss_of(module, step):
    images = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    return (module(images) - 1).square().sum()


def trained_flat(name, steps=10):
    module = network()
    flat = FlatParameters(module)
    optimizer = OPTIMIZERS[name]([flat.vector])
    for step in range(steps):
        flat.zero_gradient()
        loss_of(module, step).backward()
        optimizer.step()
    return module, flat


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_one_vector_trains_like_separate_tensors(name):
    ordinary = network()
    optimizer = OPTIMIZERS[name](list(ordinary.parameters()))
    for step in range(10):
        optimizer.zero_grad()
        loss_of(ordinary, step).backward()
        optimizer.step()
    module, _ = trained_flat(name)
    start = network()
    for ours, theirs, before in zip(
        module.parameters(), ordinary.parameters(), start.parameters(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
        assert not torch.equal(ours, before)


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_the_padding_between_parameters_stays_zero(name):
    _, flat = trained_flat(name)
    padding = torch.ones_like(flat.vector, dtype=torch.bool)
    for view in flat.views(padding):
        view.fill_(False)
    assert padding.any()
    assert (flat.vector[padding] == 0).all()
    assert (flat.vector.grad[padding] == 0).all()


def test_flattening_changes_neither_parameters_nor_outputs():
    ordinary, module = network(), network()
    flat = FlatParameters(module)
    assert flat.names == [name for name, _ in ordinary.named_parameters()]
    for view, parameter in zip(flat.views(flat.vector), ordinary.parameters(), strict=True):
        assert torch.equal(view, parameter)
    assert loss_of(module, 0).item() == pytest.approx(loss_of(ordinary, 0).item(), rel=1e-12)


def test_parameters_and_gradients_are_views_of_the_vectors():
    module = network()
    flat = FlatParameters(module)
    loss_of(module, 0).backward()
    for parameter, part, gradient in zip(
        module.parameters(), flat.views(flat.vector), flat.views(flat.vector.grad), strict=True
    ):
        assert parameter.data_ptr() == part.data_ptr()
        assert parameter.grad.data_ptr() == gradient.data_ptr()
        assert parameter.grad.abs().sum() > 0
        assert torch.equal(parameter.grad, gradient)
    with torch.no_grad():
        flat.vector.fill_(2)
    assert all((parameter == 2).all() for parameter in module.parameters())
    flat.zero_gradient()
    assert all((parameter.grad == 0).all() for parameter in module.parameters())


def test_every_parameter_starts_on_a_boundary_of_16_numbers():
    flat = FlatParameters(network())
    assert all(view.storage_offset() % 16 == 0 for view in flat.views(flat.vector))


def test_kernels_are_stored_with_their_channels_innermost():
    module = network()
    FlatParameters(module)
    assert module[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_frozen_parameters_stay_out_of_the_vector():
    module = network()
    module[0].requires_grad_(False)
    before = module[0].weight.clone()
    flat = FlatParameters(module)
    assert not any(name.startswith("0.") for name in flat.names)
    with torch.no_grad():
        flat.vector.zero_()
    assert torch.equal(module[0].weight, before)

"""Guidance of a denoiser whose answers are known: the label for each value, and 10 for no label."""

from __future__ import annotations

import pytest
import torch

from diffmem.errors import UserError
from diffmem.models import Denoiser
from diffmem.models.guided import GuidedDenoiser
from diffmem.optimum.gaussian import GaussianDenoiser


class OfLabels:
    image_shape, sigma_min, sigma_max, num_labels, device = (1, 2, 2), 0.1, 10.0, 3, torch.device("cpu")

    def __init__(self):
        self.batches = []

    def __call__(self, x, sigma, labels=None):
        self.batches.append(len(x))
        given = torch.full((len(x),), -1) if labels is None else labels
        value = torch.where(given < 0, 10, given).float() + torch.as_tensor(sigma).float()
        return value.reshape(-1, 1, 1, 1).expand_as(x)


X = torch.zeros(3, 1, 2, 2)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 7.5])
def test_the_step_from_no_label_to_a_label_is_scaled(scale):
    inner = OfLabels()
    guided = GuidedDenoiser(inner, scale)
    assert isinstance(guided, Denoiser)
    labels, sigma = torch.tensor([0, 2, -1]), torch.tensor([1.0, 2.0, 3.0])
    wanted = 10 + scale * torch.tensor([0 - 10, 2 - 10, 0.0]) + sigma
    torch.testing.assert_close(guided(X, sigma, labels)[:, 0, 0, 0], wanted)
    assert inner.batches == [3 * guided.evaluations]


def test_images_without_labels_are_not_guided():
    inner = OfLabels()
    assert torch.equal(GuidedDenoiser(inner, 7.5)(X, 1.0), inner(X, 1.0))


def test_a_scale_or_a_model_that_cannot_be_is_refused():
    for scale in (-1, float("nan"), float("inf")):
        with pytest.raises(UserError, match="scale of guidance"):
            GuidedDenoiser(OfLabels(), scale)
    with pytest.raises(UserError, match="has none"):
        GuidedDenoiser(GaussianDenoiser(torch.zeros(1, 2, 2), torch.eye(4)), 2.0)

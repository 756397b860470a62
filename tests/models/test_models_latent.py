"""A denoiser of latents with an autoencoder that is known: two pixels of a row for each code, doubled."""

from __future__ import annotations

import pytest
import torch

from diffmem.errors import UserError
from diffmem.models import Denoiser, Latent, LatentDenoiser, pixel_shape_of
from diffmem.optimum.gaussian import GaussianDenoiser

CODES, PIXELS = (1, 2, 2), (1, 2, 4)
INNER = GaussianDenoiser(torch.zeros(CODES), 0.3 * torch.eye(4))


def decode(z):
    return 2 * z.repeat_interleave(2, dim=3)


def encode(x):
    return x.unfold(3, 2, 2).mean(-1) / 2


def latent(**options):
    return LatentDenoiser(
        **({"inner": INNER, "decode": decode, "encode": encode, "pixel_shape": PIXELS} | options)
    )


def test_it_is_a_denoiser_of_latents_that_stand_for_images():
    made = latent()
    assert isinstance(made, Denoiser)
    assert isinstance(made, Latent)
    assert not isinstance(INNER, Latent)
    assert (made.image_shape, made.pixel_shape, made.num_labels) == (CODES, PIXELS, 0)
    assert (pixel_shape_of(made), pixel_shape_of(INNER)) == (PIXELS, CODES)
    assert (made.sigma_min, made.sigma_max, made.device) == (INNER.sigma_min, INNER.sigma_max, INNER.device)
    x = torch.randn(3, *CODES, dtype=torch.float64)
    assert torch.equal(made(x, 0.7), INNER(x, 0.7))
    assert str(made).startswith("<latents of images of 1 x 2 x 4 (C, H, W), denoised by <GaussianDenoiser; ")


def test_codes_are_decoded_unclipped_in_single_precision_and_encoded_back():
    z = torch.tensor([[[[0.25, -3.0], [0.5, 1.0]]]], dtype=torch.float64)
    images = latent().decode(z)
    assert images.tolist() == [[[[0.5, 0.5, -6.0, -6.0], [1.0, 1.0, 2.0, 2.0]]]]
    assert images.dtype == torch.float32
    assert torch.equal(latent().encode(images.double()), z.float())


def test_few_images_are_converted_at_a_time(monkeypatch):
    monkeypatch.setattr("diffmem.models.latent._PIXELS", 3 * 8)
    sizes = []

    def counted(z):
        sizes.append(len(z))
        return decode(z)

    z = torch.randn(7, *CODES)
    assert torch.equal(latent(decode=counted).decode(z), decode(z))
    assert sizes == [3, 3, 1]
    monkeypatch.setattr("diffmem.models.latent._PIXELS", 1)
    assert torch.equal(latent().encode(decode(z)), z)
    assert latent().decode(z[:0]).shape == (0, *PIXELS)


def test_shapes_that_do_not_fit_are_refused():
    made = latent()
    for action, wrong in ((made.decode, torch.zeros(1, *PIXELS)), (made.encode, torch.zeros(1, *CODES))):
        with pytest.raises(UserError, match="have shape"):
            action(wrong)
    with pytest.raises(UserError, match="have shape"):
        made.decode(torch.zeros(CODES))
    for part in (lambda z: z, lambda z: decode(z)[:1]):
        with pytest.raises(UserError, match="autoencoder makes shape"):
            latent(decode=part).decode(torch.zeros(2, *CODES))

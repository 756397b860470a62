"""Audit a model that diffmem does not know: any function D(x, sigma, labels) that gives the clean image.

This one is a mean over its training images, each weighted by how well it explains x. It can only copy.
For a model on disk (an EDM pickle, a diffusers folder), give its path instead: dm.audit(train, model="model/", ...).
"""

import torch

import diffmem as dm

digits = dm.open_images("digits")
train, heldout = digits.take(range(300), "300 digits"), digits.take(range(600, 1100), "500 others")
known = torch.tensor(train.images).flatten(1) / 127.5 - 1


def denoise(x: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
    distances = torch.cdist(x.flatten(1), known) ** 2
    weights = torch.softmax(-distances / (2 * sigma[:, None] ** 2), dim=1)
    return (weights @ known).reshape(x.shape)


model = dm.function_denoiser(denoise, digits.shape, sigma_min=0.01, sigma_max=50)
audit = dm.audit(train, model=model, heldout=heldout, num=300)
print(audit)
print(audit.save("audit-model"))

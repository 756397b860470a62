"""Networks of continuous time that know the optimum of a few images: it, pushed through the inverse of each head."""

from __future__ import annotations

import math

import numpy as np

from diffmem.data import ImageSet
from diffmem.optimum.optimum import Optimum

SHAPE = (1, 3, 3)
IMAGES = ImageSet(
    np.random.default_rng(0).integers(0, 256, (6, *SHAPE), dtype=np.uint8), None, tuple(map(str, range(6)))
)
OPTIMUM = Optimum(IMAGES)
SIGMA_DATA = 0.5


def optimum(x, sigma):
    """D* at one level for each image, float64."""
    return OPTIMUM(x, sigma).double()


def column(values):
    return values[:, None, None, None]


def edms_network(x, time, labels):
    """F of EDM's Table 1 with D* as D: the level is exp(4 time), the input x / sqrt(sigma^2 + sigma_data^2)."""
    sigma = (4 * time.double()).exp()
    total = column(sigma.square() + SIGMA_DATA**2)
    noisy = x.double() * total.sqrt()
    skip, out = SIGMA_DATA**2 / total, column(sigma) * SIGMA_DATA / total.sqrt()
    return ((optimum(noisy, sigma) - skip * noisy) / out).float()


def straight_network(x, time, labels):
    """The velocity y - n, with y = D* and n = (x_t - t y) / (1 - t)."""
    t = time.double()
    clean = optimum(x.double() / column(t), (1 - t) / t)
    return (clean - (x.double() - column(t) * clean) / column(1 - t)).float()


def trigonometric_network(x, time, labels):
    """The derivative in t of sin(pi t / 2) y + cos(pi t / 2) n, with y = D* and n = (x_t - sin y) / cos."""
    angle = math.pi / 2 * time.double()
    sine, cosine = column(angle.sin()), column(angle.cos())
    clean = optimum(x.double() / sine, 1 / angle.tan())
    noise = (x.double() - sine * clean) / cosine
    return (math.pi / 2 * (cosine * clean - sine * noise)).float()


def unit_network(x, time, labels):
    """The optimum of the same images in [0, 1], at the level that it is told."""
    return ((optimum(2 * x.double() - 1, 2 * time.double()) + 1) / 2).float()

"""The published curves of R_mem on which searches are simulated."""

import math

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.special import expit, logit

# Gu et al., Figure 2(c): R_mem in percent of DDPM++ on CIFAR-10 at three resolutions, read off the plot.
PUBLISHED = {
    "32x32": {500: 99.2, 1000: 92.1, 2000: 61.0, 4000: 17.1},
    "16x16": {1000: 100.0, 2000: 99.8, 4000: 94.7, 8000: 60.2, 16000: 11},
    "8x8": {1000: 100.0, 2000: 99.8, 4000: 97.1, 8000: 89.4, 16000: 63.9},
}
EPOCHS = [40_000 * 2 ** (-step / 2) for step in range(11, -1, -1)]


def curve_through(points):
    """R_mem as a function of N through published points: monotone (PCHIP) in its logit over ln N, straight outside."""
    sizes = sorted(points)
    positions = np.log(sizes)
    logits = logit(np.clip([points[size] for size in sizes], 5e-4, 1 - 5e-4))
    inside, slopes = PchipInterpolator(positions, logits), np.diff(logits) / np.diff(positions)

    def rate(size):
        nearest = np.clip(math.log(size), positions[0], positions[-1])
        slope = slopes[0] if nearest == positions[0] else slopes[-1]
        return float(expit(inside(nearest) + slope * (math.log(size) - nearest)))

    return rate

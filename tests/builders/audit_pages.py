"""Pages of audits, and the images on them."""

from __future__ import annotations

import numpy as np

from diffmem.auditing.report.gallery import near_gallery, worst_gallery
from diffmem.auditing.report.page import audit_pictures, page_of


def blobs(count, shape, seed):
    """Smooth coloured images that a PNG can make small."""
    channels, height, width = shape
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    images = np.zeros((count, channels, height, width))
    for _ in range(4):
        centre, spread = random.random((2, count, 1, 1, 1)), 0.05 + 0.3 * random.random((count, 1, 1, 1))
        hill = np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / spread**2)
        images += random.uniform(-160, 220, (count, channels, 1, 1)) * hill
    return np.clip(images + 60, 0, 255).astype(np.uint8)


def make_images(result, shape=(3, 32, 32), near=10):
    """Galleries of the worst matches, with noise on the training image, and of near misses."""
    galleries = {}
    worst = [] if result.copies is None else result.copies.worst
    if worst:
        nearest = blobs(len(worst), shape, 1)
        noise = np.random.default_rng(2).normal(0, 6, nearest.shape)
        samples = np.clip(nearest + noise, 0, 255).astype(np.uint8)
        galleries["worst"] = worst_gallery(worst, samples, nearest, blobs(len(worst), shape, 3))
    if near:
        numbers = [31 + 97 * at for at in range(near)]
        ratios = [0.412 + 0.01 * at for at in range(near)]
        galleries["near"] = near_gallery(numbers, ratios, *(blobs(near, shape, seed) for seed in (4, 5, 6)))
    return galleries


def render_audit(result, galleries=None):
    """The page of an audit."""
    return page_of(result, audit_pictures(result, galleries or {}))

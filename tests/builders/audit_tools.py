"""Image sets with known copies, for the tests of audits."""

from dataclasses import fields

import numpy as np

from diffmem.auditing import AuditOptions, AuditRequest
from diffmem.data import ImageSet, duplicate_groups, open_images


def image_set(images, labels=None):
    return ImageSet(np.ascontiguousarray(images), labels, tuple(f"image{at}" for at in range(len(images))))


def digits(*sizes, seed=0):
    """Disjoint random parts of the bundled digits, uint8 (n, 1, 8, 8) each."""
    images = open_images("digits").images
    order = np.random.default_rng(seed).permutation(len(images))
    ends = np.cumsum(sizes)
    assert ends[-1] <= len(images)
    return [images[order[end - size : end]] for end, size in zip(ends, sizes, strict=True)]


def noisy(images, size, seed=1):
    rng = np.random.default_rng(seed)
    return np.rint(images + rng.normal(0, size, images.shape)).clip(0, 255).astype(np.uint8)


def times_of(images):
    """How often each image occurs, at its first place; 0 elsewhere."""
    first = duplicate_groups(images)
    return np.bincount(first, minlength=len(first)).astype(np.int64)


def make_request(**settings):
    """A request whose options stand beside its sets."""
    names = {field.name for field in fields(AuditOptions)} & settings.keys()
    return AuditRequest(options=AuditOptions(**{name: settings.pop(name) for name in names}), **settings)

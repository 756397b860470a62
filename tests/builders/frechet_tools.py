"""The Frechet distance of two sets of images in one call."""

from diffmem.memorization.frechet import feature_moments, frechet_of_moments


def frechet_of_images(one, other, features):
    return frechet_of_moments(feature_moments(one, features), feature_moments(other, features))

import numpy as np
import pytest
from data_builders import image_set
from hypothesis import given
from hypothesis import strategies as st

from diffmem.data import first, mixture, random_subset
from diffmem.errors import UserError

CATS = image_set(40, (1, 2, 2), classes=0, seed=1)
DOGS = image_set(40, (1, 2, 2), classes=4, seed=2)
DOGS = type(DOGS)(DOGS.images, DOGS.labels, tuple(f"dog {k}" for k in range(40)), DOGS.class_names, ("dogs",))
SIZES, SHARES = st.integers(1, 40), st.floats(0, 1)


def names(images, part):
    return [name for name, label in zip(images.names, images.labels, strict=True) if label == part]


@pytest.mark.parametrize(
    ("n", "share", "counts"), [(40, 0.8, (8, 32)), (10, 0.8, (2, 8)), (5, 0.8, (1, 4)), (5, 0.5, (2, 3))]
)
def test_mixture_shares_are_rounded_not_truncated(n, share, counts):  # trap: int() gave 199/801 at alpha 0.8
    mixed = mixture(CATS, DOGS, n, share)
    assert np.bincount(mixed.labels, minlength=2).tolist() == list(counts)


def test_a_mixture_is_the_first_images_of_each_source():
    mixed = mixture(CATS, DOGS, 5, 0.4)
    assert mixed.names == ("image 0", "image 1", "image 2", "dog 0", "dog 1")
    assert mixed.labels.tolist() == [0, 0, 0, 1, 1]
    assert mixed.class_names == ("first", "second")
    np.testing.assert_array_equal(mixed.images, np.concatenate([CATS.images[:3], DOGS.images[:2]]))


@given(SIZES, SIZES, SHARES, st.none() | st.integers(0, 100))
def test_mixtures_of_one_share_are_nested_across_sizes(a, b, share, seed):
    small, large = (mixture(CATS, DOGS, n, share, seed) for n in sorted((a, b)))
    for part in (0, 1):
        assert names(small, part) == names(large, part)[: len(names(small, part))]


@given(SIZES, SHARES, SHARES, st.none() | st.integers(0, 100))
def test_mixtures_of_one_size_are_nested_across_shares(n, a, b, seed):
    low, high = (mixture(CATS, DOGS, n, share, seed) for share in sorted((a, b)))
    assert len(low) == len(high) == n
    assert set(names(low, 1)) <= set(names(high, 1))
    assert set(names(high, 0)) <= set(names(low, 0))


def test_the_shares_nothing_and_all_are_the_sources_alone():
    np.testing.assert_array_equal(mixture(CATS, DOGS, 7, 0).images, first(CATS, 7).images)
    np.testing.assert_array_equal(mixture(CATS, DOGS, 7, 1).images, first(DOGS, 7).images)
    assert mixture(CATS, DOGS, 7, 0).num_classes == mixture(CATS, DOGS, 7, 1).num_classes == 2


def test_a_mixture_of_one_image_works():
    assert len(mixture(CATS, DOGS, 1, 0.5)) == 1


def test_a_seeded_mixture_takes_random_images_of_each_source():
    mixed = mixture(CATS, DOGS, 10, 0.5, seed=4)
    assert mixed.names == random_subset(CATS, 5, 4).names + random_subset(DOGS, 5, 4).names
    assert mixed.fingerprint != mixture(CATS, DOGS, 10, 0.5).fingerprint


def test_a_mixture_remembers_both_histories():
    history = mixture(CATS, DOGS, 10, 0.3).history
    assert history[:2] == ("first source: made by a test", "second source: dogs")
    assert history[2].startswith(
        "mixture: 7 images of the first source and 3 of the second (share 0.3 of 10)"
    )


@pytest.mark.parametrize(
    ("second", "told"),
    [
        (image_set(4, (1, 2, 3)), r"2 x 2 pixels, the second 3 x 2; resize"),
        (image_set(4, (3, 2, 2)), "grey, the second RGB"),
    ],
)
def test_sources_of_unlike_shapes_are_refused_with_the_remedy(second, told):
    with pytest.raises(UserError, match=told):
        mixture(CATS, second, 4, 0.5)


@pytest.mark.parametrize(
    ("n", "share", "told"),
    [(50, 0.9, "need 45 of the second source, which has 40"), (50, 0.1, "need 45 of the first"), (0, 0.5, "at least 1"),
     (4, 1.5, "between 0 and 1")],
)  # fmt: skip
def test_mixtures_that_cannot_be_are_told(n, share, told):
    with pytest.raises(UserError, match=told):
        mixture(CATS, DOGS, n, share)

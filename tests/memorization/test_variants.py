from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffmem.errors import UserError
from diffmem.memorization import variants
from diffmem.memorization.criteria import NormalizedRule, RatioRule
from diffmem.memorization.measure import measure
from diffmem.memorization.neighbours.neighbours import nearest_neighbours
from diffmem.memorization.variants import Transforms, Variant, variant_neighbours


def pictures(seed: int, count: int, side: int = 12) -> np.ndarray:
    """Smooth random images with some noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(120, 50, (count, 3, side // 2, side // 2)).repeat(2, 2).repeat(2, 3)
    return (coarse + rng.normal(0, 10, coarse.shape)).clip(0, 255).astype(np.uint8)


def moved(images: np.ndarray, down: int, right: int) -> np.ndarray:
    """Images whose content lies lower and farther right; what comes in at the border is noise."""
    noise = np.random.default_rng(9).integers(0, 256, images.shape, np.uint8)
    height, width = images.shape[-2:]
    rows, columns = np.arange(height) - down, np.arange(width) - right
    inside = np.ix_((rows >= 0) & (rows < height), (columns >= 0) & (columns < width))
    noise[(..., *inside)] = images[..., rows.clip(0, height - 1), :][..., columns.clip(0, width - 1)][
        (..., *inside)
    ]
    return noise


def brute(samples: np.ndarray, training: np.ndarray, transforms: Transforms) -> np.ndarray:
    """Distances of all pairs, the smallest over all variants."""
    height, width = training.shape[-2:]
    s = transforms.shift
    middle = training[..., s : height - s, s : width - s].astype(int)
    best = np.full((len(samples), len(training)), np.inf)
    for flipped in {False, transforms.flip}:
        for down in range(2 * s + 1):
            for right in range(2 * s + 1):
                for step in (0, *transforms.brightness):
                    one = samples[..., ::-1] if flipped else samples
                    one = one[..., down : down + height - 2 * s, right : right + width - 2 * s].astype(int)
                    one = (one + step).clip(0, 255)
                    squares = np.square(one[:, None] - middle[None]).sum((2, 3, 4))
                    best = np.minimum(best, np.sqrt(squares))
    return best


@settings(max_examples=25)
@given(data=st.data())
def test_distances_are_the_smallest_over_all_variants(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    levels = data.draw(st.sampled_from([2, 256]))
    side = data.draw(st.integers(4, 6))
    draw = lambda count: rng.integers(0, levels, (count, 1, side, side + 1), np.uint8)  # noqa: E731
    samples, training = draw(5), draw(12)
    steps = data.draw(st.sampled_from([(), (40,), (-30, 7)]))
    transforms = Transforms(data.draw(st.booleans()), data.draw(st.integers(0, 1)), steps)
    k = data.draw(st.integers(1, 3))
    found = variant_neighbours(samples, training, k, transforms=transforms)
    window = transforms.window(training)
    mirrored = window[..., ::-1]
    same = lambda a, b: np.array_equal(a, b)  # noqa: E731
    kept = [
        i
        for i in range(12)
        if not any(
            same(window[i], window[j]) or (transforms.flip and same(mirrored[i], window[j])) for j in range(i)
        )
    ]
    distances = brute(samples, training, transforms)[:, kept]
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    np.testing.assert_allclose(found.neighbours.distances, np.take_along_axis(distances, order, 1))
    np.testing.assert_array_equal(found.neighbours.indices, np.array(kept)[order])


def test_without_transformations_it_is_the_plain_search():
    samples, training = pictures(0, 30), pictures(1, 60)
    found = variant_neighbours(samples, training, 3, transforms=Transforms(flip=False))
    plain = nearest_neighbours(samples, training, 3)
    np.testing.assert_array_equal(found.neighbours.distances, plain.distances)
    np.testing.assert_array_equal(found.neighbours.indices, plain.indices)
    assert not found.variant.any()
    assert RatioRule()(found.neighbours).sum() == measure(samples, training).rate.count


@pytest.mark.parametrize("down", [-2, 0, 1])
@pytest.mark.parametrize("right", [-1, 0, 2])
@pytest.mark.parametrize("flipped", [False, True])
def test_flipped_and_shifted_copies_are_found_at_distance_zero_with_their_variant(down, right, flipped):
    training = pictures(2, 40)
    copies = moved(training[:20], down, right)
    if flipped:
        copies = copies[..., ::-1]
    transforms = Transforms(flip=True, shift=2)
    found = variant_neighbours(copies, training, 2, transforms=transforms)
    np.testing.assert_array_equal(found.neighbours.distances[:, 0], 0)
    np.testing.assert_array_equal(found.neighbours.indices[:, 0], np.arange(20))
    expected = Variant(flipped, down, right, 0)
    assert {transforms.variants[at] for at in found.variant} == {expected}


def test_each_transformation_finds_its_copies_and_only_it_does():
    training, fresh = pictures(3, 80), pictures(4, 20)
    kinds = {
        "exact": training[:20],
        "noisy": (training[:20].astype(int) + np.random.default_rng(5).integers(-6, 7, training[:20].shape))
        .clip(0, 255)
        .astype(np.uint8),
        "flipped": training[:20, :, :, ::-1],
        "shifted": moved(training[:20], 1, -1),
        "brightened": (training[:20].astype(int) + 60).clip(0, 255).astype(np.uint8),
        "fresh": fresh,
    }
    finders = {
        "as-is": Transforms(flip=False),
        "flip": Transforms(),
        "shift1": Transforms(flip=False, shift=1),
        "brightness-60": Transforms(flip=False, brightness=(-60,)),
    }
    found = {
        (kind, name): RatioRule()(
            variant_neighbours(images, training, transforms=finders[name]).neighbours
        ).sum()
        for kind, images in kinds.items()
        for name in finders
    }
    always = {"exact", "noisy"}
    own = {("flipped", "flip"), ("shifted", "shift1"), ("brightened", "brightness-60")}
    for (kind, name), count in found.items():
        assert count == (20 if kind in always or (kind, name) in own else 0), (kind, name)


def test_mirrored_training_images_do_not_hide_their_copies():  # trap: the second neighbour is the same image
    training = pictures(6, 40)
    augmented = np.concatenate([training, training[..., ::-1]])
    found = variant_neighbours(training[:10] ^ 1, augmented)
    assert RatioRule()(found.neighbours).sum() == 10


def test_the_null_grows_with_the_variants():
    training, heldout = pictures(7, 200, 8), pictures(8, 200, 8)
    nearest = NormalizedRule(0, heldout.shape[1:]).rms(nearest_neighbours(heldout, training, 1))
    rule = NormalizedRule(float(np.quantile(nearest, 0.1)), heldout.shape[1:])
    nulls = [
        rule(variant_neighbours(heldout, training, 1, transforms=transforms).neighbours).sum()
        for transforms in (Transforms(flip=False), Transforms(), Transforms(brightness=(-20, 20)))
    ]
    assert nulls[0] == pytest.approx(20, abs=1)
    assert nulls[0] < nulls[1] < nulls[2]
    assert nulls[1] <= 3 * nulls[0]


def test_the_order_of_the_training_images_does_not_matter():
    samples, training = pictures(13, 20), pictures(14, 50)
    order = np.random.default_rng(0).permutation(50)
    transforms = Transforms(shift=1)
    one = variant_neighbours(samples, training, transforms=transforms)
    other = variant_neighbours(samples, training[order], transforms=transforms)
    np.testing.assert_array_equal(one.neighbours.distances, other.neighbours.distances)
    np.testing.assert_array_equal(one.neighbours.indices, order[other.neighbours.indices])
    np.testing.assert_array_equal(one.variant, other.variant)


def test_an_index_for_all_variants_changes_nothing(monkeypatch):
    samples, training = pictures(15, 40, 16), pictures(16, 600, 16)
    transforms = Transforms(shift=1)
    plain = variant_neighbours(samples, training, transforms=transforms)
    built = []
    monkeypatch.setattr(
        variants,
        "index_pays",
        lambda queries, rows, k: built.append((queries, len(rows), rows.dim, k)) or True,
    )
    indexed = variant_neighbours(samples, training, transforms=transforms)
    assert built == [(18 * 40, 600, 3 * 14 * 14, 2)]
    np.testing.assert_array_equal(plain.neighbours.distances, indexed.neighbours.distances)
    np.testing.assert_array_equal(plain.neighbours.indices, indexed.neighbours.indices)


def test_the_unchanged_sample_comes_first_and_variants_are_different():
    transforms = Transforms(shift=1, brightness=(5, -5))
    assert len(transforms) == len(set(transforms.variants)) == 2 * 9 * 3
    assert transforms.variants[0] == Variant(False, 0, 0, 0)


def test_of_equally_near_variants_the_first_is_named():
    plain = np.full((1, 1, 8, 8), 7, np.uint8)
    training = np.concatenate([plain, plain + 90])
    found = variant_neighbours(plain, training, transforms=Transforms(shift=1))
    np.testing.assert_array_equal(found.variant, [0])


def test_names_hold_the_constants():
    assert Transforms(flip=False).name == "as-is"
    assert Transforms().name == "flip"
    assert Transforms(shift=2, brightness=(-8, 8)).name == "flip+shift2+brightness-8,8"


def test_brightness_is_clipped_and_not_wrapped():
    white = np.full((1, 1, 4, 4), 250, np.uint8)
    changed = list(Transforms(flip=False, brightness=(10, -255)).apply(white))
    assert [int(image.max()) for image in changed] == [250, 255, 0]


def test_progress_grows_to_the_whole():
    seen: list[float] = []
    variant_neighbours(
        pictures(0, 30),
        pictures(1, 60),
        transforms=Transforms(shift=1),
        progress=lambda done, total, note="": seen.append(done / total),
    )
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shift": -1}, "shift -1"),
        ({"brightness": (0,)}, "brightness"),
        ({"brightness": (300,)}, "brightness"),
        ({"brightness": (5, 5)}, "brightness"),
    ],
)
def test_impossible_transformations_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        Transforms(**arguments)


def test_a_shift_that_leaves_too_little_is_refused():
    with pytest.raises(UserError, match="choose at most 3"):
        variant_neighbours(pictures(0, 2), pictures(1, 5), transforms=Transforms(shift=4))


def test_too_few_distinct_images_are_refused_with_the_needed_number():
    training = np.concatenate([pictures(0, 1), pictures(0, 1)[..., ::-1]])
    with pytest.raises(UserError, match=r"2 training images hold 1 .*at least 2 distinct"):
        variant_neighbours(pictures(1, 2), training)
    with pytest.raises(UserError, match="k = 0"):
        variant_neighbours(pictures(1, 2), training, 0)


def test_features_have_no_variants():
    with pytest.raises(UserError, match="uint8 images"):
        variant_neighbours(np.ones((2, 8)), np.ones((3, 8)))

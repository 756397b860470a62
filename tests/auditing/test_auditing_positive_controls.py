import numpy as np
import pytest
from audit_tools import digits

from diffmem.auditing.positive_controls import (
    FRESH,
    NEAR_COPIES,
    POSITIVE_CONTROLS,
    control_named,
    make_controls,
    near_copies,
    partners,
)
from diffmem.errors import UserError

KEYS = [kind.key for kind in POSITIVE_CONTROLS]
UNCHANGED = ("exact", "fresh")


def textures(count, channels, side, seed=0):
    """Smooth images that use the middle of the range, so that nothing is clipped."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(70, 186, (count, channels, side // 4, side // 4))
    return np.kron(coarse, np.ones((4, 4))).astype(np.uint8)


def rms(ones, others):
    return np.sqrt(np.square(ones.astype(float) - others).mean(axis=(1, 2, 3)))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [8, 20])
@pytest.mark.parametrize("key", KEYS)
def test_every_kind_makes_other_pixels_of_the_same_shape(key, side, channels):
    images = textures(5, channels, side)
    made = make_controls(images, key, 0, images)
    assert made.dtype == np.uint8
    assert made.shape == images.shape
    assert made.flags.c_contiguous
    assert not np.shares_memory(made, images)
    assert (rms(made, images) > 0).all() == (key not in UNCHANGED)


@pytest.mark.parametrize("key", [*KEYS, "fresh"])
def test_a_change_depends_on_the_image_and_the_seed_and_not_on_the_images_beside_it(key):
    images, others = textures(6, 3, 12), textures(9, 3, 12, seed=5)
    made = make_controls(images, key, 3, others)
    again = make_controls(images[[4, 1]], key, 3, others)
    assert np.array_equal(again, made[[4, 1]])
    drawn = key.startswith(("noise", "shift", "crop", "blend", "averaged"))
    assert np.array_equal(make_controls(images, key, 4, others), made) != drawn


@pytest.mark.parametrize("level", [4, 12, 24])
def test_noise_has_the_promised_size(level):
    images = np.full((4, 3, 32, 32), 128, np.uint8)
    images[:, 0, 0, 0] = range(4)
    assert rms(make_controls(images, f"noise{level}", 0, images), images) == pytest.approx(level, rel=0.05)


def test_noise_of_two_levels_is_not_the_same_noise():
    images = textures(1, 3, 32)
    small, large = (
        make_controls(images, key, 0, images) - images.astype(float) for key in ("noise4", "noise24")
    )
    assert abs(np.corrcoef(small.ravel(), large.ravel())[0, 1]) < 0.1


def test_light_moves_every_value_by_twenty_and_stops_at_the_ends():
    images = np.array([0, 10, 128, 250], np.uint8).reshape(1, 1, 2, 2)
    assert make_controls(images, "brighter", 0, images).ravel().tolist() == [20, 30, 148, 255]
    assert make_controls(images, "darker", 0, images).ravel().tolist() == [0, 0, 108, 230]


def test_contrast_pulls_values_towards_the_mean_of_the_image():
    images = np.array([0, 40, 80, 120], np.uint8).reshape(1, 1, 2, 2)
    assert make_controls(images, "contrast", 0, images).ravel().tolist() == [15, 45, 75, 105]


def test_a_mirrored_copy_is_mirrored_left_to_right():
    images = textures(2, 3, 12)
    assert np.array_equal(make_controls(images, "mirrored", 0, images), images[:, :, :, ::-1])


@pytest.mark.parametrize("size", [1, 2])
def test_a_shift_moves_the_image_in_one_of_eight_directions_and_repeats_its_edge(size):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 1, 8, 8), dtype=np.uint8)
    moves = set()
    for image, made in zip(images, make_controls(images, f"shift{size}", 0, images), strict=True):
        padded = np.pad(image, ((0, 0), (size, size), (size, size)), mode="edge")
        fits = [
            (down, right)
            for down in (-size, 0, size)
            for right in (-size, 0, size)
            if np.array_equal(padded[:, size - down : size - down + 8, size - right : size - right + 8], made)
        ]
        assert len(fits) == 1
        moves.update(fits)
    assert len(moves) == 8
    assert (0, 0) not in moves


def test_a_crop_enlarges_seven_eighths():
    ramp = np.broadcast_to(np.arange(32, dtype=np.uint8) * 8, (3, 1, 32, 32)).copy()
    made = make_controls(ramp, "crop", 0, ramp).astype(int)
    slope = np.diff(made[:, 0, 16, 8:24], axis=1).mean(axis=1)
    assert slope == pytest.approx(8 * 7 / 8, rel=0.02)
    assert (np.diff(made[:, 0, 16, 8:24], axis=1) > 4).all()


def test_a_blur_keeps_the_mean_and_takes_away_contrast():
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
    made = make_controls(images, "blur", 0, images)
    assert made.mean() == pytest.approx(images.mean(), abs=1)
    assert made.std() < 0.5 * images.std()


@pytest.mark.parametrize(("key", "share"), [("blend80", 0.8), ("blend50", 0.5)])
def test_a_blend_is_the_weighted_mean_with_the_partner(key, share):
    images, others = textures(4, 3, 12), textures(7, 3, 12, seed=2)
    second = others[partners(images, 6, others)]
    expected = np.rint(share * images + (1 - share) * second)
    assert np.array_equal(make_controls(images, key, 6, others), expected)


def test_no_image_is_its_own_partner():
    images = textures(2, 1, 8)
    others = np.concatenate([images[:1]] * 9 + [images[1:]])
    assert partners(images[:1], 0, others).tolist() == [9]
    with pytest.raises(UserError, match="two different training images"):
        make_controls(images[:1], "blend50", 0, others[:9])


def test_the_average_is_that_of_the_image_and_its_near_copies():
    (images,) = digits(20)
    group = np.stack([images, *near_copies(images, 3)]).astype(float)
    assert len(group) == 1 + NEAR_COPIES
    assert np.array_equal(make_controls(images, "averaged", 3, images), np.rint(group.mean(axis=0)))
    assert len({one.tobytes() for one in group}) == len(group)
    assert (rms(group[1], images) < 8).all()


def test_exact_copies_and_fresh_images_stay_as_they_are():
    (images,) = digits(10)
    assert np.array_equal(make_controls(images, "exact", 0, images), images)
    assert np.array_equal(make_controls(images, FRESH.key, 0, images), images)


def test_milder_changes_of_one_sort_are_nearer_to_the_original():
    images = textures(8, 3, 32)
    for keys in (["noise4", "noise12", "noise24"], ["jpeg75", "jpeg50", "jpeg20"], ["blend80", "blend50"]):
        far = [rms(make_controls(images, key, 0, images[::-1]), images).mean() for key in keys]
        assert far == sorted(far)


def test_keys_are_different_and_unknown_ones_are_refused():
    assert len({*KEYS, FRESH.key}) == len(POSITIVE_CONTROLS) + 1
    assert control_named("jpeg20").level == 20
    with pytest.raises(UserError, match="no positive control 'jpeg99'; known are exact, noise4"):
        make_controls(textures(1, 1, 8), "jpeg99", 0, textures(2, 1, 8))
    with pytest.raises(UserError, match="seed must be 0 or more, not -1"):
        make_controls(textures(1, 1, 8), "noise4", -1, textures(2, 1, 8))

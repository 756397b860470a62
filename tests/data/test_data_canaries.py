"""Canaries: who is planted, what the marks are, and the file that keeps them."""

import math
import os
import zipfile

import numpy as np
import pytest

from diffmem.data import CanarySet, ImageSet, canaries_path, open_images, plant_canaries
from diffmem.data.canaries import check_canaries, marked, smallest_p_value
from diffmem.errors import UserError


def images(count=40, shape=(3, 16, 16), labels=True, seed=0):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    return ImageSet(
        pixels, np.arange(count) % 4 if labels else None, tuple(f"image{i}" for i in range(count))
    )


def covered(height, width):
    rows, columns = np.arange(height) * 8 // height, np.arange(width) * 8 // width
    return (rows[:, None] + columns) % 2 == 0


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 28, 28), (3, 256, 256), (3, 9, 24)])
def test_a_mark_covers_every_second_field_with_blocks_and_keeps_the_rest(shape):
    given = images(4, shape).images
    found, inside = marked(given, 3), covered(*shape[1:])
    assert (found[..., ~inside] == given[..., ~inside]).all()
    assert set(np.unique(found[..., inside])) == {0, 255}
    rows, columns = np.arange(shape[1]) * 8 // shape[1], np.arange(shape[2]) * 8 // shape[2]
    for row in range(8):
        for column in range(row % 2, 8, 2):
            block = found[:, :, rows == row][..., columns == column].reshape(4, shape[0], -1)
            assert (block == block[..., :1]).all()  # one value for each channel of a field
    if shape[1] % 8 == shape[2] % 8 == 0:
        assert inside.mean() == 0.5


@pytest.mark.parametrize("channels", [1, 3])
def test_marks_are_fair_coins_and_all_differ(channels):
    found = marked(np.full((1000, channels, 8, 8), 7, np.uint8), 1)[..., covered(8, 8)] == 255
    assert len({one.tobytes() for one in found}) == 1000
    assert abs(found.mean() - 0.5) < 5 * 0.5 / math.sqrt(found.size)
    assert (np.abs(found.reshape(1000, -1).mean(0) - 0.5) < 5 * 0.5 / math.sqrt(1000)).all()


def test_a_mark_depends_on_the_seed_and_its_number_only():
    first, second = images(5).images, images(3, seed=1).images
    inside = covered(16, 16)
    assert (marked(first, 4)[:3][..., inside] == marked(second, 4)[..., inside]).all()
    assert (marked(first, 4)[..., inside] != marked(first, 5)[..., inside]).any()


def test_a_mark_that_would_come_twice_is_drawn_again():
    from diffmem.data.canaries import _bits

    first = _bits(1, 2, 0, set())
    again = _bits(1, 2, 0, {first.tobytes()})
    assert (first != again).any()


def test_no_image_of_the_digits_is_within_ninety_grey_levels_of_a_canary():
    natural = open_images("digits").images.astype(float)
    found = marked(open_images("digits").images[:20], 0).astype(float)
    rms = np.sqrt(np.square(found[:, None] - natural).mean((2, 3, 4)))
    assert rms.mean() > 127.5 / math.sqrt(2)
    assert rms.min() > 60


def test_the_set_is_the_rest_in_its_order_and_then_the_planted_canaries():
    given = images(40)
    made, canaries = plant_canaries(given, 3, 4, seed=7)
    assert len(made) == 40 - 6 + 12
    rest, planted = made.images[:34], made.images[34:]
    places = [next(i for i, one in enumerate(given.images) if (one == image).all()) for image in rest]
    assert places == sorted(places)
    assert made.names[:34] == tuple(f"image{place}" for place in places)
    assert (made.labels[:34] == given.labels[places]).all()
    for copy in range(4):
        assert (planted[3 * copy : 3 * copy + 3] == canaries.planted).all()
        assert (made.labels[34 + 3 * copy : 37 + 3 * copy] == canaries.planted_labels).all()
    assert made.names[-1].endswith("(canary 3 of 3, copy 4 of 4)")
    assert "3 marked images planted 4 times each, 3 more left out" in made.history[-1]
    assert canaries.fingerprint == made.fingerprint
    gone = sorted(set(range(40)) - set(places))
    originals = given.images[gone]
    inside = covered(16, 16)
    assert {one[..., ~inside].tobytes() for one in originals} == {
        one[..., ~inside].tobytes() for one in (*canaries.planted, *canaries.control)
    }
    assert (canaries.unmarked[..., ~inside] == canaries.control[..., ~inside]).all()
    for image, label in zip(canaries.unmarked, canaries.control_labels, strict=True):
        (place,) = [at for at in gone if (given.images[at] == image).all()]
        assert given.labels[place] == label


def test_the_control_group_is_not_in_the_set():
    made, canaries = plant_canaries(images(40), 5, 2, seed=1)
    held = {one.tobytes() for one in made.images}
    assert not any(one.tobytes() in held for one in (*canaries.control, *canaries.unmarked))


def test_the_same_seed_gives_the_same_canaries_and_another_seed_others():
    one, first = plant_canaries(images(), 4, 2, seed=5)
    two, second = plant_canaries(images(), 4, 2, seed=5)
    assert one.fingerprint == two.fingerprint
    assert (first.control == second.control).all()
    assert plant_canaries(images(), 4, 2, seed=6)[0].fingerprint != one.fingerprint


def test_a_fair_draw_decides_which_canaries_are_planted():
    given = images(12, (1, 8, 8), labels=False)
    times, taken = np.zeros(12), np.zeros(12)
    inside = covered(8, 8)
    for seed in range(400):
        _, canaries = plant_canaries(given, 2, 1, seed)
        for group, step in ((canaries.planted, 1), (canaries.control, 0)):
            for one in group:
                place = next(
                    i
                    for i, image in enumerate(given.images)
                    if (image[..., ~inside] == one[..., ~inside]).all()
                )
                times[place] += step
                taken[place] += 1
    assert np.abs(taken / 400 - 1 / 3).max() < 4.5 * math.sqrt(2 / 9 / 400)
    assert np.abs(times / taken - 0.5).max() < 4.5 * math.sqrt(0.25 / taken.min())


def test_unlabelled_images_make_unlabelled_canaries():
    made, canaries = plant_canaries(images(labels=False), 4, 2, 0)
    assert made.labels is None
    assert canaries.planted_labels is None
    assert canaries.control_labels is None


@pytest.mark.parametrize(
    ("count", "repeats", "told"),
    [(20, 1, "plant 19 at most"), (0, 1, "At least 1 canary"), (3, 0, "at least once")],
)
def test_numbers_out_of_range_are_refused(count, repeats, told):
    with pytest.raises(UserError, match=told):
        plant_canaries(images(40), count, repeats, 0)


def test_canaries_and_repeats_go_together():
    check_canaries(None, None)
    with pytest.raises(UserError, match="need both"):
        check_canaries(3, None)
    with pytest.raises(UserError, match="need both"):
        check_canaries(None, 3)


def test_images_too_small_for_a_mark_and_negative_seeds_are_refused():
    with pytest.raises(UserError, match="at least 8 x 8 pixels; these have 7 x 9"):
        plant_canaries(images(40, (1, 7, 9)), 2, 1, 0)
    with pytest.raises(UserError, match="0 or more, not -1"):
        plant_canaries(images(40), 2, 1, -1)


def test_the_smallest_p_value_is_that_of_one_ranking_among_all():
    assert smallest_p_value(3) == 0.05
    assert smallest_p_value(5) == 1 / 252


def saved(tmp_path, **changes):
    _, canaries = plant_canaries(images(), 4, 2, 0)
    path = tmp_path / "d.canaries.npz"
    canaries.save(path)
    with np.load(path) as archive:
        arrays = {**archive, **changes}
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return path


@pytest.mark.parametrize("labels", [True, False])
def test_canaries_come_back_from_their_file(tmp_path, labels):
    _, canaries = plant_canaries(images(labels=labels), 4, 3, 9)
    path = canaries_path(tmp_path / "train.zip")
    assert path.name == "train.canaries.npz"
    canaries.save(path)
    again = CanarySet.load(path)
    for field in ("planted", "control", "unmarked", "planted_labels", "control_labels"):
        assert np.array_equal(getattr(canaries, field), getattr(again, field)), field
        assert getattr(again, field) is None or not getattr(again, field).flags.writeable
    assert (again.repeats, again.seed, again.fingerprint) == (3, 9, canaries.fingerprint)
    assert (len(again), again.shape) == (4, (3, 16, 16))
    content = path.read_bytes()
    again.save(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"format": np.array("other/1")}, "holds no canaries"),
        ({"format": None}, "holds no canaries"),
        ({"control": None}, "lacks control"),
        ({"seed": None}, "lacks seed"),
        ({"control": np.zeros((4, 3, 16, 15), np.uint8)}, "as many control images as planted ones"),
        ({"control": np.zeros((3, 3, 16, 16), np.uint8)}, "as many control images as planted ones"),
        ({"control": np.zeros((4, 3, 16, 16), np.float32)}, "holds float32 values"),
        ({"control": np.zeros((4, 3, 16, 16), np.uint8)}, "are the same image"),
        ({"planted": np.zeros((4, 16, 16), np.uint8)}, "planted: Images must have shape"),
        ({"planted": np.zeros((0, 3, 16, 16), np.uint8)}, "planted: Images must have shape"),
        ({"unmarked": np.zeros((4, 2, 16, 16), np.uint8)}, "unmarked: Images must have shape"),
        ({"repeats": np.array([0])}, "repeats of 1 or more"),
        ({"repeats": np.array([1, 2])}, "must be one number each"),
        ({"seed": np.array([-1])}, "seed of 0 or more"),
        ({"fingerprint": np.array("abc")}, "64 hexadecimal digits"),
        ({"planted_labels": np.array([0, 1])}, "planted labels: There are 4 images but the labels have shape"),
        ({"planted_labels": np.array([0, 1, 2, -3])}, "Labels must lie between 0"),
        ({"planted_labels": None}, "Either both groups"),
        ({"planted": np.array([{}, 1, 2, 3], dtype=object)}, "pickled Python objects"),
    ],
)  # fmt: skip
def test_a_file_of_something_else_is_refused(tmp_path, changes, told):
    path = saved(tmp_path, **changes)
    with pytest.raises(UserError, match=told) as error:
        CanarySet.load(path)
    assert str(path) in str(error.value)


def test_a_file_with_both_groups_alike_is_refused(tmp_path):
    _, canaries = plant_canaries(images(), 4, 2, 0)
    with pytest.raises(UserError, match="are the same image"):
        CanarySet(canaries.planted, canaries.planted, canaries.unmarked, 2, 0, canaries.fingerprint)


def test_a_missing_or_damaged_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="There is no file"):
        CanarySet.load(tmp_path / "none.npz")
    path = saved(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="damaged or incomplete"):
        CanarySet.load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../x.npy", b"")
    with pytest.raises(UserError, match="points outside"):
        CanarySet.load(path)


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    _, canaries = plant_canaries(images(), 4, 2, 0)
    path = tmp_path / "d.canaries.npz"
    canaries.save(path)
    before = path.read_bytes()

    def full(*arguments, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(Exception, match="The file that was there is kept"):
        canaries.save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]
    with pytest.raises(UserError, match=r"written as \.npz"):
        canaries.save(tmp_path / "d.zip")

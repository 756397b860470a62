import numpy as np
import pytest

from diffmem.data import ImageSet
from diffmem.errors import DiffmemError
from diffmem.memorization import Neighbours, RatioRule, nearest_neighbours
from diffmem.runs.evaluations import THRESHOLDS, EvaluationStore, FrechetRecord, rates_by_threshold, summary

SEEN = 64


def stored(folder, count=6):
    """A store with one evaluation: the images, the store."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 1, 4, 4), dtype=np.uint8)
    distances = np.sort(rng.uniform(0, 9, (count, 2)), axis=1)
    store = EvaluationStore(folder, count, 10)
    store.write(SEEN, images, None, Neighbours(distances, rng.integers(0, 10, (count, 2))), 1.5)
    return images, store


def neighbours(*ratios):
    distances = np.array([[ratio, 1.0] for ratio in ratios])
    return Neighbours(distances, np.tile(np.arange(2), (len(ratios), 1)))


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 255
    path.write_bytes(content)


def test_an_evaluation_comes_back_as_it_was_written(tmp_path):
    images, store = stored(tmp_path)
    found = store.read(SEEN)
    assert (found.seen, found.seconds, found.labels) == (SEEN, 1.5, None)
    assert len(found.neighbours) == 6
    np.testing.assert_array_equal(found.images, images)


def training_set(count, side):
    return ImageSet(np.zeros((count, 1, side, side), np.uint8), None, tuple(map(str, range(count))), None, ())


def test_labels_are_kept(tmp_path):
    images, store = stored(tmp_path)
    held = store.read(SEEN).neighbours
    store.write(SEEN, images, np.array([3, 1, 2, 0, 0, 1]), held, 1.5)
    assert store.read(SEEN).labels.tolist() == [3, 1, 2, 0, 0, 1]


def test_numbers_need_no_images(tmp_path):
    _, store = stored(tmp_path)
    store.images_path(SEEN).unlink()
    found = summary(SEEN, store.read(SEEN).neighbours, RatioRule(0.5), training_set(10, 4))
    assert found.memorized.total == 6
    assert store.is_whole(SEEN, pytest.fail)


def test_images_are_read_once_and_only_when_they_are_asked_for(tmp_path):
    images, store = stored(tmp_path)
    found = store.read(SEEN)
    assert found.images is found.images
    np.testing.assert_array_equal(found.images, images)


def test_every_changed_byte_of_the_small_file_is_noticed_or_harmless(tmp_path):
    _, store = stored(tmp_path)
    whole, content = store.read(SEEN), store.path(SEEN).read_bytes()
    noticed = 0
    for position in range(0, len(content), 7):
        store.path(SEEN).write_bytes(content)
        flip(store.path(SEEN), position)
        try:
            found = store.read(SEEN)
        except DiffmemError:
            noticed += 1
            continue
        # A byte of the archive's directory that means nothing here, such as a date.
        np.testing.assert_array_equal(found.neighbours.distances, whole.neighbours.distances)
        np.testing.assert_array_equal(found.neighbours.indices, whole.neighbours.indices)
        assert (found.images_sha256, found.seconds) == (whole.images_sha256, whole.seconds)
    assert noticed > len(content) / 7 / 3


def test_a_small_file_rewritten_with_other_distances_is_noticed(tmp_path):
    _, store = stored(tmp_path)
    with np.load(store.path(SEEN)) as held:
        content = dict(held)
    np.savez(store.path(SEEN), **{**content, "distances": content["distances"] / 2})
    with pytest.raises(DiffmemError, match="its checksum does not fit"):
        store.read(SEEN)


@pytest.mark.parametrize("how", ["changed", "missing", "of another evaluation"])
def test_images_that_are_not_those_of_the_evaluation_are_refused(tmp_path, how):
    images, store = stored(tmp_path)
    path = store.images_path(SEEN)
    if how == "changed":
        flip(path, path.read_bytes().index(images.tobytes()) + 5)
    elif how == "missing":
        path.unlink()
    else:
        np.savez(path, images=images[::-1])
    told = []
    assert store.is_whole(SEEN, told.append)
    assert not told
    assert not store.is_whole(SEEN, told.append, images=True)
    assert str(path) in told[0]
    with pytest.raises(DiffmemError, match=r"damaged|missing"):
        _ = store.read(SEEN).images


@pytest.mark.parametrize(
    ("store", "words"),
    [
        ((5, 10), "another snapshot or number of samples"),
        ((6, 3), "another training set"),
    ],
)
def test_an_evaluation_of_something_else_is_not_used(tmp_path, store, words):
    stored(tmp_path)
    with pytest.raises(DiffmemError, match=words):
        EvaluationStore(tmp_path, *store).read(SEEN)


def test_the_file_of_another_snapshot_is_not_used(tmp_path):
    _, store = stored(tmp_path)
    store.path(SEEN).rename(store.path(SEEN + 1))
    with pytest.raises(DiffmemError, match="another snapshot"):
        store.read(SEEN + 1)


def test_a_missing_evaluation_is_not_whole_and_nothing_is_told(tmp_path):
    store = EvaluationStore(tmp_path, 6, 10)
    assert not store.is_whole(SEEN, pytest.fail)
    with pytest.raises(DiffmemError, match="not measured yet"):
        store.read(SEEN)


def test_every_threshold_is_answered_from_the_neighbours():
    found = rates_by_threshold(neighbours(0.1, 0.22, 0.3, 0.35, 0.45, 0.9, 1.0))
    assert {name: rate.count for name, rate in found.items()} == {
        "0.2": 1, "0.25": 2, "0.333": 3, "0.4": 4, "0.5": 5,
    }  # fmt: skip
    assert all(rate.low < rate.value < rate.high for rate in found.values())
    assert all(float(name) == pytest.approx(value, abs=1e-3) for name, value in THRESHOLDS.items())


def test_copies_of_one_image_count_once_in_the_coverage(tmp_path):
    store = EvaluationStore(tmp_path, 4, 10)
    distances = np.array([[0.0, 3], [1, 9], [0, 5], [4, 5]])
    indices = np.array([[7, 1], [7, 2], [3, 2], [5, 2]])
    store.write(SEEN, np.zeros((4, 1, 2, 2), np.uint8), None, Neighbours(distances, indices), 0.0)
    found = summary(SEEN, store.read(SEEN).neighbours, RatioRule(), training_set(32, 2))
    assert found.memorized.count == 3
    assert found.distinct_replicated == 2
    assert found.epoch == 2
    assert found.mean_nearest_distance == pytest.approx(5 / 4 / 2)


def test_the_stored_distances_are_those_of_direct_differences():
    # trap: the matmul expansion of cdist is off by up to 0.07 grey levels RMS, so that exact copies are not at distance 0
    rng = np.random.default_rng(0)
    training = rng.integers(200, 256, (300, 3, 32, 32), dtype=np.uint8)
    made = training[:20].copy()
    made[:, 0, 0, 0] ^= 1
    found = nearest_neighbours(np.concatenate([made, training[:20]]), training, 2)
    assert found.distances[:20, 0].tolist() == [1.0] * 20
    assert found.distances[20:, 0].tolist() == [0.0] * 20


def test_two_distances_of_zero_are_no_memorization():  # trap: 0 / 0 gives NaN
    both_zero = Neighbours(np.zeros((1, 2)), np.array([[0, 1]]))
    assert {rate.count for rate in rates_by_threshold(both_zero).values()} == {0}


def test_a_frechet_distance_is_kept_by_its_features(tmp_path):
    _, store = stored(tmp_path)
    one, other = FrechetRecord("pixels", 2.5), FrechetRecord("inception", None, "too few")
    store.write_frechet(SEEN, one)
    store.write_frechet(SEEN, other)
    assert (store.frechet(SEEN, "pixels"), store.frechet(SEEN, "inception")) == (one, other)
    with pytest.raises(DiffmemError, match=r"no distance of torchscript net\.pt"):
        store.frechet(SEEN, "torchscript net.pt")


def test_the_frechet_distance_of_other_images_is_not_used(tmp_path):
    images, store = stored(tmp_path)
    store.write_frechet(SEEN, FrechetRecord("pixels", 2.5))
    store.write(SEEN, images[::-1], None, store.read(SEEN).neighbours, 1.0)
    with pytest.raises(DiffmemError, match="for these images"):
        store.frechet(SEEN, "pixels")


@pytest.mark.parametrize("content", ["", "[]", "{", '{"pixels": 3}', '{"pixels": {"value": "x"}}'])
def test_a_damaged_file_of_frechet_distances_is_not_used_and_can_be_replaced(tmp_path, content):
    _, store = stored(tmp_path)
    (tmp_path / f"{SEEN:010d}.frechet.json").write_text(content)
    with pytest.raises(DiffmemError):
        store.frechet(SEEN, "pixels")
    store.write_frechet(SEEN, FrechetRecord("pixels", 2.5))
    assert store.frechet(SEEN, "pixels").value == 2.5

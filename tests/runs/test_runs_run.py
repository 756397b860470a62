import shutil
from contextlib import ExitStack

import numpy as np
import pytest
from frechet_tools import frechet_of_images
from store_builders import child
from studies_builders import forbid, tiny_recipe

from diffmem.data import ImageSet, open_images
from diffmem.errors import DiffmemError, UserError
from diffmem.folder_lock import BusyFolderError
from diffmem.memorization import RatioRule, nearest_neighbours
from diffmem.memorization.features import open_features
from diffmem.models.config import ModelConfig
from diffmem.models.weights import read_tensors, write_tensors
from diffmem.runs import trained
from diffmem.runs.evaluations import stored_frechet
from diffmem.runs.run import Run
from diffmem.runs.together import execute_together
from diffmem.training import TrainingConfig
from diffmem.training.loop import snapshot_path
from diffmem.training.schedule import evaluation_images

RECIPE = tiny_recipe("measure.samples=24", "measure.frechet=pixels")
SAMPLING, MEASURE = RECIPE.sampling, RECIPE.measure
DIGITS = open_images("digits").with_labels(None, None, "without labels")


def a_run(store, *, size=20, heldout=30, model=RECIPE.model):
    fresh = DIGITS.take(np.arange(100, 100 + heldout), "held out") if heldout else None
    return Run(DIGITS.take(np.arange(size), "some"), fresh, model, RECIPE.training, 0, store)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    one = a_run(tmp_path_factory.mktemp("finished"))
    execute_together([(one, SAMPLING, MEASURE)], warn=pytest.fail)
    return one


@pytest.fixture
def copied(finished, tmp_path):
    """A finished run that a test may damage."""
    shutil.copytree(finished.store, tmp_path / "store")
    return a_run(tmp_path / "store")


def images_of(one, sampling, seen, wanted, **more):
    stored = one.evaluation_store(sampling, 24).read(seen)
    return one.images_of(stored, seen, sampling, wanted, **more)


def numbers(one):
    return one.record(SAMPLING, MEASURE, one.store).model_copy(update={"sampling_seconds": 0.0})


def test_a_finished_run_is_known_and_summarized_without_reading_images(finished, monkeypatch):
    # At the paper's scale a run has 256 snapshots of 10,000 images.
    forbid(monkeypatch, "images", "training", "sampling")
    assert finished.is_finished(SAMPLING, MEASURE)
    assert len(numbers(finished).evaluations) == len(finished.points)


def test_a_record_has_every_number_of_every_evaluation(finished):
    record = numbers(finished)
    for each, stored in zip(record.evaluations, finished.evaluations(SAMPLING, 24), strict=True):
        assert list(each.at_thresholds) == ["0.2", "0.25", "0.333", "0.4", "0.5"]
        for name, threshold in zip(each.at_thresholds, (0.2, 0.25, 1 / 3, 0.4, 0.5), strict=True):
            assert each.at_thresholds[name].count == RatioRule(threshold)(stored.neighbours).sum()
        assert each.memorized.count == RatioRule(0.9)(stored.neighbours).sum()
        assert each.frechet_of == "pixels"
        assert each.frechet == pytest.approx(
            frechet_of_images(stored.images, finished.training_set.images, open_features("pixels").compute)
        )
    null = nearest_neighbours(finished.heldout.images, finished.training_set.images, 2)
    assert record.null.count == RatioRule(0.9)(null).sum()
    assert {name: rate.count for name, rate in record.null_at_thresholds.items()} == {
        name: RatioRule(value)(null).sum()
        for name, value in (("0.2", 0.2), ("0.25", 0.25), ("0.333", 1 / 3), ("0.4", 0.4), ("0.5", 0.5))
    }
    assert record.last is record.evaluations[-1]
    assert record.peak.memorized.value == max(each.memorized.value for each in record.evaluations)


def test_without_held_out_images_there_is_no_null_at_any_threshold(finished):
    shutil_free = a_run(finished.store, heldout=0)
    shutil_free.measure_null()
    record = shutil_free.record(SAMPLING, MEASURE, finished.store)
    assert (record.null, record.null_at_thresholds) == (None, {})


def test_stored_neighbours_are_exact_and_their_indices_are_of_the_training_set_with_its_copies(tmp_path):
    # trap: with duplicates in the training set d1 ~ d2, and copies of duplicated images are never counted
    doubled = DIGITS.take(np.repeat(np.arange(10), 2), "each image twice")
    one = Run(doubled, None, RECIPE.model, RECIPE.training, 0, tmp_path)
    execute_together([(one, SAMPLING, MEASURE.model_copy(update={"frechet": None}))])
    for stored in one.evaluations(SAMPLING, 24):
        assert set(stored.neighbours.indices.ravel()) <= set(range(0, 20, 2))
        difference = stored.images[:, None].astype(float) - doubled.images[stored.neighbours.indices]
        np.testing.assert_array_equal(
            stored.neighbours.distances, np.sqrt((difference**2).sum(axis=(2, 3, 4)))
        )
    assert one.record(SAMPLING, MEASURE.model_copy(update={"frechet": None}), tmp_path).duplicates == 10


def test_a_training_set_of_one_image_is_refused_before_training(tmp_path):  # trap: N = 1 fails, as k is 2
    one = Run(DIGITS.take([0], "one"), None, RECIPE.model, RECIPE.training, 0, tmp_path)
    with pytest.raises(UserError, match="only 1 distinct"):
        execute_together([(one, SAMPLING, MEASURE)])
    assert not one.folder.exists()


def test_every_size_has_the_same_number_of_looks_at_the_same_epochs():
    # trap: the original looks every 2,509 thousand images whatever N: 8 times at N = 500, 256 times at N = 16,000
    config = TrainingConfig()
    for size in (500, 2_000, 16_000, 50_000):
        epochs = [seen / size for seen in evaluation_images(config, size)]
        assert len(epochs) == config.evaluations.count
        wanted = [40_000 * 0.02 ** ((7 - i) / 7) for i in range(8)]
        np.testing.assert_allclose(epochs, wanted, atol=512 / size)
    study = config.model_copy(
        update={"evaluations": config.evaluations.model_copy(update={"schedule": "study"})}
    )
    counts = [len(evaluation_images(study, size)) for size in (500, 16_000)]
    assert counts == [8, 256]


def test_the_same_work_is_not_done_twice_and_leaves_every_file_alone(finished, monkeypatch):
    # trap: the original redoes every snapshot and appends to its log
    forbid(monkeypatch, "training", "sampling", "images")

    def times():
        files = [path for path in finished.folder.rglob("*") if path.name != ".lock"]
        return {path: path.stat().st_mtime_ns for path in files}

    before = times()
    execute_together([(finished, SAMPLING, MEASURE)], warn=pytest.fail)
    assert times() == before


def test_fewer_images_are_measured_alone(finished, monkeypatch):
    # trap: one shared folder is rewritten for each snapshot, and files of an earlier, larger call are measured too
    forbid(monkeypatch, "training")
    few = MEASURE.model_copy(update={"samples": 20})
    execute_together([(finished, SAMPLING, few)])
    for stored, many in zip(
        finished.evaluations(SAMPLING, 20), finished.evaluations(SAMPLING, 24), strict=True
    ):
        assert stored.images.shape[0] == 20
        np.testing.assert_array_equal(stored.images, many.images[:20])
        np.testing.assert_array_equal(stored.neighbours.distances, many.neighbours.distances[:20])


@pytest.mark.parametrize("which", ["small", "images"])
def test_a_damaged_file_is_reported_and_made_anew_where_it_is_needed(copied, monkeypatch, which):
    forbid(monkeypatch, "training")
    wanted, store = numbers(copied), copied.evaluation_store(SAMPLING, 24)
    seen = copied.points[0]
    path = store.path(seen) if which == "small" else store.images_path(seen)
    before, told = path.read_bytes(), []
    path.write_bytes(before[:-40])
    execute_together([(copied, SAMPLING, MEASURE)], warn=told.append)
    if which == "small":
        assert str(path) in told[0]
        assert store.read(seen).images.shape[0] == 24
    else:
        assert not told  # no number needs them
        store._frechet_path(seen).unlink()
        execute_together([(copied, SAMPLING, MEASURE)], warn=told.append)
        assert str(path) in told[0]
        assert path.read_bytes() == before
    assert len(told) == 1
    assert numbers(copied) == wanted


def test_a_whole_snapshot_that_this_version_cannot_read_is_kept_and_nothing_is_trained(copied, monkeypatch):
    forbid(monkeypatch, "training")
    path = snapshot_path(copied.folder, copied.points[-1])
    tensors, words = read_tensors(path)
    words["model"] = words["model"].replace('"channels"', '"width_in_channels"')
    write_tensors(path, tensors, words)
    before = path.read_bytes()
    with pytest.raises(UserError, match="go on with the version of diffmem that wrote it") as caught:
        execute_together([(copied, SAMPLING, MEASURE)], warn=pytest.fail)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before


def test_lost_images_of_a_gallery_are_generated_again_and_nothing_is_written(copied):
    store, seen, told = copied.evaluation_store(SAMPLING, 24), copied.points[-1], []
    wanted = images_of(copied, SAMPLING, seen, 3, warn=pytest.fail)
    np.testing.assert_array_equal(wanted, store.read(seen).images[:3])
    store.images_path(seen).unlink()
    found = images_of(copied, SAMPLING, seen, 3, warn=told.append)
    assert np.abs(found.astype(int) - wanted).max() <= 1  # another batch size may round differently
    assert "generated again" in told[0]
    assert not store.images_path(seen).exists()
    assert len(images_of(copied, SAMPLING, seen, 24, warn=told.append)) == 24


def test_a_frechet_distance_of_too_few_images_is_told_and_noted(tmp_path):
    one, told = a_run(tmp_path, size=8), []
    execute_together([(one, SAMPLING, MEASURE)], warn=told.append)
    assert len(told) == len(one.points)
    for each in one.record(SAMPLING, MEASURE, tmp_path).evaluations:
        assert (each.frechet, each.frechet_of) == (None, "pixels")
        assert "more than 16 images on both sides, but there are 8" in each.frechet_note
    assert one.is_finished(SAMPLING, MEASURE)


def test_a_frechet_distance_can_be_asked_for_later(finished, monkeypatch):
    forbid(monkeypatch, "training", "sampling")
    seen = finished.points[0]

    def columns(images):
        return images.astype(float).mean(axis=2).reshape(len(images), -1)

    features = open_features("pixels").__class__("columns", columns)
    store = finished.evaluation_store(SAMPLING, 24)
    assert stored_frechet(store, seen, features) is None
    finished.evaluate(seen, SAMPLING, 24, features)
    found = stored_frechet(store, seen, features)
    assert found.value == pytest.approx(
        frechet_of_images(finished.evaluations(SAMPLING, 24)[0].images, finished.training_set.images, columns)
    )
    forbid(monkeypatch, "images")
    finished.evaluate(seen, SAMPLING, 24, features)
    assert stored_frechet(store, seen, features) == found


def test_features_that_cannot_be_had_are_told_before_training(tmp_path, monkeypatch):
    forbid(monkeypatch, "training")
    with pytest.raises(UserError, match="no TorchScript file"):
        execute_together([(a_run(tmp_path), SAMPLING, MEASURE.model_copy(update={"frechet": "missing.pt"}))])


def test_a_run_that_is_not_done_has_no_record(tmp_path):
    one = a_run(tmp_path)
    assert not one.is_finished(SAMPLING, MEASURE)
    with pytest.raises(DiffmemError, match="not measured yet"):
        one.record(SAMPLING, MEASURE, tmp_path)


def test_the_optimum_is_measured_without_training_and_copies(tmp_path, monkeypatch):
    forbid(monkeypatch, "training")
    one = a_run(tmp_path, model=ModelConfig(architecture="optimum"))
    sampling = SAMPLING.model_copy(update={"steps": 18})
    execute_together([(one, sampling, MEASURE)], warn=pytest.fail)
    record = one.record(sampling, MEASURE, tmp_path)
    assert [(each.images_seen, each.memorized.value) for each in record.evaluations] == [(0, 1.0)]
    assert len(images_of(one, sampling, 0, 5)) == 5
    assert (one.folder / "config.yaml").is_file()


def test_a_run_in_a_folder_of_another_name_is_the_same_run(copied, tmp_path):
    moved = tmp_path / "elsewhere"
    copied.folder.rename(moved)
    there = Run(
        copied.training_set,
        copied.heldout,
        copied.model,
        copied.training,
        0,
        tmp_path / "store",
        own_folder=moved,
    )
    assert there.run_id == copied.run_id
    assert there.is_finished(SAMPLING, MEASURE)
    assert there.record(SAMPLING, MEASURE, tmp_path).folder == "elsewhere"
    assert snapshot_path(moved, there.points[0]).exists()


def test_training_sets_that_differ_only_in_labels_are_different_runs(tmp_path):
    plain = DIGITS.take(np.arange(20), "some")
    labelled = ImageSet(plain.images, np.arange(20) % 2, plain.names)
    runs = [Run(each, None, RECIPE.model, RECIPE.training, 0, tmp_path) for each in (plain, labelled)]
    assert runs[0].run_id != runs[1].run_id


def evaluate_and_say(connection, run, seen):
    connection.send("begins")
    Run.generate = lambda *arguments, **more: connection.send("generates")
    run.evaluate(seen, SAMPLING, 24)
    connection.send("done")


def test_who_evaluates_a_snapshot_that_another_process_evaluates_waits_and_uses_its_images(copied):
    seen = copied.points[-1]
    copied.evaluation_store(SAMPLING, 24).path(seen).unlink()
    with ExitStack() as others:

        def meanwhile(done, total, note=""):
            if not hasattr(meanwhile, "other"):
                meanwhile.other = others.enter_context(child(evaluate_and_say, a_run(copied.store), seen))
                assert meanwhile.other.told() == "begins"
                assert not meanwhile.other.connection.poll(0.3)

        copied.evaluate(seen, SAMPLING, 24, progress=meanwhile)
        assert meanwhile.other.told() == "done"


def train_and_say(connection, run):
    connection.send("begins")
    Run.prepared = lambda *arguments: connection.send("trains")
    with pytest.raises(BusyFolderError):
        run.fit()
    connection.send("refused")


def test_a_training_that_another_process_is_at_is_refused_and_one_that_is_done_is_opened(
    finished, tmp_path, monkeypatch
):
    monkeypatch.setattr(trained, "_SECONDS_TO_WAIT", 0.1)
    one = a_run(tmp_path, model=finished.model)
    with ExitStack() as others:

        def meanwhile(done, total, note=""):
            if not hasattr(meanwhile, "other"):
                meanwhile.other = others.enter_context(child(train_and_say, a_run(tmp_path)))
                assert [meanwhile.other.told(), meanwhile.other.told()] == ["begins", "refused"]

        one.fit(progress=meanwhile)
    with finished.locked():
        finished.fit()

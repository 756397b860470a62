import numpy as np
import pytest
from studies_builders import carried_out, result_of, tiny_recipe

from diffmem.data import ImageSet, open_images
from diffmem.errors import DiffmemError, UserError
from diffmem.runs import gap_run
from diffmem.runs.gap_run import GapSettings, heldout_of, measure_gap, stored_rmem
from diffmem.runs.opening import open_run, snapshots_of
from diffmem.sampling import SamplerConfig
from diffmem.studies.study import Study

SETTINGS = GapSettings(samples=12, sampling=SamplerConfig(steps=3))
KINDS = ["training", "heldout", "trajectory"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    work = Study(tiny_recipe("sizes=[8]", "training.epochs=4"), tmp_path_factory.mktemp("study"))
    carried_out(work)
    return work


@pytest.fixture(scope="module")
def folder(study):
    return study.runs()[0].folder


def test_a_run_of_a_study_knows_its_images_its_heldout_images_and_its_rate(study, folder):
    found = measure_gap(folder, SETTINGS)
    assert [curve.kind for curve in found.curves] == KINDS
    assert [curve.samples for curve in found.curves] == [12, 12, 12]
    assert (found.images, found.conditional, found.notes) == (8, False, [])
    assert found.images_seen == snapshots_of(folder)[-1]
    assert found.epoch == found.images_seen / 8
    stored = result_of(study).runs[0].last
    rate = found.rmem
    assert (rate.count, rate.total) == (stored.at_thresholds["0.333"].count, 8)
    assert heldout_of(open_run(folder)).fingerprint == study.heldout.fingerprint


def test_the_losses_carry_the_weight_of_training(folder):
    for curve in measure_gap(folder, SETTINGS).curves:
        for point in curve.points:
            assert point.weight == pytest.approx((point.sigma**2 + 0.25) / (point.sigma * 0.5) ** 2)
            assert (point.loss is None) == (curve.kind == "trajectory")


def test_the_result_depends_on_the_seed_alone(folder):
    one, again = measure_gap(folder, SETTINGS), measure_gap(folder, SETTINGS)
    assert one == again
    other = GapSettings(samples=12, sampling=SETTINGS.sampling, seed=1)
    assert measure_gap(folder, other).curves[0] != one.curves[0]


def test_chosen_noise_levels_are_those_of_noisy_images(folder):
    found = measure_gap(folder, GapSettings((0.5, 2.0), 12, SETTINGS.sampling))
    assert [[point.sigma for point in curve.points] for curve in found.curves[:2]] == [[0.5, 2.0]] * 2
    assert len(found.curve("trajectory").points) == 3


def test_given_heldout_images_replace_those_of_the_study_and_training_images_among_them_do_not_count(
    study, folder
):
    training = study.runs()[0].training_set
    fresh = open_images("digits").take(np.arange(5), "fresh")
    known = {image.tobytes() for image in training.images}
    fresh = fresh.take([i for i, image in enumerate(fresh.images) if image.tobytes() not in known], "new")
    joined = ImageSet(np.concatenate([training.images, fresh.images]), None, (*training.names, *fresh.names))
    alone, mixed = (
        measure_gap(folder, SETTINGS, heldout=images).curve("heldout") for images in (fresh, joined)
    )
    assert alone.samples == len(fresh)  # no image is used twice
    assert alone == mixed
    without = measure_gap(folder, SETTINGS, heldout=training)
    assert without.curve("heldout") is None
    assert "--heldout" in without.notes[0]


def test_what_was_measured_is_read_and_a_damaged_file_is_made_anew(folder, tmp_path, monkeypatch):
    first = measure_gap(folder, SETTINGS, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    calls = []
    original = gap_run.gap_errors
    monkeypatch.setattr(
        gap_run, "gap_errors", lambda *given, **named: (calls.append(1), original(*given, **named))[1]
    )
    assert measure_gap(folder, SETTINGS, cache=tmp_path) == first
    assert not calls
    measure_gap(folder, GapSettings(samples=13, sampling=SETTINGS.sampling), cache=tmp_path)
    assert len(calls) == 3
    for content in ("{", "{}", "[]"):
        path.write_text(content)
        assert measure_gap(folder, SETTINGS, cache=tmp_path) == first
    assert len(calls) == 12


def test_the_optimum_as_a_run_has_no_gap(tmp_path):
    work = Study(tiny_recipe("sizes=[8]", "model={architecture: optimum}"), tmp_path)
    carried_out(work)
    found = measure_gap(work.runs()[0].folder, SETTINGS)
    assert all(curve.position.value == 0 for curve in found.curves)
    assert all(point.excess.value == 0 for point in found.curve("training").points)
    assert all(point.weight is None for point in found.curve("training").points)


def test_a_conditional_run_is_compared_with_the_optimum_of_each_class(tmp_path):
    work = Study(
        tiny_recipe(
            "sizes=[8]", "data.labels=random", "data.label_classes=2", "model={architecture: optimum}"
        ),
        tmp_path,
    )
    carried_out(work)
    found = measure_gap(work.runs()[0].folder, SETTINGS)
    assert found.conditional
    assert all(curve.position.value == 0 for curve in found.curves)


def test_a_run_that_was_not_measured_has_no_rate(folder):
    assert stored_rmem(folder, 12345, 8) is None


def test_damaged_evaluations_count_as_none(study, tmp_path):
    seen = snapshots_of(study.runs()[0].folder)[-1]
    place = tmp_path / "evaluations" / "key" / f"{seen:010d}.npz"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"nothing")
    assert stored_rmem(tmp_path, seen, 8) is None


def test_a_folder_that_is_no_run_or_images_that_do_not_fit_are_mistakes(folder, tmp_path):
    with pytest.raises(UserError, match="There is no folder"):
        measure_gap(tmp_path / "missing", SETTINGS)
    with pytest.raises(UserError, match=r"holds no config\.yaml"):
        measure_gap(tmp_path, SETTINGS)
    other = ImageSet(np.zeros((3, 1, 4, 4), np.uint8), None, ("a", "b", "c"))
    with pytest.raises(UserError, match=r"held-out images have shape \(1, 4, 4\)"):
        measure_gap(folder, SETTINGS, heldout=other)
    with pytest.raises(DiffmemError, match="outside the range of the model"):
        measure_gap(folder, GapSettings((float("inf"),), 4))

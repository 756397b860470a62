"""What a study trains on: nested sets, labels, duplicates, and what is refused before anything is trained."""

import numpy as np
import pytest
from studies_builders import carried_out, evaluation_files, tiny_recipe

from diffmem.data import ImageSet, open_images, write_images
from diffmem.errors import UserError
from diffmem.runs import run
from diffmem.studies import emm
from diffmem.studies.study import Study


@pytest.fixture(autouse=True)
def fewer_replicates(monkeypatch):
    monkeypatch.setattr(emm, "_REPLICATES", 50)


@pytest.mark.parametrize("selection", ["random", "first", "balanced"])
@pytest.mark.parametrize("labels", [False, True])
def test_training_sets_are_nested_and_apart_from_the_held_out_images(tmp_path, selection, labels):
    recipe = tiny_recipe(f"data.selection={selection}", f"data.labels={labels}", "sizes=[100, 10, 50]")
    study = Study(recipe, tmp_path)
    sets = [set(study.sets[size].names) for size in (10, 50, 100)]
    assert [len(each) for each in sets] == [10, 50, 100]
    assert sets[0] < sets[1] < sets[2]
    assert not sets[2] & set(study.heldout.names)
    assert len(study.heldout) == 20
    assert (study.sets[10].labels is not None) == labels


def test_a_conditional_study_trains_on_the_labels(tmp_path):
    recipe = tiny_recipe(
        "data.labels=true", "data.classes=[0, 1, 2]", "data.selection=balanced", "sizes=[3, 6]"
    )
    study = Study(recipe, tmp_path)
    result = carried_out(study)
    assert "conditional on the true labels" in result.levels[0].data
    run_ = study.runs()[0]
    with np.load(evaluation_files(tmp_path)[0]) as held:
        assert held["labels"].shape == (8,)
        assert set(held["labels"]) <= {0, 1, 2}
    plain = Study(tiny_recipe("data.classes=[0, 1, 2]", "data.selection=balanced", "sizes=[3, 6]"), tmp_path)
    assert run_.run_id not in {each.run_id for each in plain.runs()}


def test_a_size_beyond_the_images_is_refused_before_any_training(tmp_path):
    with pytest.raises(UserError, match="1778 images were asked for but there are only 1777"):
        Study(tiny_recipe("sizes=[4, 1778]"), tmp_path)


def test_a_size_that_cannot_be_balanced_is_refused(tmp_path):
    with pytest.raises(UserError, match="15 images cannot be balanced over 10 classes"):
        Study(tiny_recipe("sizes=[15]", "data.selection=balanced"), tmp_path)


def test_images_that_do_not_fit_the_network_are_refused_before_any_training(tmp_path):
    with pytest.raises(UserError, match="Images of 6x6 do not fit a U-Net of 3 resolutions"):
        Study(tiny_recipe("data.resolution=6", "model.multipliers=[1, 1, 1]"), tmp_path)


def stored(tmp_path, images):
    path = tmp_path / "images.npz"
    names = tuple(f"image {i}" for i in range(len(images)))
    write_images(ImageSet(images, None, names, None, ()), path)
    return f"data.source={path}"


def test_a_training_set_of_one_image_many_times_is_refused(tmp_path):
    same = np.repeat(open_images("digits").images[:1], 8, axis=0)
    with pytest.raises(UserError, match=r"of size 4 has only one distinct image"):
        Study(tiny_recipe(stored(tmp_path, same), "data.heldout=null"), tmp_path / "study")


def test_duplicates_are_counted_and_do_not_hide_that_a_model_copies(tmp_path, monkeypatch):
    distinct = open_images("digits").images[:6]
    images = np.concatenate([distinct, distinct[:2]])
    source = stored(tmp_path, images)
    study = Study(
        tiny_recipe(source, "data.heldout=null", "data.selection=first", "sizes=[8]"), tmp_path / "study"
    )

    def copies(denoiser, seeds, *given, **named):
        made = generate(denoiser, seeds, *given, **named)
        made.images[:] = images[: len(seeds)]
        return made

    generate = run.generate_resumable
    monkeypatch.setattr(run, "generate_resumable", copies)
    (record,) = carried_out(study).runs
    assert record.duplicates == 2
    assert [evaluation.memorized.count for evaluation in record.evaluations] == [8, 8, 8]
    assert record.last.distinct_replicated == 6
    assert record.last.mean_nearest_distance == 0
    assert record.null is None


def test_held_out_images_that_are_in_the_training_set_are_left_out_of_the_null_rate(tmp_path):
    digits = open_images("digits").images[:12]
    source = stored(tmp_path, np.concatenate([digits, digits]))
    recipe = tiny_recipe(source, "data.heldout=12", "data.selection=first", "sizes=[12]")
    study = Study(recipe, tmp_path / "study")
    training = {each.tobytes() for each in study.sets[12].images}
    fresh = sum(each.tobytes() not in training for each in study.heldout.images)
    (record,) = carried_out(study).runs
    assert 0 < fresh < 12
    assert record.null.total == fresh

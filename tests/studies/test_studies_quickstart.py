import numpy as np
import pytest

from diffmem.studies.quickstart import quickstart_recipe
from diffmem.studies.study import Study


def test_the_quickstart_has_five_sizes_from_16_to_256_and_trains_all_for_the_same_epochs():
    recipe = quickstart_recipe()
    assert len(recipe.sizes) == 5
    assert min(recipe.sizes) >= 16
    assert max(recipe.sizes) <= 256
    assert recipe.training.rounding == "exact"
    assert recipe.data.source == "digits"


def test_the_fast_quickstart_is_a_smaller_one_of_the_same_kind():
    fast, full = quickstart_recipe(fast=True), quickstart_recipe()
    assert fast.model == full.model
    assert fast.data == full.data
    assert len(fast.sizes) < len(full.sizes)
    assert fast.training.epochs < full.training.epochs
    assert fast.measure.samples < full.measure.samples


def test_the_recipe_is_the_same_every_time():
    assert quickstart_recipe() == quickstart_recipe()
    assert quickstart_recipe(fast=True).title == quickstart_recipe().title + " (one-minute setting)"


@pytest.mark.parametrize("fast", [False, True])
def test_every_size_of_the_quickstart_can_be_drawn_apart_from_the_held_out_images(tmp_path, fast):
    study = Study(quickstart_recipe(fast), tmp_path)
    assert sorted(study.sets) == sorted(study.recipe.sizes)
    assert len(study.heldout) == 500
    parameters = int(study.model.split()[-2].replace(",", ""))
    assert 90_000 < parameters < 110_000
    held = set(study.heldout.names)
    for size, images in study.sets.items():
        assert len(images) == size
        assert not held & set(images.names)
        assert len(np.unique(images.images.reshape(size, -1), axis=0)) == size

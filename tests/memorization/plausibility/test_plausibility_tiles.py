from __future__ import annotations

import io

import numpy as np
import plausibility_tools as tools
import pytest
from parameters import few, these
from PIL import Image

from diffmem.data import open_images
from diffmem.memorization.plausibility import check_samples
from diffmem.memorization.plausibility.tiles import Lattice, find_lattice, find_sheet

TRAINING, HELDOUT, FRESH = tools.digits()
SCENES, MORE_SCENES = tools.scenes(200, 0), tools.scenes(640, 1)


def resized(images: np.ndarray, side: int) -> np.ndarray:
    planes = [
        np.asarray(Image.fromarray(plane).resize((side, side), Image.Resampling.BILINEAR))
        for image in images
        for plane in image
    ]
    return np.stack(planes).reshape(len(images), -1, side, side)


@pytest.mark.parametrize("padding", few([0, 1, 2, 4], 2))
@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (3, 3), (4, 4), (8, 8), (1, 4), (2, 8), (5, 3)])
def test_sheets_of_digits_are_tiles(rows, columns, padding):
    found = check_samples(tools.sheets(FRESH, rows, columns, padding), TRAINING, HELDOUT).record
    assert found.kind == "tiles"
    assert f"{rows} x {columns}" in (found.problem or "")


@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("side", these([2, 3, 4, 6], 2, 4))
def test_sheets_brought_to_the_size_of_one_image_are_not_judged(side, padding):
    samples = resized(tools.sheets(MORE_SCENES, side, side, padding), 32)
    found = check_samples(samples, SCENES).record
    # Small tiles of these images hold so little that is smooth that they may be named noise; they are never judged.
    assert found.kind in (("tiles",) if side == 2 else ("tiles", "noise"))
    if side == 2:
        assert "2 x 2" in (found.problem or "")


@pytest.mark.cifar
@pytest.mark.parametrize("side", these([2, 3, 4, 8], 8))
def test_sheets_of_photographs_are_tiles(side, cifar_archive_of_1000):
    images = open_images(cifar_archive_of_1000).images
    sheets = tools.sheets(images[:800], side, side, 2)
    assert check_samples(sheets, images).record.kind == "tiles"
    assert check_samples(resized(sheets, 32), images).record.kind in ("tiles", "noise")


def test_sheets_of_tiles_of_another_size_than_the_training_images_are_tiles():
    assert check_samples(resized(tools.sheets(MORE_SCENES, 4, 4, 2), 96), SCENES).record.kind == "tiles"


def test_blocks_of_strong_jpeg_are_no_lattice():
    samples = []
    for image in MORE_SCENES[:200]:
        stream = io.BytesIO()
        Image.fromarray(image.transpose(1, 2, 0)).save(stream, "JPEG", quality=10)
        samples.append(np.asarray(Image.open(stream)).transpose(2, 0, 1))
    assert find_lattice(np.stack(samples), SCENES) is None
    assert check_samples(np.stack(samples), SCENES).record.kind == "plausible"


def test_a_training_set_of_sheets_makes_sheets_no_fault():
    sheets = resized(tools.sheets(MORE_SCENES, 2, 2, 2), 32)
    assert check_samples(sheets[:150], sheets[150:]).record.kind == "plausible"


def test_the_lattice_is_counted():
    assert find_lattice(
        tools.sheets(MORE_SCENES, 2, 3, 0), tools.scenes(100, 5, 64)[:, :, :64, :].repeat(2, 3)[..., :96]
    ) == (Lattice(2, 3))
    assert find_sheet(tools.sheets(FRESH, 2, 3, 2), TRAINING) == Lattice(2, 3)
    assert find_lattice(MORE_SCENES[:200], SCENES) is None

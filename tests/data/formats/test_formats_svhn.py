import numpy as np
import pytest
from scipy.io import savemat

from diffmem.data import Reading, open_images
from diffmem.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)
DIGITS = [0, 7, 1, 0, 9]


def stored(images, digits, **others):
    """The arrays of SVHN: X (H, W, 3, N), y (N, 1) with 10 for the digit 0."""
    y = np.array([digit or 10 for digit in digits], np.uint8)[:, None]
    return {"X": images.transpose(2, 3, 1, 0), "y": y, **others}


def saved(path, arrays, **options):
    savemat(path, arrays, **options)
    return path


@pytest.mark.parametrize("compress", [False, True])
def test_pixels_and_digits_are_read_as_they_were_meant(tmp_path, compress):
    images = open_images(saved(tmp_path / "train_32x32.mat", stored(IMAGES, DIGITS), do_compression=compress))
    np.testing.assert_array_equal(images.images, IMAGES)
    assert images.labels.tolist() == DIGITS
    assert images.class_names == tuple("0123456789")
    assert images.history == (
        "SVHN train_32x32.mat: 5 images", "labels: the digit 0 is stored as 10 in 2 of 5 images",
    )  # fmt: skip


def test_labels_may_be_doubles_as_matlab_makes_them(tmp_path):
    arrays = stored(IMAGES, DIGITS)
    arrays["y"] = arrays["y"].astype(np.float64)
    assert open_images(saved(tmp_path / "a.mat", arrays)).labels.tolist() == DIGITS


def test_the_splits_lie_beside_one_another(tmp_path):
    train = saved(tmp_path / "train_32x32.mat", stored(IMAGES, DIGITS))
    saved(tmp_path / "test_32x32.mat", stored(IMAGES[:2], DIGITS[:2]))
    assert len(open_images(tmp_path)) == len(open_images(train)) == len(open_images(train, "train")) == 5
    assert len(open_images(tmp_path, "test")) == len(open_images(train, "test")) == 2
    with pytest.raises(UserError, match=r"there is no extra_32x32\.mat"):
        open_images(tmp_path, "extra")


def test_labels_are_left_out_by_choice(tmp_path):
    path = saved(tmp_path / "a.mat", stored(IMAGES, DIGITS))
    assert open_images(path, reading=Reading(labels_key="none")).labels is None


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"X": IMAGES.transpose(2, 3, 1, 0)}, "it has X uint8"),
        ({"Y": np.zeros(3), "y": np.zeros(3)}, "it has Y double"),
        (stored(IMAGES, DIGITS) | {"X": IMAGES}, "is no whole file of SVHN"),
        (stored(IMAGES, DIGITS[:4]), r"has 4 labels for 5 images"),
        (stored(IMAGES, DIGITS) | {"y": np.array([0, 10, 1, 2, 3])}, "which both stand for the digit 0"),
        (stored(IMAGES, DIGITS) | {"y": np.array([11, 10, 1, 2, 3])}, "whole numbers from 0 to 10"),
        (stored(IMAGES, DIGITS) | {"y": np.array([1.5, 10, 1, 2, 3])}, "whole numbers from 0 to 10"),
        (stored(IMAGES, DIGITS) | {"y": "words"}, "it has X uint8 .*, y other"),
    ],
)
def test_what_is_no_svhn_is_refused(tmp_path, arrays, told):
    with pytest.raises(UserError, match=told):
        open_images(saved(tmp_path / "a.mat", arrays))


def test_version_7_3_is_refused_by_name_with_the_way_on(tmp_path):
    path = tmp_path / "a.mat"
    path.write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512) + b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(UserError, match=r"version 7\.3 \(HDF5\), which is not read.*'-v7'"):
        open_images(path)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_file_that_was_cut_short_is_refused(tmp_path, compress, share):
    path = saved(tmp_path / "a.mat", stored(IMAGES, DIGITS), do_compression=compress)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"a\.mat.*download it again"):
        open_images(path)

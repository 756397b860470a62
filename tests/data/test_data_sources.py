import gzip

import numpy as np
import pytest
from data_builders import encoded, opens_or_explains
from hypothesis import given, settings
from hypothesis import strategies as st

from diffmem.data import UNDERSTOOD, open_images
from diffmem.errors import UserError


def test_the_digits_are_the_scans_of_scikit_learn():
    from sklearn.datasets import load_digits

    scans = load_digits()
    images = open_images("digits")
    assert images.images.shape == (1797, 1, 8, 8)
    np.testing.assert_array_equal(images.images.reshape(1797, 64), np.rint(scans.data * 255 / 16))
    np.testing.assert_array_equal(images.labels, scans.target)
    assert images.class_names == tuple("0123456789")


def test_the_digits_have_no_test_split():
    with pytest.raises(UserError, match="hold_out"):
        open_images("digits", "test")


def test_what_is_not_there_is_told_with_all_that_is_understood(tmp_path):
    with pytest.raises(UserError) as caught:
        open_images(tmp_path / "nothing")
    assert UNDERSTOOD in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"hello", gzip.compress(b"hello", mtime=0), b"\x89PNX\r\n\x1a\n"])
def test_what_is_not_understood_is_told(tmp_path, content):
    path = tmp_path / "file.zip"
    path.write_bytes(content)
    with pytest.raises(UserError, match="Understood are: the word 'digits'"):
        open_images(path)


def test_the_content_decides_and_not_the_ending(tmp_path):
    path = tmp_path / "images.zip"
    with path.open("wb") as stream:
        np.savez(stream, images=np.zeros((2, 3, 3), np.uint8))
    assert len(open_images(path)) == 2


@pytest.mark.parametrize("kind", ["npz", "folder"])
def test_a_source_without_a_test_split_says_so(tmp_path, kind):
    path = tmp_path
    if kind == "npz":
        path = tmp_path / "a.npz"
        np.savez(path, images=np.zeros((2, 3, 3), np.uint8))
    else:
        (path / "a.png").write_bytes(encoded(np.zeros((3, 3), np.uint8)))
    with pytest.raises(UserError, match="no test split"):
        open_images(path, "test")


def test_an_unknown_split_is_refused():
    with pytest.raises(UserError, match="'valid'"):
        open_images("digits", "valid")


HEADS = st.sampled_from(
    [b"", b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b\x08\x00", b"\x00\x00\x08\x03", b"x" * 257 + b"ustar\x0000"]
)


@settings(max_examples=200)
@given(HEADS, st.binary(max_size=300))
def test_noise_is_explained_and_never_crashes(tmp_path_factory, head, noise):
    path = tmp_path_factory.getbasetemp() / "noise"
    path.write_bytes(head + noise)
    opens_or_explains(path)

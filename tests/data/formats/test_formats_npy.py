import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from data_builders import damaged, image_set, opens_or_explains
from hypothesis import given, settings
from parameters import amount

from diffmem.data import ImageSet, duplicate_groups, open_images, random_subset, write_images
from diffmem.data.formats.npy import meta_path
from diffmem.data.storage import is_mapped
from diffmem.errors import UserError
from diffmem.optimum.optimum import Optimum

GREY = np.random.default_rng(0).integers(0, 256, (4, 5, 6), dtype=np.uint8)
RGB = np.random.default_rng(1).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.npy"


def saved(path, array, **meta):
    with path.open("wb") as stream:
        np.save(stream, array)
    if meta:
        np.savez(meta_path(path), **meta)
    return path


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (GREY, GREY[:, None]),
        (GREY[:, None], GREY[:, None]),
        (np.ascontiguousarray(RGB.transpose(0, 3, 1, 2)), RGB.transpose(0, 3, 1, 2)),
    ],
)
def test_images_with_channels_first_stay_on_disk(path, stored, expected):
    images = open_images(saved(path, stored))
    assert is_mapped(images.images)
    assert is_mapped(images.with_labels(None, None, "-").images)
    assert is_mapped(images.take([1, 2], "two").images)
    np.testing.assert_array_equal(images.images, expected)
    assert images.labels is None
    assert images.names[3] == "a.npy[3]"
    assert images.take([3, 1], "two").names == ("a.npy[3]", "a.npy[1]")
    assert images.history == ("npy a.npy: 4 images",)


def test_images_with_channels_last_are_copied_and_the_history_says_so(path, monkeypatch):
    images = open_images(saved(path, RGB))
    np.testing.assert_array_equal(images.images, RGB.transpose(0, 3, 1, 2))
    assert "channels last" in images.history[0]
    monkeypatch.setattr("diffmem.data.storage.in_memory_limit", lambda: 0)
    large = open_images(path)
    assert is_mapped(large.images)
    assert large.fingerprint == images.fingerprint


def test_a_mapped_array_of_ones_own_is_kept_as_it_is(path):
    mapped = np.load(saved(path, RGB.transpose(0, 3, 1, 2).copy()), mmap_mode="r")
    images = ImageSet(mapped, None, tuple("abcd"))
    assert np.shares_memory(images.images, mapped)


def test_nothing_of_a_mapped_set_can_be_changed(path):
    images = open_images(saved(path, GREY))
    with pytest.raises(ValueError, match="read-only"):
        images.images[0] = 0


@pytest.mark.parametrize(("layout", "shape"), [("NCHW", (3, 8, 3)), ("NHWC", (3, 3, 8))])
def test_a_shape_that_could_be_either_needs_a_layout(path, layout, shape):
    pixels = np.zeros((2, 3, 8, 3), np.uint8)
    with pytest.raises(UserError, match=r"'layout' .* in a\.meta\.npz"):
        open_images(saved(path, pixels))
    assert open_images(saved(path, pixels, layout=layout)).shape == shape


def test_labels_and_names_of_ones_own_are_read_from_beside(path):
    words = np.array(["w", "x", "y", "z"])
    saved(path, GREY, y=np.array([3, 0, 1, 2], np.uint8), names=words, class_names=words)
    images = open_images(path)
    assert images.labels.tolist() == [3, 0, 1, 2]
    assert images.names == images.class_names == ("w", "x", "y", "z")


@pytest.mark.parametrize(
    ("meta", "told"),
    [
        ({"labels": np.zeros(3, int)}, r"a\.meta\.npz.*\(3,\)"),
        ({"labels": np.zeros(4)}, r"a\.meta\.npz.*float64"),
        ({"names": np.array(["a"])}, r"a\.meta\.npz.*1 names"),
        ({"shape": np.array([4, 1, 6, 5])}, "other images"),
        ({"sample": np.array("0" * 64), "shape": np.array([4, 1, 5, 6])}, "other images"),
        ({"names_utf8": np.zeros(3, np.uint8), "names_ends": np.array([1, 2])}, "names_utf8"),
        ({"layout": np.array("CHWN")}, "CHWN"),
        ({"labels": np.array([print] * 4, object)}, "could run code"),
    ],
)
def test_what_lies_beside_and_does_not_fit_is_refused(path, meta, told):
    array = GREY[:, None] if "layout" in meta else GREY
    with pytest.raises(UserError, match=told):
        open_images(saved(path, array, **meta))


def test_labels_that_lie_beside_other_images_are_refused(tmp_path, path):
    write_images(image_set(seed=0), path)
    saved(path, image_set(seed=1).images)
    with pytest.raises(UserError, match=r"other images than .*delete a\.meta\.npz"):
        open_images(path)
    meta_path(path).unlink()
    assert open_images(path).labels is None


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (GREY / 255, "float64.*--range 0..1 or"),
        (GREY.astype(np.int32), "int32"),
        (np.array([print] * 4, object), "could run code"),
        (np.zeros((2, 4, 4, 4), np.uint8), "alpha"),
        (np.zeros(4, np.uint8), r"\(4,\)"),
        (GREY[:0], "at least one image"),
        (np.asfortranarray(GREY), "Fortran"),
    ],
)
def test_arrays_that_are_no_images_are_refused_with_a_remedy(path, array, told):
    with pytest.raises(UserError, match=told):
        open_images(saved(path, array))


@pytest.mark.parametrize("change", [lambda content: content[:-1], lambda content: content + b"\0"])
def test_a_file_that_is_cut_short_or_too_long_is_refused(path, change):
    path.write_bytes(change(saved(path, GREY).read_bytes()))
    with pytest.raises(UserError, match=r"header declares 120 bytes of images but it has 1(19|21)"):
        open_images(path)


@pytest.mark.parametrize("shape", [(-4, 5, 6), (2**62, 2**62, 0, 3), (2**40, 8, 8), (2**70, 0, 1)])
def test_a_header_that_promises_what_is_not_there_is_refused(path, shape):
    stream = io.BytesIO()
    header = {"shape": shape, "fortran_order": False, "descr": "|u1"}
    np.lib.format.write_array_header_1_0(stream, header)
    path.write_bytes(stream.getvalue() + bytes(120))
    with pytest.raises(UserError, match=r"a\.npy"):
        open_images(path)


def test_an_npy_has_no_test_split(path):
    with pytest.raises(UserError, match="no test split"):
        open_images(saved(path, GREY), "test")


@pytest.mark.thorough
def test_damage_gives_a_user_error_or_a_valid_set(tmp_path_factory):
    path = tmp_path_factory.mktemp("damaged") / "a.npy"
    content = saved(path, GREY[:2]).read_bytes()

    @settings(max_examples=amount(30, 150), database=None)
    @given(damaged(content))
    def check(bad):
        path.write_bytes(bad)
        opens_or_explains(path)

    check()


@pytest.mark.thorough
def test_damage_beside_gives_a_user_error_or_a_valid_set(tmp_path_factory):
    path = tmp_path_factory.mktemp("damaged") / "a.npy"
    write_images(image_set(3, (1, 2, 2)), path)
    content = meta_path(path).read_bytes()

    @settings(max_examples=amount(20, 100), database=None)
    @given(damaged(content))
    def check(bad):
        meta_path(path).write_bytes(bad)
        told = "a.meta.npz"
        try:
            open_images(path)
        except UserError as error:
            told = str(error)
        assert "a.meta.npz" in told

    check()


@pytest.mark.parametrize("conditional", [False, True])
def test_the_optimum_of_a_mapped_set_is_that_of_the_same_set_in_memory(path, conditional):
    digits = random_subset(open_images("digits"), 200, 0)
    write_images(digits, path)
    mapped = open_images(path)
    assert is_mapped(mapped.images)
    x = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(6) if conditional else None
    for sigma in (0.1, 1.0, 20.0):
        ours = Optimum(mapped, conditional, workspace_bytes=10_000)(x * sigma, sigma, labels)
        theirs = Optimum(digits, conditional, workspace_bytes=10_000)(x * sigma, sigma, labels)
        assert torch.equal(ours, theirs)


def test_copies_in_a_mapped_set_are_found(path):
    saved(path, GREY[[0, 1, 0, 2, 1]])
    assert duplicate_groups(open_images(path)).tolist() == [0, 1, 0, 3, 1]


LARGE = """
import resource, sys
resource.setrlimit(resource.RLIMIT_DATA, (2**29, 2**29))
from diffmem.data import first, open_images, random_subset
images = open_images(sys.argv[1])
part = first(images, len(images) // 2)
few = part.take([5, 3, 10**6], "few")
print(len(images), len(part), few.names[2], int(few.images.sum()), images.names[-1])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the memory of a process is limited")
def test_a_set_that_is_larger_than_the_memory_opens_and_gives_its_parts(path):
    count = 64 * 2**20 // 3  # 64 GiB of 3 x 32 x 32, all of them holes
    with path.open("wb") as stream:
        header = {"shape": (count, 3, 32, 32), "fortran_order": False, "descr": "|u1"}
        np.lib.format.write_array_header_1_0(stream, header)
        stream.truncate(stream.tell() + count * 3072)
    done = subprocess.run(
        [sys.executable, "-c", LARGE, str(path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [
        str(count),
        str(count // 2),
        "a.npy[1000000]",
        "0",
        f"a.npy[{count - 1}]",
    ]

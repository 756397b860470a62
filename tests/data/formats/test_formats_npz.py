import io
import zipfile

import numpy as np
import pytest
from data_builders import damaged, opens_or_explains, write_zip
from hypothesis import given, settings
from parameters import amount, examples

from diffmem.data import open_images
from diffmem.errors import UserError

GREY = np.random.default_rng(0).integers(0, 256, (4, 5, 6), dtype=np.uint8)
RGB = np.random.default_rng(1).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)


def saved(path, compress=False, **arrays):
    (np.savez_compressed if compress else np.savez)(path, **arrays)
    return path


@pytest.mark.parametrize("key", ["images", "x", "data", "arr_0"])
@pytest.mark.parametrize("compress", [False, True])
def test_images_are_found_under_the_usual_keys(tmp_path, key, compress):
    images = open_images(saved(tmp_path / "a.npz", compress, **{key: GREY}))
    np.testing.assert_array_equal(images.images[:, 0], GREY)
    assert images.labels is None
    assert images.names[1] == "a.npz[1]"


@pytest.mark.parametrize("stored", [RGB, RGB.transpose(0, 3, 1, 2), np.asfortranarray(RGB)])
def test_channels_may_come_first_or_last(tmp_path, stored):
    images = open_images(saved(tmp_path / "a.npz", images=stored))
    np.testing.assert_array_equal(images.images, RGB.transpose(0, 3, 1, 2))


@pytest.mark.parametrize(("layout", "shape"), [("NCHW", (3, 8, 3)), ("NHWC", (3, 3, 8))])
def test_a_shape_that_could_be_either_needs_a_layout(tmp_path, layout, shape):
    pixels = np.zeros((2, 3, 8, 3), np.uint8)
    with pytest.raises(UserError, match="layout"):
        open_images(saved(tmp_path / "a.npz", images=pixels))
    assert open_images(saved(tmp_path / "a.npz", images=pixels, layout=layout)).shape == shape


@pytest.mark.parametrize("key", ["labels", "y"])
@pytest.mark.parametrize("dtype", [np.int64, np.uint8, ">i4"])
def test_labels_may_be_whole_numbers_of_any_kind(tmp_path, key, dtype):
    images = open_images(saved(tmp_path / "a.npz", images=GREY, **{key: np.array([3, 0, 1, 2], dtype)}))
    assert images.labels.tolist() == [3, 0, 1, 2]


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"images": GREY / 255}, "float64.*--range 0..1 or.*NaN"),
        ({"images": GREY.astype(np.int32)}, "int32"),
        ({"images": np.zeros((2, 4, 4, 4), np.uint8)}, "alpha"),
        ({"images": np.zeros((2, 4, 4, 2), np.uint8)}, "1 or 3 channels"),
        ({"images": np.zeros(4, np.uint8)}, r"\(4,\)"),
        ({"images": GREY[:0]}, "at least one image"),
        ({"images": GREY, "layout": "CHWN"}, "CHWN"),
        ({"images": GREY, "labels": np.zeros(3, int)}, r"a\.npz.*\(3,\)"),
        ({"images": GREY, "labels": np.zeros(4)}, "float64"),
        ({"images": GREY, "labels": np.array([0, 1, 2, -1])}, "-1"),
        ({"images": GREY, "names": np.array(["a"])}, "1 names"),
        ({"images": GREY, "names": np.arange(4)}, "must be text"),
        ({"pictures": GREY}, "it has pictures"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_with_a_remedy(tmp_path, arrays, told):
    with pytest.raises(UserError, match=told):
        open_images(saved(tmp_path / "a.npz", **arrays))


@pytest.mark.parametrize("key", ["images", "labels", "names"])
def test_pickled_objects_are_refused(tmp_path, key):
    arrays = {"images": GREY, key: np.array([print] * 4, dtype=object)}
    with pytest.raises(UserError, match=f"{key} is refused.*could run code"):
        open_images(saved(tmp_path / "a.npz", **arrays))


def header(shape, dtype="|u1"):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"shape": shape, "fortran_order": False, "descr": dtype})
    return stream.getvalue()


@pytest.mark.parametrize(
    "shape", [(10**6, 10**6, 3), (2**40, 8, 8), (3, 8, 8), (-1, 8, 8), (2**63, 2**63, 0, 3)]
)
def test_a_header_that_promises_what_is_not_there_is_refused(tmp_path, shape):
    path = write_zip(tmp_path / "a.npz", {"images.npy": header(shape) + bytes(128)})
    with pytest.raises(UserError, match="images"):
        open_images(path)


def test_a_bomb_is_refused(tmp_path):
    path = write_zip(tmp_path / "a.npz", {"images.npy": bytes(40 * 2**20)}, method=zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="decompression bomb"):
        open_images(path)


@pytest.mark.thorough
@pytest.mark.parametrize("compress", [False, True])
def test_damage_gives_a_user_error_or_a_valid_set(tmp_path_factory, compress):
    path = tmp_path_factory.mktemp("damaged") / "a.npz"
    names = np.array(["a", "b"])
    content = saved(path, compress, images=GREY[:2], labels=np.array([0, 1]), names=names).read_bytes()

    @settings(max_examples=amount(30, 150), database=None)
    @given(damaged(content))
    def check(bad):
        path.write_bytes(bad)
        opens_or_explains(path)

    check()


@examples(20, 100)
@given(damaged(header((2, 4, 4)) + bytes(32)))
def test_damage_inside_of_an_array_gives_a_user_error_or_a_valid_set(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "inside.npz"
    opens_or_explains(write_zip(path, {"images.npy": content}))


@pytest.mark.parametrize("shape", [(32, 32, 3), (20, 16, 4)])
def test_an_array_that_is_one_image_is_no_set(tmp_path, shape):
    with pytest.raises(UserError, match="that of one image with its colours last"):
        open_images(saved(tmp_path / "a.npz", images=np.zeros(shape, np.uint8)))
    narrow = saved(tmp_path / "b.npz", images=np.zeros((*shape, 1), np.uint8), layout="NHWC")
    assert open_images(narrow).shape == (1, *shape[1:])

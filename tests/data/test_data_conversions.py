"""Every conversion, and everything skipped, is a line of the history, with its counts."""

import numpy as np
import pytest
from data_builders import encoded, write_zip
from encoded_images import PHOTO, frames, see_through, several, turned
from PIL import Image, ImageCms

from diffmem.data import (
    BuildConfig,
    Reading,
    build,
    canaries_path,
    duplicated,
    mixture,
    open_images,
    plant_canaries,
    write_images,
)
from diffmem.errors import UserError

PNG = encoded(PHOTO)
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


def put(place, archive=False, **contents):
    """Write files, named by their keys with __ for a dot, into a folder or a zip."""
    members = {name.replace("__", "."): content for name, content in contents.items()}
    if archive:
        return write_zip(place / "set.zip", members)
    (place / "set").mkdir(exist_ok=True)
    for name, content in members.items():
        (place / "set" / name).write_bytes(content)
    return place / "set"


def palette():
    return encoded(Image.fromarray(PHOTO).quantize(8))


def opaque():
    return see_through(255)


SAID = {
    "alpha": ({"a__png": see_through(0), "b__png": opaque(), "c__png": PNG}, "alpha", "white", 1, True,
              "transparent pixels composited on white in 1 of 3 files (1 more have an alpha channel that is opaque)"),
    "opaque": ({"a__png": opaque(), "c__png": PNG}, "alpha", "white", 0, False,
               "alpha channel of 1 of 2 files is opaque: dropped, which changes nothing"),
    "exif": ({"a__jpg": turned(3), "b__jpg": turned(1), "c__png": PNG}, "exif", "ignore", 1, True,
             "EXIF orientation ignored: 1 of 3 files are stored rotated (--exif apply rotates them, as Hugging Face datasets does"
             " and torchvision does not)"),
    "palette": ({"a__png": palette(), "b__png": PNG}, "colour", "rgb", 1, False,
                "colours converted in 1 of 2 files: palette to RGB in 1"),
    "cmyk": ({"a__jpg": encoded(Image.fromarray(PHOTO).convert("CMYK"), "JPEG"), "b__png": palette()}, "colour", "rgb", 2, True,
             "colours converted in 2 of 2 files: CMYK to RGB in 1, palette to RGB in 1"),
    "grey": ({"a__png": encoded(PHOTO[..., 0]), "b__png": PNG}, "grey", "rgb", 1, False,
             "1 grey image turned into RGB, like the other 1"),
    "frames": ({"a__webp": several("WEBP", frames(4)), "b__png": PNG}, "pages", "first", 1, True,
               "first page or frame only: 1 of 2 files hold several; 3 pages and frames skipped (--pages all reads them)"),
    "tiff orientation": ({"a__tif": encoded(PHOTO, "TIFF", tiffinfo={0x0112: 3})}, "tiff-orientation", "apply", 1, False,
                         "orientation of the TIFF format followed in 1 of 1 file"),
    "mpo": ({"a__jpg": several("MPO", frames(2))}, "mpo", "first", 1, False,
            "first picture only: 1 of 1 file are JPEGs that hold further pictures (MPO)"),
    "profile": ({"a__png": encoded(PHOTO, icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes())},
                "icc", "ignore", 1, False, "colour profiles (ICC) not applied in 1 of 1 file"),
    "images not read": ({"a__png": PNG, "b__heic": HEIC, "c": HEIC, "d__psd": b"8BPS\0\1"}, "not-read", "none", 3, True,
                        "3 of 4 files not read: images of unsupported formats, HEIC 2, Photoshop (PSD) 1 (b.heic, c,"
                        " d.psd)"),
    "other files": ({"a__png": PNG, "Thumbs__db": b"\xd0\xcf\x11\xe0", "b__txt": b"a cat", "c__txt": b"a dog", "d__json": b"{}"},
                    "passed-over", "none", 4, False, "4 other files skipped (Thumbs.db, b.txt, c.txt, ...)"),
}  # fmt: skip


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize("name", SAID)
def test_what_was_done_is_told_in_words_and_for_programs(tmp_path, name, archive):
    contents, key, choice, count, changes, sentence = SAID[name]
    images = open_images(put(tmp_path, archive, **contents))
    (found,) = images.conversions
    assert (found.key, found.choice, found.count, found.changes_pixels) == (key, choice, count, changes)
    assert found.total == len(contents)
    assert images.history[1:] == (sentence,) == (found.sentence,)


def test_plain_images_and_srgb_profiles_are_no_matter(tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    images = open_images(put(tmp_path, a__png=PNG, b__jpg=turned(1), c__png=encoded(PHOTO, icc_profile=srgb)))
    assert images.conversions == ()
    assert len(images.history) == 1


def test_choices_are_followed_and_told(tmp_path):
    place = put(tmp_path, a__png=see_through(0), b__jpg=turned(3), c__gif=several("GIF", frames(2)))
    reading = Reading(alpha="black", exif="apply", pages="all")
    images = open_images(place, reading=reading)
    assert images.names == ("a.png", "b.jpg", "c.gif page 1 of 2", "c.gif page 2 of 2")
    assert not images.images[0, :, :, 0].any()
    told = {one.key: one for one in images.conversions}
    assert told["alpha"].sentence == "transparent pixels composited on black in 1 of 3 files"
    assert told["exif"].sentence == "EXIF orientation applied: 1 of 3 files were stored rotated"
    assert told["pages"].sentence == "all pages and frames read: 1 of 3 files hold several, 2 images in all"
    dropped = open_images(put(tmp_path, a__png=see_through(0)), reading=Reading(alpha="drop", pages="all"))
    np.testing.assert_array_equal(dropped.images[0].transpose(1, 2, 0), PHOTO)


def test_pages_of_a_tiff_are_refused_until_one_says_what_they_are(tmp_path):
    place = put(tmp_path, a__tif=several("TIFF", frames(12)))
    with pytest.raises(
        UserError, match=r"a\.tif holds 12 pages: --pages first reads the first of each file, --pages all"
    ):
        open_images(place)
    assert len(open_images(place, reading=Reading(pages="first"))) == 1
    assert len(open_images(place, reading=Reading(pages="all"))) == 12
    place = put(tmp_path, b__gif=several("GIF", frames(3)))
    (place / "a.tif").unlink()
    with pytest.raises(UserError, match=r"b\.gif holds 3 frames"):
        open_images(place, reading=Reading(pages="refuse"))


def test_pages_of_packed_tiffs_and_more_of_them_than_files_are_all_read(tmp_path):
    pages = frames(40)
    place = put(
        tmp_path, a__tif=several("TIFF", pages, compression="tiff_lzw"), b__png=encoded(PHOTO[..., 0])
    )
    images = open_images(place, reading=Reading(pages="all"))
    np.testing.assert_array_equal(images.images[:40], np.stack(pages).transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(images.images[40], np.repeat(PHOTO[None, ..., 0], 3, 0))


def test_what_was_done_to_the_pages_of_a_file_was_done_to_one_file(tmp_path):
    pages = frames(3, (6, 9, 4))
    images = open_images(
        put(tmp_path, a__png=several("PNG", pages), b__png=PNG), reading=Reading(pages="all")
    )
    told = {one.key: one for one in images.conversions}
    assert (told["alpha"].count, told["alpha"].total, len(images)) == (1, 2, 4)


def test_labels_go_with_every_page(tmp_path):
    for name, count in (("cat", 3), ("dog", 1)):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "x.gif").write_bytes(several("GIF", frames(count)))
    images = open_images(tmp_path / "set", reading=Reading(pages="all"))
    assert images.labels.tolist() == [0, 0, 0, 1]


def test_what_turned_images_have_to_do_with_unequal_sizes_is_told(tmp_path):
    place = put(
        tmp_path, a__jpg=encoded(PHOTO, "JPEG"), b__jpg=turned(6, pixels=PHOTO.transpose(1, 0, 2).copy())
    )
    with pytest.raises(
        UserError,
        match=r"a\.jpg is 9 x 6 but b\.jpg is 6 x 9\. 1 of 2 files carry an EXIF orientation: --exif",
    ):
        open_images(place)
    assert open_images(place, reading=Reading(exif="apply")).shape == (3, 6, 9)
    place = put(tmp_path, b__jpg=encoded(PHOTO.transpose(1, 0, 2).copy(), "JPEG"))
    with pytest.raises(UserError, match=r"b\.jpg is 6 x 9\. Bring all to one size"):
        open_images(place)


def test_conversions_stay_with_what_is_made_of_a_set(tmp_path):
    images = open_images(put(tmp_path, a__png=see_through(0), b__png=encoded(PHOTO[::-1].copy())))
    kept = images.conversions
    assert len(kept) == 1
    made = [
        images.take([1], "one"),
        images.with_labels([0, 1], None, "labels"),
        images.with_images(images.images[:, :1], "red"),
        duplicated(images, 1, 2, 0),
        build(images, BuildConfig(size=1, resolution=4, gray=True)),
    ]
    assert all(one.conversions == kept for one in made)
    assert mixture(images, images, 2, 0.5).conversions == kept * 2


def test_conversions_stay_with_a_set_that_canaries_are_planted_in(tmp_path):
    content = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 4), dtype=np.uint8)
    images = open_images(put(tmp_path, **{f"{n}__png": encoded(pixels) for n, pixels in enumerate(content)}))
    assert plant_canaries(images, 1, 1, 0)[0].conversions == images.conversions != ()
    assert canaries_path(tmp_path / "a.zip").name == "a.canaries.npz"


@pytest.mark.parametrize("ending", ["zip", "npz", "npy"])
def test_the_words_survive_a_file(tmp_path, ending):
    images = open_images(put(tmp_path, a__png=see_through(0), b__txt=b"x"))
    write_images(images, tmp_path / f"out.{ending}")
    read = open_images(tmp_path / f"out.{ending}")
    assert read.history[: len(images.history)] == images.history
    assert read.conversions == ()


def test_arrays_that_are_not_read_are_told(tmp_path):
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    np.savez(tmp_path / "a.npz", pixels, np.array([0, 1, 2]))
    images = open_images(tmp_path / "a.npz")
    assert images.labels is None
    assert images.history[1] == "1 other array skipped (arr_1): if arr_1 holds labels, save them as 'labels'"
    assert images.conversions[0].key == "labels"
    np.savez(tmp_path / "b.npz", images=pixels, labels=np.array([0, 1]), mu=np.zeros(2), sigma=np.zeros(2))
    assert open_images(tmp_path / "b.npz").history[1] == "2 other arrays skipped (mu, sigma)"


def test_a_choice_that_can_change_nothing_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(
        UserError, match=r"a\.npz holds pixels, not encoded images: exif apply can change nothing"
    ):
        open_images(tmp_path / "a.npz", reading=Reading(exif="apply"))
    with pytest.raises(UserError, match="digits holds pixels"):
        open_images("digits", reading=Reading(white=16))

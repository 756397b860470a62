import os

import numpy as np
import pytest
from data_builders import encoded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from diffmem.data import DOGS, BuildConfig, Reading, build, first, read_imagenet, read_synsets, resize
from diffmem.errors import UserError

SYNSETS = ["n00000001", "n00000002", "n00000003"]


def colour(label, number):
    return (40 * label + 20, 3 * number, 200)


def write_folders(base, counts, shape=(12, 16)):
    """Write files of one colour each (lossless, whatever they are called): a pixel tells which file it is of."""
    for label, (synset, count) in enumerate(zip(SYNSETS, counts, strict=True)):
        (base / synset).mkdir(parents=True)
        for number in range(count):
            pixels = np.broadcast_to(np.array(colour(label, number), np.uint8), (*shape, 3))
            (base / synset / f"{synset}_{number}.JPEG").write_bytes(encoded(np.ascontiguousarray(pixels)))
    return base


def write_list(path, lines=("# some", "n00000001 tabby cat", "", "n00000002", "n00000003 red wolf")):
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    root = tmp_path_factory.mktemp("imagenet")
    write_folders(root / "train", (9, 8, 7))
    write_list(root / "list.txt")
    return root


def read(root, **options):
    return read_imagenet(root, root / "list.txt", **options)


def test_the_dogs_are_the_123_synsets_of_the_study_with_five_wild_dogs_last():
    dogs = read_synsets(DOGS)
    assert len(dogs) == 123
    assert dogs["n02085620"] == "Chihuahua"
    assert list(dogs.values())[-5:] == ["timber wolf", "white wolf", "red wolf", "coyote", "dingo"]


def test_images_are_spread_evenly_and_the_first_synsets_take_the_remainder(imagenet):
    images = read(imagenet, size=8)
    assert np.bincount(images.labels).tolist() == [3, 3, 2]
    assert images.class_names == ("tabby cat", "n00000002", "red wolf")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(a=st.integers(1, 23), b=st.integers(1, 23), seed=st.integers(0, 99))
def test_a_smaller_set_is_the_beginning_of_a_larger_one(imagenet, a, b, seed):
    small, large = (read(imagenet, size=size, seed=seed) for size in sorted((a, b)))
    assert first(large, len(small)).fingerprint == small.fingerprint
    assert small.names == large.names[: len(small)]
    assert len(set(large.names)) == len(large)


def test_the_choice_does_not_depend_on_the_order_of_a_folder_listing(imagenet, monkeypatch):
    # trap: os.listdir order and an unseeded shuffle
    expected = read(imagenet, size=8).names
    listing = os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: listing(folder)[::-1])
    assert read(imagenet, size=8).names == expected
    monkeypatch.setattr(os, "listdir", lambda folder: sorted(listing(folder)))
    assert read(imagenet, size=8).names == expected


def test_the_choice_is_random_and_depends_on_the_seed(imagenet):
    chosen = {tuple(read(imagenet, size=6, seed=seed).names) for seed in range(5)}
    assert len(chosen) == 5


def test_pixels_labels_and_names_belong_together(imagenet):
    images = read(imagenet)
    assert len(images) == 24
    for pixels, label, name in zip(images.images, images.labels, images.names, strict=True):
        number = int(name.partition("_")[2].partition(".")[0])
        assert name.startswith(SYNSETS[label])
        assert pixels[:, 0, 0].tolist() == list(colour(label, number))


@pytest.mark.parametrize("place", ["train", "ILSVRC/Data/CLS-LOC/train", "."])
def test_each_official_layout_is_found(tmp_path, place):
    write_folders(tmp_path / place, (2, 2, 2))
    write_list(tmp_path / "list.txt")
    assert len(read(tmp_path)) == 6


def test_only_chosen_files_are_decoded(tmp_path):
    write_folders(tmp_path, (4, 4, 4))
    write_list(tmp_path / "list.txt")
    chosen = read(tmp_path, size=6).names
    for file in tmp_path.glob("*/*.JPEG"):
        if file.relative_to(tmp_path).as_posix() not in chosen:
            file.write_bytes(b"broken")
    assert read(tmp_path, size=6).names == chosen
    with pytest.raises(UserError, match="Cannot read"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("mode", "kind", "ground"),
    [("CMYK", "JPEG", 255), ("L", "JPEG", 0), ("RGBA", "PNG", 255), ("RGB", "JPEG", 0), ("P", "PNG", 0)],
)
def test_images_of_every_colour_mode_become_rgb(tmp_path, mode, kind, ground):
    # trap: the original's ImageNet loader converts neither CMYK nor RGBA
    (tmp_path / SYNSETS[0]).mkdir()
    image = Image.new(mode, (10, 8))
    (tmp_path / SYNSETS[0] / "a.JPEG").write_bytes(encoded(image, kind))
    write_list(tmp_path / "list.txt", [SYNSETS[0]])
    images = read(tmp_path)
    assert images.shape == (3, 8, 8)
    assert abs(int(images.images.astype(int).min()) - ground) <= 1


def test_images_are_cropped_to_their_middle_and_resized_like_a_set(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 31, 3), dtype=np.uint8)
    (tmp_path / SYNSETS[0]).mkdir()
    (tmp_path / SYNSETS[0] / "a.JPEG").write_bytes(encoded(pixels))
    write_list(tmp_path / "list.txt", [SYNSETS[0]])
    as_is = read(tmp_path)
    np.testing.assert_array_equal(as_is.images[0], pixels[:, 5:25].transpose(2, 0, 1))
    np.testing.assert_array_equal(read(tmp_path, resolution=8).images, resize(as_is, 8).images)


def test_images_of_several_sizes_need_a_resolution(tmp_path):
    write_folders(tmp_path, (1, 1, 1))
    (tmp_path / SYNSETS[2] / f"{SYNSETS[2]}_0.JPEG").write_bytes(encoded(np.zeros((9, 9), np.uint8)))
    write_list(tmp_path / "list.txt")
    with pytest.raises(UserError, match=r"12 x 12 but .* 9 x 9\. .*--resolution"):
        read(tmp_path)
    assert read(tmp_path, resolution=8).shape == (3, 8, 8)


def test_missing_synset_folders_are_told_with_their_number(tmp_path):
    write_folders(tmp_path / "train", (1, 1, 1))
    for file in (tmp_path / "train" / SYNSETS[1]).iterdir():
        file.unlink()
    (tmp_path / "train" / SYNSETS[1]).rmdir()
    write_list(tmp_path / "list.txt")
    with pytest.raises(UserError, match=r"has 2 of the 3 synset folders; .* is n00000002 \(n00000002\)"):
        read(tmp_path)
    with pytest.raises(UserError, match=r"0 of the 123 synset folders.*n02085620 \(Chihuahua\)"):
        read_imagenet(tmp_path, DOGS, size=3)


def test_a_synset_with_too_few_images_is_told(imagenet):
    with pytest.raises(UserError, match=r"n00000003 \(red wolf\) has 7 images but 24 images .* need 8"):
        read(imagenet, size=24)


def test_links_that_lead_out_of_the_folder_are_refused(tmp_path):
    root = write_folders(tmp_path / "root", (1, 1, 1))
    write_list(root / "list.txt")
    (tmp_path / "secret.png").write_bytes(encoded(np.zeros((4, 4), np.uint8)))
    (root / SYNSETS[0] / "link.JPEG").symlink_to(tmp_path / "secret.png")
    with pytest.raises(UserError, match="leads out"):
        read(root)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["n0000001 short"], "line 1: 'n0000001' is no WordNet id"),
        (["# x", "../../etc"], "line 2"),
        (["n00000001", "n00000001"], "line 2: n00000001 is there twice"),
        (["# nothing"], "holds no synsets"),
    ],
)
def test_lists_that_are_wrong_are_told_by_line(tmp_path, lines, told):
    with pytest.raises(UserError, match=told):
        read_synsets(write_list(tmp_path / "list.txt", lines))


def test_a_list_that_is_binary_or_missing_is_told(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="Cannot read"):
        read_synsets(tmp_path / "list.txt")
    with pytest.raises(UserError, match="no list of synsets"):
        read_synsets("cats")


@pytest.mark.parametrize(
    ("options", "told"), [({"size": 0}, "at least 1"), ({"resolution": 0}, "between 1"), ({"seed": -1}, "-1")]
)
def test_numbers_out_of_range_are_refused(imagenet, options, told):
    with pytest.raises(UserError, match=told):
        read(imagenet, **options)


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match="no folder"):
        read_imagenet(tmp_path / "none", DOGS)


def test_build_reads_imagenet_in_its_own_order_balanced_or_at_random(imagenet):
    synsets = imagenet / "list.txt"
    assert build(imagenet, BuildConfig(synsets=synsets, size=7)).names == read(imagenet, size=7).names
    assert (
        build(imagenet, BuildConfig(synsets=synsets, size=7, selection="first")).names
        == read(imagenet, size=7).names
    )
    balanced = build(imagenet, BuildConfig(synsets=synsets, size=6, selection="balanced", resolution=4))
    assert balanced.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert set(balanced.names) == set(read(imagenet, size=6).names)
    drawn = build(imagenet, BuildConfig(synsets=synsets, size=7, selection="random", seed=1))
    assert (len(drawn), drawn.history[-1]) == (7, "random 7 of 24 images, seed 1")


def test_build_mixes_imagenet_into_another_source(imagenet, tmp_path):
    mixed = build(
        "digits",
        BuildConfig(
            size=10,
            classes=["5"],
            mix=imagenet,
            mix_synsets=imagenet / "list.txt",
            share=0.8,
            resolution=8,
            gray=True,
        ),
    )
    assert np.bincount(mixed.labels).tolist() == [2, 8]
    assert mixed.names[2:] == read(imagenet, size=8).names


def test_build_refuses_what_imagenet_does_not_have(imagenet):
    with pytest.raises(UserError, match="list the synsets"):
        build(imagenet, BuildConfig(synsets=imagenet / "list.txt", classes=["red wolf"]))
    with pytest.raises(UserError, match="leave the split out"):
        build(imagenet, BuildConfig(synsets=imagenet / "list.txt", reading=Reading(split="test")))


@pytest.mark.parametrize("target", ["n02085620_9.JPEG", "/dev/zero"])
def test_a_link_in_a_circle_or_to_a_device_is_refused(tmp_path, target):
    folder = tmp_path / "n02085620"
    folder.mkdir()
    (folder / "n02085620_9.JPEG").symlink_to(target)
    listed = tmp_path / "list.txt"
    listed.write_text("n02085620 Chihuahua\n")
    with pytest.raises(UserError, match=r"n02085620_9\.JPEG is refused"):
        read_imagenet(tmp_path, listed)


def test_choices_hold_for_imagenet_and_what_was_done_is_told(tmp_path):
    write_folders(tmp_path, (2, 2, 2))
    write_list(tmp_path / "list.txt")
    pixels = np.full((12, 16, 4), 40, np.uint8)
    pixels[..., 3] = 0
    (tmp_path / SYNSETS[0] / f"{SYNSETS[0]}_0.JPEG").write_bytes(encoded(pixels))
    images = read(tmp_path, reading=Reading(alpha="drop", fit="pad", resolution=8))
    assert images.shape == (3, 8, 8)
    assert not images.images[:, :, 0].any()
    assert "padded with black, RGB, 8 x 8 (LANCZOS)" in images.history[0]
    assert [one.key for one in images.conversions] == ["alpha", "fit"]
    assert images.history[1] == "transparency dropped, the stored colours kept in 1 of 6 files"
    built = build(
        tmp_path, BuildConfig(synsets=tmp_path / "list.txt", reading=Reading(alpha="black"), size=6)
    )
    assert built.history[1] == "transparent pixels composited on black in 1 of 6 files"
    with pytest.raises(UserError, match="pages all does not go with synsets"):
        read(tmp_path, reading=Reading(pages="all"))
    with pytest.raises(UserError, match="leave the split out"):
        build(tmp_path, BuildConfig(synsets=tmp_path / "list.txt", reading=Reading(split="test")))

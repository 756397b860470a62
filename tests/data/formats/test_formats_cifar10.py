import io
import pickle
import tarfile

import numpy as np
import pytest
from data_builders import (
    CLASSES,
    cifar_parts,
    damaged,
    opens_or_explains,
    python2_pickle,
    write_cifar,
    write_tar,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from parameters import amount

from diffmem.data import open_images
from diffmem.errors import UserError


def expected(parts, names):
    return np.concatenate([parts[name][b"data"] for name in names]).reshape(-1, 3, 32, 32)


TRAIN = [f"data_batch_{k}" for k in range(1, 6)]


@pytest.mark.parametrize("mode", ["w:gz", "w"])
@pytest.mark.parametrize("dump", [None, lambda content: b"\x80\x02" + python2_pickle(content) + b"."])
def test_an_archive_is_read_in_file_order_and_row_order(tmp_path, mode, dump):
    parts = cifar_parts()
    shuffled = {name: parts[name] for name in sorted(parts, reverse=True)}
    archive = write_cifar(tmp_path / "cifar.tar.gz", shuffled, mode, dump)
    images = open_images(archive)
    np.testing.assert_array_equal(images.images, expected(parts, TRAIN))
    assert images.labels.tolist() == [label for name in TRAIN for label in parts[name][b"labels"]]
    assert images.names == tuple(word.decode() for name in TRAIN for word in parts[name][b"filenames"])
    assert images.class_names == tuple(CLASSES)
    assert images.history == ("CIFAR-10 training split from cifar.tar.gz: 20 images",)


def test_the_test_split_is_the_test_batch(tmp_path):
    parts = cifar_parts()
    images = open_images(write_cifar(tmp_path / "c.tgz", parts), "test")
    np.testing.assert_array_equal(images.images, expected(parts, ["test_batch"]))


def test_the_unpacked_folder_reads_like_the_archive(tmp_path):
    parts = cifar_parts()
    archive = write_cifar(tmp_path / "c.tar.gz", parts)
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    fingerprint = open_images(archive).fingerprint
    assert open_images(tmp_path / "cifar-10-batches-py").fingerprint == fingerprint
    assert open_images(tmp_path).fingerprint == fingerprint


def test_a_batch_without_file_names_gets_some(tmp_path):
    parts = cifar_parts()
    for part in parts.values():
        part.pop(b"filenames", None)
    assert open_images(write_cifar(tmp_path / "c.tar.gz", parts)).names[5] == "data_batch_2/00001"


@pytest.mark.parametrize("name", ["data_batch_3", "batches.meta"])
def test_a_missing_member_is_named(tmp_path, name):
    parts = cifar_parts()
    del parts[name]
    with pytest.raises(UserError, match=f"{name} is missing"):
        open_images(write_cifar(tmp_path / "c.tar.gz", parts))


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        (b"data", np.zeros((4, 3071), np.uint8), "3072"),
        (b"data", np.zeros((4, 3072), np.int64), "uint8"),
        (b"data", b"pixels", "uint8"),
        (b"labels", [1, 2, 3], "list of 4"),
        (b"labels", [1, 2, 3, 10], "0 to 9"),
        (b"labels", [1, 2, 3, b"4"], "0 to 9"),
        (b"filenames", [b"a"], "1 file names for 4 images"),
    ],
)
def test_a_batch_that_makes_no_sense_is_refused(tmp_path, key, value, told):
    parts = cifar_parts()
    parts["data_batch_2"][key] = value
    with pytest.raises(UserError, match=rf"data_batch_2.*{told}"):
        open_images(write_cifar(tmp_path / "c.tar.gz", parts))


def test_a_batch_that_wants_to_run_code_is_refused_and_named(tmp_path):
    parts = cifar_parts()
    parts["data_batch_4"] = b"cos\nsystem\n(S'true'\ntR."
    with pytest.raises(UserError, match=r"data_batch_4 is refused: pickle asks for os\.system"):
        open_images(write_cifar(tmp_path / "c.tar.gz", parts))


@pytest.mark.parametrize(
    "name", ["/etc/data_batch_1", "../data_batch_1", "cifar-10-batches-py/../../x", "C:\\x"]
)
def test_members_that_point_outside_are_refused(tmp_path, name):
    with pytest.raises(UserError, match="outside"):
        open_images(write_tar(tmp_path / "c.tar.gz", {name: b"x"}))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_an_archive_are_refused(tmp_path, kind):
    info = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
    info.type, info.linkname = kind, "/etc/passwd"
    with pytest.raises(UserError, match="link or no plain file"):
        open_images(write_tar(tmp_path / "c.tar.gz", {"": info}))


def test_a_folder_whose_batch_is_a_link_to_elsewhere_is_refused(tmp_path):
    (tmp_path / "elsewhere").write_bytes(pickle.dumps(cifar_parts()["data_batch_1"], 2))
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name, part in cifar_parts().items():
        (folder / name).write_bytes(pickle.dumps(part, 2))
    (folder / "data_batch_1").unlink()
    (folder / "data_batch_1").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="link that leads out"):
        open_images(folder)


def test_an_archive_that_unpacks_to_far_too_much_is_refused(tmp_path):
    archive = tmp_path / "bomb.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        for number in range(3):
            info = tarfile.TarInfo(f"zeros{number}")
            info.size = 30 * 2**20
            packed.addfile(info, io.BytesIO(bytes(info.size)))
    with pytest.raises(UserError, match="decompression bomb"):
        open_images(archive)


def test_an_archive_with_something_else_inside_is_told(tmp_path):
    with pytest.raises(UserError, match="holds no images"):
        open_images(write_tar(tmp_path / "c.tar.gz", {"readme.txt": b"hello"}))


@pytest.mark.thorough
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_damage_gives_a_user_error_or_a_valid_set(tmp_path_factory, mode):
    path = tmp_path_factory.mktemp("damaged") / "c.tar.gz"
    content = write_cifar(path, cifar_parts(per_batch=1), mode).read_bytes()

    @settings(max_examples=amount(20, 60), database=None)
    @given(damaged(content) | st.binary(max_size=80).map(lambda noise: content[:270] + noise))
    def check(bad):
        path.write_bytes(bad)
        opens_or_explains(path)

    check()


@pytest.mark.cifar
def test_the_real_archive_is_read_whole(cifar_archive):
    train, test = open_images(cifar_archive), open_images(cifar_archive, "test")
    assert (len(train), len(test), train.shape) == (500, 100, (3, 32, 32))
    assert np.bincount(train.labels).tolist() == [50] * 10
    assert train.class_names == tuple(CLASSES)
    assert all(name.startswith(CLASSES[label]) for name, label in zip(train.names, train.labels, strict=True))

import io
import pickle

import numpy as np
import pytest
from data_builders import encoded

from diffmem.data import open_images
from diffmem.data.formats.signatures import HEAD_BYTES
from diffmem.errors import UserError


def refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        open_images(tmp_path / name)
    assert len(str(caught.value)) < 500
    assert name in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("new", [True, False])
def test_a_tensor_of_images_is_told_with_the_way_to_an_array(tmp_path, new):
    import torch

    stream = io.BytesIO()
    torch.save(torch.zeros(2, 3, 4, 4), stream, _use_new_zipfile_serialization=new)
    told = refused(tmp_path, "images.pt", stream.getvalue())
    assert "is a file of torch.save" in told
    assert "numpy.save('images.npy', torch.load('images.pt', weights_only=True).numpy())" in told
    np.save(tmp_path / "images.npy", torch.load(tmp_path / "images.pt", weights_only=True).numpy())
    from diffmem.data import Reading

    assert len(open_images(tmp_path / "images.npy", reading=Reading(range="0..1"))) == 2


def test_safetensors_are_told(tmp_path):
    from safetensors.numpy import save

    told = refused(tmp_path, "images.safetensors", save({"images": np.zeros((2, 3, 4, 4), np.uint8)}))
    assert "safetensors.numpy.load_file('images.safetensors')" in told


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("images.pkl", pickle.dumps({"images": [1]}), "is a pickle"),
        ("images.h5", b"\x89HDF\r\n\x1a\n" + bytes(90), "HDF5"),
        ("data.mdb", bytes(16) + b"\xde\xc0\xef\xbe" + bytes(90), "LMDB"),
        ("images.7z", b"7z\xbc\xaf\x27\x1c" + bytes(90), "Unpack it"),
        ("train.tfrecord-00000-of-00001", b"\x1f\x05" + bytes(90), "TensorFlow records"),
        ("images.zip", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        ("images.zip", b"<!DOCTYPE html><html></html>", "web page"),
        ("one.png", encoded(np.zeros((4, 4), np.uint8)), "one file of the kind PNG.*the folder"),
        ("clip.mp4", b"\0\0\0\x18ftypisom" + bytes(90), "video"),
    ],
)
def test_other_files_are_told_with_the_way_on(tmp_path, name, content, said):
    import re

    assert re.search(said, refused(tmp_path, name, content))
    assert HEAD_BYTES >= 32

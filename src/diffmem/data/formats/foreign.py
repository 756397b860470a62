"""Files that people have at hand and that hold no images in a form that is read: what each is, and the way on.

Told by the first bytes, as the documents of each format give them; a file of torch.save is a zip with the pickle `data.pkl` (PyTorch,
"Serialization semantics"), in old versions a pickle that begins with a number of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from diffmem.data.formats.signatures import readable_format, unread_kind

__all__ = ["TORCH", "is_torch_zip", "what_it_is"]

_ARRAY = (
    "Save its images as an array in Python, for example: numpy.save('images.npy', torch.load({name!r}, weights_only=True).numpy()); float"
    " values need --range."
)
TORCH = f"a file of torch.save: tensors, or a checkpoint, as a pickle, which is not opened here. {_ARRAY}"
"""What a file of torch.save is; `name` is to be filled in."""

_PICKLE = (
    "a pickle, which can run programs when it is opened and is not opened here (CIFAR's own archives apart). If you trust it, save its"
    " images as an array in Python: numpy.savez('images.npz', images=images, labels=labels)."
)
_FILES: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"\x80[\x02-\x05](\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19)"), TORCH),
    (re.compile(rb"\x80[\x02-\x05]"), _PICKLE),
    (
        re.compile(rb".{5}\0\0\0\{", re.DOTALL),
        "a file of safetensors: tensors by name. Save the images as an array in Python:"
        " numpy.save('images.npy', safetensors.numpy.load_file({name!r})[KEY]).",
    ),
    (
        re.compile(rb"\x89HDF\r\n\x1a\n"),
        "an HDF5 file. Save its images as an array in Python: numpy.save('images.npy', h5py.File({name!r})[KEY][:]).",
    ),
    (
        re.compile(rb".{16}\xde\xc0\xef\xbe", re.DOTALL),
        "a database of LMDB. Write its images into a folder or a .tar first.",
    ),
    (
        re.compile(rb"7z\xbc\xaf|Rar!|\xfd7zXZ|\x28\xb5\x2f\xfd|BZh"),
        "an archive of a kind that is not read. Unpack it and name the folder, or pack it as .zip, .tar or .tar.gz.",
    ),
    (
        re.compile(rb"version https://git-lfs"),
        "a pointer of Git LFS and not the file that it stands for. Fetch the file: git lfs pull.",
    ),
    (
        re.compile(rb"\s*<(!doctype|html)", re.IGNORECASE),
        "a web page: a server answered with it in the place of the file. Download it again.",
    ),
)
_RECORDS = "a file of TensorFlow records. Write its images into a folder, a .tar or Parquet first."


def is_torch_zip(names: Iterable[str]) -> bool:
    """Whether the members of a zip are those of torch.save."""
    return any(name.rpartition("/")[2] == "data.pkl" for name in names)


def what_it_is(path: Path, head: bytes) -> str | None:
    """Return what a file is that is no set of images, and what to do with it; none if that is not known.

    Args:
        path: The file.
        head: At least `HEAD_BYTES` of its beginning, or all.
    """
    for pattern, text in _FILES:
        if pattern.match(head):
            return text.format(name=path.name)
    if ".tfrecord" in path.name:
        return _RECORDS
    kind = readable_format(head) or unread_kind(head)
    if kind is None:
        return None
    return f"one file of the kind {kind}, no set of images. Name the folder that it is in."

"""What a file or folder is that holds no network in a layout that is read: told by its first bytes, and never called damaged."""

from __future__ import annotations

import codecs
import json
import re
from pathlib import Path

from diffmem.data.formats.guards import checked_zip, read_plain, reading
from diffmem.errors import UserError
from diffmem.models.pretrained.recognition import SAMPLES_ONLY, WAYS_ON

__all__ = ["HEAD_BYTES", "is_safetensors", "other_file", "other_folder"]

HEAD_BYTES = 512
"""How many first bytes of a file tell what it is."""

_MAX_JSON_BYTES = 8 * 2**20
_LISTED = 8
_OTHER_PROGRAM = "which says neither how noise was added in training nor what the network predicts"
# By the first bytes: what such a file is.
_NETWORKS: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"\x08[\x01-\x20][\x12\x1a\x3a]"), "a graph of ONNX"),
    (re.compile(rb"\x89HDF\r\n\x1a\n"), "an HDF5 file, as Keras writes it (.h5)"),
    (re.compile(rb"GGUF"), "a file of GGUF"),
    (re.compile(rb"....TFL3", re.DOTALL), "a model of TensorFlow Lite"),
    (re.compile(rb"[\x81-\x8f\xde\xdf]"), "a checkpoint in msgpack, as Flax (JAX) writes it"),
)
_TENSORFLOW = re.compile(r".*\.(index|meta|data-\d{5}-of-\d{5})")
_DATA: tuple[tuple[re.Pattern[bytes], str, str], ...] = (
    (
        re.compile(rb"\x89PNG\r|\xff\xd8\xff|GIF8|RIFF....WEBP", re.DOTALL),
        "an image",
        "Images go to --train, --heldout and --samples.",
    ),
    (re.compile(rb"\x93NUMPY"), "an array of numpy", "Images go to --train, --heldout and --samples."),
    (
        re.compile(rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!|\x28\xb5\x2f\xfd"),
        "a compressed file",
        "Unpack it and give what is in it.",
    ),
    (
        re.compile(rb"version https://git-lfs"),
        "a pointer of Git LFS and not the file that it stands for",
        "Fetch the file: git lfs pull.",
    ),
    (
        re.compile(rb"\s*<(!doctype|html)", re.IGNORECASE),
        "a web page",
        "The download gave a page in the place of the file: download it again.",
    ),
)
_TAR, _TAR_AT = b"ustar", 257
_OLD_PICKLE = re.compile(rb"\(|c[\w.]+\r?\n\w+\r?\n|[}\]]")


def is_safetensors(head: bytes) -> bool:
    """Whether a file begins as safetensors do: the length of a header, below 2^40 bytes, and its opening brace."""
    return head[5:9] == b"\0\0\0{"


def other_file(path: Path, head: bytes) -> str | None:
    """Return why a file is not opened that holds no tensors of torch; none if it may hold some.

    Args:
        path: The file.
        head: Its first bytes, `HEAD_BYTES` of them.

    Raises:
        UserError: It is a zip that is damaged or refused.
    """
    if is_safetensors(head):
        return None
    if _TENSORFLOW.fullmatch(path.name) and not head.startswith((b"PK", b"\x80")):
        return _network(path, "a part of a checkpoint of TensorFlow")
    for pattern, what, remedy in _DATA:
        if pattern.match(head):
            return f"{path} is {what}: it holds no network. {remedy}"
    if head[_TAR_AT:].startswith(_TAR):
        return f"{path} is an archive (tar): it holds no network. Unpack it and give what is in it."
    for pattern, what in _NETWORKS:
        if pattern.match(head):
            return _network(path, what)
    if head.startswith(b"PK\x03\x04"):
        return _zip(path)
    return _text(path, head) if head and _is_text(head) and not _OLD_PICKLE.match(head) else None


def other_folder(folder: Path) -> str:
    """Return why a folder is not opened that is neither a run nor a folder of diffusers: what it holds, and what to do."""
    names = sorted(path.name for path in folder.iterdir())
    if "saved_model.pb" in names or any(re.search(r"\.data-\d{5}-of-\d{5}$", name) for name in names):
        return _network(folder, "a folder of TensorFlow")
    if {"_CHECKPOINT_METADATA", "_METADATA", "manifest.ocdbt"}.intersection(names):
        return _network(folder, "a checkpoint of Orbax (JAX)")
    if "pytorch_lora_weights.safetensors" in names or "adapter_config.json" in names:
        return f"{folder} holds changes to a model (LoRA) and no whole one. {SAMPLES_ONLY}"
    if (folder.resolve().parent / "model_index.json").is_file():
        return (
            f"{folder} is a part of a pipeline of diffusers that denoises nothing. Give the folder above it."
        )
    inside = ", ".join(names[:_LISTED]) or "nothing"
    return f"{folder} is no folder of a model; it holds {inside}."


def _network(path: Path, what: str) -> str:
    return f"{path} is {what}, {_OTHER_PROGRAM}. {WAYS_ON}"


def _zip(path: Path) -> str | None:
    with checked_zip(path) as archive:
        names = [info.filename for info in archive.infolist()]
    if any(re.fullmatch(r"[^/]+/(code/.*|constants\.pkl)", name) for name in names):
        return (
            f"{path} is a program of TorchScript (torch.jit.save), whose code would have to be run. {WAYS_ON}"
        )
    if any(re.fullmatch(r"[^/]+/data\.pkl|data\.pkl", name) for name in names):
        return None
    if any(name.endswith(".weights.h5") for name in names):
        return _network(path, "a model of Keras (.keras)")
    if names and all(name.endswith(".npy") for name in names):
        return f"{path} holds arrays of numpy: no network. Images go to --train, --heldout and --samples."
    shown = ", ".join(names[:3]) or "nothing"
    return f"{path} is a zip that PyTorch did not write; it holds {shown[:200]}. Unpack it and give the model that is in it."


def _is_text(head: bytes) -> bool:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head)
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter in "\t\r\n\f" for letter in text)


def _text(path: Path, head: bytes) -> str:
    kind = _settings(path) if head.lstrip()[:1] == b"{" else None
    if kind is not None:
        return f"{path} holds the settings of {kind} and no tensors. Give its folder, {path.parent}."
    begin = head.decode("utf-8", "ignore").split("\n")[0][:60].strip()
    return f"{path} is a text file ({begin!r}, ...): it holds no network. Give the file or folder that the trainer saved its network in."


def _settings(path: Path) -> str | None:
    """Return the class that a JSON file of diffusers is for; none for another file."""
    try:
        with reading(str(path)):
            settings = json.loads(read_plain(path, _MAX_JSON_BYTES, str(path)))
    except UserError:
        return None
    kind = settings.get("_class_name") if isinstance(settings, dict) else None
    return f"a {kind[:60]} of diffusers" if isinstance(kind, str) else None

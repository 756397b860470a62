import json
import subprocess
import sys

import numpy as np
import pytest
from data_builders import encoded

from diffmem.data import Reading, open_images, write_images
from diffmem.data.formats import workers
from diffmem.data.formats.workers import decoding_processes
from diffmem.data.resuming import partial_folder, resumable
from diffmem.errors import DiffmemError, UserError

COUNT = 700
PROGRAM = """
import os, signal, sys
from diffmem.data import resuming
from diffmem.data.formats import stack, workers
from diffmem.__main__ import main
resuming.SECONDS_BETWEEN_NOTES = 0.0
workers._LARGE_FILES = 100
finished = stack._Stack.finished
def killing(self, pages):
    finished(self, pages)
    if self.done >= 400:
        os.kill(os.getpid(), signal.SIGKILL)
if sys.argv.pop(1) == "kill":
    stack._Stack.finished = killing
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    made = tmp_path / "photos"
    for index in range(COUNT):
        inside = made / "ab"[index % 2]
        inside.mkdir(parents=True, exist_ok=True)
        shape = (4, 4) if index < COUNT // 2 else (4, 4, 3)
        (inside / f"{index:04d}.png").write_bytes(encoded(rng.integers(0, 256, shape, dtype=np.uint8)))
    return made


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr(workers, "_LARGE_FILES", 100)
    monkeypatch.setattr("diffmem.data.resuming.SECONDS_BETWEEN_NOTES", 0.0)


def interrupted(source, out, after=300, reading=None):
    """Decode in this process until so many files are done; leave what a killed process leaves."""

    def progress(done, total, note=""):
        if done >= after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), resumable(out, print):
        open_images(source, progress=progress, reading=reading or Reading())
    assert partial_folder(out).is_dir()


def gone_on(source, out, reading=None):
    """Build in this process; return the set and what was said."""
    said, decoded = [], []
    with resumable(out, said.append):
        images = open_images(
            source, progress=lambda done, total, note="": decoded.append(done), reading=reading or Reading()
        )
        write_images(images, out)
    assert not partial_folder(out).exists()
    return images, " ".join(said), decoded[0]


@pytest.mark.parametrize(
    "ending", [".npy", *(pytest.param(one, marks=pytest.mark.slow) for one in (".zip", ".npz", ".tar", ""))]
)
def test_a_build_killed_in_the_middle_goes_on_to_the_same_bytes(tmp_path, folder, ending):
    whole, out = tmp_path / f"one{ending}", tmp_path / "other" / f"one{ending}"
    out.parent.mkdir()

    def build(end):
        command = [sys.executable, "-c", PROGRAM, end, "data", "build", str(folder), str(out)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    killed = build("kill")
    assert killed.returncode == -9, killed.stderr
    assert not out.exists()
    again = build("whole")
    assert again.returncode == 0, again.stderr
    assert "files are decoded already" in " ".join(again.stderr.split())
    write_images(open_images(folder), whole)
    for file in [whole, *whole.rglob("*")]:
        if file.is_file():
            assert (out / file.relative_to(whole)).read_bytes() == file.read_bytes()
    assert [path.name for path in out.parent.iterdir() if path.name.startswith(".")] == []


@pytest.mark.usefixtures("often")
def test_work_that_was_interrupted_is_gone_on_with_and_said(tmp_path, folder):
    interrupted(folder, tmp_path / "one.npy")
    images, said, first = gone_on(folder, tmp_path / "one.npy")
    assert "files are decoded already" in said
    assert first > 300
    assert images.fingerprint == open_images(folder).fingerprint
    assert images.history == open_images(folder).history


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("more", [b"", bytes(80)], ids=["noted", "and a later note was cut off"])
def test_pages_are_gone_on_with(tmp_path, more):
    folder = tmp_path / "stacks"
    folder.mkdir()
    for index in range(400):
        pages = np.full((1 + index % 2, 3, 3), index % 200, np.uint8)
        (folder / f"{index:03d}.tif").write_bytes(_tiff(pages))
    reading = Reading(pages="all")
    interrupted(folder, tmp_path / "one.npy", 200, reading)
    with (partial_folder(tmp_path / "one.npy") / "1.pages").open("ab") as pages:
        pages.write(more)
    (
        partial_folder(tmp_path / "one.npy") / ".1.json.0123abcd.tmp"
    ).touch()  # of a write in which it was killed
    images, said, _ = gone_on(folder, tmp_path / "one.npy", reading)
    assert "files are decoded already" in said
    expected = open_images(folder, reading=reading)
    assert images.fingerprint == expected.fingerprint
    assert images.names == expected.names
    assert images.history == expected.history


def _tiff(pages):
    from PIL import Image

    first, *others = map(Image.fromarray, pages)
    return encoded(first, "TIFF", save_all=True, append_images=others)


@pytest.mark.usefixtures("often")
def test_a_changed_source_starts_anew_and_says_so(tmp_path, folder):
    interrupted(folder, tmp_path / "one.npy")
    (folder / "a" / "0000.png").write_bytes(encoded(np.zeros((4, 4), np.uint8), optimize=True))
    images, said, first = gone_on(folder, tmp_path / "one.npy")
    assert "has changed" in said
    assert first < 300
    assert images.fingerprint == open_images(folder).fingerprint


@pytest.mark.usefixtures("often")
def test_another_reading_starts_anew_and_says_so(tmp_path, folder):
    interrupted(folder, tmp_path / "one.npy")
    _, said, _ = gone_on(folder, tmp_path / "one.npy", Reading(fit="crop", resolution=2))
    assert "has changed" in said


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("damage", ["pixel", "shorter", "note", "number"])
def test_damaged_work_is_not_trusted(tmp_path, folder, damage):
    out = tmp_path / "one.npy"
    interrupted(folder, out)
    note = partial_folder(out) / "1.json"
    said = json.loads(note.read_text())
    pixels = partial_folder(out) / said["pixels"]
    match damage:
        case "pixel":
            content = bytearray(pixels.read_bytes())
            content[100] ^= 1
            pixels.write_bytes(content)
        case "shorter":
            pixels.write_bytes(pixels.read_bytes()[:-1])
        case "note":
            note.write_text(note.read_text()[:-20])
        case "number":
            note.write_text(json.dumps(said | {"images": said["images"] + 1}))
    images, told, first = gone_on(folder, out)
    assert "damaged" in told
    assert first < 300
    assert images.fingerprint == open_images(folder).fingerprint


@pytest.mark.usefixtures("often")
def test_an_error_leaves_nothing_beside_the_set(tmp_path, folder):
    (folder / "b" / "0699.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.raises(UserError, match="0699"), resumable(tmp_path / "one.npy", print):
        open_images(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.mark.usefixtures("often")
def test_a_disk_that_is_full_is_told_in_one_line_and_nothing_is_left(tmp_path, folder, monkeypatch):
    def full(stream, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("diffmem.data.resuming.reserve", full)
    with (
        pytest.raises(DiffmemError, match=r"^Cannot keep images .*No space left on device"),
        resumable(tmp_path / "one.npy", print),
    ):
        open_images(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.mark.usefixtures("often")
def test_two_builds_of_one_set_at_a_time_are_refused(tmp_path):
    with (
        resumable(tmp_path / "one.npy", print),
        pytest.raises(UserError, match="in use"),
        resumable(tmp_path / "one.npy", print),
    ):
        pass


@pytest.mark.usefixtures("often")
def test_several_processes_give_the_same_set_and_go_on_with_the_work_of_one(tmp_path, folder):
    expected = open_images(folder)
    interrupted(folder, tmp_path / "one.npy")
    with decoding_processes(2):
        images, said, _ = gone_on(folder, tmp_path / "one.npy")
    assert "files are decoded already" in said
    assert images.fingerprint == expected.fingerprint
    assert images.history == expected.history

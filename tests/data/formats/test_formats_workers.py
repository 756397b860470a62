import io
import os
import tarfile

import numpy as np
import pytest
from data_builders import encoded

from diffmem.data import Reading, open_images
from diffmem.data.formats import workers
from diffmem.data.formats.decoding import Decoder, Files
from diffmem.data.formats.workers import decoded, decoding_processes
from diffmem.data.reading import AS_USUAL
from diffmem.errors import DiffmemError, UserError

RNG = np.random.default_rng(0)
CONTENTS = [encoded(RNG.integers(0, 256, (5, 4, 3)[: 2 + index % 2], dtype=np.uint8)) for index in range(600)]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(workers, "_LARGE_FILES", 100)
    monkeypatch.setattr(workers, "_PIECE_FILES", 50)


@pytest.fixture
def folder(tmp_path):
    for index, content in enumerate(CONTENTS):
        (tmp_path / f"{index:04d}.png").write_bytes(content)
    return tmp_path


def by(processes, source, reading=AS_USUAL):
    with decoding_processes(processes):
        return open_images(source, reading=reading)


@pytest.mark.parametrize("reading", [AS_USUAL, Reading(fit="crop", resolution=3)])
def test_several_processes_read_a_folder_as_one_does(folder, reading):
    one, two = by(1, folder, reading), by(2, folder, reading)
    assert two.fingerprint == one.fingerprint
    assert two.history == one.history
    assert two.names == one.names


def test_several_processes_read_an_archive_as_one_does(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for index, content in enumerate(CONTENTS):
            info = tarfile.TarInfo(f"{index:04d}.png")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    assert by(3, tmp_path / "x.tar").fingerprint == by(1, tmp_path / "x.tar").fingerprint


def test_the_first_broken_file_in_order_is_named_by_any_number_of_processes(folder):
    for index in (170, 333, 555):
        (folder / f"{index:04d}.png").write_bytes(CONTENTS[0][:-30])
    said = []
    for processes in (1, 2, 4):
        with pytest.raises(UserError, match=r"0170\.png") as caught:
            by(processes, folder)
        said.append(str(caught.value))
    assert len(set(said)) == 1


def test_of_an_unequal_and_a_later_broken_file_the_first_is_named(folder):
    (folder / "0301.png").write_bytes(encoded(np.zeros((9, 9), np.uint8)))
    (folder / "0302.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for processes in (1, 2):
        with pytest.raises(UserError, match=r"0301\.png is 9 x 9"):
            by(processes, folder)


def test_a_source_that_fails_is_told_after_the_files_before_it():
    def read(index):
        if index == 230:
            raise UserError("the shard is cut short")
        return CONTENTS[index]

    files, done = Files([f"{index}" for index in range(len(CONTENTS))], read), []
    with decoding_processes(2), pytest.raises(UserError, match="cut short"):
        done.extend(len(batch.pages) for batch in decoded(files, 0, Decoder("x", AS_USUAL, None)))
    assert sum(done) == 230


def test_a_process_that_dies_is_told_with_the_remedy():
    class Fatal(Decoder):
        """Its pickle ends the process that reads it."""

        def __reduce__(self):
            return os._exit, (7,)

    files = Files([f"{index}" for index in range(len(CONTENTS))], CONTENTS.__getitem__)
    with decoding_processes(2), pytest.raises(DiffmemError, match=r"exit code 7.*--processes 1"):
        list(decoded(files, 0, Fatal("x", AS_USUAL, None)))


def test_no_process_is_left_when_the_work_is_given_up():
    files = Files([f"{index}" for index in range(len(CONTENTS))], CONTENTS.__getitem__)
    before = workers.threading.active_count()
    with decoding_processes(2):
        batches = decoded(files, 0, Decoder("x", AS_USUAL, None))
        next(batches)
        batches.close()
    assert workers.threading.active_count() == before

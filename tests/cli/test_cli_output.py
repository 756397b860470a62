"""Exit codes and files do not depend on what the console can show."""

import io
import os
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest
from cli_builders import TINY_RECIPE, caller, command, environment
from parameters import few
from PIL import Image

from diffmem.__main__ import main
from diffmem.data import open_images
from diffmem.folder_lock import locked_folder
from diffmem.studies import emm

pytestmark = pytest.mark.usefixtures("undrawn", "few_controls")

NAMES = ["[bold]a.png", "[].png", ":smile:.png", "é.png", "日本.png", "b.png", "c.png", "d.png"]


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return caller(capsys)


@pytest.fixture
def digits(tmp_path):
    """A training set, held-out images, and samples that are copies."""
    images = open_images("digits").images.transpose(0, 2, 3, 1)
    for name, part in (("train", images[:200]), ("held", images[200:300]), ("copies", images[:100])):
        np.savez(tmp_path / f"{name}.npz", images=part)
    return ["--train", "train.npz", "--heldout", "held.npz", "--samples", "copies.npz"]


@pytest.fixture
def named(tmp_path):
    """A folder whose name and classes and files look like markup, each image twice."""
    for number, name in enumerate(NAMES):
        place = tmp_path / "[bold]set" / ("[red]one", "[]")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number // 2).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / name)
    return "[bold]set"


def code_of(*arguments):
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        return end.code or 0
    return 0


def outcome(monkeypatch, encoding, *arguments):
    """Exit code, standard output and standard error of a command on consoles of this encoding."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    with monkeypatch.context() as inside:
        inside.setattr(sys, "stdout", streams[0])
        inside.setattr(sys, "stderr", streams[1])
        code = code_of(*arguments)
    return code, *(stream.buffer.getvalue().decode(encoding) for stream in streams)


@pytest.mark.parametrize("encoding", few(["ascii", "cp1252", "cp932", "utf-8"], 2))
def test_an_audit_that_finds_copies_ends_with_3_on_every_console(call, digits, monkeypatch, encoding):
    code, out, err = outcome(monkeypatch, encoding, "audit", *digits, "--out", "out")
    assert code == 3, err
    assert out.startswith("Copies found")
    assert out.splitlines()[-1].startswith("report: out")


@pytest.mark.parametrize("words", [["data", "info"], ["data", "duplicates"]], ids=" ".join)
def test_names_that_look_like_markup_are_printed_as_they_are(call, named, monkeypatch, words):
    code, out, err = outcome(monkeypatch, "utf-8", *words, named)
    assert code == 0, err
    assert "[bold]set" in out
    assert "[red]one" in out
    if words[-1] == "duplicates":
        assert "[bold]a.png" in out
        assert ":smile:.png" in out
    code, out, _ = outcome(monkeypatch, "ascii", *words, named)
    assert code == 0
    assert "[red]one" in out


def test_the_title_and_the_folder_of_a_study_are_printed_as_they_are(call, tmp_path, monkeypatch):
    monkeypatch.setattr(emm, "_REPLICATES", 50)
    (tmp_path / "recipe.yaml").write_text(TINY_RECIPE.replace("SOURCE", "digits"))
    title = "[bold]Title[/bold] :smile: [/]"
    done = call("study", "recipe.yaml", "--out", "[red]st", "--workers", 1, "--set", f"title='{title}'")
    assert done.code == 0, done.err
    assert title in done.out
    assert "[red]st/report.html" in done.out
    code, out, err = outcome(monkeypatch, "ascii", "report", "[red]st")
    assert code == 0, err
    assert title in out
    listed = call("runs", "[red]st")
    assert listed.code == 0, listed.err
    assert listed.out.count("100%") == 2
    empty = call("runs", "[/]")
    assert (empty.code, "[/] is no store" in empty.err) == (2, True)


def test_a_mistake_with_a_foreign_name_is_told_in_ascii(call, monkeypatch):
    code, _, err = outcome(monkeypatch, "ascii", "data", "info", "日本[/].npz")
    assert code == 2
    assert "\\u65e5\\u672c[/].npz" in err


def test_a_mistake_cannot_command_the_terminal(call):
    told = call("data", "info", "\x1b[2J.npz")
    assert told.code == 2
    assert "\\x1b[2J.npz" in told.err
    assert "\x1b" not in told.err


def test_the_doctor_names_the_extra_to_install(call, monkeypatch):
    from importlib import metadata

    def missing(package):
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "version", missing)
    told = call("doctor")
    assert told.code == 0
    assert "pip install 'diffmem[fid]'" in told.out


class Broken(io.StringIO):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        raise self.error


FULL = OSError(28, "No space left on device")
CLOSED = BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize(
    ("words", "made"),
    [
        (["doctor"], None),
        (["--help"], None),
        (["data", "info", "digits"], None),
        (["data", "duplicates", "digits", "--out", "d"], "d/duplicates.json"),
        (["optimum", "digits", "--queries", "10", "--sigmas", "0.5,1", "--out", "o"], "o/optimum.json"),
        (["measure", "copies.npz", "--train", "train.npz", "--out", "m.json"], "m.json"),
    ],
    ids=lambda value: None if value is None or isinstance(value, str) else " ".join(value[:2]),
)
def test_work_is_done_though_nobody_can_read_of_it(call, digits, tmp_path, monkeypatch, capsys, words, made):
    for error, wanted in ((FULL, 1), (CLOSED, 0)):
        with monkeypatch.context() as inside:
            inside.setattr(sys, "stdout", Broken(error))
            capsys.readouterr()
            assert code_of(*words) == wanted
        told = capsys.readouterr().err
        assert told.count("error:") == wanted
        if wanted:
            assert "Cannot write to standard output: No space left on device." in told
        if made is not None:
            assert (tmp_path / made).exists()
            (tmp_path / made).unlink()


def test_an_audit_whose_reader_had_enough_keeps_its_code_and_one_on_a_full_disk_names_it(
    call, digits, tmp_path, monkeypatch, capsys
):
    for error, wanted in ((CLOSED, 3), (FULL, 1)):
        with monkeypatch.context() as inside:
            inside.setattr(sys, "stdout", Broken(error))
            assert code_of("audit", *digits, "--out", "out") == wanted
        assert (tmp_path / "out" / "audit.json").exists()
    assert "ended with code 3" in capsys.readouterr().err


def test_a_standard_error_that_cannot_be_written_changes_nothing(call, digits, monkeypatch):
    with monkeypatch.context() as inside:
        inside.setattr(sys, "stderr", Broken(FULL))
        assert code_of("audit", *digits, "--out", "out") == 3
        assert code_of("audit", "--samples", "missing.npz", "--out", "out") == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
@pytest.mark.parametrize("unbuffered", few(["", "1"], 1))
def test_the_program_itself_ends_without_a_traceback(tmp_path, unbuffered):
    values = {**environment(), "PYTHONUNBUFFERED": unbuffered, "PYTHONIOENCODING": "ascii"}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command("--help"), env=values, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr.startswith("error: Cannot write to standard output")
    assert done.stderr.count("\n") == 1
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        command("--help"), env=values, stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    with suppress(OSError):
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "words",
    [
        ["audit", "--train", "missing.npz", "--samples", "missing.npz"],
        ["audit", "--self-test", "--train", "missing.npz"],
        ["optimum", "missing.npz"],
        ["gap", "missing"],
        ["data", "duplicates", "missing.npz"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_second_job_with_the_same_folder_is_refused_before_any_work(call, tmp_path, words):
    with locked_folder(tmp_path / "out"):
        told = call(*words, "--out", "out")
        assert told.code == 2
        assert told.err.startswith(f"error: out is in use by process {os.getpid()} on ")
        assert told.err.count("\n") == 1
    assert "missing" in call(*words, "--out", "out").err  # and now it is only that


@pytest.mark.parametrize(
    ("words", "goes_on"),
    [
        (["optimum", "digits"], False),
        (["data", "build", "digits", "d.npz"], False),
        (["audit", "--samples", "s.npz"], False),
        (["audit", "--model=m.pkl"], True),
        (["train", "d.npz"], True),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else None,
)
def test_ctrl_c_promises_to_go_on_only_where_the_command_does(monkeypatch, capsys, words, goes_on):
    def stop(words):
        raise KeyboardInterrupt

    monkeypatch.setattr("diffmem.__main__._call", stop)
    assert code_of(*words) == 130
    told = capsys.readouterr().err
    assert "Stopped." in told
    assert ("resumes from there" in told) == goes_on

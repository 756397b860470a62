"""What README and documentation say to type: commands that the parser takes, blocks that run in their order, pictures that are there.

A block marked `sh` runs as it stands, in one folder for each page; other blocks show what you would type with files of your own.
"""

import os
import re
import shlex
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from cli_builders import caller
from cyclopts import MissingArgumentError

from diffmem.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if path.name != "results.md"),
]
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
EXIT_CODES = {"few.npz": 3, "heldout.npz --samples samples.npz": 3}
"""How a command ends that does not end with 0, by a part of it: these audits find copies."""


def blocks(path):
    return FENCE.findall(path.read_text("utf-8"))


def commands(text):
    """Each command of a block without its comment and prompt; a line that ends with a backslash goes on."""
    for line in text.replace("\\\n", " ").splitlines():
        line = line.removeprefix("$ ")
        words = shlex.split(line, comments=True) if line.startswith("diffmem ") else []
        ended = next((at for at, word in enumerate(words) if word in ("|", "||", "&&", ";")), len(words))
        yield from [words[1:ended]] if words else []


TYPED = [
    path for path in PAGES if "\n```sh\n" in path.read_text("utf-8") and path.stem != "my-run-has-finished"
]
"""Pages that can be typed from top to bottom; that of other trainers has a test of its own (test_tutorials.py)."""

ALL = [
    pytest.param(command, id=f"{path.relative_to(ROOT)}: {' '.join(command)[:70]}")
    for path in PAGES
    for _, text in blocks(path)
    for command in commands(text)
]


MENTIONED = [
    pytest.param(words, id=f"{path.relative_to(ROOT)}: {' '.join(words)[:70]}")
    for path in [
        *PAGES,
        *(ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
        *sorted((ROOT / ".github").rglob("*.yml")),
        *sorted((ROOT / "recipes").rglob("*.yaml")),
    ]
    for found in re.findall(r"`(diffmem [^`]+)`", path.read_text("utf-8"))
    if "VERB" not in (words := [word for word in shlex.split(found)[1:] if word != "..."])
]
"""Commands within sentences; some are named without all that they need."""


def test_there_are_commands_on_many_pages():
    assert len(ALL) > 60
    assert len(MENTIONED) > 60


@pytest.mark.parametrize("command", ALL)
def test_the_parser_takes_a_command_of_the_documentation(command):
    app.parse_args(command, exit_on_error=False, print_error=False)


@pytest.mark.parametrize("words", MENTIONED)
def test_a_command_within_a_sentence_has_names_and_options_that_exist(words):
    with suppress(MissingArgumentError):
        app.parse_args(
            ["9" if word == "N" else word for word in words],
            exit_on_error=False,
            print_error=False,
        )


def test_a_command_with_an_option_that_is_gone_would_be_noticed():
    with pytest.raises(Exception, match="wights"):
        app.parse_args(["audit", "--wights", "raw"], exit_on_error=False, print_error=False)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 120


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_pictures_of_a_page_are_there_and_have_texts(path):
    for alternative, target in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", path.read_text("utf-8")):
        assert (path.parent / target).is_file(), target
        assert len(alternative) > 10


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_command_that_makes_a_picture_stands_in_its_section(path):
    for section in re.split(r"^#+ .*$", path.read_text("utf-8"), flags=re.MULTILINE):
        if "pictures/" in section:
            assert re.search(r"(?:^|`)(?:diffmem|make|python benchmarks/\S+) \S", section, re.MULTILINE), (
                section
            )


def test_every_picture_is_shown_somewhere():
    shown = {
        name for path in PAGES for name in re.findall(r"pictures/([\w.]+\.png)", path.read_text("utf-8"))
    }
    assert {path.name for path in (ROOT / "docs/pictures").glob("*.png")} == shown


@pytest.mark.usefixtures("undrawn", "few_controls")  # the slow test below has all of both
def test_the_blocks_of_the_readme_run_in_their_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    call = caller(capsys)
    found = blocks(ROOT / "README.md")
    typed = [command for kind, text in found if kind == "sh" for command in commands(text)]
    for command in typed:
        # The plan of a study measures how fast trainings are, which takes ten seconds: in the slow test below.
        if command[0] == "study":
            continue
        called = call(*command)
        wanted = next((code for part, code in EXIT_CODES.items() if part in " ".join(command)), 0)
        assert called.code == wanted, (command, called.err)
    (program,) = [text for kind, text in found if kind == "python"]
    capsys.readouterr()
    exec(compile(program, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "R_mem" in printed
    assert "Copies found" in printed
    assert (tmp_path / "audit-again" / "audit.html").is_file()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", TYPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_can_be_typed_from_top_to_bottom(page, tmp_path):
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    for kind, text in blocks(page):
        named = re.match(r"# ([\w.]+\.py)\b", text)
        if kind == "python" and named:
            (tmp_path / named[1]).write_text(text)
        if kind != "sh":
            continue
        for line in text.replace("\\\n", " ").replace("<hash>", "*").splitlines():
            done = run_typed(line, tmp_path)
            wanted = next(
                (code for part, code in EXIT_CODES.items() if part in line and " audit " in line), 0
            )
            assert done.returncode == wanted, (line, done.stderr)


def run_typed(line, folder):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, timeout=1800
    )

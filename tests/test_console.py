"""What the program prints, on consoles that can show little, are full, or are closed."""

import io
import os
import re
import sys
from contextlib import suppress

import pytest
from rich.box import SIMPLE_HEAD
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from diffmem.console import Output, ascii_signs, console, speaking

HOSTILE = ["[bold]x[/bold].png", "[/]", "[link=file:x]y", ":smile:", r"\[red]", "日本.png", "a\udcff.png"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Broken(io.StringIO):
    """A stream of which every write fails."""

    def write(self, text):
        raise OSError(28, "No space left on device")


def spoken(monkeypatch, encoding, *lines):
    """What a console of this encoding gets of some lines, on standard output and on standard error."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    for name, stream in zip(("stdout", "stderr"), streams, strict=True):
        monkeypatch.setattr(sys, name, stream)
    with speaking():
        for line in lines:
            print(line)
            print(line, file=sys.stderr)
    monkeypatch.undo()
    told = [stream.buffer.getvalue().decode(encoding) for stream in streams]
    assert told[0] == told[1]
    return told[0]


def shown(thing, **options):
    stream = io.StringIO()
    console(file=stream, **options).print(thing)
    return stream.getvalue()


def table(cells):
    made = Table("[head]", "n", title="[title]", caption="[caption]", box=SIMPLE_HEAD)
    for cell in cells:
        made.add_row(cell, "1")
    return made


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp437"])
def test_marks_become_marks_of_ascii_where_the_encoding_lacks_them(monkeypatch, encoding):
    told = spoken(monkeypatch, encoding, "▲ copies, ✓ none… → 3 ≥ 2")
    for letter, sign in (("▲", "!"), ("✓", "ok"), ("…", "..."), ("→", "->"), ("≥", ">=")):
        assert letter in told or sign in told
    assert "\\u" not in told


def test_in_ascii_all_of_our_signs_have_a_meaning(monkeypatch):
    told = spoken(monkeypatch, "ascii", "▲ ✓ – — · × ± ≥ ≤ … → μ σ ∞ ─│┌┼━ ⠋ █")
    assert told == "! ok - - - x +- >= <= ... -> u sigma inf -|++- * #\n"


def test_letters_of_names_become_their_escapes(monkeypatch):
    assert spoken(monkeypatch, "ascii", "é日😀") == "\\xe9\\u65e5\\U0001f600\n"
    assert spoken(monkeypatch, "cp932", "日✓") == "日ok\n"


def test_a_name_whose_bytes_are_no_letters_can_be_printed_in_utf_8(monkeypatch):
    assert spoken(monkeypatch, "utf-8", "a\udcff.png", "\ud800") == "a\\xff.png\n\\ud800\n"


def test_every_line_of_a_table_has_a_sign():
    for code in range(0x2500, 0x2600):
        error = UnicodeEncodeError("ascii", chr(code), 0, 1, "")
        signs, place = ascii_signs(error)
        assert signs.isascii()
        assert place == 1


def test_the_handler_is_for_writing_alone():
    with pytest.raises(UnicodeDecodeError):
        ascii_signs(UnicodeDecodeError("ascii", b"\xff", 0, 1, ""))


def test_the_streams_are_put_back(monkeypatch):
    before = sys.stdout, sys.stderr
    inside = []
    with pytest.raises(ZeroDivisionError), speaking():
        inside.append(1 / (isinstance(sys.stdout, Output) - 1))
    assert (sys.stdout, sys.stderr) == before


def test_streams_that_the_caller_closed_swallow_what_they_are_told(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with speaking() as (out, err):
        print("words")
        print("words", file=sys.stderr)
    assert out.failure is None
    assert err.failure is None


def test_a_stream_that_fails_is_noted_once_and_the_work_goes_on(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Broken())
    with speaking() as (out, err):
        print("one")
        print("two", flush=True)
        console().print(table(["cell"]))
    assert out.failure.errno == 28
    assert err.failure is None


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_a_full_device_is_noticed_when_the_block_ends(monkeypatch):
    full = open("/dev/full", "w")  # noqa: SIM115
    monkeypatch.setattr(sys, "stdout", full)
    with speaking() as (out, _):
        print("held back until the end")
    monkeypatch.undo()
    with suppress(OSError):
        full.close()
    assert out.failure.errno == 28


@pytest.mark.parametrize("name", HOSTILE)
def test_text_is_never_markup(name):
    assert name in shown(name)
    told = shown(table([name]))
    for words in (name, "[head]", "[title]", "[caption]"):
        assert words in told
    assert name in shown(Padding(name, (0, 0, 0, 2)))


def test_a_name_cannot_command_the_terminal():
    screen = Terminal()
    to = console(file=screen, width=80)
    for thing in ("\x1b]0;title\x07", table(["\x1b[2Jcell"]), Text("\x9b31m\u202egnp.x")):
        to.print(thing)
    told = screen.getvalue()
    assert "\\x1b]0;title" in told
    assert "\\x1b[2Jcell" in told
    assert "\\x9b31m\\u202egnp.x" in told
    assert "\x1b[2J" not in told
    assert "\x1b[3m" in told  # what styles the title is still a command


def test_a_terminal_of_80_columns_breaks_lines_and_a_pipe_does_not(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    long = "word " * 60 + "end"
    screen = Terminal()
    console(file=screen, width=80).print(table([long]))
    letters = re.sub("\x1b\\[[0-9;]*m", "", screen.getvalue())
    assert max(map(len, letters.splitlines())) == 80
    for thing in (table([long]), Padding(Text(long), (0, 0, 0, 2)), Text(long), long):
        lines = [line for line in shown(thing).splitlines() if "end" in line]
        assert len(lines) == 1
        assert long in lines[0]


def test_a_pipe_takes_no_more_than_the_table_needs(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    told = shown(table(["a" * 100]))
    assert max(map(len, told.splitlines())) < 115
    assert max(map(len, shown(Padding(Text("word"), (0, 0, 0, 2))).splitlines())) == 6


def test_a_column_that_is_narrow_on_a_screen_is_as_wide_as_its_words_in_a_pipe(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    made = Table(box=None)
    made.add_column("level", max_width=10, overflow="fold")
    made.add_row("a" * 30)
    assert "a" * 30 in shown(made)


def test_the_variable_columns_says_how_wide_a_pipe_is(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert max(map(len, shown(table(["word " * 60])).splitlines())) <= 40

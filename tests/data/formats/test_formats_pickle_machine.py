"""Pickles that are small but endless are refused quickly, whichever reader they are given to."""

from __future__ import annotations

import io
import struct
import tracemalloc

import pytest

from diffmem.data.formats.cifar10 import load_dictionary
from diffmem.data.formats.pickle_machine import Budget, PickleMachine
from diffmem.errors import UserError

LAUGH = b"K\x01K\x02\x86q\x01" + b"0h\x01h\x01\x86q\x01" * 60
"""A pair of a pair of a pair ...: 60 objects, and 2^60 of them when walked."""


class Plain(PickleMachine):
    """A reader that knows no names."""

    kind = "a plain file"
    remedy = "Make another."
    names = {}  # noqa: RUF012

    def call(self, called, arguments):
        raise AssertionError("nothing is ever called without a name")

    def build(self, target, state):
        raise ValueError("no objects")


def run(content, opcodes=1000):
    return Plain("p", Budget("p", opcodes)).run(io.BytesIO(content))


def test_a_reader_without_further_opcodes_knows_plain_values_only():
    assert run(b"\x80\x02](K\x01U\x01aNe.") == [1, b"a", None]
    for code, name in ((b"G" + bytes(8), "BINFLOAT"), (b"\x8f", "EMPTY_SET"), (b"NQ", "BINPERSID")):
        with pytest.raises(UserError, match=f"asks for {name}, which a plain file never needs"):
            run(code + b".")


def test_a_second_pickle_begins_where_the_first_ended():
    stream = io.BytesIO(b"K\x01.K\x02.rest")
    budget = Budget("p", 100)
    assert [Plain("p", budget).run(stream) for _ in range(2)] == [1, 2]
    assert stream.read() == b"rest"


def test_pickles_of_one_file_share_their_budget():
    budget = Budget("p", 5)
    assert Plain("p", budget).run(io.BytesIO(b"K\x01.")) == 1
    with pytest.raises(UserError, match="more than 5 opcodes"):
        Plain("p", budget).run(io.BytesIO(b"K\x010K\x01."))


def test_an_unknown_name_is_told_with_the_remedy():
    with pytest.raises(UserError, match=r"asks for os\.system, which could run code\. Make another\."):
        run(b"cos\nsystem\n.")


def test_an_unprintable_or_endless_name_fits_on_a_line():
    for name in (b"a\n\x1b[31m", b"a" * 10_000):
        word = b"X" + struct.pack("<I", len(name)) + name
        with pytest.raises(UserError) as error:
            run(word + word + b"\x93.")
        assert str(error.value).isprintable()
        assert len(str(error.value)) < 300


@pytest.mark.parametrize("body", [LAUGH + b"h\x01\x93.", b"}" + LAUGH + b"Ns.", LAUGH + b")R.", LAUGH + b"."])
def test_a_batch_that_is_endless_when_walked_is_never_walked(body):
    with pytest.raises(UserError, match="Cannot read p"):
        load_dictionary(b"\x80\x02" + body, "p")


def test_a_batch_that_encodes_one_text_again_and_again_is_refused():
    text = b"X" + struct.pack("<I", 2**20) + b"a" * 2**20 + b"q\x01"
    body = text + b"c_codecs\nencode\nq\x02" + b"h\x02h\x01X\x06\x00\x00\x00latin1\x86R" * 200
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="asks for more than"):
            load_dictionary(b"\x80\x02" + body + b".", "p")
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()

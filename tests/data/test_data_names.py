import numpy as np
import pytest
from data_builders import WORDS
from hypothesis import given
from hypothesis import strategies as st

from diffmem.data.names import NumberedNames, PackedNames


def packed(words):
    return PackedNames(*PackedNames.pack(words))


@given(st.lists(WORDS, min_size=1, max_size=9), st.data())
def test_packed_names_are_the_tuple_of_the_same_texts(words, data):
    names = packed(words)
    assert names == tuple(words)
    assert tuple(words) == names
    assert (len(names), list(names), names[-1]) == (len(words), words, words[-1])
    places = data.draw(st.lists(st.integers(0, len(words) - 1)))
    assert names.take(np.array(places, np.int64)) == tuple(words[place] for place in places)
    assert names[1:] == tuple(words[1:])
    assert names != (*words, "more")


def test_numbered_names_keep_their_numbers():
    names = NumberedNames("a.npy", range(10**12))
    assert names[10**11] == "a.npy[100000000000]"
    few = names.take(np.array([7, 3, 7]))
    assert few == ("a.npy[7]", "a.npy[3]", "a.npy[7]")
    assert few.take(np.array([1])) == ("a.npy[3]",)
    with pytest.raises(IndexError):
        few[3]


def test_names_differ_from_a_list_as_tuples_do():
    assert packed(["a"]) != ["a"]


@pytest.mark.parametrize(
    ("content", "ends", "told"),
    [
        (b"abc", [2, 1, 3], "do not fit"),
        (b"abc", [-1, 3], "do not fit"),
        (b"abc", [1, 2], "do not fit"),
        (b"abc", [1, 4], "do not fit"),
        (b"", [], "do not fit"),
        (b"a\0c", [1, 3], "NUL"),
        ("ä".encode(), [1, 2], "inside of a letter"),
        (b"\xff", [1], "utf-8"),
        (b"\xed\xa0\x80", [3], "utf-8"),
    ],
)
def test_text_that_does_not_fit_is_refused(content, ends, told):
    with pytest.raises(ValueError, match=told):
        PackedNames(content, np.array(ends, np.int64))

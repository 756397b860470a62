import os
import pickle
import struct

import numpy as np
import pytest
from data_builders import cifar_parts, damaged, python2_pickle
from hypothesis import given, settings
from hypothesis import strategies as st
from parameters import examples

from diffmem.data.formats.cifar10 import MAX_PICKLE_BYTES, load_dictionary
from diffmem.errors import UserError

PART = cifar_parts()["data_batch_1"]


def check(read):
    np.testing.assert_array_equal(read["data"], PART[b"data"])
    assert read["labels"] == PART[b"labels"]
    assert read["filenames"] == PART[b"filenames"]


@pytest.mark.parametrize("protocol", range(5))
def test_what_python_3_wrote_is_read(protocol):
    check(load_dictionary(pickle.dumps(PART, protocol), "p"))


def test_what_python_2_wrote_is_read():
    content = b"\x80\x02" + python2_pickle(PART) + b"."
    expected = pickle.loads(content, encoding="bytes")
    assert expected[b"labels"] == PART[b"labels"]  # the imitation is a valid pickle for Python itself
    check(load_dictionary(content, "p"))


def test_text_keys_are_as_good_as_byte_keys():
    check(load_dictionary(pickle.dumps({key.decode(): value for key, value in PART.items()}, 2), "p"))


@settings(max_examples=40)
@given(
    st.dictionaries(
        st.text(max_size=5),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-(2**70), 2**70)
            | st.text(max_size=5)
            | st.binary(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.tuples(inner, inner)
                | st.dictionaries(st.text(max_size=3), inner)
            ),
            max_leaves=8,
        ),
    ),
    st.integers(0, 4),
)
def test_plain_values_are_read_as_python_reads_them(content, protocol):
    assert load_dictionary(pickle.dumps(content, protocol), "p") == content


@pytest.mark.parametrize(
    "array", [np.arange(6).reshape(2, 3), np.asfortranarray(np.arange(6, dtype=np.uint8).reshape(2, 3))]
)
def test_arrays_keep_their_order(array):
    np.testing.assert_array_equal(load_dictionary(pickle.dumps({"a": array}, 2), "p")["a"], array)


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("function", "argument"), [(os.system, "touch {}"), (eval, "open({!r}, 'w')"), (open, "{}")]
)
def test_code_in_a_pickle_is_refused_by_name_and_does_not_run(tmp_path, protocol, function, argument):
    mark = tmp_path / "ran"
    content = pickle.dumps({"data": Call(function, argument.format(mark))}, protocol)
    with pytest.raises(UserError, match=rf"refused: pickle asks for \w+\.{function.__name__}"):
        load_dictionary(content, "p")
    assert not mark.exists()


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({"data": np.array([os], dtype=object)[:0]}, 2),  # an array of objects
        pickle.dumps({"data": np.zeros(3, np.float32)}, 2),
        pickle.dumps([1, 2], 2),
        pickle.dumps({(1, 2): 3}, 2),
        pickle.dumps({"data": {1, 2}}, 4),
        b"\x80\x02}X\x01\x00\x00\x00acnumpy\nndarray\nM\x00\xff\x85Rs.",  # ndarray(65280): memory on demand
        b"\x80\x02}X\x01\x00\x00\x00aP1\ns.",  # a persistent id
        b"\x80\x02}X\x01\x00\x00\x00a\x82\x01s.",  # a registered extension
        b"\x80\x05}\x8c\x01a\x96\xff\xff\xff\xff\xff\xff\x00\x00s.",  # a byte array of 2**48 bytes
        b"\x80\x02h\x05.",
        b"\x80\x02t.",
        b"\x80\x02.",
        b"\x80\x02}",
        b"",
        b"not a pickle",
    ],
)
def test_anything_else_than_a_plain_batch_is_refused(content):
    with pytest.raises(UserError):
        load_dictionary(content, "p")


def test_an_array_whose_shape_and_content_disagree_is_refused():
    content = pickle.dumps({"data": np.zeros((2, 3072), np.uint8)}, 2).replace(
        b"K\x02M\x00\x0c", b"K\x03M\x00\x0c"
    )
    with pytest.raises(UserError, match="cannot reshape"):
        load_dictionary(content, "p")


def test_an_array_that_is_never_filled_is_refused():
    array = b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85X\x01\x00\x00\x00b\x87R"
    content = b"\x80\x02}X\x01\x00\x00\x00a" + array + b"s."
    with pytest.raises(UserError, match="without content"):
        load_dictionary(content, "p")


def test_a_huge_memo_index_costs_no_memory():
    content = b"\x80\x02}r" + struct.pack("<I", 2**32 - 1) + b"."
    assert load_dictionary(content, "p") == {}


def test_a_pickle_that_is_too_large_is_refused():
    with pytest.raises(UserError, match="limit"):
        load_dictionary(bytes(MAX_PICKLE_BYTES + 1), "p")


@examples(30, 150)
@given(
    damaged(pickle.dumps(PART, 2))
    | damaged(b"\x80\x02" + python2_pickle(PART) + b".")
    | st.binary(max_size=60)
)
def test_damage_gives_a_user_error_or_a_dictionary(content):
    told = None
    try:
        read = load_dictionary(content, "p")
    except UserError as error:
        told = str(error)
    assert isinstance(read, dict) if told is None else told.startswith(("Cannot read p: ", "p is refused: "))

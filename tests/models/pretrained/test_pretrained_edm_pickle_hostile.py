"""Nothing in a snapshot runs, and none takes more memory or time than it may."""

from __future__ import annotations

import io
import os
import pickle
import re
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path

import edm_pickle_builder as builder
import numpy as np
import pytest
import torch
from edm_pickle_builder import Call, Nested, Persistent, pickled, saved, snapshot
from edm_pickle_tools import GOOD, SONG, STATE, opened, rebuilt, refused, same
from parameters import these

from diffmem.errors import UserError
from diffmem.models import weights
from diffmem.models.pretrained import checkpoint
from diffmem.models.pretrained.edm_pickle import open_edm_pickle

pytestmark = pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")


@pytest.mark.parametrize("protocol", these(range(6), 0, 5))
def test_embedded_source_never_runs(tmp_path, protocol):
    mark = tmp_path / "ran"
    source = f"import os; os.system('touch {mark}')"
    content = pickled(snapshot(STATE, SONG, source), protocol)
    assert same(opened(tmp_path, content), STATE, SONG)
    assert not mark.exists()


def test_pythons_own_unpickler_would_have_run_it(tmp_path):
    mark = tmp_path / "ran"
    content = pickled(snapshot(STATE, SONG, f"import os; os.system('touch {mark}')"))
    with builder.imitated():
        pickle.loads(content)
    assert mark.exists()


def attacks(command):
    """What mischief may stand in a pickle, and what the refusal must say."""
    system = Call(os.system, command)
    inner = pickle.dumps(system, 2)
    yield "call", system, "posix.system"
    yield "eval", Call(eval, f"__import__('os').system({command!r})"), "eval, which could run code"
    yield "getattr", Call(getattr, Call(__import__, "os"), "system"), "getattr"
    yield "import", Call(__import__, "os"), "__import__"
    yield "partial", Call(__import__("functools").partial, os.system, command), "functools.partial"
    yield "storage", Nested(inner), "posix.system"
    yield "storage in a storage", Nested(pickle.dumps(Nested(inner), 2)), "torch.storage._load_from_bytes"
    stream = io.BytesIO()
    torch.save({"a": system}, stream)
    yield "archive in a storage", Nested(stream.getvalue()), "Cannot read"
    yield "load", Call(torch.load, "weights.pt"), "torch.serialization.load"
    yield "state", Call(Persistent, "x", state={"a": 1}), "edm_pickle_builder.Persistent"
    yield "state of a function", Call(torch._utils._rebuild_parameter, 1, True, {}), "Cannot read"
    yield "set state", Call(OrderedDict, state=({"__setstate__": os.system}, None)), "posix.system"
    yield "state of a dictionary", Call(OrderedDict, state={"__setstate__": 1}), "fills an object"
    yield "class", Call(type, "A", (), {}), "type, which could run code"
    yield "other module", torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"
    yield "array of objects", np.array([None], dtype=object), "Cannot read"


ATTACKS = [name for name, _, _ in attacks("")]


@pytest.mark.parametrize("protocol", these([0, 2, 4, 5], 2))
@pytest.mark.parametrize("kind", ATTACKS)
def test_code_in_a_pickle_is_refused_by_name_and_does_not_run(tmp_path, kind, protocol):
    mark = tmp_path / "ran"
    harm, words = next((harm, words) for name, harm, words in attacks(f"touch {mark}") if name == kind)
    for value in ({"ema": harm}, {**snapshot(STATE, SONG), "extra": [{"deep": (harm,)}]}):
        assert words in refused(tmp_path, pickled(value, protocol))
    assert not mark.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_of_torch_is_refused_by_name(tmp_path, zipped):
    mark = tmp_path / "ran"
    content = saved({"ema": Call(os.system, f"touch {mark}")}, zipped)
    assert "posix.system" in refused(tmp_path, content)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"(S'touch ran'\nios\nsystem\n.", "asks for INST"),
        (b"(cos\nsystem\nS'touch ran'\no.", "os.system"),
        (b"(NNo.", "asks for OBJ"),
        (b"\x82\x01.", "asks for EXT1"),
        (b"\x84\x01\x00\x00\x00.", "asks for EXT4"),
        (b"N2.", "asks for DUP"),
        (b"P1\n.", "asks for PERSID"),
        (b"N)}\x92.", "asks for NEWOBJ_EX"),
        (b"(N\x91.", "asks for FROZENSET"),
        (b"\x97.", "asks for NEXT_BUFFER"),
        (b"N\x98.", "asks for READONLY_BUFFER"),
        (b"(NNQ.", "Cannot read"),
        (b"N)R.", "Cannot read"),
        (b"N)\x81.", "Cannot read"),
        (b"N}b.", "Cannot read"),
        (b"](\x90.", "Cannot read"),
        (b"\x8f(}\x90.", "key of type dict"),
        (b"})Ns.", "key of type tuple"),
        (b"}\x8a\x08" + b"\x7f" * 8 + b"Ns.", "key of more than 31 bits"),
        (b"K\x01K\x02\x93.", "with something other than text"),
        (b"\x8c\x02a\n\x8c\x01b\x93.", "could run code"),
        (b"h\x05.", "memo 5"),
        (b"t.", "Cannot read"),
        (b"", "Cannot read"),
        (b"not a pickle", "Cannot read"),
        (b"PK\x03\x04 not a zip", "Cannot read"),
        (b"\x8a\x11" + b"\x7f" * 17 + b".", "127 bits"),
        (b"I" + b"9" * 5000 + b"\n.", "Cannot read"),
    ],
)
def test_opcodes_that_a_network_never_needs_are_refused(tmp_path, body, words):
    for head in (b"", b"\x80\x04"):
        assert words in refused(tmp_path, body if body.startswith((b"PK", b"not")) else head + body)


def spent(tmp_path, content):
    """The words of the refusal, and the bytes that Python needed at most to come to it."""
    tracemalloc.start()
    try:
        words = refused(tmp_path, content)
        return words, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def claimed(letter, length):
    """A pickle that says a long value follows, which does not."""
    return b"\x80\x05" + letter + struct.pack("<Q", length) + b"short."


@pytest.mark.parametrize("letter", [b"\x8e", b"\x8d", b"\x96", b"\x95"])
@pytest.mark.parametrize("length", [2**33, 2**48, 2**63])
def test_a_claimed_length_reserves_no_memory(tmp_path, letter, length):
    _, memory = spent(tmp_path, claimed(letter, length))
    assert memory < 4 * 2**20


def laughing(levels=60):
    """The opcodes of a pair of a pair of a pair ..., that is memo 1."""
    return b"K\x01K\x02\x86q\x01" + b"0h\x01h\x01\x86q\x01" * levels


def test_a_value_that_is_endless_when_walked_is_never_walked(tmp_path):
    laugh = laughing()
    bodies = {
        "dictionary of networks": laugh + b".",
        "no tensors": b"}\x8c\x03ema" + laugh + b"s.",
        "key of type tuple": b"}" + laugh + b"Ns.",
        "key of type": b"\x8f(" + laugh + b"\x90.",
        "other than text": laugh + b"h\x01\x93.",
        "outside of it": laugh + b"Q.",
        "calls a function": laugh + b")R.",
        "makes an object": laugh + b")\x81.",
        "fills an object": laugh + b"h\x01b.",
    }
    for words, body in bodies.items():
        assert words in refused(tmp_path, b"\x80\x04" + body)


def test_an_argument_that_is_endless_when_printed_is_never_printed(tmp_path):
    value = ()
    for _ in range(60):
        value = (value, value)
    for name in ("channel_mult", "img_resolution", "label_dim", "unknown"):
        words = refused(tmp_path, pickled(snapshot(STATE, {**SONG, name: value})))
        assert f"argument {name!r} is a tuple" in words
    assert "class's name" in refused(
        tmp_path, pickled({"ema": Call(builder._reconstruct_persistent_obj, {"class_name": value})})
    )


def test_deep_nesting_does_not_exhaust_the_stack(tmp_path):
    for body in (b"]" * 200_000 + b"a" * 199_999, b")" + b"\x85" * 200_000, b"}K\x01" * 9 + b"N" + b"s" * 9):
        refused(tmp_path, b"\x80\x04" + body + b".")
    value = snapshot(STATE, SONG)
    child = Persistent("Part")
    for _ in range(30):
        parent = Persistent("Part")
        parent.add_module("a", child)
        child = parent
    value["ema"].add_module("more", child)
    assert "nested more than 20 deep" in refused(tmp_path, pickled(value))


def test_modules_that_contain_themselves_or_each_other_twice_end(tmp_path):
    ring = torch.nn.ModuleDict()
    ring._modules["again"] = ring
    value = snapshot(STATE, SONG)
    value["ema"].add_module("ring", ring)
    assert "nested more than 20 deep" in refused(tmp_path, pickled(value))
    child = torch.nn.ModuleDict()
    for _ in range(18):
        parent = torch.nn.ModuleDict()
        parent.add_module("a", child)
        parent.add_module("b", child)
        child = parent
    value = snapshot(STATE, SONG)
    value["ema"].add_module("twice", child)
    assert "more than 20,000 modules" in refused(tmp_path, pickled(value))


def test_a_text_encoded_again_and_again_is_refused(tmp_path):
    text = b"X" + struct.pack("<I", 2**20) + b"a" * 2**20 + b"q\x01"
    body = text + b"c_codecs\nencode\nq\x02" + b"h\x02h\x01X\x06\x00\x00\x00latin1\x86R" * 200
    words, memory = spent(tmp_path, b"\x80\x02" + body + b".")
    assert "asks for more than" in words
    assert memory < 16 * 2**20


def test_a_storage_unpacked_again_and_again_is_refused(tmp_path):
    ((inner,),) = torch.zeros(2**18).storage().__reduce__()[1:]
    once = b"B" + struct.pack("<I", len(inner)) + inner + b"q\x01"
    repeated = once + b"ctorch.storage\n_load_from_bytes\nh\x01\x85R" * 100
    words, memory = spent(tmp_path, b"\x80\x04" + repeated + b".")
    assert "asks for more than" in words
    assert memory < 16 * 2**20


def test_too_many_opcodes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_MAX_OPCODES", 1000)
    assert "more than 1,000 opcodes" in refused(tmp_path, GOOD)


def test_a_file_that_is_too_large_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "MAX_FILE_BYTES", len(GOOD) - 1)
    assert f"the limit is {len(GOOD) - 1:,}" in refused(tmp_path, GOOD)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_value_that_is_too_large_is_refused_unread(tmp_path, monkeypatch, protocol):
    monkeypatch.setattr(checkpoint, "_MAX_VALUE_BYTES", 1000)
    words = refused(tmp_path, pickled({"ema": "a" * 2000}, protocol))
    assert re.search("one of its values has (more than )?[0-9,]+ bytes", words)


def test_what_is_no_plain_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "n.pkl")
    for path in (tmp_path / "n.pkl", tmp_path, Path("a" * 5000), Path("a\0b")):
        with pytest.raises(UserError, match="There is no file") as caught:
            open_edm_pickle(path)
        assert str(caught.value).isprintable()


def test_a_set_made_again_and_again_is_refused(tmp_path):
    items = b"](" + b"".join(b"X" + struct.pack("<I", 5) + b"%05d" % i for i in range(2000)) + b"eq\x01"
    body = items + b"c__builtin__\nset\nq\x02" + b"h\x02h\x01\x85R" * 2000
    assert "asks for more than" in refused(tmp_path, b"\x80\x02" + body + b".")


@pytest.mark.parametrize(
    ("offset", "shape", "stride", "words"),
    [
        (0, (10**6, 10**6), (0, 0), "larger than its storage"),
        (0, (2, 2), (2, 2), "larger than its storage"),
        (3, (2,), (1,), "larger than its storage"),
        (10**30, (1,), (1,), "no whole numbers"),
        (-1, (2,), (1,), "no whole numbers"),
        (0, (2,), (-1,), "no whole numbers"),
        (0, (2,), (True,), "no whole numbers"),
        (0, ("2",), (1,), "no whole numbers"),
        (0, (2, 1), (1,), "dimensions"),
        (0, (1,) * 9, (1,) * 9, "dimensions"),
        (0, (1,) * 100_000, (1,) * 100_000, "dimensions"),
    ],
)
def test_a_tensor_outside_of_its_storage_is_refused(tmp_path, offset, shape, stride, words):
    value = snapshot(STATE, SONG)
    value["ema"]._buffers["x"] = rebuilt(torch.arange(4.0).storage(), offset, shape, stride)
    assert words in refused(tmp_path, pickled(value))


def test_a_negated_tensor_is_refused(tmp_path):
    value = snapshot(STATE, SONG)
    value["ema"]._buffers["x"] = rebuilt(torch.ones(4).storage(), 0, (4,), (1,), {"neg": True})
    assert "never needs" in refused(tmp_path, pickled(value))


def test_a_storage_that_claims_to_be_huge_reserves_no_memory(tmp_path):
    ((inner,),) = torch.zeros(4).storage().__reduce__()[1:]
    count = b"K\x04N"  # the number of elements in the pickle of the storage
    assert inner.count(count) == 1
    huge = inner.replace(count, b"\x8a\x06" + (2**42).to_bytes(6, "little") + b"N")
    huge = huge[: -16 - 8] + struct.pack("<q", 2**42) + huge[-16:]
    words, memory = spent(tmp_path, pickled({"ema": Nested(huge)}))
    assert "a storage of 17,592,186,044,416 bytes has 16" in words
    assert memory < 4 * 2**20
    assert "is stored as 4" in refused(tmp_path, pickled({"ema": Nested(inner.replace(count, b"K\x05N"))}))
    assert "has 12" in refused(tmp_path, pickled({"ema": Nested(inner[:-4])}))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"model_channels": 2**20}, "has shape (32, 32), but this network needs (4194304, 4194304)"),
        ({"model_channels": 2**62}, "Cannot read"),
        ({"num_blocks": 10**9}, "claims 2,000,000,000 blocks"),
        ({"channel_mult": [1] * 200}, "claims 200 blocks"),
        ({"channel_mult": [1] * 257}, "argument 'channel_mult' is a list"),
        ({"channel_mult": [1, [2]]}, "argument 'channel_mult' is a list"),
        ({"label_dim": 2**40}, "map_label"),
        ({"resample_filter": [1] * 300}, "argument 'resample_filter' is a list"),
        ({"img_resolution": "8" * 100}, "argument 'img_resolution' is a str"),
        ({"img_resolution": "8\n"}, "argument 'img_resolution' is a str"),
        ({"img_resolution": None}, "img_resolution must be a positive whole number"),
        ({"channels": 8}, "no argument 'channels'"),
        ({"model_type": "DiT"}, "'DiT'"),
        ({"class_name": "iDDPMPrecond"}, "must be DhariwalUNet"),
        ({"class_name": "x" * 10_000}, "which is not supported"),
    ],
)
def test_a_network_unlike_its_tensors_is_refused_before_it_is_built(tmp_path, arguments, words):
    given_text, memory = spent(tmp_path, pickled(snapshot(STATE, {**SONG, **arguments})))
    assert words in given_text
    assert (
        memory < 192 * 2**20
    )  # torch loads parts of itself at the first such build; one weight would take 64 TiB


def repacked(content, change, compression=zipfile.ZIP_STORED):
    """A zip with the members that `change` returns."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, held in change(members).items():
            archive.writestr(name, held)
    return stream.getvalue()


def test_a_tampered_file_of_torch_is_refused(tmp_path):
    content = saved(snapshot(STATE, SONG), zipped=True)
    assert same(opened(tmp_path, repacked(content, dict)), STATE, SONG)
    assert "compressed" in refused(tmp_path, repacked(content, dict, zipfile.ZIP_DEFLATED))

    def without(word):
        return lambda members: {name: held for name, held in members.items() if word not in name}

    def with_(ending, held):
        return lambda members: {name: held if name.endswith(ending) else old for name, old in members.items()}

    assert "not one that PyTorch wrote" in refused(tmp_path, repacked(content, without("data.pkl")))
    assert "lacks 'data/0'" in refused(tmp_path, repacked(content, without("data/0")))
    assert "a storage of" in refused(tmp_path, repacked(content, with_("data/0", b"1234567")))
    assert "big-endian" in refused(tmp_path, repacked(content, with_("byteorder", b"big")))
    assert "points outside" in refused(tmp_path, repacked(content, lambda m: {**m, "../x": b""}))

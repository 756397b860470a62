"""Snapshots with random damage, and random sequences of opcodes."""

from __future__ import annotations

import itertools
import struct

import pytest
import torch
from edm_pickle_builder import damaged, pickled, saved, snapshot
from edm_pickle_tools import GOOD, SONG, opened, refused
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parameters import amount

from diffmem.errors import UserError
from diffmem.models.pretrained import pickle_reader

pytestmark = pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")


SMALL = snapshot({"model.map.weight": torch.ones(1, 2), "model.enc.a.bias": torch.ones(1)}, SONG, "x = 1")
SMALL["augment_pipe"] = None
SEEDS = [pickled(SMALL, protocol) for protocol in (0, 2, 4, 5)] + [saved(SMALL, False), saved(SMALL, True)]
FUZZ = settings(
    deadline=60_000, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.mark.thorough
@settings(FUZZ, max_examples=amount(60, 400))
@given(st.sampled_from(SEEDS).flatmap(damaged) | st.binary(max_size=60))
def test_damage_gives_a_user_error_and_nothing_else(tmp_path, content):
    refused(tmp_path, content)  # undamaged, this file has too few tensors


@pytest.mark.thorough
@settings(FUZZ, max_examples=amount(8, 25))
@given(damaged(GOOD))
def test_damage_to_a_whole_snapshot_gives_a_user_error_or_a_denoiser(tmp_path, content):
    told = None
    try:
        denoiser = opened(tmp_path, content)
    except UserError as error:
        told = str(error)
    assert denoiser.image_shape == (3, 8, 8) if told is None else "network-snapshot-000000.pkl" in told


PIECES = [
    *(bytes([code]) for code in b"(.0)}]lNtsuaeRQb\x85\x86\x87\x88\x89\x8f\x90\x93\x94\x81\x92"),
    *(b"K" + bytes([number]) for number in range(3)),
    *(b"h" + bytes([number]) for number in range(3)),
    *(b"q" + bytes([number]) for number in range(3)),
    *(b"c" + name.replace(" ", "\n").encode() + b"\n" for name in pickle_reader.ModulePickle.names),
    *(
        b"\x8c" + bytes([len(word)]) + word
        for word in (b"ema", b"state", b"class_name", b"type", b"class", b"_modules", b"latin1", b"f4", b"<")
    ),
    b"C\x04\x00\x00\x80?",
    b"G" + struct.pack(">d", 0.5),
]


@pytest.mark.thorough
@settings(FUZZ, max_examples=amount(60, 400))
@given(st.lists(st.sampled_from(PIECES), max_size=40))
def test_any_sequence_of_opcodes_gives_a_user_error(tmp_path, pieces):
    refused(tmp_path, b"\x80\x04" + b"".join(pieces) + b".")


def test_every_known_name_is_harmless_whatever_it_is_called_with(tmp_path):
    names = pickle_reader.ModulePickle.names
    arguments = [b")", b"N\x85", b"]\x85", b"}\x85", b"K\x01K\x02\x86", b"C\x01a\x85"]
    for name, argument in itertools.product(names, arguments):
        called = b"c" + name.replace(" ", "\n").encode() + b"\n" + argument
        refused(tmp_path, b"\x80\x04" + called + b"R.")
        refused(tmp_path, b"\x80\x04" + called + b"\x81.")

"""Files of every kind, damaged in every way: each is opened, or refused in one line, in bounded time and memory."""

from __future__ import annotations

import resource
import struct
import sys

import pytest
from fuzz_kinds import HARNESSES
from fuzz_mutations import FORMATS, NUMBERS
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

GROWTH_MEBIBYTES = 1000


@st.composite
def damaged(draw, seeds):
    """One of the good files with bits flipped, numbers overwritten, a part cut out, doubled, or of another file put in."""
    content = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 3))):
        if not content:
            break
        # Headers are at the ends: half of the damage is done there.
        ends = st.integers(0, min(80, len(content) - 1))
        place = draw(st.integers(0, len(content) - 1) | ends)
        if draw(st.booleans()):
            place = len(content) - 1 - place
        length = draw(st.integers(1, 16) | st.integers(1, len(content)))
        head, part, tail = content[:place], content[place : place + length], content[place + length :]
        match draw(st.sampled_from(["bits", "number", "cut off", "cut out", "double", "splice"])):
            case "bits":
                content = head + bytes([content[place] ^ 1 << draw(st.integers(0, 7))]) + content[place + 1 :]
            case "number":
                layout = draw(st.sampled_from(sorted(FORMATS)))
                number = draw(st.sampled_from(NUMBERS)) & (2 ** FORMATS[layout] - 1)
                written = struct.pack(layout, number)
                content = head + written + content[place + len(written) :]
            case "cut off":
                content = head
            case "cut out":
                content = head + tail
            case "double":
                content = head + part * draw(st.integers(2, 20)) + tail
            case "splice":
                other = draw(st.sampled_from(seeds))
                start = draw(st.integers(0, len(other)))
                content = head + other[start : start + length] + tail
    return content


def fuzz(kind, folder, examples):
    harness = HARNESSES[kind]

    @settings(
        max_examples=examples, derandomize=examples < 1000, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(damaged(harness.seeds))
    @example(harness.seeds[0])
    @example(b"")
    def run(content):
        harness.check(content, folder)

    run()


@pytest.mark.parametrize("kind", HARNESSES)
def test_good_files_are_accepted(tmp_path, kind):
    harness = HARNESSES[kind]
    if kind == "tar":
        pytest.skip("a CIFAR-10 that is small enough to fuzz is no whole one")
    assert all(harness.check(seed, tmp_path) for seed in harness.seeds)


@pytest.mark.parametrize("kind", HARNESSES)
def test_damage_is_opened_or_refused_in_one_line(tmp_path, kind):
    fuzz(kind, tmp_path, HARNESSES[kind].examples)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", HARNESSES)
def test_thousands_of_damages_are_opened_or_refused_in_one_line(tmp_path, kind):
    before = peak_mebibytes()
    fuzz(kind, tmp_path, 3000)
    assert peak_mebibytes() - before < GROWTH_MEBIBYTES


def peak_mebibytes():
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit

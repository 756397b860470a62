"""Exact integer products; what a processor can do is chosen in child processes, where oneDNN is told to do without."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from parameters import these

from diffmem.integers import PIECE, digits_of, emulated, integer_products, largest_whole

ISAS = ["SSE41", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI", "AVX512_CORE_AMX", "DEFAULT"]

EXTREMES = """
import torch
from diffmem.integers import integer_products
products = integer_products()
half = 1 << (products.bits - 1)
generator = torch.Generator().manual_seed(0)
for terms in (1, 7, 64, 3072, 65_536):
    for low_left, low_right in ((-128, -half), (127, -half), (-128, half - 1), (127, half - 1)):
        left = torch.full((24, terms), low_left, dtype=torch.int8)
        right = torch.full((terms, 40), low_right, dtype=torch.int8)
        left[8:] = torch.randint(-128, 128, (16, terms), generator=generator)
        right[:, 8:] = torch.randint(-half, half, (terms, 32), generator=generator)
        expected = (left.double() @ right.double()).int()
        assert torch.equal(products(left, right), expected), (terms, low_left, low_right)
        assert torch.equal(products(left.T.contiguous().T, right), expected), "transposed"
print(products.bits, products.native)
"""


@functools.cache
def product_of(isa):
    if isa == "DEFAULT":  # what the processor can: no process of its own is needed
        told = []
        exec(EXTREMES, {"print": lambda *words: told.extend(map(str, words))})
        return told
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": isa, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", EXTREMES], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("isa", these(ISAS, "SSE41", "AVX2", "AVX512_CORE", "DEFAULT"))
def test_extremes_are_multiplied_exactly_with_every_set_of_instructions(isa):
    bits, native = product_of(isa)
    assert (bits, native) in {("8", "True"), ("7", "True"), ("8", "False")}


@pytest.mark.skipif(
    "avx512" not in torch.backends.cpu.get_cpu_capability().lower(), reason="the processor has no AVX-512"
)
def test_the_probe_finds_that_full_bytes_saturate_without_vnni():
    assert product_of("AVX512_CORE")[0] == "7" or product_of("AVX512_CORE")[1] == "False"


@given(st.integers(1, 40), st.integers(1, 3000), st.integers(1, 40), st.integers(0, 10**6))
def test_products_are_those_of_whole_numbers(rows, terms, columns, seed):
    products = integer_products()
    half = 1 << (products.bits - 1)
    generator = torch.Generator().manual_seed(seed)
    left = torch.randint(-128, 128, (rows, terms), generator=generator, dtype=torch.int8)
    right = torch.randint(-half, half, (terms, columns), generator=generator, dtype=torch.int8)
    expected = left.numpy().astype(np.int64) @ right.numpy().astype(np.int64)
    assert (products(left, right).numpy() == expected).all()
    assert (emulated(left, right).numpy() == expected).all()
    out = torch.empty(rows, columns, dtype=torch.int32)
    assert products(left, right, out) is out
    assert (out.numpy() == expected).all()


@pytest.mark.parametrize("shape", [(2, 1, 24), (1, 5, 24), (3, 5, 1), (1, 1, 1)])
def test_views_whose_short_sides_have_other_strides_are_read_rightly(shape):
    rows, terms, columns = shape
    generator = torch.Generator().manual_seed(0)
    left = torch.randint(-128, 128, (rows, terms + 63), generator=generator, dtype=torch.int8)[:, :terms]
    right = torch.randint(-64, 64, (columns, terms), generator=generator, dtype=torch.int8).T
    out = torch.empty(1024, columns, dtype=torch.int32)[:rows]
    assert torch.equal(integer_products()(left, right, out).long(), left.long() @ right.long())


def test_sums_that_int32_cannot_hold_are_exact():
    left = torch.full((2, 3 * PIECE), -128, dtype=torch.int8)
    right = torch.full((3 * PIECE, 1), -64, dtype=torch.int8)
    product = integer_products()(left, right)
    assert product.dtype == torch.int64
    assert product.flatten().tolist() == [3 * PIECE * 128 * 64] * 2


def test_the_probe_is_asked_once_for_a_device():
    assert integer_products() is integer_products(torch.device("cpu"))


@given(st.sampled_from([7, 8]), st.integers(1, 8), st.data())
def test_digits_add_up_to_the_whole_numbers(bits, count, data):
    largest = largest_whole(count, bits)
    whole = torch.tensor(data.draw(st.lists(st.integers(-largest, largest), min_size=1, max_size=5)))
    kinds = [torch.int64, torch.int32] if count <= 4 else [torch.int64]
    for kind in kinds:
        digits = digits_of(whole.to(kind, copy=True), count, bits)
        assert digits.shape == (len(whole), count)
        assert digits.dtype == torch.int8
        assert bool((digits.long() >= -(1 << (bits - 1))).all() and (digits.long() < 1 << (bits - 1)).all())
        assert torch.equal((digits.long() << bits * torch.arange(count)).sum(1), whole)

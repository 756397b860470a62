from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from diffmem.memorization.neighbours.rows import Rows, block_rows, centre_of, padded_width


@pytest.mark.parametrize("dim", [1, 64, 3072, 196_608])
@pytest.mark.parametrize("block_bytes", [10_000_000, 80_000_000])
def test_two_blocks_and_their_product_fit_in_the_given_memory(dim, block_bytes):
    rows = block_rows(dim, block_bytes)
    assert 4 * (2 * rows * padded_width(dim) + rows * rows) <= block_bytes
    assert 4 * (2 * (rows + 32) * padded_width(dim) + (rows + 32) ** 2) > block_bytes / 3


def test_rows_are_taken_without_copying_the_array():
    images = np.zeros((5, 3, 4, 4), dtype=np.uint8)
    rows = Rows(images, "images")
    images[2] = 7
    assert (rows.take(slice(2, 3)) == 7).all()
    assert (rows.take(torch.tensor([2, 0])) == torch.tensor([[7], [0]])).all()


def test_float64_rows_are_centred_before_they_are_rounded():
    images = 1e6 + np.arange(12).reshape(4, 3) * 1e-3
    buffer = torch.zeros(4, 16)
    Rows(images, "images").fill(buffer, 0, 4, torch.full((3,), 1e6))
    np.testing.assert_allclose(buffer[:, :3], images - 1e6, rtol=1e-6)


def test_the_centre_of_uint8_images_is_whole():
    centre = centre_of(
        Rows(np.random.default_rng(0).integers(0, 256, (50, 9), np.uint8), "images"), 50, exact=True
    )
    assert (centre == centre.round()).all()


def test_per_backend_precision_settings_are_kept_and_do_not_matter():
    # In a process of its own: torch does not let the two kinds of settings mix afterwards.
    program = """
import numpy as np, torch
from diffmem.memorization.neighbours.neighbours import nearest_neighbours
if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
    raise SystemExit
torch.backends.mkldnn.matmul.fp32_precision = "bf16"
images = np.random.default_rng(0).integers(0, 256, (60, 300), np.uint8)
found = nearest_neighbours(images, images, 2)
assert (found.indices[:, 0] == np.arange(60)).all() and (found.distances[:, 0] == 0).all()
assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr

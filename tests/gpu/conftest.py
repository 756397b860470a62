"""The card that the tests of this folder need; without one they are skipped."""

import os

import pytest
import torch

os.environ.setdefault(
    "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
)  # read when CUDA starts; makes cuBLAS deterministic


@pytest.fixture
def card(monkeypatch):
    """The device 'cuda', on which float32 is float32."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return "cuda"

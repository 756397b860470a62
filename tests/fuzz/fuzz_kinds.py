"""All kinds of files that are fuzzed."""

from __future__ import annotations

from fuzz_checkpoints import CHECKPOINTS
from fuzz_images import IMAGES
from fuzz_members import MEMBERS

__all__ = ["HARNESSES"]

HARNESSES = {**IMAGES, **MEMBERS, **CHECKPOINTS}
"""By kind; the kinds are the names of the tests and of the atheris runs."""

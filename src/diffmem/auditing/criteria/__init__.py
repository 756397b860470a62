"""The criteria of an audit: each a file, and none known by name outside of this folder."""

from __future__ import annotations

from diffmem.auditing.criteria.base import PIXELS, SURROUNDINGS, Batch, Criterion, CriterionRole, Scores
from diffmem.auditing.criteria.choose import NEIGHBOURS, choose_criteria

__all__ = [
    "NEIGHBOURS",
    "PIXELS",
    "SURROUNDINGS",
    "Batch",
    "Criterion",
    "CriterionRole",
    "Scores",
    "choose_criteria",
]

"""Which parameters run always, and how many examples: `make test` takes few of them, `make test-slow` all.

Take few where the others prove the same fact once more; parameters that differ in kind stay.
"""

import os

import pytest
from hypothesis import settings

ALL = os.environ.get("DIFFMEM_TESTS") == "all"
"""Whether tests marked `thorough` take all of their examples."""


def slow(value):
    """The same parameter, run by `make test-slow` alone; a tuple is a row of several arguments."""
    return pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow)


def few(values, keep):
    """The same parameters, of which `keep` evenly spread ones (the first among them) run always."""
    values = list(values)
    assert 0 < keep < len(values), f"{keep} of {len(values)} parameters are not few"
    kept = {round(at * (len(values) - 1) / max(1, keep - 1)) for at in range(keep)}
    return [value if at in kept else slow(value) for at, value in enumerate(values)]


def these(values, *kept):
    """The same parameters, of which those named run always."""
    values = list(values)
    assert all(one in values for one in kept), "what is kept is not among the parameters"
    return [value if value in kept else slow(value) for value in values]


def amount(usual, thorough):
    """How often a test marked `thorough` repeats something."""
    return thorough if ALL else usual


def examples(usual, thorough, **others):
    """`hypothesis.settings` with a usual and a thorough number of examples."""

    def decorate(test):
        return pytest.mark.thorough(settings(max_examples=amount(usual, thorough), **others)(test))

    return decorate

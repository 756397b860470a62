"""Fixtures of the store's tests."""

import pytest
from store_builders import Told


@pytest.fixture
def told():
    return Told()

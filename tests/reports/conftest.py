"""The gallery that the tests of the kit look at."""

from __future__ import annotations

import pytest
from reports_study import make_gallery


@pytest.fixture
def gallery():
    return make_gallery()

"""The study and the gallery that most tests of reports look at."""

from __future__ import annotations

import pytest
from reports_study import make_gallery, make_result


@pytest.fixture
def result():
    return make_result()


@pytest.fixture
def gallery():
    return make_gallery()

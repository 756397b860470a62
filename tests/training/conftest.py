"""Fixtures of the tests of a run's folder."""

from __future__ import annotations

import pytest
from training_builders import MODEL, results, train, trainer


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    train(trainer(), MODEL, folder, "tag")
    return results(folder)

import time

import numpy as np
import pytest

from diffmem.auditing import time_estimate as projection
from diffmem.auditing.time_estimate import project_comparison, project_sampling
from diffmem.models import FunctionDenoiser
from diffmem.sampling import SamplerConfig

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (2000, 1, 8, 8), dtype=np.uint8)


def test_small_work_is_not_tried(monkeypatch):
    monkeypatch.setattr(projection, "_timed", lambda *given: pytest.fail("it was tried"))
    assert project_comparison(IMAGES, 10_000, 1, "cpu") == 0


@pytest.mark.parametrize(
    ("quarter", "wanted"), [(1.0, 4.0), (2.0, 4**0.5), (8.0, 1.0), (4.0, 1.0), (0.1, 4.0)]
)
def test_searching_grows_as_it_grew_from_a_quarter_of_the_part_and_never_faster_than_the_set(
    monkeypatch, quarter, wanted
):
    monkeypatch.setattr(projection, "_WORK", 0)
    monkeypatch.setattr(projection, "_REFERENCES", 500)
    monkeypatch.setattr(projection, "_QUERIES", 100)
    monkeypatch.setattr(
        projection, "_timed", lambda references, *given: (0.25, 4.0 if len(references) == 500 else quarter)
    )
    seconds = project_comparison(IMAGES, 1000, 3, "cpu")
    assert seconds == pytest.approx(projection._REST * (0.25 * 4 + 4.0 * wanted * 3 * 10))


def test_a_trial_of_real_work_gives_a_time(monkeypatch):
    monkeypatch.setattr(projection, "_WORK", 0)
    assert 0 < project_comparison(IMAGES, 1000, 1, "cpu") < 60


def test_sampling_takes_a_call_for_each_evaluation_and_batch():
    def slow(x, sigma, labels):
        time.sleep(0.02)
        return x

    denoiser = FunctionDenoiser(slow, (1, 4, 4), 0.002, 80)
    seconds = project_sampling(denoiser, SamplerConfig(steps=10), 200, 20)
    assert seconds == pytest.approx(0.02 * 19 * 10, rel=0.5)

import numpy as np
import pytest

from diffmem.auditing import time_estimate as module
from diffmem.auditing.nulls import SEARCHES, SLOW_SPACES_MOST, SURROUNDINGS_MOST
from diffmem.auditing.other_readings import turned_searches
from diffmem.auditing.time_estimate import estimate_comparison, estimate_sampling
from diffmem.models import FunctionDenoiser
from diffmem.sampling import SamplerConfig

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (2000, 1, 8, 8), dtype=np.uint8)


def test_small_work_is_not_tried(monkeypatch):
    monkeypatch.setattr(module, "_timed", lambda *given: pytest.fail("it was tried"))
    assert estimate_comparison(IMAGES, 4_000, 4_000, 2_000) == 0


@pytest.mark.parametrize(
    ("quarter", "wanted"), [(1.0, 4.0), (2.0, 4**0.5), (8.0, 1.0), (4.0, 1.0), (0.1, 4.0)]
)
def test_searching_grows_as_it_grew_from_a_quarter_of_the_part_and_never_faster_than_the_set(
    monkeypatch, quarter, wanted
):
    monkeypatch.setattr(module, "_WORK", 0)
    monkeypatch.setattr(module, "_REFERENCES", 500)
    monkeypatch.setattr(module, "_QUERIES", 100)
    monkeypatch.setattr(
        module, "_timed", lambda references, *given: (0.25, 4.0 if len(references) == 500 else quarter)
    )
    seconds = estimate_comparison(IMAGES, 1000, 1500, 500, leave_one_out=False)
    assert seconds == pytest.approx(
        module._REST * (0.25 * 4 + 4.0 * wanted * (3000 + turned_searches(1000)) / 100)
    )


def test_a_trial_of_real_work_gives_a_time(monkeypatch):
    monkeypatch.setattr(module, "_WORK", 0)
    assert 0 < estimate_comparison(IMAGES, 1000, 0, 0) < 60


def searched(monkeypatch, *given, **more):
    """How many images are searched for, by the estimate."""
    monkeypatch.setattr(module, "_WORK", 0)
    monkeypatch.setattr(module, "_timed", lambda references, asked, device: (0.0, float(len(asked))))
    return estimate_comparison(*given, **more) / module._REST


def test_every_search_counts(monkeypatch):
    once, turned = 100 + 30 + 20, turned_searches(100)
    assert turned == 7 * 100
    assert searched(monkeypatch, IMAGES, 100, 30, 20, leave_one_out=False) == pytest.approx(once + turned)
    own = SEARCHES * 100
    few = module._FEW
    assert searched(monkeypatch, IMAGES, 100, 30, 20) == pytest.approx(once + turned + (1 + few) * own)
    assert searched(monkeypatch, IMAGES, 1000, 0, 0) == pytest.approx(
        1000 + turned_searches(1000) + (1 + few) * len(IMAGES)
    )
    changed = searched(monkeypatch, IMAGES, 100, 30, 20, changes=3)
    assert changed == pytest.approx(4 * (once + own) + turned + few * own)
    assert searched(monkeypatch, IMAGES, 100, 30, 20, readings=2, leave_one_out=False) == pytest.approx(
        once + turned + 2 * 2 * 100
    )


def test_the_surroundings_of_no_more_training_images_are_searched_for_than_are_looked_at(monkeypatch):
    many = np.zeros((SURROUNDINGS_MOST + 1000, 1, 2, 2), np.uint8)
    wanted = len(many) + turned_searches(len(many)) + SURROUNDINGS_MOST + module._FEW * len(many)
    assert searched(monkeypatch, many, len(many), 0, 0) == pytest.approx(wanted)


def test_under_changes_no_more_training_images_are_searched_for_than_are_compared(monkeypatch):
    many = np.zeros((SLOW_SPACES_MOST + 1000, 1, 2, 2), np.uint8)
    plain = searched(monkeypatch, many, len(many), 0, 0)
    changed = searched(monkeypatch, many, len(many), 0, 0, changes=2)
    assert changed - plain == pytest.approx(2 * (len(many) + SLOW_SPACES_MOST))


def test_sampling_takes_a_call_for_each_evaluation_and_batch(monkeypatch):
    clock = [0.0]

    def slow(x, sigma, labels):
        clock[0] += 0.02
        return x

    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])

    denoiser = FunctionDenoiser(slow, (1, 4, 4), 0.002, 80)
    seconds = estimate_sampling(denoiser, SamplerConfig(steps=10), 200, 20)
    assert seconds == pytest.approx(0.02 * 19 * 10)

"""Generation that goes on from its finished batches, and trusts no shard that does not fit."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from diffmem.errors import DiffmemError, UserError
from diffmem.models import LatentDenoiser
from diffmem.sampling import SamplerConfig, discard_shards, generate, generate_resumable


class Counting:
    """The exact denoiser of unit Gaussian data, which counts its calls and can fail."""

    sigma_min, sigma_max, image_shape, num_labels, device = (
        0.0,
        float("inf"),
        (1, 2, 2),
        0,
        torch.device("cpu"),
    )

    def __init__(self, fail_after=None):
        self.calls, self.fail_after = 0, fail_after

    def __call__(self, x, sigma, labels=None):
        self.calls += 1
        if self.fail_after is not None and self.calls > self.fail_after:
            raise KeyboardInterrupt
        level = torch.as_tensor(sigma).reshape(-1, 1, 1, 1)
        return x / (1 + level**2)


CONFIG = SamplerConfig(steps=4)
EVALUATIONS = 7


def test_an_interrupted_generation_goes_on_from_its_finished_batches(tmp_path):
    expected = generate(Counting(), range(10), CONFIG)
    with pytest.raises(KeyboardInterrupt):
        generate_resumable(Counting(2 * EVALUATIONS), range(10), CONFIG, tmp_path / "s", "tag", batch_size=4)
    rest = Counting()
    made = generate_resumable(rest, range(10), CONFIG, tmp_path / "s", "tag", batch_size=4)
    assert rest.calls == EVALUATIONS
    np.testing.assert_array_equal(made.images, expected.images)
    np.testing.assert_array_equal(made.seeds, np.arange(10))
    discard_shards(tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_shards_of_a_denoiser_of_latents_hold_pixels(tmp_path):
    def latent(inner):
        return LatentDenoiser(inner, lambda z: z.repeat_interleave(2, 3), lambda x: x[..., ::2], (1, 2, 4))

    made = generate_resumable(latent(Counting()), range(5), CONFIG, tmp_path, "tag", batch_size=4)
    assert made.images.shape == (5, 1, 2, 4)
    again = Counting()
    found = generate_resumable(latent(again), range(5), CONFIG, tmp_path, "tag", batch_size=4)
    assert again.calls == 0
    np.testing.assert_array_equal(found.images, made.images)


def test_damaged_shards_and_those_of_another_model_are_made_anew(tmp_path):
    first = generate_resumable(Counting(), range(8), CONFIG, tmp_path, "one", batch_size=4)
    (tmp_path / "shard-000000004.npz").write_bytes(b"damaged")
    again = Counting()
    made = generate_resumable(again, range(8), CONFIG, tmp_path, "one", batch_size=4)
    assert again.calls == EVALUATIONS
    np.testing.assert_array_equal(first.images, made.images)
    other = Counting()
    generate_resumable(other, range(8), CONFIG, tmp_path, "two", batch_size=4)
    assert other.calls == 2 * EVALUATIONS


class Conditional(Counting):
    """The same with three classes, each of which is another shade."""

    num_labels = 3

    def __call__(self, x, sigma, labels=None):
        return super().__call__(x, sigma) + (labels.reshape(-1, 1, 1, 1) - 1) / 4


@pytest.mark.parametrize("labels", [None, "random", 2, [0, 1, 2, 0, 1, 2, 0]])
@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_the_images_are_those_of_plain_generation(tmp_path, labels, batch_size):
    seeds = [5, 3, 2**32 + 9, 0, 77, 12, 1]
    expected = generate(Conditional(), seeds, CONFIG, labels=labels)
    for _ in range(2):  # made, then read back from the shards
        made = generate_resumable(
            Conditional(), seeds, CONFIG, tmp_path, "tag", labels=labels, batch_size=batch_size
        )
        np.testing.assert_array_equal(made.images, expected.images)
        np.testing.assert_array_equal(made.labels, expected.labels)
        np.testing.assert_array_equal(made.seeds, expected.seeds)
        assert made.images.dtype == np.uint8


@pytest.mark.parametrize("seeds", [range(8), range(2**32 - 4, 2**32 + 4)])
def test_finished_shards_need_no_model_evaluation(tmp_path, seeds):
    generate_resumable(Counting(), seeds, CONFIG, tmp_path, "tag", batch_size=4)
    again = Counting()
    generate_resumable(again, seeds, CONFIG, tmp_path, "tag", batch_size=4)
    assert again.calls == 0


@pytest.mark.parametrize(
    ("seeds", "labels"), [(range(4), 2), (range(4), [1, 1, 1, 2]), (range(1, 5), 1), ([1, 0, 2, 3], 1)]
)
def test_shards_of_other_seeds_or_labels_are_made_anew(tmp_path, seeds, labels):
    generate_resumable(Conditional(), range(4), CONFIG, tmp_path, "tag", labels=1)
    made = generate_resumable(Conditional(), seeds, CONFIG, tmp_path, "tag", labels=labels)
    expected = generate(Conditional(), seeds, CONFIG, labels=labels)
    np.testing.assert_array_equal(made.images, expected.images)
    np.testing.assert_array_equal(made.labels, expected.labels)
    np.testing.assert_array_equal(made.seeds, expected.seeds)


def spoil(path, **changes):
    with np.load(path) as held:
        content = {**held, **changes}
    np.savez(path, **{name: value for name, value in content.items() if value is not None})


@pytest.mark.parametrize(
    "change",
    [
        {"images": np.zeros((4, 1, 3, 3), np.uint8)},
        {"images": np.zeros((4, 1, 2, 2), np.float32)},
        {"images": np.zeros((3, 1, 2, 2), np.uint8)},
        {"images": None},
        {"seeds": np.arange(3)},
        {"tag": np.array("another")},
        {"tag": np.array([{"code": 1}], dtype=object)},
    ],
)
def test_shards_with_unfit_content_are_made_anew(tmp_path, change):
    expected = generate_resumable(Counting(), range(4), CONFIG, tmp_path, "tag")
    spoil(tmp_path / "shard-000000000.npz", **change)
    made = generate_resumable(Counting(), range(4), CONFIG, tmp_path, "tag")
    np.testing.assert_array_equal(made.images, expected.images)
    assert made.images.dtype == np.uint8


@pytest.mark.parametrize("keep", [0, 10, -30])
def test_a_truncated_shard_is_made_anew(tmp_path, keep):
    expected = generate_resumable(Counting(), range(4), CONFIG, tmp_path, "tag")
    shard = tmp_path / "shard-000000000.npz"
    shard.write_bytes(shard.read_bytes()[:keep])
    made = generate_resumable(Counting(), range(4), CONFIG, tmp_path, "tag")
    np.testing.assert_array_equal(made.images, expected.images)


def test_a_full_disk_stops_with_one_line_and_keeps_the_finished_shards(tmp_path, monkeypatch):
    replace, calls = Path.replace, []

    def full(self, target):
        calls.append(target)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(DiffmemError, match="No space left"):
        generate_resumable(Counting(), range(8), CONFIG, tmp_path, "tag", batch_size=4)
    assert [path.name for path in tmp_path.iterdir()] == ["shard-000000000.npz"]


@pytest.mark.parametrize(
    ("seeds", "more", "message"),
    [
        ([], {}, "no seeds"),
        (range(8), {"labels": [0] * 9}, "9 labels for 8 seeds"),
        (range(8), {"labels": [0] * 7}, "7 labels for 8 seeds"),
        (range(8), {"labels": [0] * 7 + [3]}, "Label 3 does not exist"),
        (range(8), {"batch_size": 0}, "batch size must be at least 1"),
    ],
)
def test_requests_that_cannot_be_met_are_refused_before_anything_is_generated(tmp_path, seeds, more, message):
    denoiser = Conditional()
    with pytest.raises(UserError, match=message):
        generate_resumable(denoiser, seeds, CONFIG, tmp_path / "s", "tag", **{"batch_size": 4, **more})
    assert denoiser.calls == 0
    assert not (tmp_path / "s").exists()


def test_progress_counts_images_over_all_shards(tmp_path):
    told = []
    for _ in range(2):
        generate_resumable(
            Counting(), range(10), CONFIG, tmp_path, "tag", batch_size=4,
            progress=lambda done, total, note="": told.append((done, total)),
        )  # fmt: skip
    assert {total for _, total in told} == {10}
    done = [done for done, _ in told]
    end = done.index(10)
    assert done[: end + 1] == sorted(done[: end + 1])
    assert done[-3:] == [4, 8, 10]


def test_discarding_shards_that_do_not_exist_is_no_error(tmp_path):
    discard_shards(tmp_path / "none")

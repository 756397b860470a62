import numpy as np
import pytest
import torch

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

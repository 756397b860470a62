from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffmem.errors import DiffmemError, UserError
from diffmem.models import LatentDenoiser
from diffmem.sampling.config import SamplerConfig
from diffmem.sampling.generate import GeneratedImages, generate, iter_generated, parse_seeds, to_uint8


class Elementwise:
    """A denoiser without sums over pixels or images, so that its result cannot depend on the batch."""

    sigma_min, sigma_max = 0.002, 80.0
    image_shape = (3, 4, 4)
    device = torch.device("cpu")

    def __init__(self, num_labels=0):
        self.num_labels = num_labels

    def __call__(self, x, sigma, labels=None):
        shift = 0 if labels is None else labels.reshape(-1, 1, 1, 1) / max(self.num_labels, 1)
        return torch.tanh(x / (1 + torch.as_tensor(sigma).reshape(-1, 1, 1, 1))) * 0.5 + shift


FAST = SamplerConfig(steps=4)
STOCHASTIC = SamplerConfig(steps=4, S_churn=2)


@settings(max_examples=20)
@given(
    st.lists(st.integers(0, 10**6), min_size=1, max_size=9, unique=True),
    st.integers(1, 9),
    st.sampled_from([FAST, STOCHASTIC]),
    st.sampled_from([0, 10]),
    st.randoms(),
)
def test_the_image_of_a_seed_depends_neither_on_batch_size_nor_on_order(
    seeds, batch_size, config, labels, random
):
    denoiser = Elementwise(labels)
    one_by_one = generate(denoiser, seeds, config, batch_size=1)
    shuffled = list(seeds)
    random.shuffle(shuffled)
    other = generate(denoiser, shuffled, config, batch_size=batch_size)
    order = [shuffled.index(seed) for seed in seeds]
    assert np.array_equal(one_by_one.images, other.images[order])
    assert one_by_one.seeds.tolist() == seeds
    if labels:
        assert np.array_equal(one_by_one.labels, other.labels[order])


def test_images_are_uint8_with_the_shape_of_the_model():
    made = generate(Elementwise(), range(5), FAST, batch_size=2)
    assert made.images.shape == (5, 3, 4, 4)
    assert made.images.dtype == np.uint8
    assert made.labels is None
    assert len(made) == 5
    assert made.images.std() > 0


def in_latents(decode, num_labels=0):
    """Latents of 4x4 that stand for grey images of 2x8."""
    return LatentDenoiser(Elementwise(num_labels), decode, lambda x: x, (1, 2, 8))


def laid_out(z):
    return z.mean(1, keepdim=True).reshape(-1, 1, 2, 8)


@pytest.mark.parametrize("config", [FAST, STOCHASTIC])
def test_what_a_denoiser_of_latents_makes_is_decoded(config):
    seen = []

    def decode(z):
        seen.append(z)
        return laid_out(z)

    made = generate(in_latents(decode, 3), range(5), config, batch_size=2)
    assert made.images.shape == (5, 1, 2, 8)
    assert made.images.dtype == np.uint8
    assert [tuple(z.shape) for z in seen] == [(2, 3, 4, 4), (2, 3, 4, 4), (1, 3, 4, 4)]
    plain = generate(Elementwise(3), range(5), config)
    assert made.labels.tolist() == plain.labels.tolist()
    assert np.array_equal(to_uint8(torch.cat(seen)).numpy(), plain.images)
    assert np.array_equal(to_uint8(laid_out(torch.cat(seen))).numpy(), made.images)
    assert np.array_equal(
        made.images, generate(in_latents(laid_out, 3), range(5), config, batch_size=5).images
    )


def test_images_that_are_decoded_to_nan_are_told_with_their_seeds():
    def decode(z):
        images = laid_out(z)
        images[1, 0, 1, 7] = float("inf")
        return images

    with pytest.raises(DiffmemError, match=r"1 of 3 images \(seeds 21\)"):
        generate(in_latents(decode), [20, 21, 22], FAST)


def test_latents_that_are_nan_are_told_even_if_they_are_decoded_to_numbers():
    class Broken(Elementwise):
        def __call__(self, x, sigma, labels=None):
            return super().__call__(x, sigma, labels) * float("nan")

    model = LatentDenoiser(Broken(), lambda z: laid_out(z).nan_to_num(), lambda x: x, (1, 2, 8))
    with pytest.raises(DiffmemError, match="2 of 2 images"):
        generate(model, [20, 21], FAST)


def test_batches_come_one_by_one_and_join_to_the_whole():
    parts = list(iter_generated(Elementwise(3), range(5), FAST, batch_size=2))
    assert [part.seeds.tolist() for part in parts] == [[0, 1], [2, 3], [4]]
    whole = generate(Elementwise(3), range(5), FAST)
    joined = GeneratedImages.concatenate(parts)
    assert np.array_equal(joined.images, whole.images)
    assert np.array_equal(joined.labels, whole.labels)


def test_conditional_models_draw_labels_by_default():
    drawn = generate(Elementwise(10), range(50), FAST)
    assert drawn.labels.dtype == np.int64
    assert set(drawn.labels) <= set(range(10))
    assert len(set(drawn.labels)) > 5
    assert np.array_equal(drawn.labels, generate(Elementwise(10), range(50), FAST, labels="random").labels)


def test_labels_can_be_one_for_all_or_one_each():
    assert generate(Elementwise(10), range(3), FAST, labels=7).labels.tolist() == [7, 7, 7]
    assert generate(Elementwise(10), range(3), FAST, labels=[2, 0, 9], batch_size=2).labels.tolist() == [
        2,
        0,
        9,
    ]


def test_a_label_changes_the_image():
    a, b = (generate(Elementwise(10), [0], FAST, labels=label).images for label in (0, 5))
    assert not np.array_equal(a, b)


@pytest.mark.parametrize(
    ("num_labels", "labels", "message"),
    [
        (0, 3, "unconditional"),
        (0, "random", "unconditional"),
        (10, 10, "Label 10 does not exist; the model has labels 0 to 9"),
        (10, -1, "Label -1 does not exist"),
        (10, [1, 2], "2 labels for 3 seeds"),
        (10, "all", "'all'"),
    ],
)
def test_labels_that_do_not_fit_are_a_users_mistake(num_labels, labels, message):
    with pytest.raises(UserError, match=message):
        iter_generated(Elementwise(num_labels), range(3), FAST, labels=labels)


def test_no_seeds_and_no_batch_size_are_users_mistakes():
    with pytest.raises(UserError, match="no seeds"):
        generate(Elementwise(), [], FAST)
    with pytest.raises(UserError, match="at least 1, not 0"):
        generate(Elementwise(), [1], FAST, batch_size=0)


def test_a_model_that_gives_nan_is_told_with_its_seeds():
    class Broken(Elementwise):
        def __call__(self, x, sigma, labels=None):
            clean = super().__call__(x, sigma, labels)
            clean[1] = float("nan")
            return clean

    with pytest.raises(DiffmemError, match=r"1 of 3 images \(seeds 21\)") as caught:
        generate(Broken(), [20, 21, 22], FAST)
    assert not isinstance(caught.value, UserError)


def test_progress_rises_to_the_number_of_images():
    seen = []
    generate(
        Elementwise(),
        range(5),
        FAST,
        batch_size=2,
        progress=lambda done, total, note="": seen.append((done, total)),
    )
    assert seen[-1] == (5, 5)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert len(seen) == 3 * FAST.steps


def test_parts_with_and_without_labels_do_not_join():
    with pytest.raises(UserError, match="only some have labels"):
        GeneratedImages.concatenate([generate(Elementwise(n), [0], FAST) for n in (0, 2)])
    with pytest.raises(UserError, match="no generated images"):
        GeneratedImages.concatenate([])


@pytest.mark.parametrize(
    ("x", "value"),
    [
        (-1.0, 0),  # 0.5 is truncated
        (-2.0, 0),
        (1.0, 255),  # 255.5 is clipped
        (9.0, 255),
        (0.0, 128),
        (-0.001, 127),  # 127.8725 would round to 128
        (0.9999, 255),  # 255.487
        (0.9921, 254),  # 254.49
        (0.995, 254),  # 254.86 would round to 255
    ],
)
def test_decoding_truncates(x, value):
    assert to_uint8(torch.tensor([x], dtype=torch.float64)).item() == value


def test_decoding_undoes_the_usual_encoding_of_every_grey_level():
    levels = torch.arange(256)
    assert torch.equal(to_uint8(levels.double() / 127.5 - 1), levels.to(torch.uint8))


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("5", [5]),
        ("0-3", [0, 1, 2, 3]),
        ("0-2,15,20-21", [0, 1, 2, 15, 20, 21]),
        (" 7 , 1 - 3 ", [7, 1, 2, 3]),
        ("4-4", [4]),
        ("4294967295", [2**32 - 1]),
    ],
)
def test_seeds_are_read_from_numbers_and_ranges(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    "text",
    ["", "a", "1,,2", "1-", "-3", "1-2-3", "1.5", "3-1", "1,1", "0-3,2", "4294967296", "0-99999999", "²"],
)
def test_nonsense_seeds_are_users_mistakes(text):
    with pytest.raises(UserError):
        parse_seeds(text)


@given(st.text(alphabet="0123456789,- ", max_size=7))
def test_seeds_are_read_or_refused_but_never_crash(text):
    try:
        seeds = parse_seeds(text)
    except UserError:
        return
    assert seeds == list(dict.fromkeys(seeds))
    assert seeds


class Small(Elementwise):
    """A denoiser on a device with memory for three images at once."""

    def __call__(self, x, sigma, labels=None):
        if len(x) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return super().__call__(x, sigma, labels)


def test_a_batch_too_large_for_the_device_is_an_error_that_names_one_that_fits():
    with pytest.raises(UserError, match=r"^batch_size = 8 needs .* 2 would fit"):
        generate(Small(), range(10), FAST, batch_size=8)
    assert len(generate(Small(10), range(5), FAST, labels=[1, 2, 3, 4, 5], batch_size=2)) == 5

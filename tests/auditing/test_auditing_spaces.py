import numpy as np
import pytest
import torch

from diffmem.auditing.spaces import FeatureSpace, align, open_feature_space, parse_transforms
from diffmem.data import ImageSet
from diffmem.errors import UserError
from diffmem.memorization import Transforms

RNG = np.random.default_rng(0)


def images(count, shape):
    names = tuple(map(str, range(count)))
    return ImageSet(RNG.integers(0, 256, (count, *shape), dtype=np.uint8), None, names)


def test_sets_of_one_shape_stay_as_they_are():
    sets = {"training": images(4, (3, 6, 8)), "samples": images(2, (3, 6, 8))}
    found = align(sets)
    assert found.sets == sets
    assert found.protocol == "pixel-l2/uint8"
    assert found.steps == {"training": [], "samples": []}
    assert not found.notes


def test_different_sizes_are_compared_at_the_smallest_and_it_is_said():
    found = align(
        {
            "training": images(4, (3, 32, 24)),
            "heldout": images(3, (3, 16, 16)),
            "samples": images(2, (3, 64, 64)),
        }
    )
    assert {one.shape for one in found.sets.values()} == {(3, 16, 16)}
    assert found.protocol == "pixel-l2/uint8/lanczos16"
    assert "centre crop" in found.steps["training"][0]
    assert found.steps["heldout"] == []
    assert "16 x 16" in found.notes[0]


def test_a_grey_set_makes_the_comparison_grey():
    found = align({"training": images(4, (3, 8, 8)), "samples": images(2, (1, 8, 8))})
    assert {one.shape for one in found.sets.values()} == {(1, 8, 8)}
    assert found.protocol.endswith("/grey")
    assert "samples" in found.notes[0]


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: np.full((len(x), 3), np.nan),
        lambda x: np.zeros((len(x), 3)),
        lambda x: np.ones((len(x) + 1, 3)),
        lambda x: np.ones(len(x)),
        lambda x: np.ones((len(x), 3), int),
    ],
)
def test_features_that_are_no_rows_of_finite_numbers_are_refused(compute):
    with pytest.raises(UserError, match="mine"):
        FeatureSpace("mine", "mine", "mine", 0.5, compute).rows(images(5, (1, 4, 4)).images)


def test_features_do_not_depend_on_the_blocks_they_are_computed_in(monkeypatch):
    some = images(10, (1, 4, 4)).images
    space = FeatureSpace("f", "f", "f", 0.5, lambda x: x.reshape(len(x), -1).astype(float) + 1)
    whole = space.rows(some)
    monkeypatch.setattr("diffmem.auditing.spaces._BLOCK", 3)
    np.testing.assert_array_equal(space.rows(some), whole)


def test_words_become_transformations():
    assert parse_transforms("flip+shift2") == Transforms(True, 2)
    assert parse_transforms("brightness16") == Transforms(False, 0, (-16, 16))
    assert parse_transforms(" shift1 + flip+brightness8 ") == Transforms(True, 1, (-8, 8))


@pytest.mark.parametrize(
    "text", ["", "flop", "flip2", "shift", "shift0", "flip+flip", "shift1+shift2", "brightness", "shift9999"]
)
def test_words_that_mean_nothing_are_refused_with_an_example(text):
    with pytest.raises(UserError, match=r"flip\+shift2"):
        parse_transforms(text)


@pytest.fixture
def network(tmp_path):
    class Flat(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.float().flatten(1) + 1

    path = tmp_path / "flat.pt"
    torch.jit.save(torch.jit.script(Flat()), str(path))
    return path


def test_a_network_comes_with_its_preparation_and_its_similarity(network):
    plain, full = open_feature_space(str(network), "cpu"), open_feature_space(f"{network}:sscd:0.5", "cpu")
    assert (plain.threshold, full.threshold) == (0.75, 0.5)
    assert plain.protocol in full.protocol
    assert "sscd" in full.key


@pytest.mark.parametrize(
    ("tail", "words"),
    [
        (":sscd:much", "no number"),
        (":sscd:2", "between"),
        (":what", "preparation"),
        (":sscd:0.5:1", "Cannot read"),
    ],
)
def test_wrong_options_are_refused(network, tail, words):
    with pytest.raises(UserError, match=words):
        open_feature_space(f"{network}{tail}", "cpu")


def test_a_network_that_is_not_there_is_refused():
    with pytest.raises(UserError, match="no TorchScript file"):
        open_feature_space("nothing.pt", "cpu")

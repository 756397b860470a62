import pytest
import torch

from diffmem.auditing.options import open_feature_space, parse_transforms
from diffmem.errors import UserError
from diffmem.memorization import Transforms


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

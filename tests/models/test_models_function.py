import pytest
import torch

from diffmem.errors import UserError
from diffmem.models import Denoiser, FunctionDenoiser, function_denoiser
from diffmem.optimum.gaussian import GaussianDenoiser
from diffmem.sampling import generate

SHAPE = (1, 4, 4)


def shrink(x, sigma, labels):
    """The optimum of standard normal images."""
    return x / (1 + sigma[:, None, None, None] ** 2)


def test_any_callable_is_a_denoiser_that_can_be_sampled():
    denoiser = FunctionDenoiser(shrink, SHAPE, 0.002, 80)
    assert isinstance(denoiser, Denoiser)
    gaussian = GaussianDenoiser(torch.zeros(SHAPE), torch.eye(16))
    x = torch.randn(3, *SHAPE)
    torch.testing.assert_close(denoiser(x, 0.5), gaussian(x, 0.5).float())
    assert generate(denoiser, range(5)).images.shape == (5, *SHAPE)


def test_labels_reach_the_function():
    seen = []
    denoiser = FunctionDenoiser(
        lambda x, sigma, labels: seen.append(labels) or x, SHAPE, 0.002, 80, num_labels=3
    )
    denoiser(torch.zeros(2, *SHAPE), 1.0, torch.tensor([2, 0]))
    assert seen[0].tolist() == [2, 0]


@pytest.mark.parametrize("result", [None, torch.zeros(1, 3, 4, 4), torch.zeros(4, 4)])
def test_a_function_that_returns_no_images_is_refused(result):
    with pytest.raises(UserError, match="must return as many clean images"):
        FunctionDenoiser(lambda x, sigma, labels: result, SHAPE, 0.002, 80)(torch.zeros(1, *SHAPE), 1.0)


@pytest.mark.parametrize(
    ("shape", "low", "high"), [((4, 4), 0.1, 1), ((2, 4, 4), 0.1, 1), (SHAPE, 0, 1), (SHAPE, 2, 1)]
)
def test_settings_that_make_no_sense_are_refused(shape, low, high):
    with pytest.raises(UserError):
        FunctionDenoiser(shrink, shape, low, high)


def test_a_function_of_two_arguments_will_do_where_there_are_no_classes():
    x = torch.randn(2, *SHAPE)
    assert torch.equal(function_denoiser(lambda x, sigma: x / 2, SHAPE, 0.002, 80)(x, 1.0), x / 2)
    with pytest.raises(UserError, match="takes no labels"):
        function_denoiser(lambda x, sigma: x / 2, SHAPE, 0.002, 80, num_labels=3)


def test_of_a_module_the_arguments_of_its_forward_count():
    class Half(torch.nn.Module):
        def forward(self, x, sigma):
            return x / 2

    x = torch.randn(2, *SHAPE)
    assert torch.equal(function_denoiser(Half(), SHAPE, 0.002, 80)(x, 1.0), x / 2)


def test_a_function_denoiser_says_what_it_is():
    assert str(function_denoiser(shrink, SHAPE, 0.002, 80, num_labels=0)).startswith("<function shrink; ")

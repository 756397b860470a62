"""Training on a GPU against training on the CPU: one step, two runs, and a batch that does not fit."""

import numpy as np
import pytest
import torch

from diffmem.memory import BatchTooLargeError
from diffmem.models import ModelConfig, build_denoiser
from diffmem.training import Trainer, TrainingConfig
from diffmem.training.trainer import Draw

pytestmark = pytest.mark.gpu

SHAPE = (3, 16, 16)
MODEL = ModelConfig(
    channels=32, attention=(8,)
)  # dropout included: its masks are hashes, the same everywhere
IMAGES = np.random.default_rng(0).integers(0, 256, (64, *SHAPE), dtype=np.uint8)


SMALL = ModelConfig(channels=16, multipliers=(1, 2), blocks=1, attention=())


def trainer(device, batch_size=16, model=MODEL, learning_rate=1e-3, **settings):
    config = TrainingConfig(
        epochs=100, batch_size=batch_size, warmup=0, learning_rate=learning_rate, **settings
    )
    return Trainer(build_denoiser(model, SHAPE, seed=1), IMAGES, None, config, seed=5, device=device)


def seeing_the_same(one, other):
    """Let a trainer see what another one draws, whose generator is of another device."""
    one.draw = lambda seen: Draw(
        *(None if part is None else part.to(one.device) for part in other.draw(seen))
    )
    return one


def difference(one, other):
    """The largest difference of two vectors, relative to the largest value of the second."""
    one, other = one.detach().cpu(), other.detach().cpu()
    return float((one - other).abs().max() / other.abs().max())


@pytest.mark.parametrize(
    ("precision", "gradient", "loss"), [("float32", 1e-4, 1e-5), ("tf32", 2e-2, 1e-2), ("bf16", 0.2, 5e-2)]
)
def test_a_step_is_that_of_the_cpu_within_the_precision(card, precision, gradient, loss):
    there, here = trainer(card, precision=precision), trainer("cpu")
    seeing_the_same(there, here)
    before = here.layout.vector.detach().clone()
    there.step()
    here.step()
    assert difference(there.layout.gradient, here.layout.gradient) < gradient
    assert there.take_loss() == pytest.approx(here.take_loss(), rel=loss)
    # Adam's first step is the sign of the gradient: where that is near zero, so may the sign differ.
    moved = (there.layout.vector.detach().cpu() - before).sign() == (
        here.layout.vector.detach() - before
    ).sign()
    assert float(moved.float().mean()) > (0.99 if precision == "float32" else 0.8)


def test_sgd_moves_the_weights_and_their_average_as_on_the_cpu(card):
    here = trainer("cpu", optimizer="sgd", learning_rate=1e-6)
    there = seeing_the_same(trainer(card, optimizer="sgd", learning_rate=1e-6), here)
    start = here.layout.vector.detach().clone()
    for _ in range(3):
        there.step()
        here.step()
    assert difference(there.layout.vector.detach().cpu() - start, here.layout.vector.detach() - start) < 1e-3
    assert difference(there.state()["ema"].cpu() - start, here.state()["ema"] - start) < 1e-3


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_two_runs_are_equal_bit_for_bit_where_torch_is_deterministic(card, precision):
    def weights():
        one = trainer(card, precision=precision)
        for _ in range(5):
            one.step()
        return one.state()["weights"].clone()

    torch.use_deterministic_algorithms(True)
    try:
        assert torch.equal(weights(), weights())
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_resumed_training_draws_what_an_undisturbed_one_does(card):
    whole = trainer(card)
    whole.step()
    resumed = trainer(card)
    resumed.load_state(whole.state())
    for one, other in zip(resumed.draw(16)[:4], whole.draw(16)[:4], strict=True):
        assert torch.equal(one, other)


def test_a_compiled_network_has_the_gradient_of_an_eager_one(card):
    compiled, eager = trainer(card, model=SMALL, compile=True), trainer(card, model=SMALL)
    compiled.step()
    eager.step()
    assert difference(compiled.layout.gradient, eager.layout.gradient) < 1e-3


def test_a_batch_beyond_the_memory_names_one_that_fits(card):
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(card).total_memory
    held = 2**30  # of memory for these processes' tensors, so that the test needs no large batch
    torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_reserved() + held) / total))
    try:
        with pytest.raises(
            BatchTooLargeError, match=r"^training.batch_size = 4096 needs .* would fit"
        ) as caught:
            trainer(card, batch_size=4096).step()
        assert 1 <= caught.value.fits < 4096
        trainer(card, batch_size=caught.value.fits).step()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)

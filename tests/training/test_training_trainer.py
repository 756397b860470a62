"""A training's single step, its average, and its state."""

from __future__ import annotations

import math
import shutil
from itertools import product

import numpy as np
import pytest
import torch
from parameters import slow, these
from training_builders import IMAGES, LABELS, MODEL, SHAPE, SHORT, denoiser, tensors, trainer

from diffmem.distributed import World
from diffmem.environment import has_bfloat16
from diffmem.errors import DiffmemError, UserError
from diffmem.training import EmaConfig, Trainer, TrainingConfig
from diffmem.training import trainer as trainer_module
from diffmem.training.randomness import DataOrder, stream_seed
from diffmem.training.schedule import ema_beta, learning_rate
from diffmem.training.trainer import arithmetic, denoising_loss

PLAIN = MODEL.model_copy(update={"dropout": 0.0})


def run(one, steps):
    for _ in range(steps):
        one.step()
    return one


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def by_hand(optimizer, parameters, decay):
    if optimizer == "sgd":
        return torch.optim.SGD(parameters, 1e-3, 0.9, weight_decay=decay)
    kind = torch.optim.Adam if optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, 1e-3, (0.9, 0.999), 1e-8, decay)


@pytest.mark.parametrize(
    ("preconditioning", "optimizer"),
    these(
        product(["vp", "ve", "edm"], ["adam", "adamw", "sgd"]),
        ("vp", "sgd"),
        ("ve", "adam"),
        ("edm", "adamw"),
    ),
)
def test_ten_steps_are_those_of_an_ordinary_training_written_out(optimizer, preconditioning):
    model = PLAIN.model_copy(update={"preconditioning": preconditioning})
    ours = trainer(model, optimizer=optimizer, weight_decay=0.01)
    config, theirs = ours.config, denoiser(model).train()
    average = [parameter.detach().clone() for parameter in theirs.parameters()]
    chosen_optimizer = by_hand(optimizer, list(theirs.parameters()), 0.01)
    order = DataOrder(6, 5, cyclic=True)
    for seen in range(0, 40, 4):
        generator = torch.Generator().manual_seed(stream_seed(5, "noise", seen))
        uniform, normal = torch.rand(4, generator=generator), torch.randn(4, generator=generator)
        noise = torch.randn((4, *SHAPE), generator=generator)
        chosen = order.batch(seen, 4)
        images, labels = torch.from_numpy(IMAGES)[chosen] / 127.5 - 1, torch.from_numpy(LABELS)[chosen]
        sigma = theirs.preconditioning.noise_levels(uniform, normal)
        chosen_optimizer.zero_grad()
        denoising_loss(theirs, theirs.preconditioning, images, sigma, noise, labels).backward()
        for group in chosen_optimizer.param_groups:
            group["lr"] = learning_rate(config, 6, seen)
        chosen_optimizer.step()
        beta = ema_beta(config, 6, seen)
        for mean, parameter in zip(average, theirs.parameters(), strict=True):
            mean.mul_(beta).add_(parameter.detach(), alpha=1 - beta)
    run(ours, 10)
    assert ours.seen == 40
    for (name, mine), mine_averaged, parameter, mean in zip(
        ours.denoiser.named_parameters(), ours.ema.parameters(), theirs.parameters(), average, strict=True
    ):
        if not name.endswith("qkv.bias"):  # a key's bias has no gradient but rounding, which Adam magnifies
            torch.testing.assert_close(mine, parameter, rtol=1e-3, atol=1e-5)
            torch.testing.assert_close(mine_averaged, mean, rtol=1e-3, atol=1e-5)


def test_the_first_step_of_a_warm_up_changes_no_weight():
    one = trainer()
    before = one.state()["weights"].clone()
    one.step()
    assert torch.equal(one.state()["weights"], before)
    one.step()
    assert not torch.equal(one.state()["weights"], before)


@pytest.mark.parametrize("mode", ["mode1", "mode2", "mode3", "mode4"])
def test_the_average_follows_its_recursion(mode):
    one = trainer(ema=EmaConfig(mode=mode, half_life=3, ramp=0.2, final=0.8))
    average = one.state()["ema"].double()
    for _ in range(12):
        beta = ema_beta(one.config, one.size, one.seen)
        one.step()
        average = beta * average + (1 - beta) * one.state()["weights"].double()
    torch.testing.assert_close(one.state()["ema"].double(), average, rtol=1e-5, atol=1e-7)


def test_with_a_constant_decay_the_average_is_a_geometric_sum():
    # A ramp this steep ends with the first step, whose decay is 0: the average starts at those weights.
    one = trainer(ema=EmaConfig(mode="mode1", half_life=2, ramp=1e6))
    beta = 0.5 ** (4 / (2 * 6))
    history = []
    for _ in range(10):
        one.step()
        history.append(one.state()["weights"].double())
    expected = beta**9 * history[0]
    for age, weights in enumerate(reversed(history[1:])):
        expected += (1 - beta) * beta**age * weights
    torch.testing.assert_close(one.state()["ema"].double(), expected, rtol=1e-5, atol=1e-7)


def test_a_final_decay_of_zero_keeps_the_average_at_the_raw_weights():
    one = trainer(ema=EmaConfig(mode="mode4", final=0.0))
    for _ in range(5):
        one.step()
        assert torch.equal(one.state()["ema"], one.state()["weights"])


def test_the_average_is_a_denoiser_in_evaluation_mode():
    one = run(trainer(ema=EmaConfig(mode="mode4", final=0.0)), 3)
    assert not one.ema.training
    assert not any(parameter.requires_grad for parameter in one.ema.parameters())
    x, labels = torch.randn(3, *SHAPE), torch.tensor([0, 1, 2])
    trained = one.denoiser.eval()
    torch.testing.assert_close(one.ema(x, 0.7, labels), trained(x, 0.7, labels))


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("order", ["cyclic", "shuffled"])
@pytest.mark.parametrize("labels", [slow(None), LABELS], ids=["unconditional", "conditional"])
@pytest.mark.parametrize("before", these([0, 1, 4], 4))
def test_a_trainer_given_a_saved_state_continues_bit_for_bit(optimizer, order, labels, before):
    def fresh():
        return trainer(labels=labels, optimizer=optimizer, order=order, weight_decay=0.01)

    straight = run(fresh(), before + 3)
    state = tensors(run(fresh(), before))
    resumed = fresh()
    torch.manual_seed(999)  # what the global generator held must not matter
    resumed.load_state(state)
    assert_same(tensors(straight), tensors(run(resumed, 3)))
    assert resumed.take_loss() == straight.take_loss()


def test_a_saved_state_brings_its_fourier_features():
    state = tensors(run(trainer(), 2))
    other = Trainer(denoiser(seed=77), IMAGES, LABELS, SHORT, 5)
    names = [name for name, _ in other.denoiser.named_buffers() if "freqs" in name]
    assert names
    other.load_state(state)
    x, labels = torch.randn(2, *SHAPE), torch.tensor([0, 1])
    same = run(trainer(), 2)
    assert torch.equal(other.ema(x, 0.5, labels), same.ema(x, 0.5, labels))


def test_the_state_of_another_architecture_is_refused():
    state = tensors(run(trainer(), 1))
    with pytest.raises(UserError, match="another architecture"):
        trainer(MODEL.model_copy(update={"channels": 12})).load_state(state)
    del state[next(name for name in state if name.startswith("buffer."))]
    with pytest.raises(UserError, match=r"another architecture: it lacks 'buffer\."):
        trainer().load_state(state)


def test_a_seed_fixes_the_training_and_two_seeds_differ():
    one, same, other = (run(trainer(seed=seed), 4).state()["weights"] for seed in (5, 5, 6))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_building_a_trainer_leaves_the_global_random_state_alone():
    before = torch.random.get_rng_state()
    trainer()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_batch_larger_than_the_set_repeats_images():
    assert run(trainer(batch_size=20), 2).seen == 40


def test_the_loss_is_the_mean_since_it_was_last_taken():
    separate, joint = trainer(), trainer()
    losses = []
    for _ in range(4):
        separate.step()
        losses.append(separate.take_loss())
    run(joint, 4)
    assert joint.take_loss() == pytest.approx(math.fsum(losses) / 4, rel=1e-12)
    assert joint.take_loss() is None


def test_a_loss_that_is_not_finite_is_told_with_a_remedy():
    one = trainer(optimizer="sgd", learning_rate=1e12, warmup=0)
    run(one, 5)
    with pytest.raises(DiffmemError, match=r"loss became (nan|inf) by 20 images.*training\.learning_rate"):
        one.take_loss()


def test_weights_that_are_not_finite_are_noticed_though_the_loss_was_finite():
    one = run(trainer(optimizer="sgd", learning_rate=3e38, warmup=0, ema=EmaConfig(mode="mode4", final=0)), 2)
    assert math.isfinite(one.take_loss())
    with pytest.raises(DiffmemError, match=r"weights became NaN.*by 8 images.*training\.learning_rate"):
        one.check_average()


class Apart(World):
    """One of several processes, whose sums are taken by the test."""

    def all_reduce(self, tensor):
        pass


@pytest.mark.parametrize("labels", [None, LABELS], ids=["unconditional", "conditional"])
@pytest.mark.parametrize("processes", these([2, 3, 4], 3))
def test_the_gradients_of_the_parts_of_a_batch_add_up_to_that_of_one_process(processes, labels, monkeypatch):
    # trap 15: random numbers depended on the world size; here noise, levels and dropout of an image do not
    def gradient_and_loss(world):
        monkeypatch.setattr(trainer_module, "world", lambda: world)
        one = run(trainer(MODEL, labels, warmup=0, learning_rate=1e-12), 1)
        return one.layout.gradient.double(), one.take_loss()

    whole, loss = gradient_and_loss(World())
    parts = [gradient_and_loss(Apart(rank, processes)) for rank in range(processes)]
    assert all(part.abs().max() > 0 for part, _ in parts)
    total = sum(part for part, _ in parts)
    torch.testing.assert_close(total, whole, rtol=1e-4, atol=1e-6 * float(whole.abs().max()))
    assert sum(part for _, part in parts) == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize(("processes", "sizes"), [(1, [4]), (2, [2, 2]), (3, [1, 1, 2]), (4, [1, 1, 1, 1])])
def test_every_image_of_a_batch_is_seen_by_one_process(processes, sizes, monkeypatch):
    parts = []
    for rank in range(processes):
        monkeypatch.setattr(trainer_module, "world", lambda rank=rank: Apart(rank, processes))
        parts.append(trainer()._part)
    assert [part.stop - part.start for part in parts] == sizes
    assert [place for part in parts for place in range(part.start, part.stop)] == [0, 1, 2, 3]


def test_weights_that_differ_between_processes_are_noticed(monkeypatch):
    class Told(Apart):
        def gather(self, value):
            return [value, value, [value[0], value[1] + 1]]

    monkeypatch.setattr(trainer_module, "world", lambda: Told(0, 3))
    one = run(trainer(), 1)
    with pytest.raises(
        DiffmemError, match="After 4 images, processes 2 of 3 hold other weights than process 0"
    ):
        one.check_agreement()


def test_a_change_of_one_bit_changes_what_processes_compare(monkeypatch):
    told = []

    class Listening(Apart):
        def gather(self, value):
            told.append(value)
            return [value]

    monkeypatch.setattr(trainer_module, "world", lambda: Listening(0, 1))
    one = run(trainer(), 2)
    one.check_agreement()
    one._ema_vector.view(torch.int32)[3] ^= 1
    one.check_agreement()
    one.layout.vector.detach().view(torch.int32)[7] ^= 1 << 31
    one.check_agreement()
    assert told[0][0] == told[1][0] != told[2][0]
    assert told[0][1] != told[1][1] == told[2][1]


def test_more_processes_than_images_in_a_batch_are_refused(monkeypatch):
    monkeypatch.setattr(trainer_module, "world", lambda: Apart(0, 5))
    with pytest.raises(UserError, match="batch of 4 images cannot be split among 5 processes"):
        trainer()


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 1, 8, 8), np.uint8), LABELS[:2], r"\(1, 8, 8\).*\(1, 4, 4\)"),
        (np.zeros((2, 3, 4, 4), np.uint8), LABELS[:2], r"\(3, 4, 4\).*\(1, 4, 4\)"),
        (IMAGES[:0], LABELS[:0], "at least one image"),
        (IMAGES / 255, LABELS, "uint8.*float64"),
        (IMAGES, None, "3 classes.*no labels"),
        (IMAGES, LABELS[:5], "5 labels for 6 training images"),
        (IMAGES, LABELS + 1, r"Label 3 is outside 0\.\.2"),
        (IMAGES, LABELS - 2, r"Label -2 is outside 0\.\.2"),
    ],
)
def test_images_and_labels_that_do_not_fit_are_refused(images, labels, message):
    with pytest.raises(UserError, match=message):
        Trainer(denoiser(), images, labels, SHORT, 0)


def test_an_unconditional_denoiser_learns_without_labels_and_ignores_given_ones():
    without, given = (
        Trainer(denoiser(labels=0), IMAGES, labels, SHORT, 0) for labels in (None, LABELS)
    )  # fmt: skip
    assert_same(tensors(run(without, 3)), tensors(run(given, 3)))


def test_bfloat16_is_refused_on_a_processor_that_would_imitate_it(monkeypatch):
    monkeypatch.setattr("diffmem.training.trainer.has_bfloat16", lambda: False)
    with pytest.raises(UserError, match=r"training.precision = bf16.*leave it out"):
        trainer(PLAIN, precision="bf16")


@pytest.mark.skipif(not has_bfloat16(), reason="this processor has no arithmetic for bfloat16")
def test_half_precision_trains_float32_weights_close_to_those_of_full_precision():
    half, full = run(trainer(PLAIN, precision="bf16"), 3), run(trainer(PLAIN), 3)
    assert half.state()["weights"].dtype == torch.float32
    assert not torch.equal(half.state()["weights"], full.state()["weights"])
    assert half.take_loss() == pytest.approx(full.take_loss(), rel=0.02)


def test_tf32_is_float32_on_a_cpu():
    assert_same(tensors(run(trainer(precision="tf32"), 3)), tensors(run(trainer(), 3)))


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_arithmetic_puts_the_settings_of_torch_back(precision):
    def switches():
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    before = switches()
    with pytest.raises(ZeroDivisionError), arithmetic(precision, torch.device("cpu")) as forward:  # noqa: PT012
        assert switches() == (precision == "tf32",) * 2
        with forward:
            assert torch.is_autocast_enabled("cpu") == (precision == "bf16")
        assert not torch.is_autocast_enabled("cpu")
        _ = 1 / 0
    assert switches() == before
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_the_backward_pass_has_the_precision_of_the_forward_pass(precision, monkeypatch):
    # torch's own default is TF32 for convolutions, and it is the running kernel that reads the setting.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", precision == "float32")
    one, seen = trainer(precision=precision), []
    weight = next(one.denoiser.parameters())
    weight.register_hook(lambda gradient: seen.append(torch.backends.cudnn.allow_tf32))
    one.step()
    assert seen == [precision == "tf32"]


@pytest.mark.parametrize(("steps", "images"), [(0, 2), (1, 1)])
def test_a_batch_too_large_for_the_device_is_an_error_that_names_one_that_fits(steps, images, monkeypatch):
    one = run(trainer(), steps)
    weights = one.layout.vector.detach().clone()
    whole = one.denoiser.model.forward

    def forward(x, noise, labels):
        if len(x) > images:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return whole(x, noise, labels)

    monkeypatch.setattr(one.denoiser.model, "forward", forward)
    with pytest.raises(UserError, match=rf"^training.batch_size = 4 needs .* {images} would fit"):
        one.step()
    assert torch.equal(one.layout.vector, weights)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_network_trains_to_the_same_weights():
    compiled, plain = run(trainer(compile=True), 3), run(trainer(), 3)  # dropout included
    torch.testing.assert_close(
        compiled.state()["weights"], plain.state()["weights"], rtol=1e-3, atol=1e-4
    )  # fmt: skip


def test_the_defaults_are_the_studys_basic_setup():
    config = TrainingConfig()
    assert (config.epochs, config.batch_size, config.learning_rate, config.warmup) == (40_000, 512, 2e-4, 200)
    assert (config.optimizer, config.betas, config.weight_decay) == ("adam", (0.9, 0.999), 0)
    assert (config.ema.mode, config.ema.half_life, config.ema.ramp) == ("mode2", 10, 0.05)
    assert (config.order, config.precision, config.p_mean, config.p_std) == ("cyclic", "float32", -1.2, 1.2)
    assert config.describe() == (
        "40000 epochs, batch 512, Adam at learning rate 0.0002, warm-up 200 epochs,"
        " EMA mode2 (half-life 10 epochs), cyclic order, float32"
    )

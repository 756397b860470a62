"""Schedules against the study's published tables, and resuming against an undisturbed run."""

import math
import os
import signal

import numpy as np
import pytest
import torch

from diffmem.errors import DiffmemError, UserError
from diffmem.models import ModelConfig, build_denoiser
from diffmem.models.preconditioning import EDM, VE, VP
from diffmem.models.weights import read_tensors
from diffmem.training import EmaConfig, EvaluationConfig, Trainer, TrainingConfig, train
from diffmem.training.loop import STATE_FILE, snapshot_path
from diffmem.training.loss import denoising_loss, draw_noise_levels, loss_weight
from diffmem.training.randomness import DataOrder, stream_seed
from diffmem.training.schedule import (
    ema_beta,
    evaluation_images,
    learning_rate,
    study_snapshots,
    total_images,
)

STUDY = TrainingConfig(rounding="kimg", evaluations=EvaluationConfig(schedule="study"))


# (N, epochs, total kimg, steps, snapshots after the first): Gu et al., schedule of their training code at batch 512
@pytest.mark.parametrize(
    ("size", "epochs", "kimg", "steps", "snapshots"),
    [
        (500, 40_000, 20_000, 39_063, 8),
        (1000, 40_000, 40_000, 78_125, 16),
        (2000, 40_000, 80_000, 156_250, 32),
        (3000, 40_000, 120_000, 234_375, 48),
        (5000, 40_000, 200_000, 390_625, 80),
        (16_000, 40_000, 640_000, 1_250_000, 256),
        (10_000, 4_000, 40_000, 78_125, 16),
        (50_000, 12_000, 600_000, 1_171_875, 240),
    ],
)
def test_the_study_trains_and_snapshots_as_published(size, epochs, kimg, steps, snapshots):
    config = STUDY.model_copy(update={"epochs": epochs})
    assert total_images(config, size) // 512 == steps == math.ceil(kimg * 1000 / 512)
    assert len(evaluation_images(config, size)) == snapshots


def test_the_first_snapshots_have_the_published_names():
    assert [point // 1000 for point in study_snapshots(40_000_000, 512)[:3]] == [2509, 5018, 7526]


@pytest.mark.parametrize("batch", [128, 512, 896])
@pytest.mark.parametrize("size", [500, 1000, 50_000])
def test_mode2_ends_at_the_same_decay_for_every_size_and_batch(size, batch):
    config = STUDY.model_copy(update={"batch_size": batch})
    assert ema_beta(config, size, 1000 * size) == pytest.approx(0.9992905, abs=5e-8)


def test_truncated_durations_distort_the_decay_and_exact_ones_do_not():
    exact = STUDY.model_copy(update={"rounding": "exact"})
    assert ema_beta(STUDY, 250, 10**7) == pytest.approx(0.99911, abs=5e-6)
    assert ema_beta(STUDY, 550, 10**7) == pytest.approx(0.99922, abs=5e-6)
    assert ema_beta(exact, 250, 10**7) == ema_beta(exact, 550, 10**7) == pytest.approx(0.9992905, abs=5e-8)


def test_the_other_modes_follow_their_formulas():
    def mode(name, **more):
        return STUDY.model_copy(update={"ema": EmaConfig(mode=name, **more)})

    assert ema_beta(mode("mode1"), 1000, 10**7) == pytest.approx(0.5 ** (512 / 10_000))
    assert ema_beta(mode("mode1"), 1000, 100_000) == pytest.approx(0.5 ** (512 / 5_000))
    assert ema_beta(mode("mode3"), 1000, 0) == pytest.approx(0.5 ** (512 / 500_000))
    assert ema_beta(mode("mode4", final=0.9), 1000, 10**7) == pytest.approx(0.9, abs=1e-12)
    assert ema_beta(mode("mode4", final=0.0), 1000, 10**7) == 0
    assert ema_beta(mode("mode2"), 1000, 0) == 0


def test_the_average_stops_ramping_after_200_epochs():
    assert ema_beta(STUDY, 1000, 199_000) < ema_beta(STUDY, 1000, 200_000) == ema_beta(STUDY, 1000, 10**8)


def test_the_learning_rate_rises_from_zero_in_200_epochs_and_stays():
    rates = [learning_rate(STUDY, 1000, seen) for seen in (0, 100_000, 200_000, 10**7)]
    assert rates == pytest.approx([0, 1e-4, 2e-4, 2e-4])


def test_logarithmic_points_lie_at_the_same_epochs_for_all_sizes():
    config = TrainingConfig(epochs=1000, batch_size=8)
    small, large = evaluation_images(config, 100), evaluation_images(config, 1000)
    assert len(small) == len(large) == config.evaluations.count
    assert small[-1] == 100_000
    np.testing.assert_allclose(np.array(small) / 100, np.array(large) / 1000, atol=8 / 100)


def test_noise_levels_follow_their_distributions():
    uniform = torch.linspace(0, 1, 10_001)
    vp = draw_noise_levels(VP(), uniform, uniform)
    assert float(vp[0]) == pytest.approx(VP().sigma_max, rel=1e-5)
    assert float(vp[-1]) == pytest.approx(VP().sigma_min, rel=1e-2)
    ve = draw_noise_levels(VE(), uniform, uniform)
    assert [float(ve[i]) for i in (0, 5000, 10_000)] == pytest.approx([0.02, math.sqrt(2), 100], rel=1e-4)
    edm = draw_noise_levels(EDM(), uniform, torch.tensor([-1.0, 0.0, 1.0]))
    assert edm.log().tolist() == pytest.approx([-2.4, -1.2, 0.0], abs=1e-6)


def test_the_loss_sums_over_pixels_and_averages_over_the_batch():
    images, noise = torch.zeros(2, 1, 3, 3), torch.randn(2, 1, 3, 3)
    sigma = torch.tensor([0.5, 2.0])

    def constant(x, level, labels):
        return torch.full_like(x, 0.1)

    for kind in (VP(), VE(), EDM()):
        expected = (loss_weight(kind, sigma) * 9 * 0.01).sum() / 2
        torch.testing.assert_close(denoising_loss(constant, kind, images, sigma, noise, None), expected)
    torch.testing.assert_close(loss_weight(VP(), sigma), 1 / sigma**2)
    torch.testing.assert_close(loss_weight(EDM(), sigma), 1 / sigma**2 + 4)


@pytest.mark.parametrize("cyclic", [True, False])
def test_every_epoch_sees_each_image_once_and_batches_join_seamlessly(cyclic):
    order = DataOrder(7, seed=3, cyclic=cyclic)
    sequence = order.batch(0, 21)
    assert all(sorted(sequence[i : i + 7].tolist()) == list(range(7)) for i in (0, 7, 14))
    assert bool((sequence[:7] == sequence[7:14]).all()) == cyclic
    fresh = DataOrder(7, seed=3, cyclic=cyclic)
    joined = torch.cat([fresh.batch(0, 5), fresh.batch(5, 9), fresh.batch(14, 7)])
    assert torch.equal(sequence, joined)


MODEL = ModelConfig(
    preconditioning="vp",
    embedding="fourier",
    channels=8,
    multipliers=(1,),
    blocks=1,
    attention=(),
    dropout=0.2,
)
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 1, 4, 4), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def trainer(**changes):
    defaults = {
        "epochs": 20, "batch_size": 4, "learning_rate": 1e-3, "warmup": 2, "evaluations": EvaluationConfig(count=4, first=0.2)
    }  # fmt: skip
    config = TrainingConfig(**(defaults | changes))
    return Trainer(build_denoiser(MODEL, (1, 4, 4), 3, seed=1), IMAGES, LABELS, config, seed=5)


def tensors(one):
    return {name: tensor.clone() for name, tensor in one.state().items()}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_a_resumed_trainer_continues_bit_for_bit(optimizer):
    straight = trainer(optimizer=optimizer, weight_decay=0.01)
    for _ in range(9):
        straight.step()
    broken = trainer(optimizer=optimizer, weight_decay=0.01)
    for _ in range(4):
        broken.step()
    resumed = trainer(optimizer=optimizer, weight_decay=0.01)
    resumed.load_state(tensors(broken))
    for _ in range(5):
        resumed.step()
    assert_same(tensors(straight), tensors(resumed))


def test_the_average_follows_its_recursion():
    one = trainer(ema=EmaConfig(mode="mode1", half_life=3))
    average = one.state()["ema"].clone()
    for _ in range(6):
        beta = ema_beta(one.config, one.size, one.seen)
        one.step()
        average = beta * average + (1 - beta) * one.state()["weights"]
    torch.testing.assert_close(one.state()["ema"], average)


def test_the_flat_vector_trains_like_ordinary_adam():
    one = trainer()
    other = build_denoiser(MODEL.model_copy(update={"dropout": 0.0}), (1, 4, 4), 3, seed=1).train()
    one.denoiser.model.style = other.model.style
    for module in one.denoiser.modules():
        if hasattr(module, "style"):
            module.style = other.model.style
    parameters = list(other.parameters())
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    for step in range(5):
        generator = torch.Generator().manual_seed(stream_seed(5, "noise", one.seen))
        uniform, normal = torch.rand(4, generator=generator), torch.randn(4, generator=generator)
        noise = torch.randn((4, 1, 4, 4), generator=generator)
        chosen = DataOrder(6, 5, cyclic=True).batch(one.seen, 4)
        images = torch.from_numpy(IMAGES)[chosen].float() / 127.5 - 1
        sigma = draw_noise_levels(other.preconditioning, uniform, normal)
        optimizer.zero_grad()
        denoising_loss(
            other, other.preconditioning, images, sigma, noise, torch.from_numpy(LABELS)[chosen]
        ).backward()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(one.config, 6, one.seen)
        optimizer.step()
        one.step()
        assert one.seen == 4 * (step + 1)
    for ours, theirs in zip(one.denoiser.parameters(), parameters, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def files(folder):
    """The content of each snapshot; the order of the words in a safetensors header is not fixed."""
    content = {}
    for path in sorted((folder / "snapshots").iterdir()):
        read, words = read_tensors(path)
        content[path.name] = ({name: tensor.numpy().tobytes() for name, tensor in read.items()}, words)
    return content


def test_an_interrupted_run_ends_like_an_undisturbed_one(tmp_path):
    train(trainer(), MODEL, tmp_path / "a", "tag")
    calls = []

    def interrupt(done, total, note=""):
        calls.append(done)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(trainer(), MODEL, tmp_path / "b", "tag", progress=interrupt)
    assert not snapshot_path(tmp_path / "b", 120).exists()
    train(trainer(), MODEL, tmp_path / "b", "tag")
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert (tmp_path / "a" / "metrics.jsonl").read_text() == (tmp_path / "b" / "metrics.jsonl").read_text()


def test_a_damaged_state_is_reported_and_not_used(tmp_path):
    train(trainer(), MODEL, tmp_path / "a", "tag")
    whole = files(tmp_path / "a")
    state = tmp_path / "a" / STATE_FILE
    state.write_bytes(state.read_bytes()[:-9] + b"disturbed")
    warnings = []
    train(trainer(), MODEL, tmp_path / "a", "tag", warn=warnings.append)
    assert "damaged" in warnings[0]
    assert files(tmp_path / "a") == whole


def test_the_state_of_another_run_is_not_used(tmp_path):
    train(trainer(), MODEL, tmp_path, "one")
    warnings = []
    train(trainer(), MODEL, tmp_path, "two", warn=warnings.append)
    assert "another run" in warnings[0]


def test_a_diverged_loss_stops_with_a_remedy_and_leaves_no_snapshot(tmp_path):
    with pytest.raises(DiffmemError, match="learning_rate"):
        train(trainer(optimizer="sgd", learning_rate=1e12, warmup=0), MODEL, tmp_path, "tag")
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_full_disk_stops_with_one_line_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(DiffmemError, match="No space left"):
        train(trainer(), MODEL, tmp_path, "tag")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_training_leaves_the_global_random_state_alone(tmp_path):
    before = torch.random.get_rng_state()
    train(trainer(epochs=2), MODEL, tmp_path, "tag")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_images_and_labels_that_do_not_fit_are_refused():
    denoiser = build_denoiser(MODEL, (1, 4, 4), 3)
    with pytest.raises(UserError, match="labels"):
        Trainer(denoiser, IMAGES, None, TrainingConfig(), 0)
    with pytest.raises(UserError, match=r"\(1, 8, 8\)"):
        Trainer(denoiser, np.zeros((2, 1, 8, 8), np.uint8), LABELS[:2], TrainingConfig(), 0)


def test_half_precision_arithmetic_trains_float32_weights():
    one = trainer(precision="bf16")
    one.step()
    assert one.take_loss() is not None
    assert one.state()["weights"].dtype == torch.float32

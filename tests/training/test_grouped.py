"""Trainings that are stepped together as one network with groups."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from parameters import these
from training_builders import LABELS, MODEL, SHORT, tensors

from diffmem.distributed import World
from diffmem.environment import has_bfloat16
from diffmem.errors import DiffmemError, UserError
from diffmem.models import ModelConfig, build_denoiser
from diffmem.training import TrainingConfig, grouped
from diffmem.training.grouped import TrainerGroup
from diffmem.training.trainer import Trainer

SHAPE = (2, 4, 4)
IMAGES = np.random.default_rng(1).integers(0, 256, (12, *SHAPE), dtype=np.uint8)
SMALL = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (4,), "dropout": 0.13}
MODELS = {
    "ddpmpp": ModelConfig(architecture="ddpmpp", preconditioning="edm", **SMALL),
    "ncsnpp": ModelConfig(architecture="ncsnpp", preconditioning="vp", **SMALL),
    "adm": ModelConfig(
        architecture="adm", preconditioning="ve", channels=64, multipliers=(1, 1), blocks=1, attention=(4,), dropout=0.1
    ),
    "masked": ModelConfig(architecture="ddpmpp", skip_mask=(1, 0, 1, 1), **SMALL),
}  # fmt: skip


def member(number, model=MODELS["ddpmpp"], size=6, classes=3, **changes):
    """A training with images, labels, weights and a seed of its own."""
    config = TrainingConfig(**{**SHORT.model_dump(), **changes})
    first = number % 6
    labels = np.roll(LABELS, number)[np.arange(size) % 6] if classes else None
    made = build_denoiser(model, SHAPE, classes, seed=number)
    return Trainer(made, IMAGES[first : first + size], labels, config, seed=10 + number)


def run(one, steps):
    for _ in range(steps):
        one.step()
    return one


def assert_close(first, second, atol=5e-6):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(
            tensor, second[name], rtol=1e-4, atol=atol, msg=lambda text, n=name: f"{n}: {text}"
        )


def assert_grouped_is_separate(make, steps=8, count=3):
    together = [make(number) for number in range(count)]
    started = [tensors(one)["weights"] for one in together]
    run(group := TrainerGroup(together), steps).settle()
    for number, one in enumerate(together):
        alone = run(make(number), steps)
        assert one.seen == alone.seen == group.seen
        assert_close(tensors(one), tensors(alone))
        assert float((one.state()["weights"] - started[number]).abs().max()) > 1e-3  # far above the tolerance
        assert one.take_loss() == pytest.approx(alone.take_loss(), rel=1e-4)


# Adam would turn the rounding of a gradient that is almost zero, of which ADM starts with many, into a step of full length.
@pytest.mark.parametrize(
    ("model", "classes"),
    these(
        [("ddpmpp", 3), ("ddpmpp", 0), ("ncsnpp", 3), ("adm", 3), ("masked", 0)],
        ("ncsnpp", 3),
        ("adm", 3),
        ("masked", 0),
    ),
)
def test_members_become_what_they_become_alone(model, classes):
    assert_grouped_is_separate(lambda number: member(number, MODELS[model], classes=classes, optimizer="sgd"))


# Attention does not see the bias of its keys: its gradient is rounding, which Adam's own kind of decay would make grow.
@pytest.mark.parametrize(
    ("optimizer", "decay"), these([("adam", 0.0), ("adamw", 0.01), ("sgd", 0.01)], ("adamw", 0.01))
)
def test_members_of_several_sizes_follow_their_own_schedules(optimizer, decay):
    def make(number):
        return member(number, size=(3, 6, 5)[number], optimizer=optimizer, weight_decay=decay, warmup=8)

    assert_grouped_is_separate(make)


@pytest.mark.parametrize(
    ("name", "values"),
    these(
        [
            ("learning_rate", (1e-3, 4e-3, 2e-3)),
            ("warmup", (0, 3, 8)),
            ("order", ("cyclic", "shuffled", "cyclic")),
            ("ema", ({"half_life": 1.0}, {"mode": "mode3"}, {"mode": "mode4", "final": 0.0})),
        ],
        ("learning_rate", (1e-3, 4e-3, 2e-3)),
        ("ema", ({"half_life": 1.0}, {"mode": "mode3"}, {"mode": "mode4", "final": 0.0})),
    ),
)
def test_members_may_differ_in_settings_of_their_schedules(name, values):
    assert_grouped_is_separate(lambda number: member(number, optimizer="sgd", **{name: values[number]}))


def test_images_with_unknown_classes_are_seen_as_alone():
    def make(number):
        one = member(number, MODEL.model_copy(update={"multipliers": (1, 1)}))
        one._labels[::2] = -1
        return one

    assert_grouped_is_separate(make)


def test_a_group_ends_with_its_first_member():
    assert TrainerGroup([member(0, size=6), member(1, size=3)]).total == member(1, size=3).total


def test_a_member_goes_on_alone_from_where_it_settled_and_joins_again():
    together = [member(0), member(1)]
    run(TrainerGroup(together), 3).settle()
    for one in together:
        run(one, 2)
    run(TrainerGroup(together), 3).settle()
    for number, one in enumerate(together):
        assert_close(tensors(one), tensors(run(member(number), 8)))


def test_settling_changes_nothing_in_the_group():
    first, second = [member(0), member(1)], [member(0), member(1)]
    group = run(TrainerGroup(first), 2)
    group.settle()
    run(group, 3).settle()
    run(TrainerGroup(second), 5).settle()
    for one, other in zip(first, second, strict=True):
        assert_close(tensors(one), tensors(other), atol=0)
        assert one.take_loss() == pytest.approx(other.take_loss(), rel=1e-12)


def test_a_loss_that_was_taken_is_not_told_again():
    one, alone = member(0), member(0)
    group = run(TrainerGroup([one, member(1)]), 2)
    group.settle()
    one.take_loss()
    run(group, 1).settle()
    run(alone, 2).take_loss()
    assert one.take_loss() == pytest.approx(run(alone, 1).take_loss(), rel=1e-4)


def test_a_member_that_diverges_does_not_touch_the_others():
    together = [member(0), member(1), member(2)]
    with torch.no_grad():
        together[1].layout.vector.fill_(math.nan)
    run(TrainerGroup(together), 4).settle()
    with pytest.raises(DiffmemError, match="loss became nan"):
        together[1].take_loss()
    for number in (0, 2):
        assert_close(tensors(together[number]), tensors(run(member(number), 4)))


def test_a_group_of_one_is_its_member():
    assert_grouped_is_separate(member, count=1)


@pytest.mark.skipif(not has_bfloat16(), reason="this processor has no arithmetic for bfloat16")
def test_half_precision_is_used_where_it_is_asked_for():
    one, alone = member(0, precision="bf16", optimizer="sgd"), member(0, optimizer="sgd")
    run(TrainerGroup([one, member(1, precision="bf16", optimizer="sgd")]), 8).settle()
    run(alone, 8)
    assert 1e-4 < float((one.state()["weights"] - alone.state()["weights"]).abs().max()) < 0.05


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ([], "at least one member"),
        ([member(0), member(1, weight_decay=0.5)], "but for epochs.*the same settings"),
        ([member(0), member(1, MODELS["ncsnpp"])], "same architecture"),
        ([member(0, MODELS["ddpmpp"].model_copy(update={"preconditioning": "vp"})), member(1)], "architecture"),
        ([member(0), run(member(1), 2)], "have seen 0 and 8 images"),
        ([member(0, compile=True)], "training.compile: false"),
    ],
    ids=["none", "settings", "architecture", "preconditioning", "place", "compiled"],
)  # fmt: skip
def test_trainings_that_do_not_fit_together_are_refused(others, words):
    with pytest.raises(UserError, match=words):
        TrainerGroup(others)


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setattr(grouped, "world", lambda: World(0, 2))
    with pytest.raises(UserError, match="without torchrun"):
        TrainerGroup([member(0)])

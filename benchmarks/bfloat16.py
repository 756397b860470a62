"""Images trained per second with training.precision = bf16 against float32, on a processor that multiplies bfloat16 itself.

    python benchmarks/bfloat16.py [--rounds 5] [--seconds 6] [--models paper32 cifar16 cifar8 cifar8x4]

Baseline: the same training in float32, in the same process, the two in turn. 'paper32' is the paper's DDPM++ (35 M parameters, 32x32,
batch 8), 'cifar16' and 'cifar8' the network of the CPU scale at 16x16 and 8x8 (batch 16), 'cifar8x4' four of the latter in a group.
'paper32' computes on all cores, the others on one, as the local executor
trains them. Pixels are random, since the time does not depend on them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

MODELS = ("paper32", "cifar16", "cifar8", "cifar8x4")


def stepper(name: str, precision: str) -> tuple[Callable[[], None], int]:
    """Return a function that trains one batch, and the number of images that it sees."""
    from diffmem.models import ModelConfig, build_denoiser
    from diffmem.training import TrainingConfig
    from diffmem.training.grouped import TrainerGroup
    from diffmem.training.trainer import Trainer
    from grouped_training import _setup

    model, _, training = _setup("cifar8")
    shape = (3, 8, 8)
    if name == "paper32":
        model, training, shape = ModelConfig(), TrainingConfig(batch_size=8), (3, 32, 32)
    elif name == "cifar16":
        shape = (3, 16, 16)
    training = training.model_copy(update={"precision": precision})
    members = 4 if name == "cifar8x4" else 1
    images = np.random.default_rng(0).integers(0, 256, (160, *shape), dtype=np.uint8)
    made = [
        Trainer(build_denoiser(model, shape, seed=k), images, None, training, seed=k) for k in range(members)
    ]
    one = made[0] if members == 1 else TrainerGroup(made)
    return one.step, members * training.batch_size


def rate(step: Callable[[], None], images: int, seconds: float) -> float:
    """Return images per second of the best of the steps that fit into so many seconds."""
    begin, least = time.perf_counter(), float("inf")
    while time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        step()
        least = min(least, time.perf_counter() - start)
    return images / least


def main() -> None:
    """Print the ratio of each network."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    args = parser.parse_args()
    from diffmem.environment import has_bfloat16

    if not has_bfloat16():
        print("This processor has no arithmetic for bfloat16 (AVX512_BF16, AMX): nothing to measure.")
        return
    cores = torch.get_num_threads()
    for name in args.models:
        torch.set_num_threads(cores if name == "paper32" else 1)
        steppers = {precision: stepper(name, precision) for precision in ("float32", "bf16")}
        for step, _ in steppers.values():
            step()
        rounds = [
            {precision: rate(*one, args.seconds) for precision, one in steppers.items()}
            for _ in range(args.rounds)
        ]
        ratios = sorted(one["bf16"] / one["float32"] for one in rounds)
        base = statistics.median(one["float32"] for one in rounds)
        middle, low, high = statistics.median(ratios), ratios[0], ratios[-1]
        print(
            f"{name}: bf16 / float32 = {middle:.2f}x ({low:.2f} to {high:.2f}); float32 {base:,.0f} images/s"
        )


if __name__ == "__main__":
    main()

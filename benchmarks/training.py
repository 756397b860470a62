"""Images trained per second by this package against plain eager PyTorch, as the study's scripts train.

    python benchmarks/training.py [--models quickstart cifar8 paper32] [--rounds 5] [--seconds 6] [--members 8]

Baseline: one process that trains the same network with the plain layers and loop of `baseline.py`, with the number of threads (one, or
all cores), with or without a loader process, that is fastest here: the best of them in each round. A plain study trains one such
process after another. Ours is what the local executor starts: 'quickstart' (digits, batch 32) and 'cifar8' (CPU scale of the paper's
experiments, 0.2 M parameters, 8x8, batch 16) as groups of networks, a process with one thread for each core; 'paper32' (35 M
parameters, 32x32, batch 8) as one training with all cores. Images per second of processor time are compared, too.

Other programs distort the ratios: see `concurrent_runs.py`, whose options --others, --tries and --patience wait for a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from concurrent_runs import Measured, cores, parser_of, ratio, serve, together

REQUIRED = {"quickstart": 3.0, "cifar8": 4.0, "paper32": 1.2}
REQUIRED_PER_CORE = {"cifar8": 2.3}


def _setup(name: str) -> tuple[Any, Any, Any]:
    """Return a model's configuration, images and training settings."""
    import numpy as np

    from diffmem.models import ModelConfig
    from diffmem.training import TrainingConfig
    from grouped_training import _setup as setup

    if name != "paper32":
        return setup(name)
    images = np.random.default_rng(0).integers(0, 256, (64, 3, 32, 32), dtype=np.uint8)
    return ModelConfig(), images, TrainingConfig(batch_size=8)


def _plain(name: str, workers: int) -> Callable[[], int]:
    from baseline import plain_denoiser, plain_steps

    model, images, training = _setup(name)
    return plain_steps(plain_denoiser(model, images.shape[1:]), images, training, workers=workers)


def _ours(name: str, members: int) -> Callable[[], int]:
    from diffmem.models import build_denoiser
    from diffmem.training.grouped import TrainerGroup
    from diffmem.training.trainer import Trainer

    model, images, training = _setup(name)
    shape = images.shape[1:]
    made = [
        Trainer(build_denoiser(model, shape, seed=k), images, None, training, seed=k) for k in range(members)
    ]
    one = TrainerGroup(made) if members > 1 else made[0]

    def step() -> int:
        one.step()
        return members * training.batch_size

    return step


def _arrangements(name: str, members: int) -> dict[str, tuple[str, int, int, int]]:
    """Return for each configuration its kind, members or loader processes, processes and threads; ours last."""
    count = cores()
    plain = {
        f"plain, {threads} thread(s), {workers} loader process(es)": ("plain", workers, 1, threads)
        for threads in sorted({1, count})
        for workers in (0, 1)
    }
    if name == "paper32":
        return {**plain, f"ours, {count} threads": ("ours", 1, 1, count)}
    return {**plain, f"ours, {count} processes, groups of {members}": ("ours", members, count, 1)}


def compare(name: str, args: argparse.Namespace) -> dict[str, list[Measured]]:
    """Run the rounds of one network and print its ratios."""
    arrangements = _arrangements(name, args.members)
    rows: dict[str, list[Measured]] = {one: [] for one in arrangements}
    for number in range(args.rounds):
        for one, (kind, parameter, processes, threads) in arrangements.items():
            command = [sys.executable, __file__, "--child", kind, name, str(parameter), str(threads)]
            rows[one].append(
                together([[*command, "--seconds", str(args.seconds)]] * processes, threads, args)
            )
        last = ", ".join(f"{one}: {found[-1].rate:.0f}" for one, found in rows.items())
        print(f"round {number + 1}, {name}, images/s: {last}", flush=True)
    *plain, ours = rows.values()
    best = [max(each, key=lambda one: one.rate) for each in zip(*plain, strict=True)]
    print(f"{name}: ours / plain = {_text(ratio(ours, best))}, required {REQUIRED[name]:g}x")
    used = [max(each, key=lambda one: one.per_core) for each in zip(*plain, strict=True)]
    required = f", required {REQUIRED_PER_CORE[name]:g}x" if name in REQUIRED_PER_CORE else ""
    print(f"{name}: of a core's time: ours / plain = {_text(_per_core(ours, used))}{required}")
    return rows


def _per_core(ours: Sequence[Measured], best: Sequence[Measured]) -> tuple[float, float, float]:
    ratios = [a.per_core / b.per_core for a, b in zip(ours, best, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def _text(found: tuple[float, float, float]) -> str:
    middle, low, high = found
    return f"{middle:.2f}x ({low:.2f} to {high:.2f})"


def main() -> None:
    """Run the rounds and print the ratios."""
    parser = parser_of(__doc__ or "", seconds=6.0)
    parser.add_argument("--models", nargs="+", choices=list(REQUIRED), default=list(REQUIRED))
    parser.add_argument("--members", type=int, default=8, help="networks of a group")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        import torch

        kind, name, parameter, threads = args.child
        torch.set_num_threads(int(threads))
        serve((_plain if kind == "plain" else _ours)(name, int(parameter)), args.seconds)
        return
    results = {name: compare(name, args) for name in args.models}
    if args.results:
        content = {
            name: {one: [asdict(each) for each in found] for one, found in rows.items()}
            for name, rows in results.items()
        }
        args.results.write_text(json.dumps({"cores": cores(), **content}, indent=1))


if __name__ == "__main__":
    main()

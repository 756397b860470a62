"""Images per second of the quickstart's training against a plain eager loop.

    python benchmarks/training_speed.py [--rounds 5] [--seconds 8]

Baseline: one process with the library's default threads that trains the same network as `baseline.py` does, in plain eager
PyTorch. Ours: as the quickstart trains, one single-threaded process per core. Both are restarted in every round, one after the other.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

BAR = 3.0


def _measure(step: Callable[[], int], seconds: float) -> float:
    for _ in range(8):
        step()
    start, seen = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        seen += step()
    return seen / (time.perf_counter() - start)


def _setup():
    from diffmem.data import balanced, open_images
    from diffmem.studies.quickstart import quickstart_recipe

    return quickstart_recipe(), balanced(open_images("digits"), 160)


def plain(seconds: float, workers: int) -> float:
    """Return images per second of the baseline."""
    from baseline import plain_denoiser, plain_steps

    recipe, images = _setup()
    denoiser = plain_denoiser(recipe.model, images.shape)
    return _measure(plain_steps(denoiser, images.images, recipe.training, workers=workers), seconds)


def ours(seconds: float) -> float:
    """Return images per second of one single-threaded trainer."""
    import torch

    from diffmem.models import build_denoiser
    from diffmem.training import Trainer

    torch.set_num_threads(1)
    recipe, images = _setup()
    trainer = Trainer(
        build_denoiser(recipe.model, images.shape), images.images, None, recipe.training, seed=0
    )

    def step() -> int:
        trainer.step()
        return recipe.training.batch_size

    return _measure(step, seconds)


def _run(kind: str, seconds: float, copies: int) -> float:
    env = dict(os.environ, OMP_NUM_THREADS="1") if kind == "ours" else dict(os.environ)
    command = [sys.executable, __file__, "--kind", kind, "--seconds", str(seconds)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, env=env, text=True) for _ in range(copies)]
    return sum(float(process.communicate()[0].split()[-1]) for process in started)


def main() -> None:
    """Run the rounds and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--kind", choices=["ours", "plain", "plain-worker"])
    args = parser.parse_args()
    if args.kind:
        print(
            ours(args.seconds)
            if args.kind == "ours"
            else plain(args.seconds, int(args.kind == "plain-worker"))
        )
        return
    cores = os.cpu_count() or 1
    rows: dict[str, list[float]] = {"ours": [], "plain": [], "plain-worker": []}
    for number in range(args.rounds):
        for kind, row in rows.items():
            row.append(_run(kind, args.seconds, cores if kind == "ours" else 1))
        print(
            f"round {number + 1}: "
            + ", ".join(f"{kind} {row[-1]:.0f}" for kind, row in rows.items())
            + " images/s",
            flush=True,
        )
    for kind, words in (("plain", "no loader process"), ("plain-worker", "one loader process")):
        ratio = statistics.median(a / b for a, b in zip(rows["ours"], rows[kind], strict=True))
        print(f"ours ({cores} processes) / plain eager, {words}: {ratio:.2f}x (required {BAR:g}x)")


if __name__ == "__main__":
    main()

"""Images per second of the quickstart's training against a plain eager loop.

    python benchmarks/training_speed.py [--rounds 5] [--seconds 8]

Baseline: one process with the library's default threads, the same network in contiguous layout, a shuffling DataLoader over
a map-style dataset, `torch.optim.Adam` and a parameter-by-parameter EMA, the loss read every step. Ours: as the
quickstart trains, one single-threaded process per core. Both are restarted in every round, one after the other.
"""

from __future__ import annotations

import argparse
import copy
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
    from diffmem.models import build_denoiser
    from diffmem.studies.quickstart import quickstart_recipe

    recipe = quickstart_recipe()
    images = balanced(open_images("digits"), 160)
    return build_denoiser(recipe.model, images.shape), images, recipe.training


def plain(seconds: float, workers: int) -> float:
    """Return images per second of the baseline."""
    import torch
    from torch.utils.data import DataLoader, Dataset

    denoiser, images, config = _setup()

    class Plain(Dataset):
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, index: int):
            return images.images[index].astype("float32") / 127.5 - 1

    def endless():
        while True:
            yield from DataLoader(
                Plain(),
                config.batch_size,
                shuffle=True,
                drop_last=True,
                num_workers=workers,
                persistent_workers=workers > 0,
            )

    loader = endless()
    denoiser.train()
    average = copy.deepcopy(denoiser).eval().requires_grad_(False)
    optimizer = torch.optim.Adam(denoiser.parameters(), config.learning_rate)
    losses = []

    def step() -> int:
        x = next(loader)
        sigma = (torch.randn(len(x), 1, 1, 1) * config.p_std + config.p_mean).exp()
        weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
        optimizer.zero_grad()
        loss = (weight * (denoiser(x + torch.randn_like(x) * sigma, sigma.flatten()) - x) ** 2).sum() / len(x)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for ours, theirs in zip(average.parameters(), denoiser.parameters(), strict=True):
                ours.copy_(theirs.lerp(ours, 0.99))
        losses.append(loss.item())
        return len(x)

    return _measure(step, seconds)


def ours(seconds: float) -> float:
    """Return images per second of one single-threaded trainer."""
    import torch

    from diffmem.training import Trainer

    torch.set_num_threads(1)
    denoiser, images, config = _setup()
    trainer = Trainer(denoiser, images.images, None, config, seed=0)

    def step() -> int:
        trainer.step()
        return config.batch_size

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

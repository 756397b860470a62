"""Time of a whole study with trainings in groups against the same study without, interleaved.

    python benchmarks/study_groups.py [--sizes 16 24] [--seeds 4] [--rounds 3] [--workers 2]

The study trains DDPM++ networks of 0.18 M parameters on 8x8 digits (batch 16, as the CPU scale of the paper's experiments), samples
100 images at each of four evaluation points and measures them: a process each, started as `diffmem study` starts it, in a new
folder. Printed are the wall-clock time of each and the CPU time of all its processes, and their ratios: the second is less disturbed by
other programs, which are best absent. `--workers 1` trains in one process.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

BAR = 1.6


def recipe(args: argparse.Namespace, group: int | str) -> dict:
    """Return the study."""
    executor = {"kind": "inline"} if args.workers == 1 else {"kind": "local", "processes": args.workers}
    return {
        "title": "Groups",
        "data": {"source": "digits", "selection": "random", "heldout": 100},
        "sizes": args.sizes,
        "seeds": list(range(args.seeds)),
        "model": {
            "channels": 16, "multipliers": [1, 2], "blocks": 1, "attention": [], "dropout": 0.0, "preconditioning": "edm",
        },
        "training": {
            "epochs": args.epochs, "batch_size": 16, "learning_rate": 8e-3, "warmup": 20, "p_mean": -0.8, "p_std": 0.9,
            "ema": {"mode": "mode1", "half_life": 20}, "evaluations": {"count": 4},
        },
        "measure": {"samples": args.samples},
        "executor": {**executor, "group": group},
    }  # fmt: skip


def measured(args: argparse.Namespace, group: int | str) -> tuple[float, float]:
    """Do the study and return its seconds of wall-clock and of CPU time."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe(args, group)))
        before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        command = [sys.executable, "-m", "diffmem", "study", str(path), "--out", f"{name}/study"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wall, after = time.monotonic() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 24])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=600)
    parser.add_argument("--samples", type=int, default=100, help="at each of four evaluation points")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path, help="JSON file to write")
    args = parser.parse_args()
    times: dict[str, list[tuple[float, float]]] = {"one by one": [], "in groups": []}
    for number in range(args.rounds):
        kinds = list(times) if number % 2 == 0 else list(times)[::-1]
        for kind in kinds:
            times[kind].append(measured(args, 1 if kind == "one by one" else "auto"))
            wall, cpu = times[kind][-1]
            print(f"round {number + 1}, {kind}: {wall:.1f} s, {cpu:.1f} s of CPU", flush=True)
    pairs = list(zip(times["one by one"], times["in groups"], strict=True))
    count = len(args.sizes) * args.seeds
    print(
        f"\n{count} runs, {args.workers} processes: one by one / in groups, median (range) of {args.rounds} rounds"
    )
    for index, words in enumerate(("wall-clock time", "CPU time")):
        ratios = [alone[index] / together[index] for alone, together in pairs]
        print(
            f"{words:16s} {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); required {BAR:g}"
        )
    if args.results:
        args.results.write_text(json.dumps(times, indent=1))


if __name__ == "__main__":
    main()

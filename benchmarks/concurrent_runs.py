"""Images trained per second by several quickstart-size runs that share a machine.

    python benchmarks/concurrent_runs.py [--processes 1 2 4] [--rounds 5] [--seconds 20] [--results FILE]

Baseline: one process with all cores. Compared with it: 1, 2, 4 parallel processes, which divide the cores as threads (at
least one each), and one process with a single thread. The processes are restarted for every measurement, warmed up, started by a
common signal and train for the same time; the throughput is the sum over processes. The order of the configurations rotates from
round to round; ratios are within a round, and their median and range over the rounds are printed. If torch finds a GPU, the
same is measured there, with the processes sharing it and the cores.

Other programs on the machine distort the ratios, so their use of the cores is measured and printed
(Linux). A measurement begins when it is at most --others (or after --patience seconds); one in which it was more is repeated,
up to --tries times, and the one with the least is used. Images per second of processor time, which other programs hardly change,
are printed as well.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = [
    "Measured",
    "answer",
    "cores",
    "measure",
    "parser_of",
    "ratio",
    "serve",
    "start_serving",
    "together",
]


@dataclass(frozen=True)
class Measured:
    """Result of one configuration of processes.

    Attributes:
        rate: Images per second, all processes together.
        per_core: Images per second of processor time.
        memory: Largest peak of a process's resident memory, in MB.
        private: Largest part of a process's memory that no other process shares, in MB; 0 where the system does not tell.
        gpu_memory: Largest peak of a process's memory on the GPU as torch counts it, in MB, without CUDA's own context.
        others: Share of the machine's cores that other programs took, 0 to 1; none where the system does not tell.
    """

    rate: float
    per_core: float
    memory: float
    private: float
    gpu_memory: float
    others: float | None


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _private_memory() -> float:
    """Return what this process shares with no other, in MB; 0 where the system does not tell."""
    path = Path("/proc/self/smaps_rollup")
    lines = path.read_text().splitlines() if path.exists() else []
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private")) / 1024


def serve(step: Callable[[], int], seconds: float, synchronize: Callable[[], None] = lambda: None) -> None:
    """Warm up; then, at each signal, step for so many seconds and print what was measured. Runs in a child.

    Args:
        step: Trains and returns the number of images trained.
        seconds: How long.
        synchronize: Waits for the GPU.
    """
    import torch

    for _ in range(8):
        step()
    synchronize()
    print("ready", flush=True)
    while sys.stdin.readline():
        start, used, seen = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - start < seconds:
            seen += step()
        synchronize()
        elapsed, used = time.perf_counter() - start, time.process_time() - used
        on_gpu = torch.cuda.max_memory_reserved() / 2**20 if torch.cuda.is_available() else 0.0
        content = {
            "rate": seen / elapsed,
            "images": seen,
            "used": used,
            "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            / (1024 if sys.platform == "linux" else 2**20),
            "private": _private_memory(),
            "gpu_memory": on_gpu,
        }
        print(json.dumps(content), flush=True)


def _busy() -> float | None:
    """Return the seconds that all cores of the machine have worked (or were taken away) since it started."""
    path = Path("/proc/stat")
    if not path.exists():
        return None
    user, nice, system, _idle, _wait, irq, soft, steal = map(
        int, path.read_text().split("\n")[0].split()[1:9]
    )
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def measure(children: Sequence[subprocess.Popen[str]]) -> Measured:
    """Let processes that `serve`, and are ready, work at the same time; return what they did together."""
    start, busy = time.perf_counter(), _busy()
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    found = [answer(child) for child in children]
    others, after = None, _busy()
    used = sum(one["used"] for one in found)
    if busy is not None and after is not None:
        elapsed = time.perf_counter() - start
        others = max(0.0, after - busy - used) / (elapsed * (os.cpu_count() or 1))
    return Measured(
        sum(one["rate"] for one in found),
        sum(one["images"] for one in found) / used,
        max(one["memory"] for one in found),
        max(one["private"] for one in found),
        max(one["gpu_memory"] for one in found),
        others,
    )


def start_serving(commands: Sequence[Sequence[str]], threads: int) -> list[subprocess.Popen[str]]:
    """Start commands that `serve`, with so many threads each; each is ready when it has given its first `answer`."""
    env = dict(os.environ, OMP_NUM_THREADS=str(threads))
    return [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True)
        for command in commands
    ]


def answer(child: subprocess.Popen[str]) -> dict[str, float]:
    """Return the next line of a process that serves: what it measured, or nothing when it is ready."""
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line:
        raise SystemExit(f"A process has ended; its error is above. It was: {child.args}")
    return {} if line.strip() == "ready" else json.loads(line)


def _wait_for_quiet(share: float, patience: float) -> None:
    """Return when the machine's cores work for at most a share of the time, or when patience ends."""
    end, before = time.monotonic() + patience, _busy()
    while before is not None and time.monotonic() < end:
        time.sleep(0.5)
        after = _busy()
        if after is not None and after - before <= 0.5 * share * (os.cpu_count() or 1):
            return
        before = after


def together(commands: Sequence[Sequence[str]], threads: int, args: argparse.Namespace) -> Measured:
    """Run commands that `serve` at the same time; again if other programs took more than a share of the machine.

    Args:
        commands: One for each process.
        threads: OMP_NUM_THREADS of each.
        args: Has `others`, `patience` and `tries`.
    """
    children = start_serving(commands, threads)
    for child in children:
        answer(child)
    found: list[Measured] = []
    while len(found) < args.tries and not (found and (found[-1].others or 0.0) <= args.others):
        _wait_for_quiet(args.others, args.patience)
        found.append(measure(children))
    for child in children:
        child.communicate()
    return min(found, key=lambda one: one.others or 0.0)


def ratio(ours: Sequence[Measured], baseline: Sequence[Measured]) -> tuple[float, float, float]:
    """Return the median, the least and the greatest ratio of the rates, round by round."""
    ratios = [a.rate / b.rate for a, b in zip(ours, baseline, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def parser_of(words: str, seconds: float) -> argparse.ArgumentParser:
    """Return a parser of the settings that measurements share; `seconds` is the time of each."""
    parser = argparse.ArgumentParser(description=words.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=seconds)
    parser.add_argument("--others", type=float, default=0.05, help="share of the cores that others may take")
    parser.add_argument("--tries", type=int, default=5)
    parser.add_argument("--patience", type=float, default=30.0, help="seconds to wait for a quiet machine")
    parser.add_argument("--results", type=Path, help="write the numbers here (JSON)")
    return parser


def _train(threads: int, seconds: float, device: str) -> None:
    import torch

    from diffmem.data import balanced, open_images
    from diffmem.models import build_denoiser
    from diffmem.studies.quickstart import quickstart_recipe
    from diffmem.training import Trainer

    torch.set_num_threads(threads)
    recipe = quickstart_recipe()
    images = balanced(open_images("digits"), 160)
    denoiser = build_denoiser(recipe.model, images.shape)
    trainer = Trainer(denoiser, images.images, None, recipe.training, seed=os.getpid(), device=device)

    def step() -> int:
        trainer.step()
        return recipe.training.batch_size

    serve(step, seconds, torch.cuda.synchronize if device.startswith("cuda") else lambda: None)


def _gpu() -> str:
    """Return the name of the GPU that torch sees, or nothing; asked in a process of its own, so that this one stays small."""
    code = "import torch; print(torch.cuda.get_device_name(0) if torch.cuda.is_available() else '')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _compare(device: str, args: argparse.Namespace) -> dict[str, list[Measured]]:
    count = cores()
    arrangements = {
        f"1 process, {count} thread(s)": (1, count),
        "1 process, 1 thread": (1, 1),
        **{
            f"{processes} processes, {max(1, count // processes)} thread(s) each": (
                processes,
                max(1, count // processes),
            )
            for processes in args.processes
            if processes > 1
        },
    }
    names = list(arrangements)
    rows: dict[str, list[Measured]] = {name: [] for name in names}
    for number in range(args.rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            processes, threads = arrangements[name]
            command = [
                sys.executable,
                __file__,
                "--child",
                str(threads),
                device,
                "--seconds",
                str(args.seconds),
            ]
            rows[name].append(together([command] * processes, threads, args))
            last = rows[name][-1]
            others = "" if last.others is None else f", others took {last.others:.0%} of the cores"
            print(
                f"round {number + 1}, {device}: {name}: {last.rate:.0f} images/s, {last.per_core:.0f} per core-s{others}",
                flush=True,
            )
    return rows


def _print_table(rows: dict[str, list[Measured]], device: str) -> None:
    baseline = next(iter(rows))
    print(f"\nOn the {device}; ratios to '{baseline}', median (range) of {len(rows[baseline])} rounds")
    print(
        f"{'configuration':34s} {'images/s':>9s} {'ratio':>20s} {'per core-s':>10s} {'memory MB':>10s} {'own MB':>7s} {'others':>7s}"
        + (f" {'GPU MB':>7s}" if device == "cuda" else "")
    )
    for name, found in rows.items():
        middle, low, high = ratio(found, rows[baseline])
        rate = statistics.median(one.rate for one in found)
        others = max(one.others or 0.0 for one in found)
        print(
            f"{name:34s} {rate:9.0f} {f'{middle:.2f} ({low:.2f} to {high:.2f})':>20s}"
            f" {statistics.median(one.per_core for one in found):10.0f}"
            f" {max(one.memory for one in found):10.0f} {max(one.private for one in found):7.0f} {others:7.0%}"
            + (f" {max(one.gpu_memory for one in found):7.0f}" if device == "cuda" else "")
        )


def main() -> None:
    """Run the rounds and print the tables."""
    parser = parser_of(__doc__ or "", seconds=20.0)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--child", nargs=2, metavar=("THREADS", "DEVICE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        _train(int(args.child[0]), args.seconds, args.child[1])
        return
    gpu = _gpu()
    results = {device: _compare(device, args) for device in ("cpu", *(["cuda"] if gpu else []))}
    for device, rows in results.items():
        _print_table(rows, device)
    print(f"\n{cores()} cores; GPU: {gpu or 'none, so nothing is known of processes that share one'}")
    if args.results:
        content = {
            device: {name: [asdict(one) for one in found] for name, found in rows.items()}
            for device, rows in results.items()
        }
        args.results.write_text(json.dumps({"cores": cores(), "gpu": gpu, **content}, indent=1))


if __name__ == "__main__":
    main()

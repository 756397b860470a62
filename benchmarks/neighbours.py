"""Speed and memory of the exact nearest-neighbour search against chunked `torch.cdist` + `topk`.

Prints the times of both, the median ratio and the peak extra memory of each; exits with 1 if the search is
less than twice as fast or needs 250 MB or more beyond its inputs.

On `--kind noise` nothing can be pruned, and the search is about as fast as the baseline; the required speedup is
for images.

    python benchmarks/neighbours.py --queries 2048 --references 50000 --dim 3072 --rounds 3
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from diffmem.memorization.neighbours.neighbours import nearest_neighbours

SPEED_BAR = 2
MEMORY_BAR_MB = 250
CHUNK = 8192


def images(kind: str, count: int, dim: int, seed: int) -> torch.Tensor:
    """Return uint8 rows (count, dim).

    'image' rows are random colour fields with the statistics that matter here set near those of CIFAR-10: a
    spectrum that falls with frequency (nine tenths of the variance lie in 128 directions), contrast that
    varies between images, and a nearest neighbour at about a sixth of the mean squared distance. 'noise' rows
    have none: the hardest case.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.empty(count, dim, dtype=torch.uint8)
    size = round((dim / 3) ** 0.5)
    if kind == "noise":
        for start in range(0, count, 1024):
            part = rows[start : start + 1024]
            part.copy_(torch.randint(0, 256, part.shape, generator=generator, dtype=torch.uint8))
        return rows
    if 3 * size * size != dim:
        raise SystemExit(
            f"--dim {dim} is not 3 * size * size; choose for example 3072 (32 x 32), or --kind noise."
        )
    frequency = torch.fft.fftfreq(size)[:, None].square() + torch.fft.rfftfreq(size).square()
    amplitude = (frequency.sqrt() + 0.5 / size) ** -1.5
    colours = torch.tensor([[1.0, 0.3, 0.1], [1.0, 0.0, -0.2], [1.0, -0.3, 0.1]])
    for start in range(0, count, 1024):
        part = rows[start : start + 1024]
        white = torch.randn(len(part), 3, size, size, generator=generator)
        field = torch.fft.irfft2(torch.fft.rfft2(white) * amplitude, s=(size, size))
        field = torch.einsum("cd,ndhw->nchw", colours, field).flatten(1)
        contrast = 52 * torch.exp(0.5 * torch.randn(len(part), 1, generator=generator))
        part.copy_((field / field.std() * contrast + 122).clamp(0, 255))
    return rows


def baseline(queries: torch.Tensor, references: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Find neighbours as is usual: distances to 8,192 references at a time, then the k smallest."""
    best = torch.empty(len(queries), 0)
    index = torch.empty(len(queries), 0, dtype=torch.int64)
    for start in range(0, len(references), CHUNK):
        distances = torch.cdist(queries, references[start : start + CHUNK])
        values, at = distances.topk(k, largest=False)
        values, at = torch.cat([best, values], 1), torch.cat([index, at + start], 1)
        best, order = values.topk(k, largest=False)
        index = at.gather(1, order)
    return best, index


def peak_megabytes() -> float:
    """Return the highest resident memory of this process so far."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def current_megabytes() -> float:
    """Return the resident memory of this process."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def run(kind: str, queries: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Run one of the methods and return the indices of the two nearest."""
    if kind == "cdist":
        return baseline(queries, references, 2)[1]
    return torch.from_numpy(nearest_neighbours(queries, references, 2).indices)


def extra_memory(kind: str, arguments: argparse.Namespace) -> float:
    """Return the megabytes that one run adds to a fresh process that already holds its inputs."""
    sizes = [f"--{name}={getattr(arguments, name)}" for name in ("queries", "references", "dim", "kind")]
    command = [sys.executable, __file__, f"--memory-of={kind}", *sizes]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def report_memory(kind: str, queries: torch.Tensor, references: torch.Tensor) -> None:
    """Print the megabytes that a run adds: the high-water mark is first set back to what the inputs need."""
    if kind != "uint8":
        queries, references = queries.float(), references.float()
    warm = torch.randn(256, 256)
    torch.mm(warm, warm)  # the thread pool and the library's own buffers are not the method's
    Path("/proc/self/clear_refs").write_text("5")
    before = current_megabytes()
    run(kind, queries, references)
    print(peak_megabytes() - before)


def main() -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(
        description="Exact nearest neighbours against chunked torch.cdist + topk."
    )
    parser.add_argument("--queries", type=int, default=2048)
    parser.add_argument("--references", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=3072)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--kind", choices=["image", "noise"], default="image", help="image-like data, or pure noise"
    )
    parser.add_argument("--memory-of", choices=["uint8", "float32", "cdist"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    references = images(arguments.kind, arguments.references, arguments.dim, seed=0)
    queries = images(arguments.kind, arguments.queries, arguments.dim, seed=1)
    half = min(
        len(queries) // 2, len(references)
    )  # of the queries are noisy copies, as a model that memorizes makes them
    grain = torch.randint(
        -8, 9, (half, arguments.dim), generator=torch.Generator().manual_seed(2), dtype=torch.int16
    )
    queries[:half] = (references[:half] + grain).clamp(0, 255).to(torch.uint8)
    if arguments.memory_of:
        report_memory(arguments.memory_of, queries, references)
        return 0

    float_queries, float_references = queries.float(), references.float()
    inputs = {
        "uint8": (queries, references),
        "float32": (float_queries, float_references),
        "cdist": (float_queries, float_references),
    }
    times: dict[str, list[float]] = {kind: [] for kind in inputs}
    found: dict[str, torch.Tensor] = {}
    for round_ in range(arguments.rounds):
        for kind, (asked, known) in inputs.items():
            begin = time.perf_counter()
            found[kind] = run(kind, asked, known)
            times[kind].append(time.perf_counter() - begin)
        print(
            f"round {round_ + 1}: " + ", ".join(f"{kind} {taken[-1]:.2f} s" for kind, taken in times.items()),
            flush=True,
        )

    same = float((found["uint8"] == found["cdist"]).all(1).double().mean())
    identical = bool((found["uint8"] == found["float32"]).all())
    print(
        f"neighbours: uint8 and float32 inputs identical: {identical}; queries where cdist agrees: {same:.2%}"
    )
    wrong = worse(found["cdist"], found["uint8"], queries, references)
    print(f"queries where cdist found nearer images than the search: {wrong}")
    memory = {kind: extra_memory(kind, arguments) for kind in inputs}
    failed = wrong > 0 or not identical
    for kind in ("uint8", "float32"):
        ratio = statistics.median(slow / fast for slow, fast in zip(times["cdist"], times[kind], strict=True))
        good = ratio >= SPEED_BAR and memory[kind] < MEMORY_BAR_MB
        failed |= not good
        print(
            f"{kind} inputs: {statistics.median(times[kind]):.2f} s "
            f"against {statistics.median(times['cdist']):.2f} s, "
            f"{ratio:.2f} times as fast (required {SPEED_BAR}); extra memory {memory[kind]:.0f} MB against "
            f"{memory['cdist']:.0f} MB (required {MEMORY_BAR_MB}): {'passed' if good else 'FAILED'}"
        )
    return int(failed)


def worse(other: torch.Tensor, ours: torch.Tensor, queries: torch.Tensor, references: torch.Tensor) -> int:
    """Count the queries for which `other` has a nearer neighbour at some rank, in exact arithmetic."""
    differing = (other != ours).any(1).nonzero()[:, 0]

    def squares(index: torch.Tensor) -> np.ndarray:
        gap = queries[differing, None].to(torch.int32) - references[index[differing]].to(torch.int32)
        return np.sort(gap.square().sum(2).numpy(), axis=1)

    return int((squares(other) < squares(ours)).any(1).sum())


if __name__ == "__main__":
    sys.exit(main())

"""Speed and memory of the indexed neighbour search and the near-duplicate join, against brute force.

The searches (10,000 held-out images, and 10,000 copies with noise of 8 grey levels, for their two nearest of 50,000) run
against the faster of faiss-cpu's `knn()` and `IndexFlatL2`, on the same number of threads; the join against a dense
blocked product of the upper triangle. All runs are interleaved; ratios are medians over rounds. Exits with 1 if a required
value is missed or a baseline found a nearer image. Where integer products are so fast that the search does without the index, that is
what is measured (see neighbours.py); ONEDNN_MAX_CPU_ISA=AVX2 shows a processor without them.

    pip install -e '.[bench]'
    python benchmarks/neighbour_index.py --data cifar-10-python.tar.gz

Without --data, synthetic images with a similar spectrum are used. The baselines take minutes; --share 0.1 gives them a tenth of the
queries and scales their times.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffmem.data import open_images
from diffmem.memorization.neighbours.index import NeighbourIndex
from diffmem.memorization.neighbours.near import pairs_within
from diffmem.memorization.neighbours.neighbours import nearest_neighbours
from neighbours import current_megabytes, images, peak_megabytes, worse

BARS = {
    "held-out, index built": (6, 10),
    "held-out, building counted": (4, 8),
    "copies, index built": (8, 15),
    "copies, building counted": (0, 0),
    "near pairs, building counted": (10, 30),
}
MEMORY_BAR_MB = 400
DIM = 3072
NOISE = 8
BLOCK = 2048


def sets(arguments: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Return references and held-out queries, uint8 rows."""
    if arguments.data is None:
        return images("image", arguments.references, DIM, seed=0), images(
            "image", arguments.queries, DIM, seed=1
        )
    parts = [open_images(arguments.data, split).images for split in ("train", "test")]
    counts = arguments.references, arguments.queries
    references, queries = (
        torch.from_numpy(part[:count].reshape(-1, DIM).copy())
        for part, count in zip(parts, counts, strict=True)
    )
    return references, queries


def noisy_copies(references: Tensor, count: int) -> Tensor:
    """Return references with noise, clipped and rounded to uint8."""
    generator = torch.Generator().manual_seed(0)
    chosen = references[torch.randperm(len(references), generator=generator)[:count]].float()
    grain = NOISE * torch.randn(chosen.shape, generator=generator)
    return (chosen + grain).round_().clamp_(0, 255).to(torch.uint8)


def dense_join(rows: Tensor, radius: float, share: float) -> int:
    """Count pairs within a radius by float32 products of blocks of the upper triangle, or of a share of its rows."""
    values = rows - rows.mean(0)
    norms, found, buffer = values.square().sum(1), 0, torch.empty(BLOCK * BLOCK)
    for start in range(0, round(len(rows) * (1 - (1 - share) ** 0.5)), BLOCK):
        left, square = values[start : start + BLOCK], norms[start : start + BLOCK, None]
        for first in range(start, len(rows), BLOCK):
            right = values[first : first + BLOCK]
            product = buffer[: len(left) * len(right)].view(len(left), len(right))
            torch.addmm(norms[first : first + BLOCK], left, right.T, alpha=-2, out=product)
            limit = radius**2 - square
            if first == start:
                found += int((product <= limit).triu(1).sum())
            elif bool((product.amin(1, keepdim=True) <= limit).any()):
                found += int((product <= limit).sum())
    return found


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that a call took, and its result."""
    begin = time.perf_counter()
    result = work()
    return time.perf_counter() - begin, result


def extra_memory(kind: str, arguments: argparse.Namespace) -> float:
    """Return the megabytes that one piece of work adds to a fresh process that already holds its inputs."""
    command = [sys.executable, __file__, f"--memory-of={kind}"]
    command += [f"--{name}={getattr(arguments, name)}" for name in ("queries", "references")]
    command += [f"--data={arguments.data}"] if arguments.data else []
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def report_memory(kind: str, references: Tensor, queries: Tensor) -> None:
    """Print the megabytes that some work adds."""
    index = NeighbourIndex.build(references) if kind == "search" else None
    warm = torch.randn(256, 256)
    torch.mm(warm, warm)  # the thread pool and the library's own buffers are not the method's
    Path("/proc/self/clear_refs").write_text("5")
    before = current_megabytes()
    if kind == "build":
        NeighbourIndex.build(references)
    elif kind == "near pairs":
        pairs_within(references, DIM**0.5)
    else:
        nearest_neighbours(queries, references, 2, index=index)
    print(peak_megabytes() - before)


def speed(arguments: argparse.Namespace, references: Tensor, heldout: Tensor) -> bool:
    """Run the interleaved rounds; return whether something failed."""
    try:
        import faiss
    except ImportError:
        raise SystemExit(
            "The baseline faiss-cpu is not installed: pip install faiss-cpu, and run again."
        ) from None

    faiss.omp_set_num_threads(torch.get_num_threads())
    known = references.float().numpy()
    flat = faiss.IndexFlatL2(DIM)
    flat.add(known)
    ratios: dict[str, list[float]] = {name: [] for name in BARS}
    failed, index = False, None
    for _ in range(arguments.rounds):
        building, index = timed(lambda: NeighbourIndex.build(references))
        print(f"building the index: {building:.2f} s", flush=True)
        for name, queries in (
            ("held-out", heldout),
            ("copies", noisy_copies(references, len(heldout))),
        ):
            few = round(len(queries) * arguments.share)
            asked = queries[:few].float().numpy()
            searching, found = timed(partial(nearest_neighbours, queries, references, 2, index=index))
            knn, (_, theirs) = timed(partial(faiss.knn, asked, known, 2))
            searching_again, _ = timed(partial(nearest_neighbours, queries, references, 2, index=index))
            searched, _ = timed(partial(flat.search, asked, 2))
            searching = (searching + searching_again) / 2  # both sides are measured twice, in turn
            passing, _ = timed(partial(nearest_neighbours, queries, references, 2))
            baseline = min(knn, searched) * len(queries) / few
            ratios[f"{name}, index built"].append(baseline / searching)
            ratios[f"{name}, building counted"].append(baseline / passing)
            wrong = worse(
                torch.from_numpy(theirs), torch.from_numpy(found.indices[:few]), queries[:few], references
            )
            failed |= wrong > 0
            print(
                f"{name}: {searching:.2f} s, with building {passing:.2f} s; faiss knn() "
                f"{knn * len(queries) / few:.2f} s, IndexFlatL2 {searched * len(queries) / few:.2f} s; queries where "
                f"faiss found nearer images: {wrong}",
                flush=True,
            )
        joining, near = timed(lambda: pairs_within(references, DIM**0.5))
        values = references.float()
        joined, dense = timed(partial(dense_join, values, DIM**0.5, arguments.share))
        del values
        ratios["near pairs, building counted"].append(joined / arguments.share / joining)
        print(
            f"near pairs: {joining:.2f} s, {len(near)} found; dense {joined / arguments.share:.2f} s, {dense} found",
            flush=True,
        )
    for name, values_of in ratios.items():
        ratio, (bar, aim) = statistics.median(values_of), BARS[name]
        failed |= ratio < bar
        goal = (
            f"(required {bar}x, goal {aim}x): {'passed' if ratio >= bar else 'FAILED'}"
            if bar
            else "(no target)"
        )
        print(f"{name}: {ratio:.1f} times as fast {goal}")
    return failed


def main() -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(description="The indexed neighbour search against brute force.")
    parser.add_argument(
        "--data", help="an archive or folder that `diffmem` reads, with a train and a test split"
    )
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--references", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument(
        "--share", type=float, default=1.0, help="share of their work that the baselines do, 0 to 1"
    )
    parser.add_argument(
        "--memory-of", choices=["build", "search", "in passing", "near pairs"], help=argparse.SUPPRESS
    )
    arguments = parser.parse_args()
    references, heldout = sets(arguments)
    if arguments.memory_of:
        report_memory(arguments.memory_of, references, heldout)
        return 0
    failed = speed(arguments, references, heldout)
    for kind in ("build", "search", "in passing", "near pairs"):
        memory = extra_memory(kind, arguments)
        failed |= memory >= MEMORY_BAR_MB
        print(f"memory beyond the inputs, {kind}: {memory:.0f} MB (required {MEMORY_BAR_MB})")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

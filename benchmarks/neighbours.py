"""Speed and memory of the exact search for the nearest byte images, against the integer products alone and the usual ways.

First measures how fast this machine multiplies: all ratios depend on g, the rate of int8 products over that of float32. Then, in
turn: the integer products alone; the search; `addmm` + `topk` in float32; faiss's exact search without an index, if faiss-cpu is
installed; for 2 and for 51 neighbours. Then the leave-one-out search of the references, and the memory that searches add.
Exits with 1 if a required ratio is missed or a baseline found a nearer image.

    python benchmarks/neighbours.py --data cifar-10-python.tar.gz
    python benchmarks/neighbours.py --data cifar-10-python.tar.gz --million /tmp/million.bin

--million searches 10^6 images in a memory map instead (the data under shifts, flips and noise; written first, 3 GB, unless the file
is there). Without --data, synthetic images with a similar spectrum are used.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from diffmem.data import open_images
from diffmem.integers import integer_products
from diffmem.memorization.neighbours.neighbours import nearest_neighbours
from diffmem.threads import dealt
from rates import describe_machine, product_rates

PRODUCTS_BAR = 1.5  # times the integer products alone
LEAVE_ONE_OUT_BAR = 15  # seconds for 50,000 images of 3,072 values on two idle cores at g = 10
MEMORY_BAR_MB = 400
MILLION_BAR = 1.3  # times the time of a pair in the small set
MILLION = 10**6
DIM = 3072
CHUNK = 8192
ROWS, WIDTH = 4096, 512  # of the products alone

Rows = torch.Tensor


def images(kind: str, count: int, dim: int, seed: int) -> Rows:
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


def sets(arguments: argparse.Namespace) -> tuple[Rows, Rows]:
    """Return references and queries, uint8 rows."""
    if arguments.data is None:
        kind, dim = arguments.kind, arguments.dim
        return images(kind, arguments.references, dim, seed=0), images(kind, arguments.queries, dim, seed=1)
    references, queries = (
        torch.from_numpy(open_images(arguments.data, split).images[:count].copy()).flatten(1)
        for split, count in (("train", arguments.references), ("test", arguments.queries))
    )
    return references, queries


def baseline(queries: Rows, references: Rows, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Find neighbours as is usual, in float32: products with 8,192 references at a time, then the k smallest."""
    best, index = torch.empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.int64)
    for start in range(0, len(references), CHUNK):
        some = references[start : start + CHUNK]
        values = torch.addmm(some.square().sum(1), queries, some.T, alpha=-2)
        values, at = values.topk(k, largest=False)
        best, order = torch.cat([best, values], 1).topk(k, largest=False)
        index = torch.cat([index, at + start], 1).gather(1, order)
    return best, index


def products_alone(queries: Rows, references: Rows) -> None:
    """Compute the integer products of all pairs, of int8 rows that are there already, and nothing else."""
    products = integer_products()

    def work(part: Rows) -> None:
        out = torch.empty(len(part), WIDTH, dtype=torch.int32)
        for some in queries.split(WIDTH):
            products(part, some.T, out if len(some) == WIDTH else None)

    list(dealt(work, references.split(ROWS)))


def timed(work: Callable[[], object]) -> tuple[float, object]:
    """Return the seconds that a call took, and its result."""
    begin = time.perf_counter()
    result = work()
    return time.perf_counter() - begin, result


def search(queries: Rows, references: Rows, k: int) -> np.ndarray:
    """Return the indices that the search finds."""
    return nearest_neighbours(queries, references, k).indices


def faiss_search(references: Rows) -> Callable[[Rows, int], np.ndarray] | None:
    """Return faiss's exact search without an index among float32 rows; none where it is not installed."""
    try:
        import faiss
    except ImportError:
        print("faiss-cpu is not installed and left out (pip install faiss-cpu).")
        return None
    faiss.omp_set_num_threads(torch.get_num_threads())
    flat = faiss.IndexFlatL2(references.shape[1])
    flat.add(references.numpy())
    return lambda queries, k: flat.search(queries.numpy(), k)[1]


def worse(other: torch.Tensor, ours: torch.Tensor, queries: Rows, references: Rows) -> int:
    """Count the queries for which `other` has a nearer neighbour at some rank, in exact arithmetic."""
    differing = (other != ours).any(1).nonzero()[:, 0]

    def squares(index: torch.Tensor) -> np.ndarray:
        gap = queries[differing, None].to(torch.int32) - references[index[differing]].to(torch.int32)
        return np.sort(gap.square().sum(2).numpy(), axis=1)

    return int((squares(other) < squares(ours)).any(1).sum())


def required(g: float) -> float:
    """Return how many times as fast as float32 the search must be: 2.5 times at g = 4, 6 times at g = 10."""
    return max(0.9, 2.5 + (g - 4) * 3.5 / 6)


def compare(arguments: argparse.Namespace, g: float) -> bool:
    """Compare the ways to search; return whether a requirement was missed."""
    references, queries = sets(arguments)
    floats, asked = references.float(), queries.float()
    signed = [rows.view(torch.int8) ^ -128 for rows in (queries, references)]
    faiss = faiss_search(floats)
    failed = False
    for k in (2, 51):
        ways: dict[str, Callable[[], object]] = {
            "products alone": partial(products_alone, *signed),
            "search": partial(search, queries, references, k),
            "addmm + topk": partial(baseline, asked, floats, k),
        }
        if faiss is not None:
            ways["faiss IndexFlatL2"] = partial(faiss, asked, k)
        best = dict.fromkeys(ways, float("inf"))
        for _ in range(arguments.rounds):
            for name, work in ways.items():
                seconds, found = timed(work)
                best[name] = min(best[name], seconds)
                if name == "search":
                    ours = torch.from_numpy(found)
                elif name != "products alone":
                    theirs = found[1] if isinstance(found, tuple) else torch.from_numpy(found)
                    nearer = worse(theirs, ours, queries, references)
                    failed |= nearer > 0
                    if nearer:
                        print(f"FAILED: {name} found nearer images for {nearer} queries")
        print(f"k = {k}: " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in best.items()))
        failed |= judged(
            "  search over products alone", best["search"] / best["products alone"], most=PRODUCTS_BAR
        )
        for name in list(ways)[2:]:
            failed |= judged(f"  {name} over search", best[name] / best["search"], least=required(g))
    alone, _ = timed(partial(search, references, references, 3))
    limit = LEAVE_ONE_OUT_BAR * (len(references) / 50_000) ** 2 * references.shape[1] / DIM * max(1, 10 / g)
    return failed | judged("leave-one-out search of the references, seconds", alone, most=limit)


def judged(what: str, value: float, *, most: float = np.inf, least: float = 0) -> bool:
    """Print a value beside what is required; return whether it was missed."""
    bad = not least <= value <= most
    bar = f"at least {least:.2f}" if least else f"at most {most:.2f}"
    print(f"{what}: {value:.2f} (required {bar}): {'FAILED' if bad else 'passed'}", flush=True)
    return bad


def current_megabytes() -> float:
    """Return the resident memory of this process."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def peak_megabytes() -> float:
    """Return the highest resident memory of this process so far."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def own_megabytes() -> float:
    """Return the resident memory of this process that is not of a mapped file."""
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) / 1024


def most_memory(work: Callable[[], object]) -> float:
    """Return the most megabytes that a piece of work adds, of memory that is not of a mapped file."""
    warm = torch.randn(256, 256)
    torch.mm(warm, warm)  # the thread pool and the library's own buffers are not the method's
    before, most, done = own_megabytes(), 0.0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.01):
            most = max(most, own_megabytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    done.set()
    watcher.join()
    return most - before


def memory_of(kind: str, arguments: argparse.Namespace) -> float:
    """Return the megabytes that a search adds to a fresh process that already holds its inputs."""
    command = [sys.executable, __file__, f"--memory-of={kind}"]
    command += [f"--{name}={getattr(arguments, name)}" for name in ("queries", "references", "dim", "kind")]
    command += [f"--data={arguments.data}"] if arguments.data else []
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def report_memory(kind: str, arguments: argparse.Namespace) -> None:
    """Print the megabytes that a search adds."""
    references, queries = sets(arguments)
    if kind == "leave-one-out":
        queries = references
    elif kind == "float32":
        queries, references = queries.float(), references.float()
    print(most_memory(partial(search, queries, references, 2)))


def varied(path: Path, references: Rows) -> np.ndarray:
    """Return a read-only memory map of 10^6 images: the references under seeded shifts, flips and noise; written unless there."""
    count, dim = references.shape
    size = round((dim / 3) ** 0.5)
    if not path.exists():
        written = np.memmap(path, np.uint8, "w+", shape=(MILLION, dim))
        rng = np.random.default_rng(0)
        for first in range(0, MILLION, count):
            down, right = rng.integers(-3, 4, 2)
            some = references[: min(count, MILLION - first)].view(-1, 3, size, size).numpy()
            some = np.roll(some, (down, right), (2, 3))[..., :: rng.choice([-1, 1])]
            for at in range(0, len(some), CHUNK):
                part = some[at : at + CHUNK].astype(np.int16)
                part += rng.integers(-8, 9, part.shape, np.int16)
                written[first + at : first + at + len(part)] = part.clip(0, 255).reshape(len(part), -1)
        written.flush()
    return np.memmap(path, np.uint8, "r", shape=(MILLION, dim))


def compare_million(arguments: argparse.Namespace) -> bool:
    """Search 10^6 images in a memory map; return whether a requirement was missed."""
    references, queries = sets(arguments)
    mapped = varied(arguments.million, references)
    small = min(timed(partial(search, queries, references, 2))[0] for _ in range(2))
    taken = 0.0

    def work() -> None:
        nonlocal taken
        taken, _ = timed(lambda: nearest_neighbours(queries, mapped, 2))

    memory = most_memory(work)
    small = min(small, timed(partial(search, queries, references, 2))[0])
    print(
        f"{len(queries)} queries: {small:.2f} s among {len(references)}, {taken:.2f} s among {MILLION} in a memory map"
    )
    ratio = taken / MILLION / (small / len(references))
    missed = judged("time of a pair over that in the small set", ratio, most=MILLION_BAR)
    return missed | judged("megabytes beside the map", memory, most=MEMORY_BAR_MB)


def main() -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(
        description="Exact nearest neighbours against products alone, addmm + topk and faiss."
    )
    parser.add_argument(
        "--data", help="an archive or folder that `diffmem` reads, with a train and a test split"
    )
    parser.add_argument("--queries", type=int, default=4000)
    parser.add_argument("--references", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=DIM, help="values in an image, without --data")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--kind", choices=["image", "noise"], default="image", help="image-like data, or pure noise"
    )
    parser.add_argument("--million", type=Path, help="search 10^6 images in this memory-mapped file instead")
    parser.add_argument("--memory-of", choices=["bytes", "leave-one-out", "float32"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        report_memory(arguments.memory_of, arguments)
        return 0
    print(describe_machine())
    slow, fast = product_rates(ROWS, arguments.dim, WIDTH)
    g = fast / slow
    print(f"products: float32 {slow:.0f} GFLOP/s, int8 {fast:.0f} GOP/s, g = {g:.1f}", flush=True)
    if arguments.million:
        return int(compare_million(arguments))
    failed = compare(arguments, g)
    for kind in ("bytes", "leave-one-out", "float32"):
        failed |= judged(
            f"megabytes beyond the inputs, {kind}", memory_of(kind, arguments), most=MEMORY_BAR_MB
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

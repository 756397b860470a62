"""Draw docs/pictures/neighbours_*.png: the cost of a search against the size of the set, and the pairs that bounds leave.

    python benchmarks/plot_neighbours.py cost --map million.bin
    python benchmarks/plot_neighbours.py survivors --data cifar-10-python.tar.gz
    python benchmarks/plot_neighbours.py draw

`cost` times the search by integers, with an index, in plain float32 (`addmm` + `topk`) and by faiss, if installed, on one core and
draws them. The set is that of `neighbours.py --million` (--map: written unless it is there; with --data of the data, else synthetic).
What is measured is added to a JSON file (--results), which `draw` reads.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from diffmem.data import open_images
from diffmem.memorization.neighbours import cascade
from diffmem.memorization.neighbours.index import NeighbourIndex
from diffmem.memorization.neighbours.neighbours import nearest_neighbours
from neighbour_index import DIM, noisy_copies
from neighbours import baseline, faiss_search, sets, varied
from rates import describe_machine, product_rates

DIRECTIONS = [1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 160, 256]
SIZES = [1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000]
PLAIN = 50_000  # references of the float32 ways at most; their costs grow in proportion
WAYS = {
    "integers": ("integer products", "o-", "#0072B2"),
    "index": ("with an index", "s-", "#009E73"),
    "building": ("building the index / 1,000", "s--", "grey"),
    "faiss": ("faiss IndexFlatL2", "v-", "#CC79A7"),
    "float32": ("float32 addmm + topk", "^-", "#D55E00"),
}


def survivors(data: str) -> dict[str, Any]:
    """Return, for each number of directions, how many references the bound leaves for the two nearest."""
    references, heldout = (
        torch.from_numpy(open_images(data, split).images.reshape(-1, DIM).copy())
        for split in ("train", "test")
    )
    index = NeighbourIndex.build(references)
    places = index.order.argsort()[-len(references) :]  # of the references, in their order
    found: dict[str, Any] = {"directions": DIRECTIONS}
    for name, queries in (("held-out", heldout[:500]), ("copies", noisy_copies(references, 500))):
        limit = torch.from_numpy(
            nearest_neighbours(queries, references, 2, index=index).distances[:, 1]
        ).square()
        centred = queries.float() - index.centre
        found[name] = []
        parts = torch.cat([index.sketch.second[:, :-2], index.sketch.third[:, :-2]], 1)[places]
        projected = centred @ index.basis
        for cut in DIRECTIONS:
            left, right = projected[:, :cut], parts[:, :cut]
            radii = [
                (norms - part.square().sum(1)).clamp_min(0).sqrt()
                for norms, part in (
                    (centred.square().sum(1), left),
                    (index.sketch.norms[places].float(), right),
                )
            ]
            bound = torch.cdist(left, right).square_() + (radii[0][:, None] - radii[1]).square_()
            found[name].append(float((bound <= limit[:, None]).sum(1).double().mean()))
    return found


def milliseconds(work: Callable[[], object]) -> float:
    """Return the least milliseconds of this process, on one core, of a few calls: whatever else the machine does."""
    best = float("inf")
    for _ in range(2):
        begin = time.process_time()
        work()
        best = min(best, 1000 * (time.process_time() - begin))
    return best


def cost(references: np.ndarray, queries: torch.Tensor) -> dict[str, float]:
    """Return the milliseconds of one core for a query by each way, and those of building an index."""
    count, asked = len(references), len(queries)
    point = {"images": count}
    point["integers"] = milliseconds(lambda: nearest_neighbours(queries, references, 2)) / asked
    with mock.patch.object(cascade, "dense_pays", return_value=False):
        begin = time.process_time()
        index = NeighbourIndex.build(references)
        point["building"] = time.process_time() - begin
        point["index"] = milliseconds(lambda: nearest_neighbours(queries, references, 2, index=index)) / asked
    few, known = queries[:256].float(), torch.from_numpy(references[:PLAIN].copy()).float()
    scale = count / len(known) / len(few)
    point["float32"] = milliseconds(partial(baseline, few, known, 2)) * scale
    faiss = faiss_search(known)
    if faiss is not None:
        point["faiss"] = milliseconds(partial(faiss, few, 2)) * scale
    return point


def draw(results: dict[str, Any], folder: Path) -> None:
    """Draw what was measured."""
    from matplotlib import pyplot as plt

    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    if "survivors" in results:
        figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
        found = results["survivors"]
        for name, label, marker in (("held-out", "held-out images", "o"), ("copies", "noisy copies", "s")):
            axes.loglog(found["directions"], found[name], marker + "-", ms=4, label=label)
        axes.axhline(2, color="grey", lw=0.8, ls=":")
        axes.set(
            xlabel="directions in the bound",
            ylabel="references left of 50,000 (mean)",
            title="What the bounds leave for the two nearest",
        )
        axes.set_xticks([1, 2, 4, 8, 16, 32, 64, 128, 256], [1, 2, 4, 8, 16, 32, 64, 128, 256])
        axes.minorticks_off()
        axes.legend(frameon=False)
        figure.savefig(folder / "neighbours_survivors.png", dpi=150)
    if results.get("cost"):
        figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
        points = sorted(results["cost"].values(), key=lambda point: point["images"])
        for key, (label, marker, colour) in reversed(WAYS.items()):
            some = [point for point in points if key in point]
            sizes, values = [point["images"] for point in some], [point[key] for point in some]
            axes.loglog(sizes, values, marker, ms=4, color=colour, label=label)
        axes.set(
            xlabel="references",
            ylabel="milliseconds of one core",
            title=f"A query for the two nearest, {DIM:,} values each, g = {results['g']:.1f}",
        )
        axes.legend(frameon=False)
        figure.savefig(folder / "neighbours_cost.png", dpi=150)


def main() -> None:
    """Measure and draw."""
    parser = argparse.ArgumentParser(description="Pictures of the neighbour search.")
    parser.add_argument("what", choices=["survivors", "cost", "draw"])
    parser.add_argument("--data", help="the CIFAR-10 archive")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--map", type=Path, default=Path("million.bin"), help="the file of the set of `cost`")
    parser.add_argument("--results", type=Path, default=Path("neighbours.json"))
    parser.add_argument("--pictures", type=Path, default=Path("docs/pictures"))
    arguments = parser.parse_args()
    results: dict[str, Any] = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
    if arguments.what == "survivors":
        if arguments.data is None:
            parser.error("survivors needs --data")
        results["survivors"] = survivors(arguments.data)
        print(results["survivors"])
    if arguments.what == "cost":
        torch.set_num_threads(1)
        arguments.references, arguments.kind, arguments.dim = PLAIN, "image", DIM
        references, queries = sets(arguments)
        mapped = varied(arguments.map, references)
        slow, fast = product_rates(4096, DIM, 512)
        results["g"] = fast / slow
        print(
            f"{describe_machine()}; float32 {slow:.0f} GFLOP/s, int8 {fast:.0f} GOP/s, g = {fast / slow:.1f}"
        )
        for size in arguments.sizes:
            point = cost(mapped[:size], queries)
            results.setdefault("cost", {})[str(size)] = point
            print({key: round(value, 3) for key, value in point.items()}, flush=True)
    arguments.results.write_text(json.dumps(results, indent=1))
    draw(results, arguments.pictures)


if __name__ == "__main__":
    main()

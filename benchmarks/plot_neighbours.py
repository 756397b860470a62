"""Draw docs/pictures/neighbours_*.png: pairs that the bounds leave, and the cost of a search against the size of the set.

    python benchmarks/plot_neighbours.py survivors --data cifar-10-python.tar.gz
    python benchmarks/plot_neighbours.py cost --sizes 1000 3000 10000 30000 50000
    python benchmarks/plot_neighbours.py cost --sizes 1000000 --map set.bin
    python benchmarks/plot_neighbours.py draw

The first two add what they measure to a JSON file (--results), which `draw` reads. The set of `cost` is synthetic, with a
spectrum like that of CIFAR-10 (see neighbours.py), in a memory-mapped file: 3 kB for each image.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffmem.data import open_images
from diffmem.memorization.neighbours.index import NeighbourIndex
from diffmem.memorization.neighbours.neighbours import nearest_neighbours
from neighbour_index import DIM, noisy_copies
from neighbours import baseline, images

DIRECTIONS = [1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 160, 256]
QUERIES = 1000
DENSE_QUERIES = 128
CHUNK = 10_000


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


def grown(path: Path, count: int) -> np.ndarray:
    """Return a read-only memory map of synthetic images, which are written first unless the file exists."""
    if not path.exists():
        written = np.memmap(path, np.uint8, "w+", shape=(count, DIM))
        for seed, at in enumerate(range(0, count, CHUNK)):
            written[at : at + CHUNK] = images("image", min(CHUNK, count - at), DIM, seed=seed).numpy()
        written.flush()
    return np.memmap(path, np.uint8, "r", shape=(count, DIM))


def cost(path: Path, count: int) -> dict[str, float]:
    """Return the milliseconds of one core for a query with an index and by a dense product, and those of building."""
    torch.set_num_threads(
        1
    )  # so that the time of the process is the work done, whatever else the machine does
    references = grown(path, count)
    queries = images("image", QUERIES, DIM, seed=10**6)
    begin = time.process_time()
    index = NeighbourIndex.build(references)
    built = time.process_time()
    nearest_neighbours(queries, references, 2, index=index)
    searched = time.process_time()
    dense, part = 0.0, min(count, 50_000)
    few, known = queries[:DENSE_QUERIES].float(), torch.from_numpy(references[:part].copy()).float()
    for _ in range(2):
        at = time.process_time()
        baseline(few, known, 2)
        dense = min(dense or 1e9, time.process_time() - at)
    return {
        "images": count,
        "search": 1000 * (searched - built) / QUERIES,
        "dense": 1000 * dense / DENSE_QUERIES * count / part,
        "building": 1000 * (built - begin),
    }


def draw(results: dict[str, Any], folder: Path) -> None:
    """Draw both pictures."""
    from matplotlib import pyplot as plt

    plt.rcParams.update(
        {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none"}
    )
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
        sizes = [point["images"] for point in points]
        axes.loglog(sizes, [point["dense"] for point in points], "^-", ms=4, label="cdist + topk, a query")
        axes.loglog(sizes, [point["search"] for point in points], "o-", ms=4, label="indexed search, a query")
        per = [point["building"] / 1000 for point in points]
        axes.loglog(sizes, per, "s--", ms=4, color="grey", label="building the index / 1,000")
        axes.set(
            xlabel="references",
            ylabel="milliseconds of one core",
            title="Cost of the two nearest, 3,072 values each",
        )
        axes.legend(frameon=False)
        figure.savefig(folder / "neighbours_cost.png", dpi=150)


def main() -> None:
    """Measure or draw."""
    parser = argparse.ArgumentParser(description="Pictures of the neighbour search.")
    parser.add_argument("what", choices=["survivors", "cost", "draw"])
    parser.add_argument("--data", help="the CIFAR-10 archive, for survivors")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 3000, 10_000, 30_000, 50_000])
    parser.add_argument("--map", type=Path, help="keep the set of `cost` in this file, for one size")
    parser.add_argument("--results", type=Path, default=Path("neighbours.json"))
    parser.add_argument("--pictures", type=Path, default=Path("docs/pictures"))
    arguments = parser.parse_args()
    results: dict[str, Any] = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
    if arguments.what == "survivors":
        if arguments.data is None:
            parser.error("survivors needs --data")
        results["survivors"] = survivors(arguments.data)
        print(results["survivors"])
    for size in arguments.sizes if arguments.what == "cost" else []:
        with tempfile.TemporaryDirectory() as folder:
            point = cost(arguments.map or Path(folder) / "set.bin", size)
        results.setdefault("cost", {})[str(size)] = point
        print(point, flush=True)
    arguments.results.write_text(json.dumps(results, indent=1))
    if arguments.what == "draw":
        draw(results, arguments.pictures)


if __name__ == "__main__":
    main()

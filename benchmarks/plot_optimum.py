"""Pictures of sampling from the closed-form optimum: the time of each call, and the cost against the number of images.

    python benchmarks/plot_optimum.py calls --data cifar-10-python.tar.gz --out docs/pictures
    python benchmarks/plot_optimum.py cost --out docs/pictures

`cost` uses synthetic images with the spectrum of photographs, from 200,000 on as a memory map in a temporary folder. Its numbers are
kept in a file beside the picture, so that sizes can be measured one after another.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffmem.data import ImageSet
from diffmem.data.names import NumberedNames
from diffmem.files import write_bytes
from diffmem.optimum.optimum import Optimum
from diffmem.reports.html import png_bytes
from diffmem.reports.style import COLOURS, dress, new_figure
from diffmem.sampling import SamplerConfig
from diffmem.sampling.samplers import sample_latents
from neighbours import images
from optimum import Timed, image_set, sampled

SIZES = [1000, 2000, 5000, 10_000, 20_000, 50_000, 200_000, 1_000_000]
MAPPED = 200_000
BLUE, ORANGE = COLOURS["blue"], COLOURS["vermillion"]


def latents(count: int) -> Tensor:
    """Return standard normal latents (count, 3, 32, 32)."""
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def calls(data: str | None, size: int, queries: int, out: Path) -> None:
    """Draw the seconds of each call of a sampler, beside those of dense float32 passes."""
    images = image_set(data, size)
    timed = Timed(
        Optimum(images), torch.from_numpy(images.images.reshape(len(images), -1)).float() / 127.5 - 1
    )
    for _ in range(2):  # the second time, everything is there
        timed.sigmas.clear()
        for seconds in timed.seconds.values():
            seconds.clear()
        sampled(timed, queries)
    drawn = new_figure(7.2, 3.8)
    axes = drawn.subplots()
    names = {
        "cdist": "torch.cdist, softmax, product",
        "products": "two float32 products",
        "optimum": "integer products",
    }
    styles = {"cdist": ("^:", COLOURS["green"]), "products": ("s--", ORANGE), "optimum": ("o-", BLUE)}
    for name, text in names.items():
        style, colour = styles[name]
        axes.loglog(timed.sigmas, timed.seconds[name], style, color=colour, label=text, markersize=4)
    dress(
        axes, "noise level sigma (sampling goes from right to left)", f"seconds of a call, {queries} queries"
    )
    axes.set_title(f"18 Heun steps from the optimum of {size:,} images")
    axes.legend(loc="center left")
    write_bytes(out / "optimum_calls.png", png_bytes(drawn))


def rows_of(size: int, folder: Path) -> np.ndarray:
    """Return synthetic images (size, 3, 32, 32), in memory or, if there are many, mapped."""
    if size < MAPPED:
        return images("image", size, 3072, seed=0).numpy().reshape(-1, 3, 32, 32)
    mapped = np.lib.format.open_memmap(
        folder / "images.npy", mode="w+", dtype=np.uint8, shape=(size, 3, 32, 32)
    )
    for start in range(0, size, 20_000):
        count = min(20_000, size - start)
        mapped[start : start + count] = (
            images("image", count, 3072, seed=start).numpy().reshape(-1, 3, 32, 32)
        )
    mapped.flush()
    return np.load(folder / "images.npy", mmap_mode="r")


def dense_call(rows: np.ndarray, queries: int) -> float:
    """Return the seconds that a call takes by two float32 products, on at most 50,000 images, scaled to all."""
    clean = torch.from_numpy(rows[:50_000].reshape(min(len(rows), 50_000), -1).astype(np.float32)) / 127.5 - 1
    norms, x = clean.square().sum(1), 10 * latents(queries).flatten(1).float()
    torch.softmax(torch.addmm(norms, x, clean.T), 1) @ clean
    begin = time.perf_counter()
    torch.softmax(torch.addmm(norms, x, clean.T), 1) @ clean
    return (time.perf_counter() - begin) * len(rows) / len(clean)


def cost(sizes: list[int], queries: int, out: Path) -> None:
    """Measure the seconds per generated image at each size, and draw them."""
    kept = out / "optimum_cost.json"
    found = json.loads(kept.read_text()) if kept.exists() else {}
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            rows = rows_of(size, Path(folder))
            optimum = Optimum(ImageSet(rows, None, NumberedNames("image", range(size))))
            begin = time.perf_counter()
            sample_latents(optimum, latents(queries), None, SamplerConfig())
            ours = (time.perf_counter() - begin) / queries
            found[str(size)] = [ours, 35 * dense_call(rows, queries) / queries]
            print(size, queries, found[str(size)], flush=True)
        kept.write_text(json.dumps(found, indent=1))
    chosen = sorted(map(int, found))
    drawn = new_figure(7.2, 3.8)
    axes = drawn.subplots()
    for at, (name, style) in enumerate(
        (("integer products", "o-"), ("two float32 products at every call", "s--"))
    ):
        axes.loglog(
            chosen, [found[str(size)][at] for size in chosen], style, color=(BLUE, ORANGE)[at], label=name
        )
    dress(axes, "training images", "seconds per generated image")
    axes.set_title("18 Heun steps from the optimum, 32x32x3")
    axes.legend()
    write_bytes(out / "optimum_cost.png", png_bytes(drawn))


def main() -> None:
    """Draw one of the pictures."""
    parser = argparse.ArgumentParser(description="Pictures of sampling from the closed-form optimum.")
    parser.add_argument("picture", choices=["calls", "cost"])
    parser.add_argument("--data", help="an image set, for calls; synthetic images if left out")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--queries", type=int, default=64)
    arguments = parser.parse_args()
    if arguments.picture == "calls":
        calls(arguments.data, 50_000, arguments.queries, arguments.out)
    else:
        cost(arguments.sizes, arguments.queries, arguments.out)


if __name__ == "__main__":
    main()

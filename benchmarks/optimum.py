"""Speed of the closed-form optimum against a dense float32 pass (`torch.cdist`, softmax, product) over all images.

Prints the median ratio at several noise levels and over the levels of a whole 18-step Heun sampling, and how far the dense
result is from the optimum; exits with 1 if the sampling is slower than the dense one.

    python benchmarks/optimum.py --images 10000 --queries 64 --rounds 3
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from diffmem.data import ImageSet
from diffmem.models import Optimum
from diffmem.sampling import SamplerConfig, noise_levels
from neighbours import images

SIDE = 32


def timed(work: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Return the seconds that a call took, and its result."""
    begin = time.perf_counter()
    result = work()
    return time.perf_counter() - begin, result


def main() -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(description="The closed-form optimum against a dense pass.")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rows = images("image", arguments.images, 3 * SIDE * SIDE, seed=0)
    names = tuple(map(str, range(len(rows))))
    optimum = Optimum(ImageSet(rows.reshape(-1, 3, SIDE, SIDE).numpy(), None, names))
    clean = rows.float() / 127.5 - 1
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(arguments.queries, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
    start = clean[: arguments.queries].reshape(noise.shape).double()

    def dense(x: Tensor, sigma: float) -> Tensor:
        distances = torch.cdist(x.flatten(1).float(), clean)
        weights = torch.softmax(-distances.square() / (2 * sigma * sigma), 1)
        return (weights @ clean).reshape(x.shape)

    steps = noise_levels(SamplerConfig())[:-1].tolist()
    sampling = [*steps, *steps[1:]]  # Heun evaluates twice at every level but the first
    ratios: dict[str, list[float]] = {}
    apart = 0.0
    for _ in range(arguments.rounds):
        ours, theirs = {}, {}
        for sigma in dict.fromkeys([*steps, 0.3, 1.0, 3.0]):
            x = start + sigma * noise
            ours[sigma], exact = timed(lambda x=x, sigma=sigma: optimum(x, sigma))  # type: ignore[misc]
            theirs[sigma], rough = timed(lambda x=x, sigma=sigma: dense(x, sigma))  # type: ignore[misc]
            apart = max(apart, float((exact - rough).abs().max()))
        for sigma in (steps[-1], 0.3, 1.0, 3.0, steps[0]):
            ratios.setdefault(f"sigma {sigma:g}", []).append(theirs[sigma] / ours[sigma])
        whole = sum(theirs[sigma] for sigma in sampling) / sum(ours[sigma] for sigma in sampling)
        ratios.setdefault("whole sampling", []).append(whole)
    for name, found in ratios.items():
        print(f"{name}: {statistics.median(found):.2f} times as fast as the dense pass")
    print(f"largest difference of the dense float32 pass: {apart:.1e}")
    return int(statistics.median(ratios["whole sampling"]) < 1)


if __name__ == "__main__":
    sys.exit(main())

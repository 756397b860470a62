"""Speed and memory of sampling from the closed-form optimum, against dense float32 passes over all images.

64 images by 18 Heun steps call the denoiser 35 times. At each call, these are timed in turn:

    following   the optimum as samplers use it, incrementally and with certified skipping,
    cdist       `torch.cdist`, softmax, matrix product,
    products    the two matrix products alone: `addmm`, softmax, `mm`,

the last two on images in float32. Prints both ratios of the sums, with the seconds at each noise level, how many
pairs of a query and an image were computed, how far the answers are apart, and the peak memory beyond the inputs. Exits with 1 if a
ratio is below the required one (6 and 2.2) or the memory above 400 MB.

    python benchmarks/optimum.py --data cifar-10-python.tar.gz --rounds 3
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffmem.optimum.bundle import Evaluations
from torch import Tensor

from diffmem.data import ImageSet, open_images
from diffmem.optimum.optimum import Optimum
from diffmem.sampling import SamplerConfig
from diffmem.sampling.samplers import sample_latents
from neighbours import current_megabytes, images, peak_megabytes

SIDE = 32
BARS = {"cdist": 6.0, "products": 2.2}
MEMORY_BAR = 400


def image_set(data: str | None, count: int) -> ImageSet:
    """Return the first images of a data set, or synthetic ones with the spectrum of photographs."""
    if data is not None:
        whole = open_images(data)
        return ImageSet(whole.images[:count], None, tuple(map(str, range(min(count, len(whole))))))
    rows = images("image", count, 3 * SIDE * SIDE, seed=0)
    return ImageSet(rows.reshape(-1, 3, SIDE, SIDE).numpy(), None, tuple(map(str, range(count))))


class Timed:
    """A denoiser that also times the baselines at each call."""

    def __init__(self, optimum: Optimum, clean: Tensor | None) -> None:
        self.sigma_min, self.sigma_max = optimum.sigma_min, optimum.sigma_max
        self.image_shape, self.num_labels, self.device = optimum.image_shape, 0, optimum.device
        self.following = optimum.follow()
        self.clean = clean
        self.norms = None if clean is None else clean.square().sum(1)
        self.sigmas: list[float] = []
        self.seconds: dict[str, list[float]] = {"following": [], "cdist": [], "products": []}
        self.apart = 0.0

    def timed(self, name: str, work: Callable[[], Tensor]) -> Tensor:
        """Do some work, and note the seconds it took."""
        begin = time.perf_counter()
        result = work()
        self.seconds[name].append(time.perf_counter() - begin)
        return result

    def __call__(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        """Denoise, and time the baselines."""
        level = float(sigma[0])
        self.sigmas.append(level)
        exact = self.timed("following", lambda: self.following(x, sigma))
        if self.clean is not None and self.norms is not None:
            clean, norms, rows = self.clean, self.norms, x.flatten(1).float()
            beta = 0.5 / level**2

            def cdist() -> Tensor:
                return torch.softmax(-torch.cdist(rows, clean).square() * beta, 1) @ clean

            def products() -> Tensor:
                return torch.softmax(torch.addmm(norms, rows, clean.T, beta=-beta, alpha=2 * beta), 1) @ clean

            for name, work in (("cdist", cdist), ("products", products)):
                dense = self.timed(name, work)
                self.apart = max(self.apart, float((dense - exact.flatten(1)).abs().max()))
        return exact


def sample(optimum: Optimum, clean: Tensor | None, queries: int) -> Timed:
    """Sample once; return the timings."""
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(queries, *optimum.image_shape, generator=generator, dtype=torch.float64)
    timed = Timed(optimum, clean)
    sample_latents(timed, latents, None, SamplerConfig())
    return timed


def memory_of(data: ImageSet, queries: int) -> float:
    """Return the megabytes beyond the images that building an optimum and sampling from it take at their peak."""
    warm = torch.randn(256, 256)
    torch.mm(warm, warm)
    warm.double() @ warm.double()
    int(data.images.max())  # every page is there
    Path("/proc/self/clear_refs").write_text("5")
    before = current_megabytes()
    sample(Optimum(data), None, queries)
    return peak_megabytes() - before


def main() -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(
        description="Sampling from the closed-form optimum against dense passes."
    )
    parser.add_argument("--data", help="CIFAR-10's archive or any image set; synthetic images if left out")
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    data = image_set(arguments.data, arguments.images)
    if arguments.memory:
        print(memory_of(data, arguments.queries))
        return 0
    begin = time.perf_counter()
    optimum = Optimum(data)
    optimum.references.directions()
    print(f"{len(data):,} images; the optimum took {time.perf_counter() - begin:.2f} s to prepare")
    clean = torch.from_numpy(data.images.reshape(len(data), -1)).float() / 127.5 - 1
    rounds = []
    for number in range(arguments.rounds):
        optimum.evaluations = Evaluations()
        timed = sample(optimum, clean, arguments.queries)
        rounds.append(timed)
        sums = {name: sum(seconds) for name, seconds in timed.seconds.items()}
        print(
            f"round {number + 1}: " + ", ".join(f"{name} {total:.2f} s" for name, total in sums.items()),
            flush=True,
        )
    print("\nsigma      following      cdist   products   (seconds of a call, median)")
    for at, sigma in enumerate(rounds[0].sigmas):
        row = [statistics.median(timed.seconds[name][at] for timed in rounds) for name in rounds[0].seconds]
        print(f"{sigma:8.4f} {row[0]:10.3f} {row[1]:10.3f} {row[2]:10.3f}")
    tally = optimum.evaluations
    print(
        f"\npairs computed: {tally.computed / tally.asked:.1%} of those of dense passes, in {tally.passes} full passes;"
        f" answers from a certificate: {tally.certified / (tally.calls * arguments.queries):.0%}"
    )
    print(f"largest difference of a dense float32 pass: {max(timed.apart for timed in rounds):.1e}")
    failed = False
    for name, bar in BARS.items():
        ratio = statistics.median(
            sum(timed.seconds[name]) / sum(timed.seconds["following"]) for timed in rounds
        )
        failed |= ratio < bar
        print(f"{ratio:.2f} times as fast as {name} (required {bar})")
    command = [
        sys.executable,
        __file__,
        "--memory",
        f"--images={arguments.images}",
        f"--queries={arguments.queries}",
    ]
    if arguments.data is not None:
        command.append(f"--data={arguments.data}")
    extra = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    failed |= extra > MEMORY_BAR
    print(f"peak memory beyond the images: {extra:.0f} MB (required {MEMORY_BAR})")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

"""Speed and memory of sampling from the closed-form optimum, against dense float32 passes over all images.

64 images by 18 Heun steps call the denoiser 35 times. At each call, these are timed in turn:

    optimum     `Optimum`, by exact integer products,
    cdist       `torch.cdist`, softmax, matrix product,
    products    the two matrix products alone: `addmm`, softmax, `mm`,

the last two on images in float32. Prints g, the ratio of the machine's int8 to float32 product rates at the sizes used; both ratios of
the sums, with the seconds and the proven error at each noise level; the share of the optimum's time that its integer products alone
take; how far a dense pass is off; and the time and memory of the preparation. `--whole` adds the whole command `generate --optimum`
against a dense cdist sampler with its imports. `--busy` keeps both cores busy with other work meanwhile. Exits with 1 if a figure is
worse than the required one.

    python benchmarks/optimum.py --data cifar-10-python.tar.gz --rounds 3
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from diffmem.data import ImageSet, open_images, write_images
from diffmem.optimum.optimum import Optimum
from diffmem.sampling import SamplerConfig
from diffmem.sampling.samplers import sample_latents
from neighbours import current_megabytes, images, peak_megabytes
from rates import describe_machine, product_rates

SIDE = 32
BARS = {"cdist": 8.0, "products": 3.5}
BARS_OF_256 = {"cdist": 0.0, "products": 3.0}
PREPARATION_BAR, MEMORY_BAR, ERROR_BAR = 1.5, 500, 2e-5
BUSY = "import torch\nx = torch.randn(1024, 1024)\nwhile True: x @ x"

DENSE = """
import sys
import torch
from diffmem.data import open_images
from diffmem.sampling import generate
images = open_images(sys.argv[1])
clean = torch.from_numpy(images.images.reshape(len(images), -1)).float() / 127.5 - 1
class Dense:
    sigma_min, sigma_max, image_shape, num_labels, device = 0.0, float("inf"), images.shape, 0, torch.device("cpu")
    def __call__(self, x, sigma, labels=None):
        beta = 0.5 / float(sigma[0]) ** 2
        weights = torch.softmax(-torch.cdist(x.flatten(1).float(), clean).square() * beta, 1)
        return (weights @ clean).reshape(x.shape)
generate(Dense(), range(int(sys.argv[2])), batch_size=int(sys.argv[2]))
"""


def image_set(data: str | None, count: int) -> ImageSet:
    """Return the first images of a data set, or synthetic ones with the spectrum of photographs."""
    if data is not None:
        whole = open_images(data)
        return ImageSet(whole.images[:count], None, tuple(map(str, range(min(count, len(whole))))))
    rows = images("image", count, 3 * SIDE * SIDE, seed=0)
    return ImageSet(rows.reshape(-1, 3, SIDE, SIDE).numpy(), None, tuple(map(str, range(count))))


class Timed:
    """A denoiser that also times the baselines at each call."""

    def __init__(self, optimum: Optimum, clean: Tensor) -> None:
        self.sigma_min, self.sigma_max = optimum.sigma_min, optimum.sigma_max
        self.image_shape, self.num_labels, self.device = optimum.image_shape, 0, optimum.device
        self.optimum, self.clean, self.norms = optimum, clean, clean.square().sum(1)
        self.following = optimum.follow()
        self.sigmas: list[float] = []
        self.bounds: list[float] = []
        self.seconds: dict[str, list[float]] = {"optimum": [], "cdist": [], "products": []}
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
        self.optimum.work.bound = 0.0
        exact = self.timed("optimum", lambda: self.following(x, sigma))
        self.bounds.append(self.optimum.work.bound)
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


def sampled(denoiser: Timed | Optimum, queries: int) -> None:
    """Sample once."""
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(queries, *denoiser.image_shape, generator=generator, dtype=torch.float64)
    sample_latents(denoiser, latents, None, SamplerConfig())


def memory_of(data: ImageSet, queries: int) -> float:
    """Return the megabytes beyond the images that building an optimum and sampling from it take at their peak."""
    warm = torch.randn(256, 256)
    torch.mm(warm, warm)
    int(data.images.max())  # every page is there
    Path("/proc/self/clear_refs").write_text("5")
    before = current_megabytes()
    sampled(Optimum(data), queries)
    return peak_megabytes() - before


def whole_commands(data: ImageSet, queries: int) -> tuple[float, float]:
    """Return the seconds of `diffmem generate --optimum` and of a dense cdist sampler, in processes of their own."""
    with tempfile.TemporaryDirectory() as folder:
        stored = Path(folder) / "data.npz"
        write_images(data, stored)
        command = [
            "generate",
            "--optimum",
            str(stored),
            str(Path(folder) / "out.npz"),
            f"--seeds=0-{queries - 1}",
        ]
        lines = [
            [sys.executable, "-m", "diffmem", *command, f"--batch-size={queries}", "--device=cpu"],
            [sys.executable, "-c", DENSE, str(stored), str(queries)],
        ]
        seconds = []
        for line in lines:
            begin = time.perf_counter()
            subprocess.run(line, check=True, capture_output=True)
            seconds.append(time.perf_counter() - begin)
    return seconds[0], seconds[1]


@contextlib.contextmanager
def other_work(wanted: bool) -> Iterator[None]:
    """Keep all cores busy with float32 products of another process."""
    process = subprocess.Popen([sys.executable, "-c", BUSY]) if wanted else None
    try:
        yield
    finally:
        if process is not None:
            process.kill()
            process.wait()


def main() -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(
        description="Sampling from the closed-form optimum against dense passes."
    )
    parser.add_argument("--data", help="CIFAR-10's archive or any image set; synthetic images if left out")
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", action="store_true", help="keep the cores busy with other work")
    parser.add_argument("--whole", action="store_true", help="time the whole command, too")
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    data = image_set(arguments.data, arguments.images)
    if arguments.memory:
        print(memory_of(data, arguments.queries))
        return 0
    print(describe_machine())
    floats, whole = product_rates(1024, data.images[0].size, 4 * arguments.queries)
    print(f"float32 {floats:.0f} GFLOP/s, int8 {whole:.0f} GOP/s: g = {whole / floats:.1f}")
    begin = time.perf_counter()
    optimum = Optimum(data)
    preparation = time.perf_counter() - begin
    print(
        f"{len(data):,} images of {data.images[0].size:,} values, prepared in {preparation:.2f} s (required {PREPARATION_BAR})"
    )
    clean = torch.from_numpy(data.images.reshape(len(data), -1)).float() / 127.5 - 1
    rounds = []
    with other_work(arguments.busy):
        for number in range(arguments.rounds):
            timed = Timed(optimum, clean)
            sampled(timed, arguments.queries)
            rounds.append(timed)
            sums = {name: sum(seconds) for name, seconds in timed.seconds.items()}
            print(
                f"round {number + 1}: " + ", ".join(f"{name} {total:.2f} s" for name, total in sums.items()),
                flush=True,
            )
    print("\nsigma        optimum      cdist   products   error at most   (seconds of a call, median)")
    for at, sigma in enumerate(rounds[0].sigmas):
        row = [statistics.median(timed.seconds[name][at] for timed in rounds) for name in rounds[0].seconds]
        print(f"{sigma:8.4f} {row[0]:10.3f} {row[1]:10.3f} {row[2]:10.3f} {rounds[0].bounds[at]:15.1e}")
    apart, bound = max(timed.apart for timed in rounds), max(rounds[0].bounds)
    print(
        f"\nlargest proven error {bound:.1e} (required {ERROR_BAR:.0e}); a dense float32 pass differs by {apart:.1e}"
    )
    failed = preparation > PREPARATION_BAR or bound > ERROR_BAR
    for name, bar in (BARS if arguments.queries < 256 else BARS_OF_256).items():
        ratio = statistics.median(
            sum(timed.seconds[name]) / sum(timed.seconds["optimum"]) for timed in rounds
        )
        bar = bar * 2 / 3 if arguments.busy else bar
        failed |= ratio < bar
        print(f"{ratio:.2f} times as fast as {name} (required {bar:.1f})")
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
    if arguments.whole:
        ours, dense = whole_commands(data, arguments.queries)
        required = 4.0 if whole / floats >= 8 else 3.3
        failed |= dense / ours < required
        print(
            f"whole command {ours:.2f} s, dense cdist sampler {dense:.2f} s: {dense / ours:.2f} times (required {required})"
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

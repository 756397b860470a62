"""How fast this machine multiplies: every ratio that a benchmark prints depends on it.

python benchmarks/rates.py --rows 2048 --terms 3072 --columns 2048
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

from diffmem.integers import integer_products
from diffmem.threads import dealt

__all__ = ["describe_machine", "product_rates"]

SECONDS = 0.15  # how long each kind of product is repeated in a round
ROUNDS = 4


def product_rates(
    rows: int, terms: int, columns: int, device: torch.device | str = "cpu"
) -> tuple[float, float]:
    """Measure float32 and int8 products of (rows, terms) with (terms, columns), in turn; the best of a few rounds.

    On the CPU each of as many threads as torch uses multiplies matrices of its own, as the searches do.

    Returns:
        GFLOP/s in float32 and GOP/s in int8, a multiplication and an addition counted as two; their ratio is g.
    """
    exact = integer_products(device)
    half = 1 << (exact.bits - 1)
    generator = torch.Generator().manual_seed(0)
    left = torch.randint(-128, 128, (rows, terms), generator=generator, dtype=torch.int8).to(device)
    right = torch.randint(-half, half, (terms, columns), generator=generator, dtype=torch.int8).to(device)
    floats = left.float(), right.float()

    def float_product(out: torch.Tensor) -> None:
        torch.mm(*floats, out=out)

    def whole_product(out: torch.Tensor) -> None:
        exact(left, right, out)

    best = [0.0, 0.0]
    for _ in range(ROUNDS):
        for kind, (product, dtype) in enumerate(
            ((float_product, torch.float32), (whole_product, torch.int32))
        ):
            out = torch.empty(rows, columns, dtype=dtype, device=device)
            best[kind] = max(best[kind], 2e-9 * rows * terms * columns * _per_second(product, out))
    return best[0], best[1]


def _per_second(product: Callable[[torch.Tensor], None], out: torch.Tensor) -> float:
    """Return how many products are computed in a second, by all threads together."""
    workers = 1 if out.device.type == "cuda" else torch.get_num_threads()

    def repeated(worker: int) -> float:
        mine = out if worker == 0 else torch.empty_like(out)
        product(mine)
        done, begin = 0, time.perf_counter()
        while time.perf_counter() - begin < SECONDS:
            product(mine)
            if mine.device.type == "cuda":
                torch.cuda.synchronize(mine.device)
            done += 1
        return done / (time.perf_counter() - begin)

    return sum(dealt(repeated, range(workers)))


def describe_machine() -> str:
    """Return the processor's name, its cores, the threads in use and the load average of the last minute."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        fields = dict(line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line)
        fields = {key.strip(): value.strip() for key, value in fields.items()}
        name = fields.get("model name", name)
        if "model" in fields:
            name += f" (family {fields.get('cpu family')}, model {fields['model']})"
    return (
        f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, load average {os.getloadavg()[0]:.1f}, "
        f"torch {torch.__version__}"
    )


def main() -> None:
    """Print the rates at given sizes."""
    parser = argparse.ArgumentParser(description="Rates of float32 and int8 products.")
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--terms", type=int, default=3072)
    parser.add_argument("--columns", type=int, default=2048)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    print(describe_machine())
    floats, whole = product_rates(arguments.rows, arguments.terms, arguments.columns, arguments.device)
    print(f"float32 {floats:.0f} GFLOP/s, int8 {whole:.0f} GOP/s, g = {whole / floats:.1f}")


if __name__ == "__main__":
    main()

"""FLOP/s of the 35.1 M-parameter network at 32x32, batch 8, relative to a float32 matrix product.

    python benchmarks/network_rate.py [--rounds 5]

One training step (forward and backward) of the paper's DDPM++ network; its floating-point operations are counted by
`torch.utils.flop_counter`. The baseline is a 2,048-cubed matrix product in the same process, interleaved.
"""

from __future__ import annotations

import argparse
import statistics
import time

BAR = 0.55


def main() -> None:
    """Interleave both and print the ratio; exit with 1 below the required rate."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from diffmem.models import ModelConfig, build_denoiser, count_parameters
    from diffmem.training.flat import FlatParameters
    from diffmem.training.trainer import denoising_loss

    denoiser = build_denoiser(ModelConfig(), (3, 32, 32)).train()
    flat = FlatParameters(denoiser)
    images = torch.rand(8, 3, 32, 32).to(memory_format=torch.channels_last) * 2 - 1
    noise, sigma = torch.randn_like(images), torch.rand(8) + 0.1
    matrix = torch.randn(2048, 2048)

    def step() -> None:
        flat.zero_gradient()
        denoising_loss(denoiser, denoiser.preconditioning, images, sigma, noise, None).backward()

    step()
    with FlopCounterMode(display=False) as counter:
        step()
    operations = counter.get_total_flops()
    ratios = []
    for number in range(args.rounds):
        start = time.perf_counter()
        for _ in range(10):
            matrix @ matrix
        product = 10 * 2 * 2048**3 / (time.perf_counter() - start)
        start = time.perf_counter()
        step()
        rate = operations / (time.perf_counter() - start)
        ratios.append(rate / product)
        print(
            f"round {number + 1}: network {rate / 1e9:.0f}, matrix product {product / 1e9:.0f} GFLOP/s",
            flush=True,
        )
    ratio = statistics.median(ratios)
    print(
        f"{count_parameters(denoiser):,} parameters, {operations / 1e9:.0f} GFLOP a step:"
        f" {100 * ratio:.0f}% of the matrix-product rate (required {100 * BAR:.0f}%)"
    )
    raise SystemExit(int(ratio < BAR))


if __name__ == "__main__":
    main()

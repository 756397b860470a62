"""One random generator per image: a seed gives the same latent, label and noise in every batch and order.

All numbers are drawn on the CPU: the generators of different devices produce different streams.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from diffmem.errors import UserError

__all__ = ["SeededNoise", "latents_for_seeds", "random_labels"]


def latents_for_seeds(
    seeds: Sequence[int], shape: tuple[int, int, int], device: torch.device | str = "cpu"
) -> tuple[Tensor, list[Generator]]:
    """Draw the standard normal latent of each seed.

    Args:
        seeds: One integer per image; a seed is taken modulo 2^32.
        shape: (C, H, W) of the images.
        device: Where the latents go. Their values do not depend on it.

    Returns:
        Latents, float64 (B, C, H, W) drawn with float32 resolution, and the generator of each image, which
        continues its stream behind the latent: first a label where one is wanted, then the noise of a
        stochastic sampler.

    Raises:
        UserError: There are no seeds.
    """
    if len(seeds) == 0:
        raise UserError("There are no seeds to draw latents for; give at least one, for example 0-63.")
    generators = [torch.Generator("cpu").manual_seed(int(seed) % 2**32) for seed in seeds]
    latents = torch.stack(
        [torch.randn(shape, generator=generator, dtype=torch.float32) for generator in generators]
    )
    return latents.to(device=device, dtype=torch.float64), generators


def random_labels(
    generators: Sequence[Generator], num_labels: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Draw one label per image, uniform in 0..num_labels - 1, from the generator of the image.

    Args:
        generators: The generators that `latents_for_seeds` returned.
        num_labels: Number of classes, at least 1.
        device: Where the labels go.

    Returns:
        int64 (B,).

    Raises:
        UserError: `num_labels` is below 1.
    """
    if num_labels < 1:
        raise UserError(f"Cannot draw labels from {num_labels} classes; the model is unconditional.")
    drawn = [torch.randint(num_labels, (1,), generator=generator) for generator in generators]
    return torch.cat(drawn).to(device)


class SeededNoise:
    """Standard normal noise for a stochastic sampler, each image from its own generator.

    Args:
        generators: The generators that `latents_for_seeds` returned, in the order of the batch.
    """

    def __init__(self, generators: Sequence[Generator]) -> None:
        self._generators = list(generators)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the next noise, float64 with the shape and device of `x` (B, C, H, W).

        Raises:
            ValueError: The batch has another size than the number of generators.
        """
        if len(x) != len(self._generators):
            raise ValueError(
                f"The batch has {len(x)} images but there are {len(self._generators)} generators."
            )
        draws = [torch.randn(x.shape[1:], generator=one, dtype=torch.float64) for one in self._generators]
        return torch.stack(draws).to(x.device)

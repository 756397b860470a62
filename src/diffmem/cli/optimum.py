"""`diffmem optimum` and `diffmem gap`."""

from __future__ import annotations

from pathlib import Path

from diffmem.console import console
from diffmem.distributed import world
from diffmem.environment import choose_device
from diffmem.errors import UserError
from diffmem.folder_lock import locked_folder
from diffmem.progress import show_progress

__all__ = ["optimum", "parse_sigmas"]


def optimum(
    data: str,
    /,
    *,
    out: Path = Path("optimum"),
    sigmas: str | None = None,
    queries: int = 1000,
    conditional: bool = False,
    seed: int = 0,
    device: str | None = None,
) -> None:
    """Show at which noise level the closed-form optimum of an image set collapses onto single images.

    For noisy training images: how many images the optimal denoiser averages, the
    weight of the own image, and the noise level at which it falls through 1/2,
    beside two predictions from the covariance alone.
    Writes optimum.json, optimum.html, optimum.png and optimum.svg.

    Example: diffmem optimum cifar10-1k.zip --out optimum/cifar1k

    Args:
        data: The training images, any source of `diffmem data build`.
        out: Folder to write.
        sigmas: Noise levels in units in which pixel values run from -1 to 1, such as 0.5,1,2,4; by default 60 from 0.01 to 80.
        queries: Noisy images at each level.
        conditional: The optimum of each class, from the labels of the set.
        seed: Seed of the noise.
        device: cpu, cuda or cuda:N; by default a GPU where there is one.
    """
    from diffmem.data import open_images
    from diffmem.optimum.curves import optimum_curves
    from diffmem.optimum.report.figure import collapse_text, optimum_table, write_optimum

    levels = parse_sigmas(sigmas)
    device = choose_device(device)
    with locked_folder(out):
        with show_progress("Reading images") as progress:
            images = open_images(data, progress=progress)
        with show_progress("Weighing images") as progress:
            result = optimum_curves(
                images, sigmas=levels, queries=queries, conditional=conditional, seed=seed, data=data, device=device,
                progress=progress,
            )  # fmt: skip
        if not world().is_main:
            return
        console(soft_wrap=True).print(optimum_table(result))
        print(collapse_text(result.collapse))
        for path in write_optimum(result, out):
            print(path)


def parse_sigmas(text: str | None) -> list[float] | None:
    """Read noise levels such as '0.5,1,2'; none for none.

    Raises:
        UserError: A part is not a positive number.
    """
    if text is None:
        return None
    try:
        levels = [float(part) for part in text.split(",")]
    except ValueError:
        levels = [-1.0]
    if not all(0 < level < float("inf") for level in levels):
        raise UserError(f"Cannot read the noise levels {text!r}; write positive numbers such as 0.5,1,2,4.")
    return sorted(set(levels))

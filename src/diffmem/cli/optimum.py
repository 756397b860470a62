"""`diffmem optimum` and `diffmem gap`."""

from __future__ import annotations

from pathlib import Path

from diffmem.cli.options import Settings
from diffmem.console import console
from diffmem.distributed import world
from diffmem.environment import choose_device
from diffmem.errors import UserError
from diffmem.folder_lock import locked_folder
from diffmem.progress import show_progress

__all__ = ["gap", "optimum"]


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
    Writes optimum.json, optimum.png and optimum.svg.

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

    levels = _parse_sigmas(sigmas)
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


def _parse_sigmas(text: str | None) -> list[float] | None:
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


def gap(
    *runs: Path,
    heldout: str | None = None,
    train: str | None = None,
    out: Path = Path("gap"),
    sigmas: str | None = None,
    samples: int = 256,
    set_: Settings = None,
    seed: int = 0,
    device: str | None = None,
) -> None:
    """Show how far trained models are from the optimum of their training sets.

    The optimum copies; a Gaussian with the mean and covariance of the training
    images has learned no image. At each noise level the last snapshot of each run
    is compared with both, on noisy training images, on noisy held-out images and
    on the states of its own sampling, and its loss with the least that is possible.
    Writes gap.json and figures, side by side for several runs.
    Interrupt with Ctrl-C: the same command resumes.

    Example: diffmem gap runs/0123456789abcdef --heldout cifar10-test.zip

    Args:
        runs: Folders of runs, made by `diffmem train` or a study.
        heldout: Images of the same source that were not trained on; by default those that the study of the run kept.
        train: The training images, if the run's folder does not record their path; for a single run.
        out: Folder to write.
        sigmas: Noise levels for noisy images, such as 0.5,1,2,4; by default those of the sampler.
        samples: Noisy images, and states, at each level.
        set_: Change a setting of the sampler, key=value, for example steps=40; may be repeated.
        seed: Seed of images and noise.
        device: cpu, cuda or cuda:N; by default a GPU where there is one.
    """
    from diffmem.data import open_images
    from diffmem.optimum.gap import correlations
    from diffmem.optimum.gap_records import GapResult
    from diffmem.optimum.report.gap_write import gap_notes, gap_table, write_gap
    from diffmem.runs.gap_run import GapSettings, measure_gap
    from diffmem.runs.opening import remember_data
    from diffmem.sampling import SamplerConfig
    from diffmem.settings import load_recipe

    if not runs:
        raise UserError("Name at least one folder of a run: diffmem gap runs/<hash>.")
    if train is not None and len(runs) > 1:
        raise UserError(
            f"--train names the images of one run, but there are {len(runs)}; leave it out or give one run."
        )
    if samples < 2:
        raise UserError(f"--samples {samples} is too few: a standard error needs 2 or more.")
    levels = _parse_sigmas(sigmas)
    sampling = load_recipe(SamplerConfig, None, set_ or [])
    settings = GapSettings(None if levels is None else tuple(levels), samples, sampling, seed)
    device = choose_device(device)
    with locked_folder(out):
        fresh = None
        if heldout is not None:
            with show_progress("Reading images") as progress:
                fresh = open_images(heldout, progress=progress)
        found = []
        with show_progress("Comparing") as progress:
            for index, folder in enumerate(runs):

                def on_run(done: float, total: float, note: str = "", index: int = index) -> None:
                    progress(index + done / total, len(runs), f"run {index + 1} of {len(runs)}")

                one = measure_gap(
                    folder,
                    settings,
                    train=train,
                    heldout=fresh,
                    cache=out / "runs",
                    device=device,
                    progress=on_run,
                )
                if train is not None:
                    remember_data(folder, train)
                found.append(one)
                progress(index + 1, len(runs))
        result = GapResult(
            samples=samples,
            seed=seed,
            sampling=sampling.describe(),
            runs=found,
            correlations=correlations(found),
        )
        if not world().is_main:
            return
        console(soft_wrap=True).print(gap_table(result))
        for line in gap_notes(result):
            print(line)
        for path in write_gap(result, out):
            print(path)

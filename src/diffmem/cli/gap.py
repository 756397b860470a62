"""`diffmem gap`."""

from __future__ import annotations

from pathlib import Path

from diffmem.cli.optimum import parse_sigmas
from diffmem.cli.options import NO_MODEL_OPTIONS, Executor, ModelOptions, Settings
from diffmem.console import console, warn
from diffmem.distributed import world
from diffmem.environment import choose_device
from diffmem.errors import UserError
from diffmem.folder_lock import locked_folder
from diffmem.progress import show_progress

__all__ = ["gap"]


def gap(
    *runs: Path,
    model: Path | None = None,
    heldout: str | None = None,
    train: str | None = None,
    out: Path = Path("gap"),
    sigmas: str | None = None,
    samples: int = 256,
    set_: Settings = None,
    seed: int = 0,
    device: str | None = None,
    opening: ModelOptions = NO_MODEL_OPTIONS,
    executor: Executor = None,
) -> None:
    """Show how far trained models are from the optimum of their training sets.

    The optimum copies; a Gaussian with the mean and covariance of the training
    images has learned no image. At each noise level the last snapshot of each run
    is compared with both, on noisy training images, on noisy held-out images and
    on the states of its own sampling, and its loss with the least that is possible.
    Writes gap.json, gap.html and figures, side by side for several runs.
    Interrupt with Ctrl-C: the same command resumes.

    Example: diffmem gap runs/0123456789abcdef --heldout cifar10-test.zip

    Example: diffmem gap --model network-snapshot.pkl --train cifar10-1k.zip

    Args:
        runs: Folders of runs, made by `diffmem train` or a study.
        model: In place of runs: a model made elsewhere, anything that `diffmem model info` reads, with its images in --train.
        heldout: Images of the same source that were not trained on; by default those that the study of the run kept.
        train: The training images, all of them, as the model saw them; of a single run, only if its folder does not record
            their path.
        out: Folder to write.
        sigmas: Noise levels for noisy images, such as 0.5,1,2,4; by default those of the sampler.
        samples: Noisy images, and states, at each level.
        set_: Change a setting of the sampler, key=value, for example steps=40; may be repeated.
        seed: Seed of images and noise.
        device: cpu, cuda or cuda:N; by default a GPU where there is one.
        executor: Measure several runs at once, each with one thread: local (processes of this machine), or a YAML file of the settings
            under `executor:` of a study's recipe. The runs, their images and --out lie on a disk that all workers see.
    """
    from diffmem.api.inputs import as_images
    from diffmem.api.spreading import spread_over, whole_path
    from diffmem.data import open_images
    from diffmem.models import open_model
    from diffmem.optimum.gap import correlations
    from diffmem.optimum.gap_records import GapResult
    from diffmem.optimum.report.gap_write import gap_notes, gap_table, write_gap
    from diffmem.runs.gap_run import GapSettings, gaps_elsewhere, measure_gap, measure_model_gap
    from diffmem.runs.opening import remember_data
    from diffmem.sampling import SamplerConfig
    from diffmem.settings import load_recipe
    from diffmem.spread import spread

    if bool(runs) == (model is not None):
        raise UserError(
            "Name at least one folder of a run, diffmem gap runs/<hash>, or a model with --model, and not both."
        )
    if model is not None and train is None:
        raise UserError("Name the training images of the model with --train; its optimum is made of them.")
    if executor is not None and model is not None:
        raise UserError("--executor measures several runs at once; the gap of one model is measured here.")
    if model is None:
        opening.refuse("a run tells everything")
    if train is not None and len(runs) > 1:
        raise UserError(
            f"--train names the images of one run, but there are {len(runs)}; leave it out or give one run."
        )
    if samples < 2:
        raise UserError(f"--samples {samples} is too few: a standard error needs 2 or more.")
    levels = parse_sigmas(sigmas)
    sampling = load_recipe(SamplerConfig, None, set_ or [])
    for remark in sampling.remarks():
        warn(f"{remark}.")
    settings = GapSettings(None if levels is None else tuple(levels), samples, sampling, seed)
    device = choose_device(device)
    with locked_folder(out):
        fresh = None
        if heldout is not None:
            with show_progress("Reading images") as progress:
                fresh = open_images(heldout, progress=progress)
        found = []
        given = images = None
        if model is not None:
            images = as_images(str(train))
            given = open_model(model, images.shape, device=device, **opening.details())
        with spread_over(executor, device, out / "pieces"), show_progress("Comparing") as progress:
            if given is not None and images is not None:
                found.append(
                    measure_model_gap(
                        given, images, settings, heldout=fresh, cache=out / "models", progress=progress
                    )
                )
            place = spread()
            if place is not None:
                sets = {"train": train, "heldout": heldout}
                content = {name: None if text is None else whole_path(text) for name, text in sets.items()}
                content["cache"] = str((out / "runs").resolve())
                found += gaps_elsewhere(place, runs, settings, content, progress)
            for index, folder in enumerate(() if place is not None else runs):

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
                found.append(one)
                progress(index + 1, len(runs))
            if train is not None and runs:
                remember_data(runs[0], train)
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

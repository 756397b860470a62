"""What `gpu.py` measures: a list of parts in order of worth, each a list of measurements that stand alone.

A measurement returns a number and a note, or raises. Clocks are read with the device idle; TF32 is as each name says.
"""

from __future__ import annotations

import gc
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from baseline import plain_denoiser, plain_steps
from concurrent_runs import answer, measure, serve, start_serving
from rates import product_rates

from diffmem.memory import BatchTooLargeError
from diffmem.models import ModelConfig, build_denoiser
from diffmem.sampling import SamplerConfig, generate
from diffmem.training import Trainer, TrainingConfig
from diffmem.training.grouped import TrainerGroup
from diffmem.training.trainer import arithmetic

__all__ = ["Found", "Measurement", "Network", "Setting", "plan", "repeated", "synchronize", "train_together"]

PRECISIONS = {"float32": "float32", "tf32": "TF32", "bf16": "bf16"}


@dataclass(frozen=True)
class Network:
    """A network of the paper, or a small one in its place, and the images that it is trained on."""

    name: str
    model: ModelConfig
    resolution: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of its images."""
        return 3, self.resolution, self.resolution


@dataclass(frozen=True)
class Setting:
    """How large the measurements are.

    Attributes:
        device: 'cuda' or 'cpu'.
        miniature: Everything small, to see that it works; the numbers then mean nothing.
    """

    device: str
    miniature: bool

    def __call__(self, full: int, small: int) -> int:
        """Return a size."""
        return small if self.miniature else full

    @property
    def seconds(self) -> float:
        """How long a measurement repeats its work, after a first time that does not count."""
        return 0.01 if self.miniature else 2.0

    def network(self, name: str, resolution: int, channels: int) -> Network:
        """Return DDPM++ of this width with the paper's attention: at half the resolution."""
        model = ModelConfig(channels=channels, attention=(resolution // 2,))
        if self.miniature:
            resolution = min(resolution, 16)
            model = ModelConfig(channels=channels // 16, multipliers=(1, 2), blocks=1, attention=())
        return Network(name, model, resolution)

    def networks(self) -> dict[str, Network]:
        """Return the networks whose training is measured, by name."""
        sizes = (("32x32, width 128", 32, 128), ("8x8, width 128", 8, 128), ("32x32, width 256", 32, 256))
        return {name: self.network(name, resolution, channels) for name, resolution, channels in sizes}


@dataclass(frozen=True)
class Found:
    """A number that was measured.

    Attributes:
        value: In the measurement's unit.
        note: With what.
    """

    value: float
    note: str = ""


@dataclass(frozen=True)
class Measurement:
    """A row of the page.

    Attributes:
        key: Unique in the results.
        what: For people.
        unit: Of the number.
        work: Measures it.
        against: Key of the row that its ratio is to.
        least: Seconds it needs, roughly: it is not begun with less time left.
    """

    key: str
    what: str
    unit: str
    work: Callable[[], Found]
    against: str | None = None
    least: float = 5.0


def synchronize(device: str) -> None:
    """Wait until the device has done all that it was told."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def repeated(step: Callable[[], object], device: str, seconds: float, warm: int = 1) -> float:
    """Return the seconds that a step takes, on average over about so many seconds.

    Steps follow each other without waiting for the device: it would idle while the next one is prepared.
    """

    def timed(count: int) -> float:
        synchronize(device)
        begin = time.perf_counter()
        for _ in range(count):
            step()
        synchronize(device)
        return (time.perf_counter() - begin) / count

    for _ in range(warm):
        step()
    once = timed(1)
    return timed(max(1, min(1000, math.ceil(seconds / once))))


def _memory(device: str) -> str:
    """Return the peak of the memory that torch has allocated on a GPU."""
    cuda = torch.device(device).type == "cuda"
    return f", {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB" if cuda else ""


def _release(device: str) -> None:
    gc.collect()  # compiled networks and loaders hold themselves in circles
    torch.compiler.reset()
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _rate_of_product(setting: Setting, precision: str) -> Found:
    size = setting(8192, 128)
    if precision == "int8":
        return Found(product_rates(size, size, size, setting.device)[1] / 1000, f"{size} cubed")
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.randn(size, size, device=setting.device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(left)
    with arithmetic("tf32" if precision == "tf32" else "float32", torch.device(setting.device)):
        seconds = repeated(lambda: torch.mm(left, right, out=out), setting.device, setting.seconds / 4, 3)
    return Found(2e-12 * size**3 / seconds, f"{size} cubed")


def _bandwidth(setting: Setting) -> Found:
    source = torch.ones(setting(2**28, 2**20), device=setting.device)
    target = torch.empty_like(source)
    seconds = repeated(lambda: target.copy_(source), setting.device, setting.seconds / 4, 3)
    return Found(2e-9 * source.nbytes / seconds, f"copy of {source.nbytes / 2**30:.3g} GiB, read and written")


def training_images(network: Network, count: int) -> np.ndarray:
    """Return images to train on: speed does not depend on their values."""
    return np.random.default_rng(0).integers(0, 256, (count, *network.shape), dtype=np.uint8)


def _training(setting: Setting, network: Network, precision: str, plain: bool, compiled: bool) -> Found:
    batch = setting(512, 8)
    while True:
        _release(setting.device)
        try:
            seconds = _step_seconds(setting, network, precision, plain, compiled, batch)
            return Found(batch / seconds, f"batch {batch}{_memory(setting.device)}")
        except (BatchTooLargeError, torch.OutOfMemoryError) as error:
            smaller = error.fits if isinstance(error, BatchTooLargeError) else batch // 2
            if not smaller:
                raise
        # Outside of the handler, whose error holds what was allocated.
        batch = smaller


def _step_seconds(
    setting: Setting, network: Network, precision: str, plain: bool, compiled: bool, batch: int
) -> float:
    config = TrainingConfig(batch_size=batch, precision=precision, compile=compiled)
    images, device = training_images(network, setting(5120, 16)), setting.device
    if not plain:
        with torch.device(device):
            denoiser = build_denoiser(network.model, network.shape)
        step = Trainer(denoiser, images, None, config, seed=0, device=device).step
        return repeated(step, device, setting.seconds, warm=2 if compiled else 1)
    # The forward pass of a plain network in bf16 is under autocast; in TF32, torch's two switches are set.
    workers = 0 if setting.miniature else 1
    steps = plain_steps(
        plain_denoiser(network.model, network.shape), images, config, device, workers, half=precision == "bf16"
    )
    with arithmetic("tf32" if precision == "tf32" else "float32", torch.device(device)):
        return repeated(steps, device, setting.seconds)


def _trainings(setting: Setting, network: Network) -> list[Measurement]:
    rows = []
    for precision, words in PRECISIONS.items():
        for plain in (False, True):
            kind = "plain" if plain else "ours"
            rows.append(
                Measurement(
                    f"training/{network.name}/{precision}/{kind}",
                    f"{network.name}, {words}, {'plain eager PyTorch' if plain else 'diffmem'}",
                    "images/s",
                    partial(_training, setting, network, precision, plain, False),
                    None if plain else f"training/{network.name}/{precision}/plain",
                    least=12,
                )
            )
    return rows


def _compiled(setting: Setting, network: Network) -> Measurement:
    return Measurement(
        f"training/{network.name}/bf16/compiled",
        f"{network.name}, bf16, compiled",
        "images/s",
        partial(_training, setting, network, "bf16", False, True),
        f"training/{network.name}/bf16/ours",
        least=45,
    )


def _sampling(setting: Setting, network: Network, precision: str) -> Found:
    _release(setting.device)
    device, batch = torch.device(setting.device), setting(256, 4)
    with torch.device(setting.device):
        denoiser = build_denoiser(network.model, network.shape).eval().requires_grad_(False)
    config = SamplerConfig(steps=setting(18, 2))
    with arithmetic(precision, device) as forward, forward:
        generate(denoiser, range(batch), SamplerConfig(steps=1), batch_size=batch)
        synchronize(setting.device)
        begin = time.perf_counter()
        generate(denoiser, range(batch), config, batch_size=batch)
        seconds = time.perf_counter() - begin  # the images are in the host's memory
    words = f"{config.evaluations} evaluations, batch {batch}{_memory(setting.device)}"
    return Found(batch / seconds, words)


def _samplings(setting: Setting, network: Network) -> list[Measurement]:
    return [
        Measurement(
            f"sampling/{precision}",
            f"{network.name}, {words}",
            "images/s",
            partial(_sampling, setting, network, precision),
            None if precision == "float32" else "sampling/float32",
            least=8,
        )
        for precision, words in PRECISIONS.items()
    ]


def _small_trainers(setting_device: str, count: int) -> list[Trainer]:
    model = ModelConfig(
        preconditioning="edm", channels=16, multipliers=(1, 2), blocks=1, attention=(), dropout=0.0
    )
    network = Network("small", model, 8)
    config = TrainingConfig(epochs=600, batch_size=16, learning_rate=8e-3)
    return [
        Trainer(
            build_denoiser(model, network.shape, seed=seed), training_images(network, 160), None, config, seed,
            setting_device,
        )
        for seed in range(count)
    ]  # fmt: skip


def train_together(device: str, seconds: float) -> None:
    """Train one small network when told so, many times: what a child process does."""
    torch.set_num_threads(1)
    trainer = _small_trainers(device, 1)[0]

    def step() -> int:
        trainer.step()
        return trainer.config.batch_size

    serve(step, seconds, lambda: synchronize(device))


class _Children:
    """Processes that train on one card, started when the first measurement needs them and ended after the last."""

    def __init__(self, setting: Setting, counts: list[int]) -> None:
        self.setting, self.counts = setting, counts
        self.started = []

    def rate(self, count: int) -> Found:
        """Return the images per second of the first so many of them together."""
        if not self.started:
            command = [
                sys.executable, str(Path(__file__).with_name("gpu.py")), "--child", self.setting.device,
                "--seconds", str(self.setting.seconds),
            ]  # fmt: skip
            self.started = start_serving([command] * max(self.counts), threads=1)
            for child in self.started:
                answer(child)
        found = measure(self.started[:count])
        if count == max(self.counts):
            self.end()
        return Found(found.rate, f"{count} process{'es' if count > 1 else ''}, batch 16 each")

    def end(self) -> None:
        """End the processes."""
        for child in self.started:
            child.communicate()
        self.started = []


def _grouped(setting: Setting, count: int) -> Found:
    group = TrainerGroup(_small_trainers(setting.device, count))
    seconds = repeated(group.step, setting.device, setting.seconds)
    return Found(16 * count / seconds, "1 process, batch 16 each")


def _several(setting: Setting) -> list[Measurement]:
    counts = [1, 2] if setting.miniature else [1, 2, 4, 8]
    children = _Children(setting, counts)
    rows = [
        Measurement(
            f"several/{count}",
            f"{count} small training{'s' if count > 1 else ''} (8x8, width 16), a process each",
            "images/s in all",
            partial(children.rate, count),
            None if count == 1 else "several/1",
            least=15,
        )
        for count in counts
    ]
    grouped = Measurement(
        f"several/group of {counts[-1]}", f"{counts[-1]} of them in one process, as a group", "images/s in all",
        partial(_grouped, setting, counts[-1]), "several/1",
    )  # fmt: skip
    return [*rows, grouped]


def plan(setting: Setting) -> dict[str, list[Measurement]]:
    """Return what is measured: the title of each part -> its measurements, in order of worth."""
    from gpu_searches import optimum_rows, search_rows

    first, small, wide = setting.networks().values()
    products = [
        Measurement(
            f"card/{precision}",
            f"matrix product, {words}",
            "TOP/s" if precision == "int8" else "TFLOP/s",
            partial(_rate_of_product, setting, precision),
            None if precision == "float32" else "card/float32",
        )
        for precision, words in {**PRECISIONS, "int8": "int8"}.items()
    ]
    bandwidth = Measurement("card/memory", "memory bandwidth", "GB/s", partial(_bandwidth, setting))
    return {
        "The card and its limits": [*products, bandwidth],
        f"Training, {first.name}": _trainings(setting, first),
        f"Sampling, {first.name}": _samplings(setting, first),
        f"Training, {first.name}, compiled": [_compiled(setting, first)],
        f"Training, {small.name}": _trainings(setting, small),
        "Several runs on one card": _several(setting),
        "Nearest neighbours": search_rows(setting),
        "The closed-form optimum": optimum_rows(setting),
        f"Training, {wide.name}": _trainings(setting, wide),
        "Other networks, compiled": [_compiled(setting, small), _compiled(setting, wide)],
    }

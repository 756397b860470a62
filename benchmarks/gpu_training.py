"""Measurements of `gpu.py`: the card's limits, training, sampling, and several trainings on one card.

Clocks are read with the device idle; TF32 is as each name says.
"""

from __future__ import annotations

import gc
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from baseline import plain_denoiser, plain_steps
from concurrent_runs import answer, measure, start_serving
from diffmem.data import balanced, open_images
from diffmem.memory import BatchTooLargeError
from diffmem.models import build_denoiser
from diffmem.sampling import SamplerConfig, generate
from diffmem.studies.quickstart import quickstart_recipe
from diffmem.training import Trainer, TrainingConfig
from diffmem.training.grouped import TrainerGroup
from diffmem.training.trainer import arithmetic
from gpu_setting import PRECISIONS, Found, Measurement, Network, Setting, repeated, synchronize
from rates import product_rates

__all__ = ["card_rows", "compiled_row", "sampling_rows", "several_rows", "training_rows"]


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


def card_rows(setting: Setting) -> list[Measurement]:
    """Return the card's limits."""
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
    return [*products, Measurement("card/memory", "memory bandwidth", "GB/s", partial(_bandwidth, setting))]


def _training_images(network: Network, count: int) -> np.ndarray:
    """Return images to train on: speed does not depend on their values."""
    return np.random.default_rng(0).integers(0, 256, (count, *network.shape), dtype=np.uint8)


def _training(setting: Setting, network: Network, precision: str, plain: bool, compiled: bool) -> Found:
    batch = setting(512, 4)
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
    images, device = _training_images(network, setting(5120, 8)), setting.device
    if not plain:
        with torch.device(device):
            denoiser = build_denoiser(network.model, network.shape)
        step = Trainer(denoiser, images, None, config, seed=0, device=device).step
        return repeated(step, device, setting.seconds, warm=2 if compiled else 1)
    # The forward pass of a plain network in bf16 is under autocast; in TF32, torch's two switches are set.
    workers = 0 if setting.miniature else 1
    steps = plain_steps(
        plain_denoiser(network.model, network.shape),
        images,
        config,
        device,
        workers,
        half=precision == "bf16",
    )
    with arithmetic("tf32" if precision == "tf32" else "float32", torch.device(device)):
        return repeated(steps, device, setting.seconds)


def training_rows(setting: Setting, network: Network) -> list[Measurement]:
    """Return training in each precision, ours and plain."""
    rows = []
    for precision, words in PRECISIONS.items():
        for plain in (False, True):
            kind = "plain" if plain else "ours"
            rows.append(
                Measurement(
                    f"training/{network.name}/{precision}/{kind}",
                    f"{words}, {'plain eager PyTorch' if plain else 'diffmem'}",
                    "images/s",
                    partial(_training, setting, network, precision, plain, False),
                    None if plain else f"training/{network.name}/{precision}/plain",
                )
            )
    return rows


def compiled_row(setting: Setting, network: Network) -> Measurement:
    """Return training with the network compiled."""
    return Measurement(
        f"training/{network.name}/bf16/compiled",
        f"{network.name}, bf16, compiled",
        "images/s",
        partial(_training, setting, network, "bf16", False, True),
        f"training/{network.name}/bf16/ours",
    )


def _sampling(setting: Setting, network: Network, precision: str) -> Found:
    _release(setting.device)
    device, batch = torch.device(setting.device), setting(128, 4)
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


def sampling_rows(setting: Setting, network: Network) -> list[Measurement]:
    """Return sampling in each precision."""
    return [
        Measurement(
            f"sampling/{precision}",
            words,
            "images/s",
            partial(_sampling, setting, network, precision),
            None if precision == "float32" else "sampling/float32",
        )
        for precision, words in PRECISIONS.items()
    ]


class _Children:
    """Processes that train on one card, started when the first measurement needs them and ended after the last."""

    def __init__(self, setting: Setting, counts: list[int]) -> None:
        self.setting, self.counts = setting, counts
        self.started = []

    def rate(self, count: int) -> Found:
        """Return the images per second of the first so many of them together."""
        if not self.started:
            program = str(Path(__file__).with_name("concurrent_runs.py"))
            child = ["--child", "1", self.setting.device, "--seconds", str(self.setting.seconds)]
            command = [sys.executable, program, *child]
            self.started = start_serving([command] * max(self.counts), threads=1)
            for child in self.started:
                answer(child)
        found = measure(self.started[:count])
        words = f", {found.gpu_memory / 1024:.1f} GiB each" if found.gpu_memory else ""
        if count == max(self.counts):
            self.end()
        return Found(found.rate, f"a process each{words}")

    def end(self) -> None:
        """End the processes."""
        for child in self.started:
            child.communicate()
        self.started = []


def _grouped(setting: Setting, count: int) -> Found:
    recipe, images = quickstart_recipe(), balanced(open_images("digits"), 160)
    group = TrainerGroup(
        [
            Trainer(build_denoiser(recipe.model, images.shape, seed=seed), images.images, None, recipe.training, seed,
                    setting.device)
            for seed in range(count)
        ]
    )  # fmt: skip
    seconds = repeated(group.step, setting.device, setting.seconds)
    return Found(recipe.training.batch_size * count / seconds, "one process")


def several_rows(setting: Setting) -> list[Measurement]:
    """Return several small trainings at once, in processes of their own and as a group."""
    counts = [1] if setting.miniature else [1, 2, 4, 8]
    children, unit = _Children(setting, counts), "images/s in all"
    rows = [
        Measurement(
            f"several/{count}", f"{count} run{'s' if count > 1 else ''} at once", unit, partial(children.rate, count),
            None if count == 1 else "several/1",
        )
        for count in counts
    ]  # fmt: skip
    members = setting(8, 2)
    group = partial(_grouped, setting, members)
    return [
        *rows,
        Measurement(f"several/group of {members}", f"{members} runs as a group", unit, group, "several/1"),
    ]

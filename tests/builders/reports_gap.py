"""Gaps and curves that the tests of their figures look at."""

import io

import numpy as np
from matplotlib.text import Text
from rich.console import Console

from diffmem.data import ImageSet
from diffmem.memorization.rates import Rate
from diffmem.optimum.curves import optimum_curves
from diffmem.optimum.gap import Errors, correlations, curve_of
from diffmem.optimum.gap_records import GapResult, RunGap

SIGMAS = [0.002, 0.02, 0.2, 1.0, 4.0, 80.0]


def make_run(share, rate=None, *, images=20, heldout=True, seed=0):
    """A run whose denoiser lies at a share of the way from the optimum to the Gaussian."""
    rng = np.random.default_rng(seed)
    between = np.array([1e-6, 1e-3, 0.1, 0.3, 0.05, 1e-7])[:, None] * rng.uniform(0.5, 1.5, (6, 30))
    least = np.array([0, 0, 0, 0.01, 0.1, 0.3])[:, None] * rng.uniform(0.5, 1.5, (6, 30))
    losses = (least + share**2 * between, least)
    noisy = Errors(SIGMAS, share**2 * between, (1 - share) ** 2 * between, between, *losses)
    states = Errors(SIGMAS, noisy.to_optimum, noisy.to_gaussian, between, None, None)
    curves = [curve_of("training", noisy, lambda sigma: 1 / sigma**2), curve_of("trajectory", states)]
    if heldout:
        curves.insert(1, curve_of("heldout", noisy))
    return RunGap(
        run_id=f"{seed:016x}", folder=f"runs/{seed:016x}", images=images, conditional=False, images_seen=600 * images, epoch=600.0,
        rmem=None if rate is None else Rate(rate, 250), curves=curves,
    )  # fmt: skip


def make_gap(shares=(0.1, 0.3, 0.5, 0.6, 0.8, 0.9), rates=(240, 200, 90, 40, 3, 0)):
    runs = [
        make_run(share, rate, images=20 * (1 + index % 3), seed=index)
        for index, (share, rate) in enumerate(zip(shares, rates, strict=True))
    ]
    return GapResult(samples=30, seed=0, sampling="Heun", runs=runs, correlations=correlations(runs))


def make_curves(count=60, **settings):
    pixels = np.random.default_rng(0).integers(0, 256, (count, 1, 4, 4), dtype=np.uint8)
    labels = np.arange(count) % 2
    return optimum_curves(ImageSet(pixels, labels, tuple(map(str, range(count)))), queries=30, **settings)


def boxes_of(figure):
    """Every text that is seen, those of legends and titles too, with the box of its letters."""
    found = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    for axes in figure.axes:
        if not axes.axison:
            continue
        found += [*axes.texts, axes.xaxis.label, axes.yaxis.label, axes.title, axes._left_title]
        found += axes.get_legend().get_texts() if axes.get_legend() else []
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            found += [label for tick in ticks for label in (tick.label1, tick.label2)]
    shown = [text for text in found if text.get_visible() and text.get_text()]
    return [(text.get_text(), Text.get_window_extent(text)) for text in shown]


def printed(table):
    """A table as a terminal of 80 columns shows it."""
    stream = io.StringIO()
    Console(width=80, file=stream).print(table)
    return stream.getvalue()

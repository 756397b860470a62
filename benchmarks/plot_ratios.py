"""What a ratio of the two nearest distances looks like: samples of the emoji fine-tune from the nearest copies to what is no copy.

    python benchmarks/plot_ratios.py --out docs/pictures

Half a minute on one core.
"""

import argparse
from pathlib import Path

import numpy as np

from diffmem.auditing.prompts.planted import HOME, emoji_sets
from diffmem.files import write_bytes
from diffmem.memorization import RatioRule, nearest_neighbours
from diffmem.memorization.examples import Example
from diffmem.reports.gallery import gallery_figure
from diffmem.reports.html import png_bytes
from emoji_doses import sampled

WANTED = (0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.55, 0.7, 0.8, 0.9)
SEEDS = 4


def main():
    """Sample the last epoch, and draw for each wanted ratio the sample that is nearest to it, of another training image each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    training = emoji_sets().training
    chosen = np.flatnonzero(training.repeats >= 4)[::2]
    captions = [training.captions[at] for at in chosen]
    asked = [(at, seed) for at in range(len(captions)) for seed in range(SEEDS)]
    made = sampled(HOME, sorted((HOME / "loras").glob("*.safetensors"))[-1], captions, asked)
    rule = RatioRule()
    neighbours = nearest_neighbours(made, training.images, 2)
    ratios = rule.ratio(neighbours)
    picked = []
    for wanted in WANTED:
        order = np.argsort(np.abs(ratios - wanted))
        used = {int(neighbours.indices[at, 0]) for at in picked}
        picked.append(next(int(at) for at in order if int(neighbours.indices[at, 0]) not in used))
    example = Example(
        "What a ratio looks like: emoji of 16 x 16 pixels, by a LoRA after 40 epochs",
        made[picked],
        training.images[neighbours.indices[picked, 0]],
        training.images[neighbours.indices[picked, 1]],
        ratios[picked],
        rule.threshold,
        f"Of {len(made)} samples those whose ratios are nearest to {WANTED[0]:g} ... {WANTED[-1]:g}, each of another training image",
    )
    write_bytes(out / "ratios.png", png_bytes(gallery_figure(example)))


if __name__ == "__main__":
    main()

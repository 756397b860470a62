"""The doses of the emoji fine-tune: by epoch and by repeats, how many samples copy the image of their caption, and the first copying epoch.

python benchmarks/emoji_doses.py [--folder FOLDER] [--seeds 64] [--prompts 24] [--epochs 2 4 ...] [--base]

A sample copies if its nearest training image is that of its caption, by less than a third of the distance to the second nearest one: the
rule of the audit, at its usual threshold. Seeds are those of the audit. Prints CSV.
"""

import argparse
from pathlib import Path

import numpy as np

from diffmem.api.text_selftest import GUIDANCE, SAMPLER
from diffmem.auditing.prompts.plan import noise_seed
from diffmem.auditing.prompts.planted import DOSES, HOME, emoji_sets
from diffmem.models import open_text_model
from diffmem.models.guided import GuidedDenoiser
from diffmem.models.latent import LatentDenoiser
from diffmem.sampling import generate


def copies(made, training, own=None):
    """Return which samples copy their own image, or any."""
    flat, known = (one.reshape(len(one), -1).astype(np.float32) for one in (made, training))
    squares = (flat**2).sum(1)[:, None] + (known**2).sum(1) - 2 * flat @ known.T
    nearest = np.sqrt(np.maximum(0, np.sort(squares, axis=1)[:, :2]))
    return (nearest[:, 0] < nearest[:, 1] / 3) & (own is None or squares.argmin(1) == own)


def sampled(folder, lora, captions, asked):
    """Return the images of a LoRA (or of the base, none) for (caption's index, seed) each, as the audit makes them."""
    inner = open_text_model(folder / "model", captions, lora=lora, device="cpu").denoiser
    guided = LatentDenoiser(
        GuidedDenoiser(inner.inner, GUIDANCE), inner.decode, inner.encode, inner.pixel_shape
    )
    seeds = [noise_seed(captions[at], seed) for at, seed in asked]
    return generate(guided, seeds, SAMPLER, labels=[at for at, _ in asked], batch_size=256).images


def main():
    """Sample every epoch that is asked for, and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=HOME)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument(
        "--prompts", type=int, default=24, help="of each number of repeats, and of held-out captions"
    )
    parser.add_argument("--epochs", type=int, nargs="*")
    parser.add_argument("--repeats", type=int, nargs="*", default=list(DOSES))
    parser.add_argument("--base", action="store_true", help="the base model, too")
    parser.add_argument(
        "--controls", action="store_true", help="held-out captions, too: copies of any training image"
    )
    given = parser.parse_args()
    sets = emoji_sets()
    chosen = [
        at
        for times in given.repeats
        for at in np.flatnonzero(sets.training.repeats == times)[: given.prompts]
    ]
    captions = [sets.training.captions[at] for at in chosen]
    captions += sets.heldout.captions[: given.prompts] if given.controls else ()
    asked = [(at, seed) for at in range(len(captions)) for seed in range(given.seeds)]
    files = sorted((given.folder / "loras").glob("*.safetensors"))
    files = [one for one in files if not given.epochs or int(one.stem.split("-")[1]) in given.epochs]
    print(
        "model",
        *(f"x{times}" for times in given.repeats),
        *(["control"] if given.controls else []),
        sep=",",
        flush=True,
    )
    for lora in [*([None] if given.base else []), *files]:
        made = sampled(given.folder, lora, captions, asked)
        of = np.array([at for at, _ in asked])
        row = []
        for times in given.repeats:
            those = np.isin(of, [at for at, one in enumerate(chosen) if sets.training.repeats[one] == times])
            row.append(copies(made[those], sets.training.images, np.array(chosen)[of[those]]).mean())
        if given.controls:
            row.append(copies(made[of >= len(chosen)], sets.training.images).mean())
        print("base" if lora is None else lora.stem, *(f"{value:.3f}" for value in row), sep=",", flush=True)


if __name__ == "__main__":
    main()

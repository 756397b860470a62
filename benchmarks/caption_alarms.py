"""How often the criterion of captions finds copies where there are none, and how often it finds them where there are.

python benchmarks/caption_alarms.py [--audits 2000]

Ratios of samples are lognormal: every caption has a difficulty of its own, drawn alike for training captions and held-out ones, and every
sample adds noise, which the model and its base share to a degree. A model that copies brings back, beside that, a share of the samples of
its most repeated captions. Nothing is found rightly in the first rows, so their rates are false alarms; at most 4% are allowed.
"""

import argparse
import itertools

import numpy as np

from diffmem.auditing.prompts.captions import CAPTION_RISK, captions_record


def ratios_of(rng, prompts, seeds, case):
    """Return ratios of both models, (prompts, seeds) each; `case` is (typical ratio, spread of captions, shared noise, gain)."""
    typical, spread, shared, gain = case
    hard = np.log(typical) + spread * rng.standard_normal((prompts, 1))
    noise = rng.standard_normal((3, prompts, seeds)) * 0.3
    base, model = (np.sqrt(shared) * noise[0] + np.sqrt(1 - shared) * one for one in noise[1:])
    return np.exp(hard + model) * gain, np.exp(hard + base)


def found(rng, sizes, case, copies=0.0):
    """Return whether one audit finds copies; sizes are those of (training captions, held-out ones, seeds, levels)."""
    training, heldout, seeds, levels = sizes
    model, base = ratios_of(rng, training + heldout, seeds, case)
    repeats = [1 + at % levels for at in range(training)] + [None] * heldout
    often = np.array([times == levels for times in repeats])
    model[often] = np.where(rng.random(model[often].shape) < copies, 0.05, model[often])
    groups = ["train"] * training + ["control"] * heldout
    of_sample = np.repeat(np.arange(training + heldout), seeds)
    record = captions_record((model.ravel(), base.ravel()), of_sample, groups, repeats)
    return record.found


def main():
    """Print a row for each case: the share of audits that find copies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--audits", type=int, default=2000)
    audits = parser.parse_args().audits
    rng = np.random.default_rng(0)
    sizes = [(20, 20, 4, 1), (100, 100, 4, 4), (100, 0, 4, 4), (300, 100, 4, 1), (13, 100, 16, 1)]
    # Base samples seldom near, often near, and near for a few captions alone; a model like its base, and one that draws all better.
    cases = itertools.product([(1.2, 0.3), (0.7, 0.3), (1.2, 0.9)], (0.0, 0.9), (1.0, 0.7))
    print("training,held out,seeds,levels,typical ratio,spread,shared noise,gain,found")
    worst = 0.0
    for (typical, spread), shared, gain in cases:
        for size in sizes:
            if gain < 1 and not size[1]:
                continue  # without held-out captions nothing tells a model that learned from one that copies
            share = np.mean([found(rng, size, (typical, spread, shared, gain)) for _ in range(audits)])
            worst = max(worst, share)
            print(*size, typical, spread, shared, gain, f"{share:.4f}", sep=",", flush=True)
    print(f"the most false alarms: {worst:.2%} of at most {CAPTION_RISK:.0%}")
    print("training,held out,seeds,levels,share of samples that copy,found")
    for size, copies in itertools.product(sizes, (0.05, 0.1, 0.2, 0.4)):
        share = np.mean([found(rng, size, (1.2, 0.3, 0.5, 1.0), copies) for _ in range(audits // 10)])
        print(*size, copies, f"{share:.2f}", sep=",", flush=True)


if __name__ == "__main__":
    main()

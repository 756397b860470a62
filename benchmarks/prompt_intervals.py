"""Do intervals over prompts cover? Simulated copies whose seeds depend on each other, counted by prompt and by sample.

    python benchmarks/prompt_intervals.py [--repeats 4000]

Each prompt has its own probability of a copy (beta, with the mean that is to be covered and the correlation of two samples of a
prompt), and S samples. Prints, of 95% intervals, the share that hold the mean: by prompt (`share_interval`), and by sample (Clopper
and Pearson for all samples).
"""

from __future__ import annotations

import argparse

import numpy as np

from diffmem.auditing.prompts.shares import share_interval


def covered(prompts, samples, mean, correlation, repeats, rng):
    """Return how often the intervals by prompt and by sample hold the mean."""
    if correlation == 0:
        copies = rng.binomial(samples, mean, (repeats, prompts))
    elif correlation == 1:
        copies = samples * rng.binomial(1, mean, (repeats, prompts))
    else:
        odds = (1 - correlation) / correlation
        copies = rng.binomial(samples, rng.beta(mean * odds, (1 - mean) * odds, (repeats, prompts)))
    by_prompt = share_interval((copies / samples).sum(1), prompts)
    by_sample = share_interval(copies.sum(1), prompts * samples)
    return tuple(float(((low <= mean) & (mean <= high)).mean()) for low, high in (by_prompt, by_sample))


def main():
    """Simulate every setting and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=4000)
    repeats = parser.parse_args().repeats
    rng = np.random.default_rng(0)
    print("prompts  samples  mean  correlation  by prompt  by sample")
    least = [1.0, 1.0]
    for prompts in (10, 50, 200):
        for samples in (4, 16):
            for mean in (0.01, 0.05, 0.3, 0.7):
                for correlation in (0, 0.3, 0.9, 1):
                    found = covered(prompts, samples, mean, correlation, repeats, rng)
                    least = [min(pair) for pair in zip(least, found, strict=True)]
                    print(
                        f"{prompts:7} {samples:8} {mean:5} {correlation:12}  {found[0]:9.3f}  {found[1]:9.3f}"
                    )
    print(f"least: {least[0]:.3f} by prompt, {least[1]:.3f} by sample")


if __name__ == "__main__":
    main()

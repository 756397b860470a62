"""Rank correlations of the position with R_mem in subsets of the runs of `diffmem gap`, and the runs far from the trend.

diffmem gap RUNS --samples 128 --out gap
python benchmarks/gap_table.py gap/gap.json
"""

import argparse
from pathlib import Path

from diffmem.optimum.gap import spearman
from diffmem.optimum.gap_records import GapResult, positions_and_rmem

KINDS = {
    "training": "on noisy training images",
    "heldout": "on noisy held-out images",
    "trajectory": "on states of its own sampling",
}
_FEWEST = 10


def main():
    """Print the table, then the runs whose R_mem is low for their position or high for it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("result", type=Path)
    runs = GapResult.model_validate_json(parser.parse_args().result.read_bytes()).runs
    sizes = sorted({run.images for run in runs})
    subsets = {
        f"all {len(runs)} runs": runs,
        **{f"N = {size:,}": [run for run in runs if run.images == size] for size in sizes},
        "without labels": [run for run in runs if not run.conditional],
        "with labels": [run for run in runs if run.conditional],
    }
    print(f"| Spearman correlation of position and R_mem [95%] | {' | '.join(KINDS.values())} |")
    print("|---" * (len(KINDS) + 1) + "|")
    for name, chosen in subsets.items():
        if len(chosen) < _FEWEST:
            continue
        cells = []
        for kind in KINDS:
            pairs = [(place.value, rate.value) for place, rate in positions_and_rmem(chosen, kind)]
            value, low, high = spearman(*zip(*pairs, strict=True))
            cells.append(f"{value:.2f} [{low:.2f}, {high:.2f}]")
        label = name if name.startswith("all") else f"{name} ({len(chosen)} runs)"
        print(f"| {label} | {' | '.join(cells)} |")
    for title, odd in (
        ("position below 0.5, R_mem at most 5%:", lambda place, rate: place < 0.5 and rate <= 0.05),
        ("position below 0.25, R_mem below 80%:", lambda place, rate: place < 0.25 and rate < 0.8),
        ("position above 0.6, R_mem above 20%:", lambda place, rate: place > 0.6 and rate > 0.2),
    ):
        print(f"\n{title}")
        for run in runs:
            for place, rate in positions_and_rmem([run], "training"):
                if odd(place.value, rate.value):
                    print(
                        f"  {run.run_id} N = {run.images}, labels {run.conditional}: {place.value:.2f}, {rate.value:.0%}"
                    )


if __name__ == "__main__":
    main()

"""Coverage of the intervals of onset times, of their exponent, and of predictions, on simulated curves that are known.

    python benchmarks/onset.py [--simulations 1000]

R_mem is logistic in the logarithm of images seen (slopes of 1.5 to 4); the time at which it is half grows as N^b, b drawn from 0.7
to 1.3, with a normal scatter of the runs in its logarithm; counts are binomial. Each study has four sizes, 64 to 512.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "tests" / "builders"))
from onset_curves import covered

SETTINGS = [
    {"line": 0.1, "scatter": 0.1, "seeds": 2, "spacing": 2**0.5},
    {"line": 0.01, "scatter": 0.1, "seeds": 2, "spacing": 2**0.5},
    {"line": 0.9, "scatter": 0.1, "seeds": 2, "spacing": 2**0.5},
    {"line": 0.1, "scatter": 0.02, "seeds": 1, "spacing": 2},
    {"line": 0.1, "scatter": 0.3, "seeds": 1, "spacing": 2**0.5},
    {"line": 0.1, "scatter": 0.3, "seeds": 4, "spacing": 2**0.25},
    {"line": 0.9, "scatter": 0.2, "seeds": 2, "spacing": 2**0.5, "last": 1500},
    {"line": 0.1, "scatter": 0.1, "seeds": 2, "spacing": 2**0.5, "samples": 100},
]


def main():
    """Print a table, a row for each setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=1000)
    given = parser.parse_args()
    columns = ["run", "size", "exponent", "new run at 2x", "new run at 10x"]
    print(
        f"| line | scatter | seeds | spacing | images | ends at epoch | {' | '.join(columns)} | exponent's width | law |"
    )
    print("| --- " * (len(columns) + 8) + "|")
    for setting in SETTINGS:
        found, widths = defaultdict(list), []
        for number in range(given.simulations):
            answers, width = covered(number, **setting)
            widths.append(width)
            for what, held in answers.items():
                found[what] += held
        cells = [f"{100 * np.mean(found[what]):.1f}%" if found[what] else "–" for what in columns]
        known = np.isfinite(widths)
        print(
            f"| {100 * setting['line']:g}% | {setting['scatter']} | {setting['seeds']} | {setting['spacing']:.3g} |"
            f" {setting.get('samples', 500)} | {setting.get('last', 100_000):,} | {' | '.join(cells)} |"
            f" {np.nanmedian(widths):.2f} | {100 * known.mean():.1f}% |",
            flush=True,
        )


if __name__ == "__main__":
    main()

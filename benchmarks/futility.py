"""How often the futility rule would have stopped a training that came to memorize, and what it would have saved.

    python benchmarks/futility.py STUDY...

Reads finished searches (folders of `diffmem study`) and tests, at each evaluation point of each training, whether the rule would have
stopped it there. Baseline: the same trainings without the rule.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from diffmem.api.studies import open_emm
from diffmem.memorization import Rate
from diffmem.studies.search.decisions import FutilityRule


def given_up(run, rule, target_rate):
    """Return the epoch at which the rule would have ended a training; none for never."""
    epochs = [point.epoch for point in run.evaluations]
    counts = [(point.memorized.count, point.memorized.total) for point in run.evaluations]
    for seen in range(1, len(epochs) + 1):
        if rule.is_hopeless(epochs[:seen], counts[:seen], run.epochs, target_rate):
            return epochs[seen - 1]
    return None


def main():
    """Print the errors and the savings for several values of `pace`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("studies", nargs="+", type=Path)
    results = [open_emm(folder).result for folder in parser.parse_args().studies]
    runs = [
        (run, 1 - result.epsilon)
        for result in results
        for level in result.levels
        for run in level.runs
        if run.verdict in ("memorized", "not memorized", "undecided") and run.stopped != "hopeless"
    ]
    print(f"{len(runs)} finished trainings of {len(results)} studies")
    for pace in (1.0, 1.5, 2.0, 3.0):
        rule = FutilityRule(pace=pace)
        ended = {(run.run_id, run.level): given_up(run, rule, target_rate) for run, target_rate in runs}
        reached = [run for run, _ in runs if run.verdict != "not memorized"]
        spared = [run for run, _ in runs if run.verdict == "not memorized"]
        wrong = sum(ended[run.run_id, run.level] is not None for run in reached)
        right = sum(ended[run.run_id, run.level] is not None for run in spared)
        whole = sum(run.epochs_trained * run.size for run, _ in runs)
        saved = sum(
            (run.epochs_trained - ended[run.run_id, run.level]) * run.size
            for run in spared
            if ended[run.run_id, run.level] is not None
        )
        error = Rate(wrong, len(reached)) if reached else "no such training"
        print(
            f"pace {pace}: stopped {right} of {len(spared)} that did not memorize, saving {saved / max(whole, 1):.1%} of all images"
            f" trained; wrongly {error} of those that did or were undecided"
        )


if __name__ == "__main__":
    main()

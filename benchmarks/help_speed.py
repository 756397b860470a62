"""Seconds until `diffmem --help` has printed, against starting the interpreter alone.

python benchmarks/help_speed.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

BAR = 0.3


def _seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Interleave both commands and print medians; exit with 1 above the limit."""
    ours, bare = [], []
    for _ in range(10):
        ours.append(_seconds([sys.executable, "-m", "diffmem", "--help"]))
        bare.append(_seconds([sys.executable, "-c", "pass"]))
    seconds, start = statistics.median(ours), statistics.median(bare)
    print(
        f"diffmem --help: {seconds:.2f} s, {seconds / start:.1f}x an empty interpreter ({start:.2f} s); required {BAR} s"
    )
    raise SystemExit(int(seconds > BAR))


if __name__ == "__main__":
    main()

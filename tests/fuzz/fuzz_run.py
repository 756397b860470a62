"""Damage files of one kind, checkpoints or images, or of all: `python tests/fuzz/fuzz_run.py [--count N] [--seed S] [KIND ...]`.

Each damaged file is opened or refused in one line; every other outcome is printed with its file, which is left in the folder `findings`,
and the program ends with an error. The most memory that was used is printed: it may grow by `GROWTH_MEBIBYTES`.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import resource
import sys
import tempfile
import time
import traceback
from pathlib import Path
from random import Random
from typing import Any

_HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE), str(_HERE.parent / "builders")]

from fuzz_checkpoints import LAYOUTS  # noqa: E402 - the folders of the tests' makers are told above
from fuzz_harness import Harness  # noqa: E402
from fuzz_images import IMAGES  # noqa: E402
from fuzz_members import MEMBERS  # noqa: E402
from fuzz_mutations import PROOF, damaged  # noqa: E402

GROWTH_MEBIBYTES = 200
"""More than a file of one megabyte may add to the memory of a process that has opened one."""

__all__ = ["GROWTH_MEBIBYTES", "fuzz", "peak_mebibytes"]


class Seeded:
    """A kind of files of images as a layout: what is damaged are the bytes of its good ones."""

    name = "file"

    def __init__(self, harness: Harness) -> None:
        self.place, self.open, self._seeds = harness.place, harness.open, harness.seeds

    def mutant(self, random: Random) -> bytes:
        return damaged(random, random.choice(self._seeds), self._seeds)


def peak_mebibytes() -> float:
    """Return the most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def fuzz(layout: Any, count: int, seed: int, folder: Path) -> tuple[int, list[tuple[int, str, bytes]]]:
    """Open so many damaged files of a `Layout`, `Folder` or `Seeded`.

    Returns how many were opened, and the findings: number, what happened, file.

    The working directory must be the folder, in which a call that is carried out would leave `PROOF`.
    """
    harness = Harness((), lambda content, place: layout.place(content, place), layout.open)
    opened, findings = 0, []
    for number in range(count):
        content = layout.mutant(Random(f"{seed} {number}"))
        before = peak_mebibytes()
        try:
            opened += harness.check(content, folder)
            grown = peak_mebibytes() - before
            assert grown < GROWTH_MEBIBYTES, f"it took {grown:.0f} MiB"
            assert not PROOF.exists(), "it was executed"
        except Exception:
            findings.append((number, traceback.format_exc(), content))
    return opened, findings


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "kinds",
        nargs="*",
        metavar="KIND",
        help=", ".join([*LAYOUTS, "diffusers-network", "diffusers-scheduler", *IMAGES, *MEMBERS]),
    )
    parser.add_argument("--count", type=int, default=1000, help="of damaged files")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    kinds: dict[str, Any] = LAYOUTS | {kind: Seeded(one) for kind, one in (IMAGES | MEMBERS).items()}
    if importlib.util.find_spec("diffusers") is not None:
        from fuzz_folders import FOLDERS

        kinds |= FOLDERS
    if importlib.util.find_spec("transformers") is not None:
        from fuzz_text_folders import TEXT_FOLDERS

        kinds |= TEXT_FOLDERS
    findings_at, failed = Path("findings").absolute(), False
    for kind in given.kinds or kinds:
        with tempfile.TemporaryDirectory(prefix="diffmem-fuzz-") as scratch:
            os.chdir(scratch)
            layout, folder = kinds[kind], Path(scratch)
            started, before = time.monotonic(), peak_mebibytes()
            opened, findings = fuzz(layout, given.count, given.seed, folder)
            rate = given.count / (time.monotonic() - started)
            os.chdir(findings_at.parent)
        print(
            f"{kind}: {given.count:,} files, {opened:,} opened, {len(findings):,} findings, {rate:.0f} a second,"
            f" {peak_mebibytes() - before:.0f} MiB more memory",
            flush=True,
        )
        seen: set[str] = set()
        for number, text, content in findings:
            failed = True
            place = "".join(line for line in text.splitlines()[-6:] if "File" in line)
            if place not in seen:
                seen.add(place)
                findings_at.mkdir(exist_ok=True)
                (findings_at / f"{kind}-{given.seed}-{number}-{layout.name}".replace("/", "-")).write_bytes(
                    content
                )
                print(f"--- {kind} {number}\n{text[-2500:]}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()

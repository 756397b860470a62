"""Everything that a GPU changes, measured in at most four minutes: one page and one JSON.

    python benchmarks/gpu.py --out gpu/ [--minutes 4] [--device cpu --miniature]

The card and its limits; training of the paper's networks in float32, TF32 and bf16, beside the same networks in plain eager PyTorch,
and compiled; sampling; several runs on one card; nearest neighbours in float32 and int8; the closed-form optimum; and the
hours that one EMM and the paper's experiments would take. Parts are measured in order of worth, and every number is
written to results.json and page.html when it is there, so that a run that is killed leaves what it found. A
measurement that fails is shown on the page, the others go on, and the exit code is 1.

--table prints the rows of --out as a Markdown table, all unmeasured if there are no results. --miniature makes everything small, to see on
a CPU that it works; the numbers then mean nothing.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from diffmem.files import read_json, write_json, write_text
from diffmem.memory import BatchTooLargeError
from gpu_page import markdown, page, picture
from gpu_projection import Plan, plan_of, project
from gpu_searches import optimum_rows, search_rows
from gpu_setting import Measurement, Setting
from gpu_training import card_rows, compiled_row, sampling_rows, several_rows, training_rows
from rates import describe_machine

RESULTS, PAGE = "results.json", "page.html"
RESERVE = 15  # seconds of the minutes for imports before the first measurement and the end after the last


def plan(setting: Setting) -> dict[str, list[Measurement]]:
    """Return what is measured: the title of each part -> its measurements, in order of worth."""
    known = f"{setting(50_000, 300):,} images of 32x32x3"
    first, small, wide = setting.networks().values()
    return {
        "The card and its limits": card_rows(setting),
        f"Training, {first.name}": training_rows(setting, first),
        f"Sampling, {first.name}": sampling_rows(setting, first),
        f"Training, {first.name}, compiled": [compiled_row(setting, first)],
        f"Training, {small.name}": training_rows(setting, small),
        "Several runs of the quickstart's size on one card": several_rows(setting),
        f"The two nearest of {setting(10_000, 32):,} among {known}": search_rows(setting),
        f"Sampling from the optimum of {known}": optimum_rows(setting),
        f"Training, {wide.name}": training_rows(setting, wide),
        "Other networks, compiled": [compiled_row(setting, small), compiled_row(setting, wide)],
    }


def machine_of(device: str) -> dict[str, str]:
    """Return what the numbers were measured on, in words."""
    host = {"processor": describe_machine(), "python": platform.python_version()}
    if torch.device(device).type != "cuda":
        return {"device": f"a CPU ({platform.machine()})", **host}
    card = torch.cuda.get_device_properties(device)
    return {
        "device": card.name,
        "memory": f"{card.total_memory / 2**30:.0f} GiB",
        "multiprocessors": str(card.multi_processor_count),
        "compute capability": f"{card.major}.{card.minor}",
        "CUDA": str(torch.version.cuda),
        "cuDNN": str(torch.backends.cudnn.version()),
        **host,
    }


class TimeUp(BaseException):
    """Raised in whatever runs when the time is up; no `except Exception` on the way holds it."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise `TimeUp` in what is inside after so many seconds."""

    def ring(*_: object) -> None:
        raise TimeUp

    before = signal.signal(signal.SIGALRM, ring)
    timer = signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *timer)


class Run:
    """One run: what it has found so far, and where that is written."""

    def __init__(self, out: Path, setting: Setting, minutes: float) -> None:
        self.out, self.setting, self.parts = out, setting, plan(setting)
        self.begin = time.monotonic()
        self.end = self.begin + 60 * minutes - RESERVE
        self.content: dict[str, Any] = {
            "machine": machine_of(setting.device),
            "miniature": setting.miniature,
            "state": "Started.",
            "results": {},
            "projection": [],
        }
        self.drawn = ""
        self.failed = False

    def write(self, state: str, drawing: bool = False) -> None:
        """Write both files as things stand."""
        self.content["state"] = f"{state} ({time.monotonic() - self.begin:.0f} s)"
        if drawing:
            self.drawn = picture(self.content, list(self.setting.networks()))
        write_json(self.out / RESULTS, self.content)
        write_text(self.out / PAGE, page(self.content, self.parts, self.drawn))

    def measured(self, row: Measurement) -> dict[str, Any]:
        """Return the entry of one measurement."""
        begin = time.monotonic()
        if begin >= self.end:
            return {"state": "not run: time was up"}
        try:
            with deadline(self.end - begin):
                found = row.work()
        except TimeUp:
            entry: dict[str, Any] = {"state": "not finished: time was up"}
        except (torch.OutOfMemoryError, BatchTooLargeError) as error:
            entry = {"state": "out of memory", "note": str(error).partition(". ")[0]}
        except (Exception, SystemExit) as error:  # whatever it is, the other measurements go on
            traceback.print_exc()
            self.failed = True
            entry = {"state": "failed", "note": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}
        else:
            entry = {"value": found.value, "note": found.note}
        return {**entry, "seconds": round(time.monotonic() - begin, 2)}

    def project(self, pending: Future[Plan]) -> None:
        """Fill in the FLOP/s of training and the projection, as far as they are known."""
        plan, results = pending.result(), self.content["results"]
        values = {key: found["value"] for key, found in results.items() if "value" in found}
        for key, value in values.items():
            kind, _, rest = key.partition("/")
            if kind == "training":  # three evaluations' worth for each image
                results[key]["tflops"] = 3e-12 * plan.measured[rest.partition("/")[0]] * value
        self.content["projection"] = [asdict(one) for one in project(plan, values)]

    def measure(self, pending: Future[Plan]) -> None:
        """Measure everything."""
        for title, part in self.parts.items():
            for row in part:
                found = self.content["results"][row.key] = self.measured(row)
                text = f"{found['value']:.4g} {row.unit}" if "value" in found else found["state"]
                print(f"{title}: {row.what}: {text}  [{found.get('note', '')}]", flush=True)
                self.write("Not finished.")
            if pending.done():
                self.project(pending)
            self.write("Not finished.", drawing=True)
        self.project(pending)
        self.write(
            "One or more measurements failed; see below." if self.failed else "Finished.", drawing=True
        )


def main() -> int:
    """Measure, or print the table; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu"))
    parser.add_argument("--minutes", type=float, default=4.0, help="what is not measured by then is left out")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--miniature", action="store_true", help="everything small: to see that it works")
    parser.add_argument("--table", action="store_true", help="print the rows of --out as a Markdown table")
    given = parser.parse_args()
    setting = Setting(given.device, given.miniature)
    if given.table:
        path = given.out / RESULTS
        print(markdown(read_json(path) if path.exists() else {}, plan(setting)), end="")
        return 0
    if torch.device(given.device).type == "cpu" and not given.miniature:
        parser.error("There is no GPU here. See that everything works with --device cpu --miniature.")
    if given.miniature:
        torch.compiler.set_stance("force_eager")  # compiling takes a minute, small or not
    run = Run(given.out, setting, given.minutes)
    # In a process of its own, since it takes seconds in which the GPU would have nothing to do.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        run.measure(pool.submit(plan_of, setting))
    print(f"Page: {given.out / PAGE}, numbers: {given.out / RESULTS}")
    return int(run.failed)


if __name__ == "__main__":
    sys.exit(main())

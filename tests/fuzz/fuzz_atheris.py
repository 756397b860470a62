"""Fuzz one kind of file with atheris, guided by the coverage of the readers: `python fuzz_atheris.py KIND [-runs=N ...]`.

The options are libFuzzer's. A finding ends the program with an error and leaves the input as `crash-...`.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import atheris

_HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE), str(_HERE.parent / "builders")]

# Not NumPy: its many modules would take a minute before the first run.
_READERS = ["diffmem.data", "diffmem.models", "PIL", "gzip", "json", "pickletools", "tarfile", "zipfile"]

with atheris.instrument_imports(include=_READERS):
    from fuzz_kinds import HARNESSES


def main() -> None:
    kind, *options = sys.argv[1:]
    harness = HARNESSES[kind]
    with tempfile.TemporaryDirectory(prefix="diffmem-fuzz-") as scratch:
        corpus, folder = Path(scratch) / "corpus", Path(scratch) / "folder"
        corpus.mkdir()
        for number, seed in enumerate(harness.seeds):
            (corpus / f"seed-{number}").write_bytes(seed)

        def run(content: bytes) -> None:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            harness.check(content, folder)

        atheris.Setup([sys.argv[0], *options, str(corpus)], run)
        atheris.Fuzz()


if __name__ == "__main__":
    main()

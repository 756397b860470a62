"""Very many damages of the files of some kinds, without hypothesis, whose own work takes longer than the readers': for hand runs.

    PYTHONPATH=src:tests:tests/builders:tests/fuzz python tests/fuzz/fuzz_many.py --count 100000 tar-members mat

Each damage is drawn from a seed and its number, so that a finding can be made again: it is printed with both, and its bytes are kept.
"""

from __future__ import annotations

import argparse
import random
import struct
import tempfile
import time
import traceback
from pathlib import Path

from fuzz_harness import HARNESSES as READERS
from fuzz_members import MEMBERS

HARNESSES = READERS | MEMBERS
NUMBERS = (
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    2**62,
    2**63 - 1,
    2**64 - 1,
)
LAYOUTS = ("B", "<H", ">H", "<I", ">I", "<Q", ">Q")


def damaged(content: bytes, others: tuple[bytes, ...], draw: random.Random) -> bytes:
    """Return a content with one to three damages of the kinds of `test_fuzz_readers`; or with a digit or letter replaced."""
    for _ in range(draw.randint(1, 3)):
        if not content:
            break
        place = (
            draw.randrange(len(content)) if draw.random() < 0.5 else min(draw.randrange(80), len(content) - 1)
        )
        if draw.random() < 0.4:
            place = len(content) - 1 - place
        length = draw.choice((draw.randint(1, 16), draw.randint(1, len(content))))
        head, part, tail = content[:place], content[place : place + length], content[place + length :]
        match draw.randrange(7):
            case 0:
                content = head + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]
            case 1:
                layout = draw.choice(LAYOUTS)
                limit = 2 ** (8 * struct.calcsize(layout))
                written = struct.pack(layout, draw.choice(NUMBERS) % limit)
                content = head + written + content[place + len(written) :]
            case 2:
                content = head
            case 3:
                content = head + tail
            case 4:
                content = head + part * draw.randint(2, 20) + tail
            case 5:
                other = draw.choice(others)
                start = draw.randint(0, len(other))
                content = head + other[start : start + length] + tail
            case 6:
                content = head + bytes([draw.choice(b'0179-./\\"[]{}:, \n\0x')]) + content[place + 1 :]
    return content


def main() -> None:
    """Damage, open, count."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("kinds", nargs="+", choices=sorted(HARNESSES))
    parser.add_argument("--count", type=int, default=100_000, help="damages of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()), help="folder for findings")
    options = parser.parse_args()
    for kind in options.kinds:
        harness, accepted, findings, started = HARNESSES[kind], 0, 0, time.monotonic()
        with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
            for number in range(options.count):
                draw = random.Random(f"{kind} {options.seed} {number}")
                content = damaged(draw.choice(harness.seeds), harness.seeds, draw)
                try:
                    accepted += harness.check(content, Path(name))
                except BaseException as error:
                    findings += 1
                    kept = options.keep / f"finding-{kind}-{options.seed}-{number}"
                    kept.write_bytes(content)
                    print(f"{kept}: {type(error).__name__}: {error}"[:500], flush=True)
                    if findings <= 3:
                        traceback.print_exc()
                    if isinstance(error, KeyboardInterrupt) or findings >= 20:
                        break
        seconds = time.monotonic() - started
        print(
            f"{kind}: {number + 1:,} damages, {accepted:,} accepted, {findings} findings, {seconds:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()

"""`python -m diffmem` and the `diffmem` command: parse, call, turn errors into one line and an exit code.

Under torchrun the command runs in several processes, of which rank 0 alone prints; the others report their errors.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from itertools import pairwise
from typing import NoReturn

from diffmem.console import Output, speaking, without_controls
from diffmem.distributed import LostProcessError, joined, under_torchrun
from diffmem.errors import DiffmemError, UserError

__all__ = ["main"]

_SECONDS_BEFORE_ECHO = 2.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Exit codes: 0 done, 1 the program or the machine failed, 2 the user's mistake, 130 interrupted; `audit` also answers by
    3 and 4. They do not depend on what the console can show; a standard output that is full is a failure of the machine, one
    whose reader had enough is none.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    with speaking() as (out, _):
        if under_torchrun():
            _run_joined(words, out)
        code = _checked_output(_exit_code(lambda: _call(words), words), out)
    if code is not None:
        raise SystemExit(code)


def _call(words: list[str]) -> None:
    from diffmem.cli import app

    # The usual action on a result is to exit, past all that follows the call here.
    app(words, exit_on_error=False, print_error=False, result_action="return_value")


def _checked_output(code: int | None, out: Output) -> int | None:
    """Return the exit code, after an error about a standard output that could not be written to the end."""
    out.flush()
    failure = out.failure
    if failure is None or isinstance(failure, BrokenPipeError) or code in (1, 2, 130):
        return code
    _write_error(
        f"error: Cannot write to standard output: {failure.strerror or failure}. The work itself is done"
        f"{f', and ended with code {code}' if code else ''}; what was printed is incomplete.\n"
    )
    return 1


def _exit_code(call: Callable[[], None], words: list[str], rank: int = 0) -> int | None:
    """Call, print an error, and return the exit code, none if all went well."""
    from cyclopts import CycloptsError

    try:
        call()
    except (CycloptsError, UserError) as error:
        return _print_error(error, 2, rank)
    except LostProcessError as error:
        # The launcher ends this process meanwhile, and the error that matters stays the last and only one.
        time.sleep(_SECONDS_BEFORE_ECHO)
        return _print_error(error, 1, rank)
    except DiffmemError as error:
        return _print_error(error, 1, rank)
    except SystemExit as end:
        # A command that answers by its code.
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        if not rank:
            kept = " What was done is kept: the same command resumes from there." if _goes_on(words) else ""
            print(f"\nStopped.{kept}", file=sys.stderr)
        return 130
    return None


def _goes_on(words: list[str]) -> bool:
    """Whether the command, called again, goes on from where it was stopped, or has nothing that it could go on from."""
    if words[:1] in (["audit"], ["measure"]):
        return any(word.partition("=")[0] in ("--model", "--expdir") for word in words)
    anew = (
        ["data", "build"],
        ["data", "info"],
        ["data", "duplicates"],
        ["doctor"],
        ["optimum"],
        ["report"],
        ["runs"],
    )
    return not any(words[: len(one)] == one for one in anew)


def _run_joined(words: list[str], out: Output) -> NoReturn:
    """Run the command together with the other processes, and end this process."""
    rank, speech = int(os.environ["RANK"]), sys.stderr

    def call() -> None:
        with joined(gpu=_wants_gpu(words)):
            if not rank:
                _call(words)
                return
            with (
                open(os.devnull, "w", encoding="utf-8", errors="replace") as nothing,
                redirect_stdout(nothing),
                redirect_stderr(nothing),
            ):
                _call(words)

    try:
        code = _checked_output(_exit_code(call, words, rank), out)
    except Exception:
        _write_error("".join(f"rank {rank}: {line}\n" for line in traceback.format_exc().splitlines()))
        code = 1
    speech.flush()
    if code:
        # The usual end would run the destructors of the connections, which can wait for others for ever.
        os._exit(code)
    raise SystemExit(0)


def _wants_gpu(words: list[str]) -> bool:
    import torch

    named = [word.partition("=")[2] for word in words if word.startswith("--device=")]
    named += [value for word, value in pairwise(words) if word == "--device"]
    return "cpu" not in named and torch.cuda.is_available()


def _print_error(error: Exception, code: int, rank: int) -> int:
    prefix = f"rank {rank}: error:" if rank else "error:"
    _write_error(f"{prefix} {without_controls(' '.join(str(error).split()))}\n")
    return code


def _write_error(text: str) -> None:
    sys.stderr.write(text)  # in one piece: other processes write to the same place
    sys.stderr.flush()


if __name__ == "__main__":
    main()

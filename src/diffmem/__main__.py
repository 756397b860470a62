"""`python -m diffmem` and the `diffmem` command: parse, call, turn errors into one line and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from diffmem.errors import DiffmemError, UserError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Exit codes: 0 done, 1 the program or the machine failed, 2 the user's mistake, 130 interrupted.
    """
    from cyclopts import CycloptsError

    from diffmem.cli import app

    try:
        app(sys.argv[1:] if arguments is None else list(arguments), exit_on_error=False, print_error=False)
    except CycloptsError as error:
        _say(error)
        raise SystemExit(2) from None
    except UserError as error:
        _say(error)
        raise SystemExit(2) from None
    except DiffmemError as error:
        _say(error)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("\nStopped. What was done is kept: the same command goes on from there.", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        raise SystemExit(0) from None  # the reader of our output had enough


def _say(error: Exception) -> None:
    print("error:", " ".join(str(error).split()), file=sys.stderr)


if __name__ == "__main__":
    main()

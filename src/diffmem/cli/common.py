"""What several commands share."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

__all__ = ["Settings"]

Settings = Annotated[list[str] | None, Parameter(name="--set", negative="")]
"""The option `--set key=value`, which may be repeated."""

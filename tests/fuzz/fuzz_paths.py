"""Lets the modules of this folder import what the tests of the rooms build their files with."""

from __future__ import annotations

import sys
from pathlib import Path

for _room in ("data", "models"):
    sys.path.append(str(Path(__file__).resolve().parents[1] / _room))

"""diffmem: measure, explain and audit memorization in diffusion models.

The rooms of the package follow the definition of effective model memorization, EMM(P, M, T): `data` (P), `models` (M),
`training` (T), `sampling`, `memorization`, `studies`, `reports`, `cli`. A room imports only from rooms before it.
"""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"

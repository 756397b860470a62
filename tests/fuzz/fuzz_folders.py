"""What is fuzzed of folders of diffusers: the settings of the network and of the scheduler, in JSON; only where diffusers is installed."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from diffusers_tools import saved, scheduler_of, tiny_unet
from fuzz_mutations import DEPTH, damaged, mutated

from diffmem.models import open_model

__all__ = ["FOLDERS", "Folder"]

_NETWORK, _SCHEDULER = "config.json", "scheduler_config.json"


class Folder(NamedTuple):
    """A folder of which one file is damaged; it is fuzzed as a `Layout` is.

    Attributes:
        files: By name.
        name: Of the file that is damaged.
    """

    files: Mapping[str, bytes]
    name: str

    def open(self, path: Path) -> object:
        """Open the folder."""
        return open_model(path, device="cpu")

    def place(self, content: bytes, folder: Path) -> Path:
        """Write the folder, with that content of the file."""
        inside = folder / "model"
        inside.mkdir(exist_ok=True)
        for name, good in {**self.files, self.name: content}.items():
            (inside / name).parent.mkdir(exist_ok=True)
            (inside / name).write_bytes(good)
        return inside

    def mutant(self, random: Random) -> bytes:
        """Return the file damaged in its bytes or in what it holds."""
        good = self.files[self.name]
        tree = json.loads(good)
        match random.randrange(20):
            case 0:
                place = random.choice(list(tree))
                nest = '{"a":' * DEPTH + "1" + "}" * DEPTH
                return (
                    json.dumps({**tree, place: None})
                    .replace(f'"{place}": null', f'"{place}": {nest}')
                    .encode()
                )
            case number if number < 8:
                return damaged(random, good)
        while True:
            try:
                return json.dumps(mutated(random, tree), default=lambda one: type(one).__name__).encode()
            except (TypeError, ValueError, RecursionError):  # a key or a value that JSON has not
                continue


def _folders() -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="diffmem-fuzz-") as scratch:
        folder = saved(Path(scratch), tiny_unet(), scheduler_of(num_train_timesteps=20))
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return {"diffusers-network": Folder(files, _NETWORK), "diffusers-scheduler": Folder(files, _SCHEDULER)}


FOLDERS = _folders()
"""By kind."""

"""The checkpoints that a folder holds, by their names: to open the only one, or to say which there are."""

from __future__ import annotations

import re
from pathlib import Path

from diffmem.data.formats.guards import is_folder, is_plain_file, read_plain
from diffmem.errors import UserError
from diffmem.models.pretrained.diffusers_files import CHECKPOINT

__all__ = ["checkpoints_in", "refuse_several", "revision_of", "step_of"]

_ENDINGS = (".pt", ".pth", ".ckpt", ".pkl", ".safetensors")
_NO_MODELS = ("opt", "training-state", "scheduler", "random_states", "scaler")
"""What trainers save beside their networks, by the beginnings of the names."""
_OF_A_CACHE = ("refs", "blobs")
"""Beside the snapshots in a hub's cache of a repository; a download by the hash of a revision makes no refs."""
_MOST_NAME_BYTES = 1000
_MOST_SHOWN = 20
_LONGEST = 80
_MEGABYTE = 1e6


def revision_of(folder: Path) -> Path:
    """Return the folder of a revision, of a folder models--x--y of a hub's cache: that of `refs/main`, or the only one; any other as it is.

    Raises:
        UserError: There is none, or several and `refs/main` names none of them.
    """
    if not is_folder(folder / "snapshots") or not any(is_folder(folder / name) for name in _OF_A_CACHE):
        return folder
    revisions = sorted(path for path in (folder / "snapshots").iterdir() if path.is_dir())
    main = folder / "refs" / "main"
    if is_plain_file(main):
        wanted = read_plain(main, _MOST_NAME_BYTES, str(main)).decode(errors="replace").strip()
        revisions = [path for path in revisions if path.name == wanted] or revisions
    if len(revisions) != 1:
        names = ", ".join(path.name for path in revisions[:5]) or "none"
        raise UserError(
            f"{folder} holds {len(revisions)} revisions ({names}); name one, in {folder / 'snapshots'}."
            if revisions
            else f"{folder} is a hub's cache without a revision: the download did not end. Download it again."
        )
    return revisions[0]


def step_of(path: Path) -> int:
    """Return the step in the name of a checkpoint, its last whole number; -1 if there is none.

    Rates and lengths of averages are no steps: ema_0.9999_010000.pt, network-snapshot-0000123-0.050.pkl.
    """
    name = path.name.removesuffix(path.suffix) if path.suffix in _ENDINGS else path.name
    numbers = re.findall(r"\d+", re.sub(r"\d+\.\d+", "", name))
    return int(numbers[-1][:18]) if numbers else -1


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the files and folders in a folder that look like models, the newest step first.

    Where there are none, those of its folder `checkpoints` are meant.
    """
    found = [path for path in folder.iterdir() if _is_model(path)]
    inner = folder / "checkpoints"
    if not found and is_folder(inner):
        found = [path for path in inner.iterdir() if _is_model(path)]
    return sorted(found, key=lambda path: (-step_of(path), path.name))


def _is_model(path: Path) -> bool:
    if path.name.startswith((".", *_NO_MODELS)):
        return False
    if path.suffix in _ENDINGS:
        return is_plain_file(path)
    signs = ("model_index.json", "snapshots", "unet", "unet_ema")
    if not is_folder(path):
        return False
    return CHECKPOINT.fullmatch(path.name) is not None or any((path / sign).exists() for sign in signs)


def refuse_several(folder: Path, found: list[Path], what: str = "checkpoints, the newest first") -> None:
    """Refuse a folder of which no model can be chosen, and say what it holds.

    Raises:
        UserError: Always.
    """
    shown = ", ".join(map(_described, found[:_MOST_SHOWN]))
    more = f" and {len(found) - _MOST_SHOWN:,} more" if len(found) > _MOST_SHOWN else ""
    raise UserError(
        f"{folder} holds {len(found):,} {what}: {shown}{more}. Name the one that is meant, for example"
        f" {found[0]}."
    )


def _described(path: Path) -> str:
    step = step_of(path)
    facts = [f"step {step:,}"] if step >= 0 else []
    if path.is_file():
        facts.append(f"{path.stat().st_size / _MEGABYTE:,.1f} MB")
    return path.name[:_LONGEST] + (f" ({', '.join(facts)})" if facts else "")

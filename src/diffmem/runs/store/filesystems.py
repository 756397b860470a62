"""Whether a folder lies on a file system that several machines share."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["file_system", "is_local"]

_MOUNTS = Path("/proc/self/mountinfo")

_LOCAL = {
    "ext2",
    "ext3",
    "ext4",
    "xfs",
    "btrfs",
    "zfs",
    "f2fs",
    "jfs",
    "reiserfs",
    "bcachefs",
    "tmpfs",
    "ramfs",
    "overlay",
}
"""Types that live on one machine. All others count as shared: nfs, lustre, gpfs, cifs, beegfs, ceph, anything by FUSE."""


def file_system(folder: Path, mounts: Path = _MOUNTS) -> str | None:
    """Return the type of the file system that a folder lies on, 'ext4' or 'nfs4'; none if the system does not tell.

    Args:
        folder: The folder; it may be missing.
        mounts: The table of mounts (proc(5), mountinfo).
    """
    place, kind, depth = folder.resolve(), None, -1
    try:
        lines = mounts.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    for line in lines:
        head, _, tail = line.partition(" - ")
        fields, types = head.split(), tail.split()
        if len(fields) < 5 or not types:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[4]))
        # A later mount at the same point hides an earlier one.
        if place.is_relative_to(point) and len(point.parts) >= depth:
            kind, depth = types[0], len(point.parts)
    return kind


def is_local(folder: Path, mounts: Path = _MOUNTS) -> bool:
    """Whether a folder certainly lies on a disk of this machine alone."""
    return file_system(folder, mounts) in _LOCAL

"""Download a published data set: checked, resumed where it was cut, whole or absent."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from diffmem.errors import DiffmemError, UserError
from diffmem.folder_lock import locked_folder
from diffmem.progress import NO_PROGRESS, Progress

__all__ = ["DOWNLOADS", "Download", "fetch"]

_BLOCK = 2**18


@dataclass(frozen=True)
class Download:
    """A file that its authors publish.

    Attributes:
        url: Where it is.
        md5: Its MD5 checksum in hexadecimal. The authors publish no other; it tells damage, and HTTPS tells whose
            file it is.
        size: Its bytes.
    """

    url: str
    md5: str
    size: int

    @property
    def file(self) -> str:
        """The file's own name."""
        return self.url.rpartition("/")[2]


DOWNLOADS = {
    "cifar10": Download(
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        "c58f30108f718f92721af3b95e74349a",
        170_498_071,
    )
}
"""What can be downloaded, by name. CIFAR-10: https://www.cs.toronto.edu/~kriz/cifar.html (Krizhevsky 2009)."""


def fetch(
    download: Download,
    out: Path,
    progress: Progress = NO_PROGRESS,
    *,
    attempts: int = 5,
    timeout: float = 60.0,
) -> bool:
    """Download a file, unless it is there already.

    Bytes go to `out` with `.part` added, which becomes `out` once size and checksum are right. A download that was
    cut short, now or in an earlier call, goes on where it stopped if the server can do that.

    Args:
        download: What to download.
        out: File to write. Its folder is made if it is missing.
        progress: Called with bytes done and bytes in all.
        attempts: How often a connection that breaks is made anew in one call, as long as each brings bytes.
        timeout: Seconds to wait for the server.

    Returns:
        True if the file was downloaded, False if it was there and whole.

    Raises:
        UserError: Another file has the name `out`, or another process downloads it.
        DiffmemError: The network or the disk failed, or what came has a wrong checksum. It says how to get the file
            by hand.
    """
    if out.exists():
        if out.is_file() and _is_whole(out, download):
            return False
        raise UserError(
            f"{out} is there but is not the file that {download.url} publishes ({_marks(download)}); remove it or "
            "choose another place."
        )
    part = out.with_name(f"{out.name}.part")
    # Two would append to one file, also after the other has checked and renamed it.
    with locked_folder(out.with_name(f".{out.name}.download"), "name another file"):
        try:
            if part.exists() and part.stat().st_size > download.size:
                part.unlink()
            failure = _fill(download, part, progress, attempts, timeout)
            if failure is not None:
                kept = part.stat().st_size if part.exists() else 0
                again = f" {kept:,} bytes are kept: run it again to go on from there." if kept else ""
                raise DiffmemError(
                    f"Cannot download {download.url}: {failure}.{again} {_by_hand(download, out)}"
                )
            if not _is_whole(part, download):
                part.unlink()
                raise DiffmemError(
                    f"What came from {download.url} is damaged: its checksum is wrong. It was removed; run it again. "
                    f"{_by_hand(download, out)}"
                )
            part.replace(out)
        except OSError as error:
            raise DiffmemError(f"Cannot write {out}: {error.strerror or error}.") from error
    return True


def _fill(download: Download, part: Path, progress: Progress, attempts: int, timeout: float) -> str | None:
    """Bring `part` to its full size; return why this failed, or none."""
    failure: str | None = None
    for _ in range(attempts):
        before = part.stat().st_size if part.exists() else 0
        if before == download.size:
            return None
        failure = _receive(download, part, before, progress, timeout)
        after = part.stat().st_size if part.exists() else 0
        if after == download.size:
            return None
        dropped = (
            before > 0 and after == 0
        )  # what was kept did not fit the server's file: once more, from its start
        if after <= before and not dropped:
            break
    return failure


def _receive(download: Download, part: Path, start: int, progress: Progress, timeout: float) -> str:
    """Append what one connection brings to `part`; return why it ended, in words."""
    headers = {"User-Agent": "diffmem", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    request = urllib.request.Request(download.url, headers=headers)
    try:
        reply = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # the server has fewer bytes than are here
            part.unlink(missing_ok=True)
        return f"the server answers {error.code} {error.reason}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        return _reason(error)
    with reply:
        goes_on = reply.status == 206 and reply.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        done = start if goes_on else 0
        if not goes_on and reply.status != 200:
            return f"the server answers {reply.status} {reply.reason}"
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab" if goes_on else "wb") as stream:
            while done <= download.size:
                try:
                    block = reply.read1(_BLOCK)
                except (OSError, http.client.HTTPException) as error:
                    return _reason(error)
                if not block:
                    break
                stream.write(block)
                done += len(block)
                progress(done, download.size, f"{done / 1e6:.1f} of {download.size / 1e6:.1f} MB")
    if done > download.size:
        part.unlink()
        return f"the server sends more than the {download.size:,} bytes that the file has"
    return f"the connection ended after {done:,} of {download.size:,} bytes"


def _is_whole(file: Path, download: Download) -> bool:
    if file.stat().st_size != download.size:
        return False
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False))
    return found.hexdigest() == download.md5


def _reason(error: BaseException) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    text = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
    return " ".join(text.split()).rstrip(".")[:200] or type(cause).__name__


def _marks(download: Download) -> str:
    return f"{download.size:,} bytes, MD5 {download.md5}"


def _by_hand(download: Download, out: Path) -> str:
    return f"Or download it by hand, on any machine, and put it at {out} ({_marks(download)})."

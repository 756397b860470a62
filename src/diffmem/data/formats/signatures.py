"""What a file is, by its first bytes: an image that is read, an image of a kind that is not, or something else.

Signatures: the formats' own specifications; boxes and brands of AVIF and HEIF by ISO/IEC 14496-12 and 23008-12.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from diffmem.data.formats.png import PNG_SIGNATURE
from diffmem.errors import UserError

__all__ = [
    "HEAD_BYTES",
    "KINDS",
    "LIKELY",
    "ending_of",
    "not_an_image",
    "pnm_size",
    "readable_format",
    "unread_kind",
]

HEAD_BYTES = 512
"""How many first bytes of a file are enough to tell what it is."""

KINDS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "AVIF", "PPM")
"""The formats that are read, by Pillow's names; PPM stands for PBM and PGM, too."""

LIKELY = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff", ".avif", ".pbm"}
    | {".pgm", ".ppm", ".pnm"}
)  # fmt: skip
"""Endings of files that are meant as images of these formats, so that one that is none is an error."""

_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
_PNM = re.compile(rb"P[1-6](?:\s|#[^\n\r]*[\n\r])+(\d{1,9})(?:\s|#[^\n\r]*[\n\r])+(\d{1,9})\s")
_MARKUP = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:(?:<\?xml[^>]*>|<!--.*?-->|<!doctype\s+svg[^>]*>)\s*)*"
    rb"<(?:!doctype\s+)?(html|head|body|svg|title|script|meta)\b",
    re.IGNORECASE | re.DOTALL,
)

_READ = (
    (PNG_SIGNATURE, "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)
_UNREAD_AT_128, _UNREAD_AT_344 = ((b"DICM", "DICOM"),), ((b"n+1\0", "NIfTI"), (b"ni1\0", "NIfTI"))
_UNREAD = (
    (b"8BPS", "Photoshop (PSD)"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"DDS ", "DDS"),
    (b"qoif", "QOI"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"#?RGBE", "Radiance HDR"),
    (b"SIMPLE  =", "FITS"),
    (b"\x01\xda\0", "SGI"),
    (b"\x01\xda\x01", "SGI"),
    (b"\x59\xa6\x6a\x95", "Sun raster"),
    (b"icns", "ICNS"),
    (b"gimp xcf", "GIMP (XCF)"),
    (b"P7\nWIDTH", "PAM"),
    (b"Pf\n", "PFM"),
    (b"PF\n", "PFM"),
    (b"%!PS-Adobe", "PostScript"),
    (b"\x89HDF\r\n\x1a\n", "HDF5"),
    (b"\x8aMNG\r\n\x1a\n", "MNG"),
    (b"\x1aE\xdf\xa3", "video (Matroska)"),
    (b"FUJIFILMCCD-RAW", "camera raw"),
)
_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIC"),
    **dict.fromkeys((b"isom", b"iso2", b"mp41", b"mp42", b"qt  ", b"M4V ", b"avc1", b"3gp4", b"3gp5"), "video (MP4)"),
    b"crx ": "camera raw",
    b"jxl ": "JPEG XL",
    b"avif": "AVIF",
    b"avis": "AVIF",
}  # fmt: skip
_RAW = (
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos", ".mrw", ".nef", ".nrw",
    ".orf", ".pef", ".raf", ".rw2", ".sr2", ".srf", ".srw", ".x3f",
)  # fmt: skip
_BY_ENDING = {
    **dict.fromkeys((".tga", ".targa", ".icb", ".vda", ".vst"), "Targa (TGA)"),
    ".pcx": "PCX",
    ".xbm": "XBM",
    ".xpm": "XPM",
    **dict.fromkeys((".wmf", ".emf"), "Windows metafile"),
    **dict.fromkeys((".mpg", ".mpeg", ".wmv", ".flv", ".mov", ".m4v"), "video"),
    **dict.fromkeys(_RAW, "camera raw"),
}  # fmt: skip
_ICONS = {1: "ICO", 2: "CUR"}
_OTHERS = (
    (b"PK\x03\x04", "a zip archive"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"%PDF", "a PDF"),
    (b"\x1f\x8b", "a gzip file"),
    (b"version https://git-lfs", "a pointer of Git LFS (git lfs pull fetches the file)"),
)


def ending_of(name: str) -> str:
    """Return how a file's name ends, in small letters and with the dot: '.png'; nothing for '.png' itself.

    Args:
        name: Its name or path, with / between folders.
    """
    stem, dot, ending = name[name.rfind("/") + 1 :].rpartition(".")
    return f".{ending.lower()}" if stem and dot else ""


def _kind_of(head: bytes, signatures: Iterable[tuple[bytes, str]]) -> str | None:
    return next((kind for signature, kind in signatures if head.startswith(signature)), None)


def readable_format(head: bytes) -> str | None:
    """Return which of the formats that are read a file has, by its first bytes; none if it has none of them.

    Args:
        head: At least `HEAD_BYTES` of its beginning, or all.
    """
    kind = _kind_of(head, _READ)
    if kind is not None:
        return None if kind == "TIFF" and head[8:10] == b"CR" else kind
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    if head[4:8] == b"ftyp" and _brand(head) == "AVIF" and _reads_avif():
        return "AVIF"
    return "PPM" if _PNM.match(head) else None


def pnm_size(head: bytes) -> tuple[int, int]:
    """Return width and height of a PBM, PGM or PPM."""
    found = _PNM.match(head)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def unread_kind(head: bytes) -> str | None:
    """Return the name of an image format (or of video) that is not read, by a file's first bytes; none for other files."""
    kind = (
        _kind_of(head, _UNREAD)
        or _kind_of(head[128:], _UNREAD_AT_128)
        or _kind_of(head[344:], _UNREAD_AT_344)
    )
    if kind is not None:
        return kind
    if head[4:8] == b"ftyp":
        kind = _brand(head) or "video (MP4)"
        return "AVIF (this Pillow cannot read it: pip install -U pillow)" if kind == "AVIF" else kind
    if head.startswith((b"II*\0", b"MM\0*")) and head[8:10] == b"CR":
        return "camera raw"
    if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        return "video (AVI)"
    if (
        head[:2] == b"\0\0"
        and head[2:4] in (b"\1\0", b"\2\0")
        and head[4:5].ljust(1, b"\0")[0] > 0
        and head[5:6] == b"\0"
    ):
        return _ICONS[head[2]]
    found = _MARKUP.match(head)
    return "SVG" if found and found[1].lower() == b"svg" else None


def kind_by_ending(name: str) -> str | None:
    """Return the image format that is not read and has no signature of its own, by a file's name; none for others.

    Raw files of cameras are TIFFs by their first bytes, of which a decoder finds a preview alone.
    """
    return _BY_ENDING.get(ending_of(name))


def not_an_image(head: bytes, name: str) -> UserError:
    """Return the error that says what a file is that was meant as an image and is none of these formats."""
    kind = unread_kind(head)
    if not head:
        text = "it is empty; make or download it again"
    elif kind is not None:
        text = f"it is of the kind {kind}, which is not read; convert it to PNG, or take it out"
    elif _MARKUP.match(head):
        text = "it is an HTML page: a server answered with a page in place of the image; download it again"
    else:
        found = _kind_of(head, _OTHERS)
        text = f"it is {found}, no image"
        if found is None:
            text = f"it is no image of the formats {', '.join(KINDS)}. It is damaged or incomplete; make or download it again"
    return UserError(f"Cannot read {name}: {text}.")


def _brand(head: bytes) -> str | None:
    """Return the kind of an ISO base media file by its brands; AVIF if any of them is its."""
    size = int.from_bytes(head[:4], "big")
    box = head[8 : min(size, len(head))] if size >= 16 else head[8:12]
    brands = [box[:4], *(box[at : at + 4] for at in range(8, len(box) - 3, 4))]
    if any(brand in (b"avif", b"avis") for brand in brands):
        return "AVIF"
    return next((_BRANDS[brand] for brand in brands if brand in _BRANDS), None)


@cache
def _reads_avif() -> bool:
    """Whether the installed Pillow reads AVIF: it does from 11.3 on, if it was built so."""
    import warnings

    from PIL import features

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an older Pillow does not know the word
        return bool(features.check("avif"))

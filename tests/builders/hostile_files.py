"""Builds files that mean harm: small to store, endless to read, or not what their names say."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import struct
import tarfile
import zipfile
import zlib

import numpy as np
from data_builders import encoded, write_zip
from PIL import Image

GREY = np.arange(16, dtype=np.uint8).reshape(4, 4)
COLOUR = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
PNG = encoded(COLOUR)
MANY = 60_000


def chunk(kind, content):
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, pixels=b"", *chunks, depth=8, colour=2):
    """A PNG of any header, with chunks between it and the pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return PNG[:8] + header + b"".join(chunks) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def png_with(*chunks):
    """A good PNG with further chunks behind its header."""
    return PNG[:33] + b"".join(chunks) + PNG[33:]


def deflated(size):
    """That many zeros, deflated."""
    packer = zlib.compressobj(9)
    whole, rest = divmod(size, 2**20)
    return b"".join(
        [*(packer.compress(bytes(2**20)) for _ in range(whole)), packer.compress(bytes(rest)), packer.flush()]
    )


def patched(content, place, layout, *values):
    """The content with numbers written over a place of it."""
    changed = bytearray(content)
    struct.pack_into(layout, changed, place, *values)
    return bytes(changed)


def tiff(width, height):
    """A TIFF whose tags tell another size."""
    content = bytearray(encoded(COLOUR, "TIFF"))
    (place,) = struct.unpack_from("<I", content, 4)
    for entry in range(place + 2, place + 2 + 12 * struct.unpack_from("<H", content, place)[0], 12):
        (tag,) = struct.unpack_from("<H", content, entry)
        if tag in (256, 257):
            struct.pack_into("<HHII", content, entry, tag, 4, 1, width if tag == 256 else height)
    return bytes(content)


def table_of_tags(tags, size):
    """A TIFF that is nothing but a table of tags, each of which claims the same bytes."""
    entries = b"".join(struct.pack("<HHII", number, 1, size, 8) for number in range(1000, 1000 + tags))
    table = struct.pack("<H", tags) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + size) + bytes(size) + table


def jpeg():
    """A good JPEG."""
    return encoded(COLOUR, "JPEG")


def jpeg_with(segments):
    """A good JPEG with something behind its first two bytes."""
    return jpeg()[:2] + segments + jpeg()[2:]


def jpeg_segment(marker, content):
    """A segment of a JPEG."""
    return bytes([255, marker]) + struct.pack(">H", len(content) + 2) + content


def jpeg_of_scans(count):
    """A progressive JPEG whose last scan comes again and again."""
    content = encoded(COLOUR, "JPEG", progressive=True)
    scan = content[content.rfind(b"\xff\xda") : -2]
    return content[:-2] + scan * count + content[-2:]


def tiff_of_tiles(side):
    """A deflated TIFF of 4 x 4 pixels in one tile of another size."""
    place, content = 8 + 2 + 12 * 11 + 4, zlib.compress(bytes(16))
    tags = [
        (256, 4), (257, 4), (258, 8), (259, 8), (262, 1), (277, 1), (284, 1),
        (322, side), (323, side), (324, place), (325, len(content)),
    ]  # fmt: skip
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + table + bytes(4) + content


def bmp_of_runs(width, height, runs):
    """A run-length encoded BMP."""
    start = 14 + 40 + 1024
    sizes = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start) + sizes + bytes(1024) + runs


def gif_with(blocks):
    """A good GIF with something before its image."""
    content = encoded(GREY, "GIF")
    place = content.find(b"\x2c\0\0\0\0\x04\0\x04\0")
    return content[:place] + blocks + content[place:]


def gif(width, height, of_frame=False):
    """A GIF of another size, of its screen or of its frame."""
    content = encoded(GREY, "GIF")
    place = content.find(b"\x2c\0\0\0\0\x04\0\x04\0") + 5 if of_frame else 6
    return patched(content, place, "<HH", width, height)


def npy_header(shape, descr="|u1"):
    """The header of an array of any shape."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def sparse(path, head, size):
    """A file of a size that takes no space on disk."""
    with path.open("wb") as stream:
        stream.write(head)
        stream.truncate(len(head) + size)
    return path


def zip_of_zeros(path, member, head, size):
    """A zip with one member that is stored: a head and zeros."""
    with zipfile.ZipFile(path, "w") as archive, archive.open(member, "w", force_zip64=True) as stream:
        stream.write(head)
        for _ in range(size // 2**20):
            stream.write(bytes(2**20))
    return path


def tar_of_header(path, kind, size):
    """A packed tar whose first member is a header of that many bytes."""
    info = tarfile.TarInfo("a")
    info.type, info.size = kind, size
    with gzip.open(path, "wb", 1) as stream:
        stream.write(info.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(size // 2**20):
            stream.write(b"a" * 2**20)
    return path


def tar_of_members(path, count):
    """A packed tar of empty members."""
    header = tarfile.TarInfo("a").tobuf(tarfile.USTAR_FORMAT)
    with gzip.open(path, "wb", 1) as stream:
        for _ in range(count // 1000):
            stream.write(header * 1000)
    return path


def zip_of_entries(path, count):
    """A zip that is nothing but a directory of members."""
    entry = struct.pack("<IHHHHHHIIIHHHHHII", 0x02014B50, 20, 20, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0)
    directory = b"".join(entry + b"%07d" % number for number in range(count))
    far = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, count, count, len(directory), 0)
    locator = struct.pack("<IIQI", 0x07064B50, 0, len(directory), 1)
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path.write_bytes(directory + far + locator + end)
    return path


def folder(path, **files):
    """A folder of files; in their names, two underscores stand for a dot."""
    path.mkdir(exist_ok=True)
    for name, content in files.items():
        (path / name.replace("__", ".")).write_bytes(content)
    return path


def linked(path, name, target):
    """A folder with one good image and a link."""
    folder(path, a__png=PNG)
    os.symlink(target, path / name)
    return path


def piped(path, name):
    """A folder with one good image and a pipe."""
    folder(path, a__png=PNG)
    os.mkfifo(path / name)
    return path


@contextlib.contextmanager
def deep(path, levels):
    """A folder with half an image at the bottom of many folders; removed again, for which most tools are too recursive."""
    start = os.getcwd()
    path.mkdir()
    os.chdir(path)
    try:
        for _ in range(levels):
            os.mkdir("a")
            os.chdir("a")
        with open("x.png", "wb") as stream:
            stream.write(PNG[:50])
        os.chdir(start)
        yield path
    finally:
        os.chdir(path)
        for _ in range(levels):
            os.chdir("a")
        os.unlink("x.png")
        for _ in range(levels):
            os.chdir("..")
            os.rmdir("a")
        os.chdir(start)


def bombs(path, count):
    """A folder of WebP files of a hundred bytes and 64 megapixels each."""
    content = encoded(Image.new("RGB", (8000, 8000)), "WEBP", lossless=True, quality=0, method=0)
    return folder(path, **{f"{number:03d}__webp": content for number in range(count)})


def nested_zip(path):
    """A zip in a zip in a zip, each of one bomb."""
    content = write_zip(path, {"a.png": bytes(2**25)}, method=zipfile.ZIP_DEFLATED).read_bytes()
    for _ in range(2):
        content = write_zip(path, {"inner.zip": content}).read_bytes()
    return path


def idx_header(*shape):
    """The first bytes of an IDX file of this shape."""
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)


def one_line(told, path):
    """A message is one line of bounded length that names its file."""
    assert told.isprintable()
    assert len(told) < 2000
    assert path.name[:20] in told

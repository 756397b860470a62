"""AVIF files: the sizes that their boxes and their AV1 streams tell, which need not agree.

Formats: ISO/IEC 14496-12 (boxes), 23008-12 (items), and the AV1 Bitstream Specification, sections 5.3 and 5.5 (OBUs and
sequence headers).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

__all__ = ["Avif", "read_avif"]

_MAX_PARTS = 100_000  # boxes, extents or OBUs
_GROUPS = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"iprp", b"ipco")  # boxes that hold boxes
_MAX_TRACKS = 4  # of colours and of transparency
_SEQUENCE_HEADER = 1
_TIMING, _DECODER_MODEL = 64, 47  # bits of parts of a sequence header


@dataclass
class Avif:
    """What an AVIF tells of itself.

    Attributes:
        width: In pixels, the largest of all images in it.
        height: In pixels.
        frames: Of an animation, else 1.
        bits: Of a value, by its boxes.
        exif: Places of the kinds of its EXIF items.
    """

    width: int = 0
    height: int = 0
    frames: int = 1
    bits: int = 8
    exif: list[int] = field(default_factory=list)
    _coded: set[int] = field(default_factory=set)
    _extents: list[tuple[int, bool, int, int]] = field(default_factory=list)
    _chunks: list[int] = field(default_factory=list)
    _data: int = 0
    _left: int = _MAX_PARTS

    def grow(self, width: int, height: int) -> None:
        """Take a size that one of its parts tells."""
        self.width, self.height = max(self.width, width), max(self.height, height)


def read_avif(content: bytes) -> Avif:
    """Return what an AVIF tells of itself; nothing is decoded.

    Raises:
        ValueError: A box is damaged, or it has more than 100,000 parts.
    """
    avif = Avif()
    for kind, start, stop in _boxes(content):
        length = stop - start
        if kind == b"ispe" and length >= 12:
            avif.grow(*struct.unpack_from(">II", content, start + 4))
        elif kind == b"pixi" and length >= 6:
            avif.bits = max(avif.bits, *content[start + 5 : stop])
        elif kind == b"stsz" and length >= 12:
            avif.frames = max(avif.frames, struct.unpack_from(">I", content, start + 8)[0])
        elif kind == b"stsd" and length >= 44:
            avif.grow(*struct.unpack_from(">HH", content, start + 40))
        elif kind in (b"stco", b"co64") and length >= 8:
            avif._chunks += _chunks(content, start, stop, "Q" if kind == b"co64" else "I")
        elif kind == b"infe" and length >= 12:
            _item(content, start, avif)
        elif kind == b"iloc" and length >= 8:
            avif._extents += _locations(content, start, stop)
        elif kind == b"idat":
            avif._data = start
    offsets = [(offset, len(content)) for offset in avif._chunks[:_MAX_TRACKS]]
    for item, inside, offset, length in avif._extents:
        if item in avif._coded:
            start = offset + (avif._data if inside else 0)
            offsets.append((start, min(start + length, len(content))))
    for start, stop in offsets:
        for at, end in _sequence_headers(content, start, stop, avif):
            avif.grow(*_coded_size(content[at:end]))
    return avif


def _boxes(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and end of each box, also of those in other boxes."""
    waiting = [(0, len(content))]
    for _ in range(_MAX_PARTS):
        while waiting and waiting[-1][0] + 8 > waiting[-1][1]:
            waiting.pop()
        if not waiting:
            return
        offset, end = waiting.pop()
        length, kind = struct.unpack_from(">I4s", content, offset)
        start = offset + 8
        if length == 1 and start + 8 <= end:
            (length,) = struct.unpack_from(">Q", content, start)
            start += 8
        stop = end if length == 0 else min(end, offset + length)
        if stop < start:
            raise ValueError(f"its box {kind.decode('latin-1')!r} is shorter than its header")
        waiting.append((stop, end))
        if kind in _GROUPS:
            waiting.append((start, stop))
        elif kind == b"meta":
            waiting.append((start + 4, stop))
        elif kind == b"iinf":
            waiting.append((start + (6 if content[start : start + 1] == b"\0" else 8), stop))
        else:
            yield kind, start, stop
    raise ValueError(f"it has more than {_MAX_PARTS:,} boxes")


def _item(content: bytes, start: int, avif: Avif) -> None:
    wide = content[start] > 2
    (number,) = struct.unpack_from(">I" if wide else ">H", content, start + 4)
    offset = start + (10 if wide else 8)
    kind = content[offset : offset + 4]
    if kind == b"Exif":
        avif.exif.append(offset)
    elif kind == b"av01":
        avif._coded.add(number)


def _chunks(content: bytes, start: int, stop: int, layout: str) -> list[int]:
    size = struct.calcsize(f">{layout}")
    count = min(struct.unpack_from(">I", content, start + 4)[0], (stop - start - 8) // size, 1)
    return list(struct.unpack_from(f">{count}{layout}", content, start + 8))


def _locations(content: bytes, start: int, stop: int) -> list[tuple[int, bool, int, int]]:
    """Return item, whether its offset is within the box 'idat', offset and length of each extent."""
    found = []
    version, sizes = content[start], struct.unpack_from(">H", content, start + 4)[0]
    offset_size, length_size, base_size, index_size = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    offset = start + 6

    def number(size: int) -> int:
        nonlocal offset
        value = int.from_bytes(content[offset : offset + size], "big")
        offset += size
        return value

    for _ in range(number(4 if version == 2 else 2)):
        item = number(4 if version == 2 else 2)
        inside = number(2) & 15 == 1 if version else False
        number(2)
        base = number(base_size)
        for _ in range(number(2)):
            if version:
                number(index_size)
            at, length = base + number(offset_size), number(length_size)
            found.append((item, inside, at, length or len(content)))
            if len(found) > _MAX_PARTS or offset > stop:
                raise ValueError("its table of items is damaged")
    return found


def _sequence_headers(content: bytes, offset: int, stop: int, avif: Avif) -> Iterator[tuple[int, int]]:
    """Yield where the sequence headers of an AV1 stream begin and end."""
    while offset < stop:
        avif._left -= 1  # for all streams together: they may claim the same bytes again and again
        if avif._left < 0:
            raise ValueError(f"it has more than {_MAX_PARTS:,} parts")
        head = content[offset]
        offset += 2 if head & 4 else 1
        size, shift = stop - offset, 0
        if head & 2:
            size = 0
            while offset < stop and shift < 56:
                byte = content[offset]
                size |= (byte & 0x7F) << shift
                offset, shift = offset + 1, shift + 7
                if not byte & 0x80:
                    break
        if head >> 3 & 15 == _SEQUENCE_HEADER:
            yield offset, min(stop, offset + min(size, 1000))
        offset += size


class _Bits:
    """Reads a stream bit by bit; nothing but zeros follow its end."""

    def __init__(self, content: bytes) -> None:
        self._value, self._left = int.from_bytes(content, "big"), 8 * len(content)

    def take(self, count: int) -> int:
        self._left -= count
        return (self._value >> self._left if self._left >= 0 else self._value << -self._left) & (
            1 << count
        ) - 1

    def skip_variable(self) -> None:
        zeros = 0
        while zeros < 32 and self._left > 0 and not self.take(1):
            zeros += 1
        self.take(zeros)


def _coded_size(content: bytes) -> tuple[int, int]:
    """Return width and height in a sequence header."""
    bits = _Bits(content)
    bits.take(4)  # profile, still picture
    if bits.take(1):  # a reduced header
        bits.take(5)
    else:
        _skip_operating_points(bits)
    wide, high = bits.take(4) + 1, bits.take(4) + 1
    return bits.take(wide) + 1, bits.take(high) + 1


def _skip_operating_points(bits: _Bits) -> None:
    delay_bits = 0
    if bits.take(1):  # timing
        bits.take(_TIMING)
        if bits.take(1):
            bits.skip_variable()
        if bits.take(1):  # decoder model
            delay_bits = bits.take(5) + 1
            bits.take(_DECODER_MODEL - 5)
    with_model, delay = delay_bits > 0, bits.take(1)
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        if bits.take(5) > 7:
            bits.take(1)
        if with_model and bits.take(1):
            bits.take(2 * delay_bits + 1)
        if delay and bits.take(1):
            bits.take(4)

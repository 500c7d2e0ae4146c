"""Detection of JPEGs that can be stored unchanged, because encoding them again would cost quality."""

from __future__ import annotations

import functools
import io
import re
import struct
from typing import NamedTuple

from PIL import Image

SUBSAMPLINGS = {"4:2:0": (2, 2), "4:2:2": (2, 1), "4:4:4": (1, 1)}  # luma samples per chroma sample, across and down
_START, _END = b"\xff\xd8", b"\xff\xd9"
_JFIF, _TABLES, _FRAME, _HUFFMAN, _RESTART, _SCAN = 0xE0, 0xDB, 0xC0, 0xC4, 0xDD, 0xDA  # second bytes of markers
_ALLOWED = {_JFIF, _TABLES, _FRAME, _HUFFMAN, _RESTART, _SCAN}
# In coded data 0xFF is followed by 0 if it is data, or begins a restart marker.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7]", re.DOTALL)


class Asked(NamedTuple):
    """Properties a stored JPEG must have.

    Attributes:
        quality: Quality on Pillow's scale; None for any.
        subsampling: One of SUBSAMPLINGS; None for any.
    """

    quality: int | None = None
    subsampling: str | None = None

    def __str__(self) -> str:
        return f"quality {self.quality or 'any'}, subsampling {self.subsampling or 'any'}"


def is_plain(jpeg: bytes, asked: Asked) -> bool:
    """Whether a file is a baseline 8-bit YCbCr JPEG in one scan, as asked, and contains nothing else.

    No metadata, profile, thumbnail or trailing bytes. The coded data are not checked for damage.
    """
    try:
        return _is_plain(jpeg, asked)
    except (IndexError, struct.error):  # cut off within a segment
        return False


def _is_plain(jpeg: bytes, asked: Asked) -> bool:
    if not jpeg.startswith(_START):
        return False
    at, tables, sampling = len(_START), dict[int, bytes](), (0, 0)
    while True:
        escape, marker, length = struct.unpack_from(">BBH", jpeg, at)
        body = jpeg[at + 4 : at + 2 + length]
        at += 2 + length
        if escape != 0xFF or marker not in _ALLOWED or len(body) != length - 2:
            return False
        if marker == _JFIF and not (body.startswith(b"JFIF\0") and len(body) == 14):  # longer ones have a thumbnail
            return False
        if marker == _TABLES:
            tables |= _read_tables(body)
        if marker == _FRAME:
            sampling = _sampling(body)
        if marker == _SCAN:
            break
    found = _MARKER.search(jpeg, at)
    whole = body[0] == 3 and found is not None and found.group() == _END and found.end() == len(jpeg)
    if not whole or sampling not in SUBSAMPLINGS.values():
        return False
    if asked.subsampling is not None and sampling != SUBSAMPLINGS[asked.subsampling]:
        return False
    return asked.quality is None or tables == _tables_of(asked.quality)


def _sampling(frame: bytes) -> tuple[int, int]:
    """Returns luma samples per chroma sample, across and down; (0, 0) if the frame is not 8-bit YCbCr."""
    if frame[0] != 8 or frame[5] != 3 or frame[6::3] != b"\1\2\3":
        return 0, 0
    luma, blue, red = frame[7::3]
    return (luma >> 4, luma & 15) if blue == red == 0x11 else (0, 0)


def _read_tables(body: bytes) -> dict[int, bytes]:
    """Returns the quantization tables of a DQT segment by number; 16-bit ones never equal those of `_tables_of`."""
    tables, at = {}, 0
    while at < len(body):
        size = 128 if body[at] >> 4 else 64
        tables[body[at] & 15] = body[at + 1 : at + 1 + size]
        at += 1 + size
    return tables


@functools.lru_cache(maxsize=8)
def _tables_of(quality: int) -> dict[int, bytes]:
    """Returns the quantization tables of Pillow (libjpeg) at a quality."""
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "JPEG", quality=quality)
    jpeg, tables = out.getvalue(), dict[int, bytes]()
    at = len(_START)
    while jpeg[at + 1] != _SCAN:
        (length,) = struct.unpack_from(">H", jpeg, at + 2)
        if jpeg[at + 1] == _TABLES:
            tables |= _read_tables(jpeg[at + 4 : at + 2 + length])
        at += 2 + length
    return tables

"""JPEGs: their structure, checked before anything is decoded, and decoding at a reduced scale with simplejpeg.

Pillow reads headers, and decodes what simplejpeg cannot. It does not report damaged image data, which libjpeg
replaces by grey or shifted blocks; simplejpeg makes each warning of libjpeg an error.
"""

from __future__ import annotations

import io
import re

import numpy as np
from PIL.JpegImagePlugin import JpegImageFile

from tfrecord_tools.imaging import signatures
from tfrecord_tools.imaging.files import DECODE_ERRORS, ImageRejectedError
from tfrecord_tools.imaging.resample import ImageArray

try:
    import simplejpeg
except ImportError:
    simplejpeg = None  # `convert.versions` refuses before an image is read

# Each scan visits every block of the image, also where it has no bits, so that a small file can cost minutes. Encoders
# write about 10; 100 of 100 megapixels take 3 s, and libjpeg-turbo's own fuzzers stop at 500.
MAX_SCANS = 100
_MAX_SEGMENTS = 10_000  # 256 MiB in segments of 64 KB have 4,096
# In coded data 0xFF is followed by 0 if it is data, or begins a restart marker; any number of 0xFF may precede another.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
_ALONE = (0x01, 0xD8)  # markers without a length: TEM, SOI
_SCAN, _END = 0xDA, 0xD9
_COLORSPACE = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}  # Pillow's mode -> simplejpeg's
_UNSUPPORTED = re.compile(r"Could not determine subsampling")  # sampling factors that TurboJPEG has no name for
# Some writers leave a few zeros before the end, of which libjpeg warns as it does of data that lost synchronization.
_PADDING = re.compile(r"Corrupt JPEG data: ([0-9]|1[0-6]) extraneous bytes before marker 0xd9")


def open_header(data: bytes) -> JpegImageFile:
    """Reads the header of a JPEG; unlike Image.open, without a pixel limit of its own.

    Raises:
        ImageRejectedError: The file is cut off, has too many scans, or is no JPEG.
    """
    kind = signatures.name_of(data)
    if kind != signatures.JPEG:
        raise ImageRejectedError(f"not a JPEG: {kind}")
    _check_structure(data)
    try:
        return JpegImageFile(io.BytesIO(data))
    except DECODE_ERRORS as error:
        raise ImageRejectedError(f"not a JPEG that can be read: {error}") from error


def _check_structure(data: bytes) -> None:
    """Follows the markers to the end of the image; what comes after it, as in MPO, is ignored."""
    at, scans = len(b"\xff\xd8"), 0
    for _ in range(_MAX_SEGMENTS):
        found = _MARKER.search(data, at)
        if found is None:
            raise ImageRejectedError("truncated: no end-of-image marker after the last scan")
        marker, at = found.group()[1], found.end()
        if marker == _END and scans:
            return
        if marker == _END:
            raise ImageRejectedError("not a JPEG that can be read: it has no scan")
        if marker in _ALONE:
            continue
        length = int.from_bytes(data[at : at + 2])
        if length < 2:
            raise ImageRejectedError("not a JPEG that can be read: a segment without a length")
        at += length
        scans += marker == _SCAN
        if scans > MAX_SCANS:
            raise ImageRejectedError(f"more than {MAX_SCANS} scans, which may take minutes to decode; encode it again")
    raise ImageRejectedError(f"more than {_MAX_SEGMENTS} segments; encode it again")


def decode_reduced(data: bytes, image: JpegImageFile, reduction: int) -> ImageArray:
    """Decodes a JPEG at 1/reduction, as stored.

    Args:
        data: JPEG file.
        image: The same file, opened by Pillow; only its header is read unless Pillow has to decode.
        reduction: 1, 2, 4 or 8.

    Returns:
        u8[H,W,C]: C is 3 for RGB, 1 for grey, 4 for CMYK; H and W are rounded up.

    Raises:
        ImageRejectedError: The image data are damaged.
        DECODE_ERRORS: The image cannot be decoded.
    """
    mode = image.mode
    width, height = (-(-extent // reduction) for extent in image.size)  # rounded up, as libjpeg does
    try:
        pixels = simplejpeg.decode_jpeg(data, _COLORSPACE[mode], min_height=height, min_width=width)
        if pixels.shape[:2] == (height, width):
            return 255 - pixels if mode == "CMYK" else pixels  # stored inverted, as Adobe does
    except ValueError as error:
        reason = str(error)
        if not (_UNSUPPORTED.search(reason) or _is_padding(reason, data)):
            what = "cannot be decoded" if reason.startswith("Unsupported") else "damaged"
            raise ImageRejectedError(f"{what}: {reason}") from error
    image.draft(mode, (image.width // reduction, image.height // reduction))  # never decodes to less than this
    image.load()
    if (image.size, image.mode) != ((width, height), mode):
        raise ImageRejectedError(
            f"cannot be decoded: got {image.size} {image.mode} at 1/{reduction}, expected {(width, height)} {mode}"
        )
    return np.asarray(image).reshape(height, width, -1)


def _is_padding(reason: str, data: bytes) -> bool:
    """Whether a warning is of zeros before the end marker, and of nothing else.

    Padding before any other marker could hide damage after it, because libjpeg warns only once.
    """
    found = _PADDING.fullmatch(reason)
    if found is None:
        return False
    padding = bytes(int(found[1])) + b"\xff\xd9"
    return data.endswith(padding) or padding + b"\xff\xd8" in data  # followed by another image, as in MPO


def is_sound(data: bytes) -> bool:
    """Whether a JPEG decodes without a warning."""
    try:
        simplejpeg.decode_jpeg(data)
    except ValueError:
        return False
    return True

"""JPEG bytes -> upright RGB of the asked size -> JPEG bytes.

The header is read first (format, size limit), then the JPEG is decoded at 1/8, 1/4, 1/2 or full size, whichever
is the smallest that leaves at least twice the target, and Lanczos resamples the exact crop box from there: close
to a full decode at a fraction of its time and memory. Colour management and rotation work on the small result.
"""

from __future__ import annotations

import functools
import io
import struct
from typing import NamedTuple

from PIL import Image, ImageCms
from PIL.JpegImagePlugin import JpegImageFile

MAX_PIXELS = 100_000_000  # the largest ISIC 2020 image has 24 million; more is a mistake or an attack
_ORIENTATION_TAG = 0x0112  # EXIF 2.32, table 4
_TRANSPOSE = {  # EXIF orientation -> what brings it upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_START, _SCAN, _END = b"\xff\xd8\xff", b"\xff\xda", b"\xff\xd9"
# What Pillow raises for bytes that are no sound JPEG.
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, struct.error)


class ImageRejected(ValueError):  # noqa: N818 -- a verdict on the image, not a fault
    """These bytes give no usable picture; the message is the reason that quarantine.csv shows."""


class Converted(NamedTuple):
    """jpeg: size x size RGB JPEG without metadata. width, height: pixels of the source as displayed."""

    jpeg: bytes
    width: int
    height: int


def convert(data: bytes, size: int, quality: int, max_pixels: int = MAX_PIXELS) -> Converted:
    """Crops the centre square of a JPEG, resamples it to size x size, and encodes that as JPEG 4:2:0.

    data: a whole JPEG file: grey, RGB, or CMYK with an ICC profile; any EXIF orientation. quality: 1..100.
    max_pixels: checked in the header before anything is decoded.
    Raises ImageRejected with the reason if the bytes are no whole JPEG that can be shown as RGB.
    """
    image = _open(data)
    width, height = image.size
    if width * height > max_pixels:
        raise ImageRejected(f"{width} x {height} pixels are over the limit of {max_pixels}")
    profile = image.info.get("icc_profile")
    if image.mode == "CMYK" and not profile:
        raise ImageRejected("CMYK without an ICC profile: its colours are unknown")
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
        drafted = image.draft(None, (2 * size, 2 * size))
        reduction = width / drafted[1][2] if drafted else 1.0
        square = _centre_square(width, height, reduction)
        small = image.resize((size, size), Image.Resampling.LANCZOS, box=square)
    except _DECODE_ERRORS as error:
        raise ImageRejected(f"cannot be decoded: {error}") from error
    small = _to_srgb(small, profile) if profile else small.convert("RGB")
    if orientation in _TRANSPOSE:
        small = small.transpose(_TRANSPOSE[orientation])
    if orientation in (5, 6, 7, 8):
        width, height = height, width
    small.info = {}  # else Pillow writes the source's comment into the new file
    out = io.BytesIO()
    small.save(out, "JPEG", quality=quality, subsampling="4:2:0")
    return Converted(out.getvalue(), width, height)


def decode(data: bytes) -> Image.Image:
    """Decodes a whole JPEG completely, as stored. Raises ImageRejected with the reason if it cannot."""
    image = _open(data)
    try:
        image.load()
    except _DECODE_ERRORS as error:
        raise ImageRejected(f"cannot be decoded: {error}") from error
    return image


def _open(data: bytes) -> JpegImageFile:
    """Reads the header only. Not Image.open: that has a pixel limit of its own, which warns before ours refuses."""
    if not data.startswith(_START):
        found = f"it begins with {data[:8]!r}" if data else "the file is empty"
        raise ImageRejected(f"not a JPEG: {found}")
    # A whole file has an end marker behind its last scan. Pillow alone would accept one that is cut off by a few
    # bytes, and a thumbnail inside the EXIF block has an end marker of its own, which lies before the scan.
    end = data.rfind(_END)
    if end < 0 or data.find(_SCAN, end) >= 0:
        raise ImageRejected("truncated: no end-of-image marker behind the last scan")
    try:
        return JpegImageFile(io.BytesIO(data))
    except _DECODE_ERRORS as error:
        raise ImageRejected(f"not a JPEG that can be read: {error}") from error


def _centre_square(width: int, height: int, reduction: float) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of the centre square, in pixels of an image decoded at 1/reduction."""
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left / reduction, top / reduction, (left + side) / reduction, (top + side) / reduction


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    try:
        transform = _srgb_transform(profile, image.mode)
        if transform is None:
            return image.convert("RGB")
        converted = ImageCms.applyTransform(image, transform)
    except (ImageCms.PyCMSError, *_DECODE_ERRORS) as error:
        raise ImageRejected(f"its ICC profile cannot be used on {image.mode} pixels: {error}") from error
    assert converted is not None  # None only for inPlace=True
    return converted


@functools.lru_cache(maxsize=16)  # a data set has few cameras, hence few profiles; building one takes milliseconds
def _srgb_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """None if the profile is sRGB already."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if mode == "RGB" and "srgb" in ImageCms.getProfileDescription(source).lower():
        return None
    return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")

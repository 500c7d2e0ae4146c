"""JPEG bytes to square JPEG bytes: check, decode at a reduced scale, resample, colour-manage, rotate, encode.

The header is checked first (format, pixel limit). simplejpeg (libjpeg-turbo) then decodes at 1/8, 1/4, 1/2 or 1/1,
the smallest scale that leaves at least twice the target size, and Lanczos resamples the exact box from there: close to
a full decode in a fraction of its time and memory. Colour management and rotation work on the small result.

Pillow reads headers, encodes, and decodes what simplejpeg cannot (CMYK). It never replaces simplejpeg, because it does
not report damaged image data.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms, features
from PIL.JpegImagePlugin import JpegImageFile

from tfrecord_tools.imaging import passthrough
from tfrecord_tools.imaging.files import DECODE_ERRORS
from tfrecord_tools.imaging.resample import Box, ImageArray, resample

try:
    import simplejpeg
except ImportError:
    simplejpeg = None  # `versions` refuses before an image is read

CONVERTER_VERSION = "2"  # raised whenever the bytes of converted images change
MAX_PIXELS = 100_000_000  # the largest ISIC 2020 image has 24 million; more is a mistake or an attack
FITS = ("crop", "pad", "stretch")
SUBSAMPLINGS = tuple(passthrough.SUBSAMPLINGS)
_ORIENTATION_TAG = 0x0112  # EXIF 2.32, table 4
_TRANSPOSE = {  # EXIF orientation -> operation that makes it upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_START, _SCAN, _END = b"\xff\xd8\xff", b"\xff\xda", b"\xff\xd9"
_COLORSPACE = {"RGB": "RGB", "L": "GRAY"}  # Pillow's mode -> simplejpeg's
# libjpeg's warnings about damaged image data, which it replaces by grey or shifted blocks.
_DAMAGE = re.compile(r"Corrupt JPEG data|Premature end")
# Some writers leave a few harmless bytes of padding before the end, and libjpeg warns of them in the same words; a scan
# that lost synchronization leaves hundreds. Padding before any other marker could hide damage after it, because libjpeg
# warns only once.
_PADDING = re.compile(r"Corrupt JPEG data: ([0-9]|1[0-6]) extraneous bytes before marker 0xd9")


class ImageRejectedError(ValueError):
    """Unusable image; the message is the reason that quarantine.csv shows."""


class Converted(NamedTuple):
    """A converted image.

    Attributes:
        jpeg: size x size RGB JPEG without metadata.
        width: Width of the upright source in pixels.
        height: Height of the upright source in pixels.
    """

    jpeg: bytes
    width: int
    height: int


class ConvertedSizes(NamedTuple):
    """An image converted to several sizes.

    Attributes:
        jpegs: One JPEG per requested size, in the order requested.
        width: Width of the upright source in pixels.
        height: Height of the upright source in pixels.
    """

    jpegs: tuple[bytes, ...]
    width: int
    height: int


def versions() -> dict[str, str]:
    """Versions that the converted bytes depend on.

    Raises:
        RuntimeError: simplejpeg is not installed. Pillow alone would accept damaged images.
    """
    if simplejpeg is None:
        raise RuntimeError("simplejpeg is not installed; it decodes the images: pip install simplejpeg")
    return {
        "converter": CONVERTER_VERSION,
        "pillow": features.version("pil") or "unknown",
        "libjpeg_turbo": features.version("libjpeg_turbo") or "unknown",
        "simplejpeg": simplejpeg.__version__,
    }


def convert(data: bytes, size: int, quality: int, max_pixels: int = MAX_PIXELS) -> Converted:
    """Crops the centre square of a JPEG, resamples it to size x size, and encodes it as JPEG 4:2:0.

    Same as `convert_sizes` with one size and the defaults.
    """
    jpegs, width, height = convert_sizes(data, (size,), quality, max_pixels)
    return Converted(jpegs[0], width, height)


def convert_sizes(
    data: bytes,
    sizes: Sequence[int],
    quality: int,
    max_pixels: int = MAX_PIXELS,
    fit: str = "crop",
    subsampling: str = "4:2:0",
    decode_for: int = 0,
    swap_rb: bool = False,
    keep: passthrough.Asked | None = None,
) -> ConvertedSizes:
    """Converts a JPEG to square JPEGs of several sizes, decoding once.

    Args:
        data: JPEG file: grey, RGB, or CMYK with an ICC profile; any EXIF orientation.
        sizes: Sides of the results in pixels.
        quality: JPEG quality, 1..100.
        max_pixels: Limit on width * height, checked before decoding.
        fit: One of FITS: crop the centre square, pad with black to a square, or stretch.
        subsampling: One of SUBSAMPLINGS.
        decode_for: Size that selects the decoding scale, and so the bytes; at least max(sizes), its default.
        swap_rb: Swap red and blue of RGB images whose writer swapped them. Grey is unchanged, CMYK is rejected.
        keep: Copy a file unchanged if it has the size already, is plain (see `passthrough.is_plain`) and undamaged.
            None: always encode again.

    Raises:
        ImageRejectedError: The bytes are no complete, undamaged JPEG that can be shown as RGB.
    """
    image = _open(data)
    width, height = image.size
    profile = image.info.get("icc_profile")
    _check_header(image, max_pixels, swap_rb)
    kept = width == height and width in sizes and keep is not None and not swap_rb and _is_kept(data, keep)
    if kept and set(sizes) == {width}:
        return ConvertedSizes((data,) * len(sizes), width, height)
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
        reduction = _reduction(width, height, decode_for or max(sizes), fit)
        pixels = decode_reduced(data, image, reduction)
    except ImageRejectedError:
        raise
    except DECODE_ERRORS as error:
        raise ImageRejectedError(f"cannot be decoded: {error}") from error
    jpegs = []
    for size in sizes:
        if kept and size == width:
            jpegs.append(data)
            continue
        square = _fit(pixels, width, height, reduction, size, fit)
        if swap_rb and image.mode == "RGB":
            square = np.ascontiguousarray(square[..., ::-1])
        square = _padded(_finish(square, image.mode, profile, orientation), size)
        jpegs.append(_encode(square, quality, subsampling))
    if orientation in (5, 6, 7, 8):
        width, height = height, width
    return ConvertedSizes(tuple(jpegs), width, height)


def _check_header(image: JpegImageFile, max_pixels: int, swap_rb: bool) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageRejectedError(f"{width} x {height} pixels are over the limit of {max_pixels}")
    if image.mode == "CMYK" and not image.info.get("icc_profile"):
        raise ImageRejectedError("CMYK without an ICC profile: its colours are unknown")
    if image.mode == "CMYK" and swap_rb:
        raise ImageRejectedError("red and blue of a CMYK image cannot be swapped")


def _is_kept(data: bytes, asked: passthrough.Asked) -> bool:
    """Whether a file is plain and decodes without a warning."""
    if not passthrough.is_plain(data, asked):
        return False
    try:
        simplejpeg.decode_jpeg(data)
    except ValueError:
        return False
    return True


def _reduction(width: int, height: int, size: int, fit: str) -> int:
    """The largest of 1, 2, 4, 8 that divides the source and leaves at least twice the target."""
    extent = max(width, height) if fit == "pad" else min(width, height)
    # Pillow cannot reduce a side to less than one pixel, as in very narrow strips.
    return next((f for f in (8, 4, 2) if extent >= 2 * size * f and min(width, height) >= f), 1)


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
    if mode in _COLORSPACE:
        try:
            pixels = simplejpeg.decode_jpeg(data, _COLORSPACE[mode], min_height=height, min_width=width)
            if pixels.shape[:2] == (height, width):
                return pixels
        except ValueError as error:
            reason = str(error)
            if _DAMAGE.search(reason) and not _PADDING.search(reason):
                raise ImageRejectedError(f"damaged: {reason}") from error
    image.draft(mode, (image.width // reduction, image.height // reduction))  # never decodes to less than this
    image.load()
    if (image.size, image.mode) != ((width, height), mode):
        raise ImageRejectedError(
            f"cannot be decoded: got {image.size} {image.mode} at 1/{reduction}, expected {(width, height)} {mode}"
        )
    return np.asarray(image).reshape(height, width, -1)


def _fit(pixels: ImageArray, width: int, height: int, reduction: int, size: int, fit: str) -> ImageArray:
    """Resamples pixels decoded at 1/reduction of width x height to size x size, or less where padding is due."""
    if fit == "crop":
        return resample(pixels, _centre_square(width, height, reduction), size, size)
    whole = (0.0, 0.0, width / reduction, height / reduction)
    if fit == "stretch":
        return resample(pixels, whole, size, size)
    longest = max(width, height)
    across, down = (max(1, round(extent * size / longest)) for extent in (width, height))
    return resample(pixels, whole, across, down)


def _padded(pixels: ImageArray, size: int) -> ImageArray:
    """Centres pixels on a black square; they must be upright and sRGB, where zeros are black."""
    height, width = pixels.shape[:2]
    if height == width == size:
        return pixels
    square = np.zeros((size, size, 3), np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    square[top : top + height, left : left + width] = pixels
    return square


def _finish(pixels: ImageArray, mode: str, profile: bytes | None, orientation: int) -> ImageArray:
    """Converts stored pixels to upright sRGB."""
    if mode == "RGB" and not profile and orientation not in _TRANSPOSE:
        return pixels
    image = Image.frombytes(mode, (pixels.shape[1], pixels.shape[0]), pixels.tobytes())
    image = _to_srgb(image, profile) if profile else image.convert("RGB")
    if orientation in _TRANSPOSE:
        image = image.transpose(_TRANSPOSE[orientation])
    return np.asarray(image)


def _encode(square: ImageArray, quality: int, subsampling: str) -> bytes:
    # Not simplejpeg: 0.1 ms faster, but its fast DCT more than doubles the error at quality 95.
    out = io.BytesIO()
    Image.fromarray(square).save(out, "JPEG", quality=quality, subsampling=subsampling)
    return out.getvalue()


def decode(data: bytes) -> Image.Image:
    """Decodes a JPEG at full size, as stored.

    Raises:
        ImageRejectedError: It cannot be decoded.
    """
    image = _open(data)
    try:
        image.load()
    except DECODE_ERRORS as error:
        raise ImageRejectedError(f"cannot be decoded: {error}") from error
    return image


def _open(data: bytes) -> JpegImageFile:
    """Reads the header; unlike Image.open, without a pixel limit of its own."""
    if not data.startswith(_START):
        found = f"it begins with {data[:8]!r}" if data else "the file is empty"
        raise ImageRejectedError(f"not a JPEG: {found}")
    # A complete file has an end marker after its last scan. Pillow accepts a file that lacks a few bytes, and an EXIF
    # thumbnail has an end marker of its own, before the scan.
    end = data.rfind(_END)
    if end < 0 or data.find(_SCAN, end) >= 0:
        raise ImageRejectedError("truncated: no end-of-image marker after the last scan")
    try:
        return JpegImageFile(io.BytesIO(data))
    except DECODE_ERRORS as error:
        raise ImageRejectedError(f"not a JPEG that can be read: {error}") from error


def _centre_square(width: int, height: int, reduction: int) -> Box:
    """Returns (left, top, right, bottom) of the centre square, in pixels at 1/reduction."""
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left / reduction, top / reduction, (left + side) / reduction, (top + side) / reduction


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    try:
        transform = _srgb_transform(profile, image.mode)
        if transform is None:
            return image.convert("RGB")
        converted = ImageCms.applyTransform(image, transform)
    except (ImageCms.PyCMSError, *DECODE_ERRORS) as error:
        raise ImageRejectedError(f"its ICC profile cannot be used on {image.mode} pixels: {error}") from error
    assert converted is not None  # None only for inPlace=True
    return converted


@functools.lru_cache(maxsize=16)  # few cameras, few profiles; building a transform takes milliseconds
def _srgb_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Returns the transform to sRGB, or None if the profile is sRGB already."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if mode == "RGB" and "srgb" in ImageCms.getProfileDescription(source).lower():
        return None
    return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")

"""JPEG bytes -> upright RGB of the asked sizes -> JPEG bytes.

The header is read first (format, size limit), then the JPEG is decoded at 1/8, 1/4, 1/2 or full size, whichever
is the smallest that leaves at least twice the target, and Lanczos resamples the exact box from there: close to a full
decode at a fraction of its time and memory. Luma is decoded at twice that size and halved by a filter, because JPEG's
own reduction leaves false patterns of what is too fine. Colour management and rotation work on the small result.

Pillow reads the header and encodes. `_jpeg.c`, where a C compiler was there at installation, decodes what cameras
write: whole baseline files, and of those what lies in the box. What it declines simplejpeg (libjpeg-turbo) decodes,
which unlike Pillow says when the coded data is damaged, and Pillow the rest. Where several decode, they give the same
pixels to the bit.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, features
from PIL.JpegImagePlugin import JpegImageFile

from tfrecord_tools.imaging import passthrough
from tfrecord_tools.imaging.files import DECODE_ERRORS
from tfrecord_tools.imaging.resample import Bounds, Box, Pixels, reach, resample

try:
    from tfrecord_tools.imaging import _jpeg
except ImportError:  # not compiled, for want of a C compiler at installation, or not for this machine
    _jpeg = None  # type: ignore[assignment]
try:
    import simplejpeg
except ImportError:  # no wheel for this platform: Pillow does all of it, slower and blind to damage
    simplejpeg = None

MAX_PIXELS = 100_000_000  # the largest ISIC 2020 image has 24 million; more is a mistake or an attack
FITS = ("crop", "pad", "stretch")
SUBSAMPLINGS = tuple(passthrough.SUBSAMPLINGS)
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
_COLORSPACE = {"RGB": "RGB", "L": "GRAY"}  # Pillow's mode -> simplejpeg's
_BAND = 32  # rows that NumPy does at a time: its sums fit the caches, and take little memory
_HALVING = (119, 26, -17)  # 256ths, at distances of 1/2, 3/2 and 5/2 pixels; its frequencies stand in _jpeg.c
# What libjpeg warns of when the coded image itself is damaged, and goes on with grey or shifted blocks.
_DAMAGE = re.compile(r"Corrupt JPEG data|Premature end")
# It says the same of a few bytes of padding before the end, which some writers leave and which do no harm: a scan that
# lost its way leaves hundreds. Before any other marker there could be more to come, and it warns only once.
_PADDING = re.compile(r"Corrupt JPEG data: ([0-9]|1[0-6]) extraneous bytes before marker 0xd9")


class ImageRejectedError(ValueError):
    """These bytes give no usable image; the message is the reason that quarantine.csv shows."""


class Converted(NamedTuple):
    """jpeg: size x size RGB JPEG without metadata. width, height: pixels of the source as displayed."""

    jpeg: bytes
    width: int
    height: int


class ConvertedSizes(NamedTuple):
    """jpegs: one for each size asked, in that order. width, height: pixels of the source as displayed."""

    jpegs: tuple[bytes, ...]
    width: int
    height: int


def versions() -> dict[str, str]:
    """Of the libraries that the bytes of a converted image depend on."""
    return {
        "pillow": features.version("pil") or "unknown",
        "libjpeg_turbo": features.version("libjpeg_turbo") or "unknown",
        "simplejpeg": simplejpeg.__version__ if simplejpeg else "none",
    }


def convert(data: bytes, size: int, quality: int, max_pixels: int = MAX_PIXELS) -> Converted:
    """Crops the centre square of a JPEG, resamples it to size x size, and encodes that as JPEG 4:2:0.

    As `convert_sizes` with one size and the defaults.
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
    """Square JPEGs of each size, from one decoding.

    data: a whole JPEG file: grey, RGB, or CMYK with an ICC profile; any EXIF orientation. quality: 1..100.
    max_pixels: checked in the header before anything is decoded. fit: crop the centre square, pad with black to a
    square, or stretch. subsampling: one of SUBSAMPLINGS. decode_for: the size whose decoding scale is used, at least
    every one of sizes (default: the largest of them); the bytes depend on it. swap_rb: exchange red and blue of the
    decoded pixels, for files whose writer exchanged them; grey stays as it is, CMYK is rejected. keep: a file that has
    the size already, is plain (see `plain.is_plain`) and sound is taken as it is, byte for byte; None: never.
    Raises ImageRejectedError with the reason if the bytes are no whole JPEG that can be shown as RGB.
    """
    image = _open(data)
    width, height = image.size
    if width * height > max_pixels:
        raise ImageRejectedError(f"{width} x {height} pixels are over the limit of {max_pixels}")
    profile = image.info.get("icc_profile")
    if image.mode == "CMYK" and not profile:
        raise ImageRejectedError("CMYK without an ICC profile: its colours are unknown")
    if image.mode == "CMYK" and swap_rb:
        raise ImageRejectedError("red and blue of a CMYK image cannot be swapped")
    kept = width == height and width in sizes and keep is not None and not swap_rb and _is_kept(data, image, keep)
    if kept and set(sizes) == {width}:
        return ConvertedSizes((data,) * len(sizes), width, height)
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
        reduction = _reduction(width, height, decode_for or max(sizes), fit)
        pixels = _decode_reduced(data, image, reduction, _needed(width, height, reduction, tuple(sizes), fit))
    except DECODE_ERRORS as error:
        if isinstance(error, ImageRejectedError):
            raise
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


def _is_kept(data: bytes, image: JpegImageFile, asked: passthrough.Asked) -> bool:
    """Whether a file is plain, and its decoder has nothing to say against it."""
    if not passthrough.is_plain(data, asked):
        return False
    width, height = image.size
    if _jpeg and _jpeg.decode_into(data, 1, (0, 0, width, height), np.empty((height, width, 3), np.uint8)):
        return True
    try:
        if simplejpeg:
            simplejpeg.decode_jpeg(data)
        else:
            decode(data)
    except ValueError:
        return False
    return True


def _reduction(width: int, height: int, size: int, fit: str) -> int:
    """The largest of 1, 2, 4, 8 by which the source can be divided and still has twice the pixels of the target."""
    extent = max(width, height) if fit == "pad" else min(width, height)
    # Pillow reduces no side to less than a whole pixel, which strips of a few pixels would be.
    return next((f for f in (8, 4, 2) if extent >= 2 * size * f and min(width, height) >= f), 1)


@functools.lru_cache(maxsize=256)  # a data set has few sizes of images
def _needed(width: int, height: int, reduction: int, sizes: tuple[int, ...], fit: str) -> Bounds:
    """(left, top, right, bottom) of the pixels at 1/reduction that `_fit` reads for these sizes."""
    columns, rows = -(-width // reduction), -(-height // reduction)
    if fit != "crop":
        return 0, 0, columns, rows
    box = _centre_square(width, height, reduction)
    left, top, right, bottom = zip(*(reach(columns, rows, box, size, size) for size in sizes), strict=True)
    return min(left), min(top), max(right), max(bottom)


def _decode_reduced(data: bytes, image: JpegImageFile, reduction: int, needed: Bounds) -> Pixels:
    """The image at 1/reduction, as stored: u8[H,W,C] with C channels of image.mode.

    needed: (left, top, right, bottom) of the pixels that count; the others may be anything.
    Raises ImageRejectedError if the coded image is damaged, any of DECODE_ERRORS if it cannot be decoded.
    """
    if _jpeg and image.mode == "RGB":
        width, height = (-(-extent // reduction) for extent in image.size)  # libjpeg rounds up
        pixels = np.empty((height, width, 3), np.uint8)
        if _jpeg.decode_into(data, reduction, needed, pixels):
            return pixels
    if reduction == 1:
        return _decode_at(data, 1, image.mode)
    if image.mode != "RGB" or not _is_ycbcr(image):
        return _halved(_decode_at(data, reduction // 2, image.mode), needed)
    luma = _halved(_decode_at(data, reduction // 2, "L"), needed)
    return _rgb(luma, _decode_at(data, reduction, "YCbCr")[..., 1:], needed)


def _decode_at(data: bytes, reduction: int, mode: str) -> Pixels:
    """u8[H,W,C] by libjpeg's own reduction. mode: the image's, or "L" or "YCbCr" of one of mode "RGB"."""
    image = _open(data)
    width, height = (-(-extent // reduction) for extent in image.size)
    if simplejpeg and mode in _COLORSPACE:
        try:
            colorspace = _COLORSPACE[mode]
            pixels = simplejpeg.decode_jpeg(data, colorspace, min_height=height, min_width=width)
            if pixels.shape[:2] == (height, width):
                return pixels
        except ValueError as error:
            reason = str(error)
            if _DAMAGE.search(reason) and not _PADDING.search(reason):
                raise ImageRejectedError(f"damaged: {reason}") from error
    image.draft(mode, (image.width // reduction, image.height // reduction))  # no less than this
    image.load()
    if (image.size, image.mode) != ((width, height), mode):
        raise ImageRejectedError(
            f"cannot be decoded: {image.size} {image.mode} at 1/{reduction}; expected {width, height} {mode}"
        )
    return np.asarray(image).reshape(height, width, -1)


def _is_ycbcr(image: JpegImageFile) -> bool:
    """Whether the three components are luma and chroma, as libjpeg guesses it."""
    if "jfif" in image.info:
        return True
    if "adobe_transform" in image.info:
        return image.info["adobe_transform"] != 0
    return [layer[0] for layer in image.layer] != list(b"RGB")


def _halved(pixels: Pixels, needed: Bounds) -> Pixels:
    """u8[H,W,C] at half the size, without what would show as a false pattern; `_jpeg.c` has the same filter.

    needed: as of `_decode_reduced`.
    """
    left, top, right, bottom = needed
    height, width, channels = pixels.shape
    out = np.empty((-(-height // 2), -(-width // 2), channels), np.uint8)
    columns = np.clip(np.arange(2 * left - 2, 2 * right + 4), 0, width - 1)
    for first in range(top, bottom, _BAND):
        last = min(first + _BAND, bottom)
        rows = np.clip(np.arange(2 * first - 2, 2 * last + 4), 0, height - 1)
        band = pixels[rows].take(columns, axis=1).astype(np.int32)
        across = _halve(_halve(band, 5).swapaxes(0, 1), 11)  # 3 bits more than the result has between the two
        out[first:last, left:right] = np.clip(across, 0, 255, out=across).swapaxes(0, 1)
    return out


def _halve(values: npt.NDArray[np.int32], shift: int) -> npt.NDArray[np.int32]:
    """i32[2*N+6,...] -> i32[N,...]: six weighed for every second one, in 2**(8 - shift)ths."""
    at = [values[k : len(values) - 6 + k : 2] for k in range(6)]
    total = np.full_like(at[0], 1 << shift >> 1)
    for k, weight in enumerate(_HALVING):
        both = at[2 - k] + at[3 + k]
        both *= weight
        total += both
    total >>= shift
    return total


def _rgb(luma: Pixels, chroma: Pixels, needed: Bounds) -> Pixels:
    """u8[H,W,3] of u8[H,W,1] and u8[H,W,2]: JFIF's conversion in libjpeg's whole numbers. needed: as above."""
    out = np.empty((*luma.shape[:2], 3), np.uint8)
    left, top, right, bottom = needed
    for first in range(top, bottom, _BAND):
        box = slice(first, min(first + _BAND, bottom)), slice(left, right)
        blue, red = (chroma[(*box, i)].astype(np.int32) - 128 for i in (0, 1))
        for channel, part in enumerate((91881 * red, -22554 * blue - 46802 * red, 116130 * blue)):
            part += 32768
            part >>= 16
            part += luma[(*box, 0)]
            out[(*box, channel)] = np.clip(part, 0, 255, out=part)
    return out


def _fit(pixels: Pixels, width: int, height: int, reduction: int, size: int, fit: str) -> Pixels:
    """u8[size,size,C] of a image that was width x height before it was decoded at 1/reduction; still to be padded."""
    if fit == "crop":
        return resample(pixels, _centre_square(width, height, reduction), size, size)
    whole = (0.0, 0.0, width / reduction, height / reduction)
    if fit == "stretch":
        return resample(pixels, whole, size, size)
    longest = max(width, height)
    across, down = (max(1, round(extent * size / longest)) for extent in (width, height))
    return resample(pixels, whole, across, down)


def _padded(pixels: Pixels, size: int) -> Pixels:
    """u8[size,size,3]: upright and in sRGB already, so that what is added is black, and lies as beside any image."""
    height, width = pixels.shape[:2]
    if height == width == size:
        return pixels
    square = np.zeros((size, size, 3), np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    square[top : top + height, left : left + width] = pixels
    return square


def _finish(pixels: Pixels, mode: str, profile: bytes | None, orientation: int) -> Pixels:
    """Upright RGB in sRGB."""
    if mode == "RGB" and not profile and orientation not in _TRANSPOSE:
        return pixels
    image = Image.frombytes(mode, (pixels.shape[1], pixels.shape[0]), pixels.tobytes())
    image = _to_srgb(image, profile) if profile else image.convert("RGB")
    if orientation in _TRANSPOSE:
        image = image.transpose(_TRANSPOSE[orientation])
    return np.asarray(image)


def _encode(square: Pixels, quality: int, subsampling: str) -> bytes:
    # Not simplejpeg: it is 0.1 ms faster, but encodes with the quick DCT, of more than twice the error at quality 95.
    out = io.BytesIO()
    Image.fromarray(square).save(out, "JPEG", quality=quality, subsampling=subsampling)
    return out.getvalue()


def decode(data: bytes) -> Image.Image:
    """Decodes a whole JPEG completely, as stored. Raises ImageRejectedError with the reason if it cannot."""
    image = _open(data)
    try:
        image.load()
    except DECODE_ERRORS as error:
        raise ImageRejectedError(f"cannot be decoded: {error}") from error
    return image


def _open(data: bytes) -> JpegImageFile:
    """Reads the header only. Not Image.open: that has a pixel limit of its own, which warns before ours refuses."""
    if not data.startswith(_START):
        found = f"it begins with {data[:8]!r}" if data else "the file is empty"
        raise ImageRejectedError(f"not a JPEG: {found}")
    # A whole file has an end marker behind its last scan. Pillow alone would accept one that is cut off by a few
    # bytes, and a thumbnail inside the EXIF block has an end marker of its own, which lies before the scan.
    end = data.rfind(_END)
    if end < 0 or data.find(_SCAN, end) >= 0:
        raise ImageRejectedError("truncated: no end-of-image marker behind the last scan")
    try:
        return JpegImageFile(io.BytesIO(data))
    except DECODE_ERRORS as error:
        raise ImageRejectedError(f"not a JPEG that can be read: {error}") from error


def _centre_square(width: int, height: int, reduction: int) -> Box:
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
    except (ImageCms.PyCMSError, *DECODE_ERRORS) as error:
        raise ImageRejectedError(f"its ICC profile cannot be used on {image.mode} pixels: {error}") from error
    assert converted is not None  # None only for inPlace=True
    return converted


@functools.lru_cache(maxsize=16)  # a data set has few cameras, hence few profiles; building one takes milliseconds
def _srgb_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """None if the profile is sRGB already."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if mode == "RGB" and "srgb" in ImageCms.getProfileDescription(source).lower():
        return None
    return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")

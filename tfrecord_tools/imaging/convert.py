"""Image bytes to square JPEG bytes: check, decode, resample, color-manage, rotate, encode.

The header is checked first (format, pixel limit). simplejpeg (libjpeg-turbo) then decodes a JPEG at 1/8, 1/4, 1/2 or
1/1, the smallest scale that leaves at least twice the target size, and Lanczos resamples the exact box from there:
close to a full decode in a fraction of its time and memory. Color management and rotation work on the small result.
Other formats are decoded in full by Pillow, see `raster`; Pillow also encodes.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms, features
from PIL.JpegImagePlugin import JpegImageFile

from tfrecord_tools.imaging import jpeg_decoder, passthrough, raster, signatures
from tfrecord_tools.imaging.files import DECODE_ERRORS, ImageRejectedError
from tfrecord_tools.imaging.resample import Box, ImageArray, resample

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
    if jpeg_decoder.simplejpeg is None:
        raise RuntimeError("simplejpeg is not installed; it decodes the images: pip install simplejpeg")
    return {
        "converter": CONVERTER_VERSION,
        "pillow": features.version("pil") or "unknown",
        "libjpeg_turbo": features.version("libjpeg_turbo") or "unknown",
        "simplejpeg": jpeg_decoder.simplejpeg.__version__,
    }


def convert(data: bytes, size: int, quality: int, max_pixels: int = MAX_PIXELS) -> Converted:
    """Crops the center square of an image, resamples it to size x size, and encodes it as JPEG 4:2:0.

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
    """Converts an image to square JPEGs of several sizes, decoding once.

    Args:
        data: File in one of `signatures.CONVERTED`: grey, RGB, or CMYK with an ICC profile; any EXIF orientation.
        sizes: Sides of the results in pixels.
        quality: JPEG quality, 1..100.
        max_pixels: Limit on width * height, checked before decoding.
        fit: One of FITS: crop the center square, pad with black to a square, or stretch.
        subsampling: One of SUBSAMPLINGS.
        decode_for: Size that selects the decoding scale, and so the bytes; at least max(sizes), its default.
        swap_rb: Swap red and blue of RGB images whose writer swapped them. Grey is unchanged, CMYK is rejected.
        keep: Copy a JPEG unchanged if it has the size already, is plain (see `passthrough.is_plain`) and undamaged.
            None: always encode again.

    Raises:
        ImageRejectedError: The bytes are no complete, undamaged image that can be shown as RGB.
    """
    decoding = decode_for or max(sizes)
    if signatures.name_of(data) == signatures.JPEG:
        image = jpeg_decoder.open_header(data)
        raster.check_size(image, max_pixels)
        _check_mode(image, swap_rb)
        side = image.width if image.width == image.height else 0
        kept = side in sizes and keep is not None and not swap_rb and _is_kept(data, keep)
        if kept and set(sizes) == {side}:
            return ConvertedSizes((data,) * len(sizes), side, side)
        decoded = _decode_jpeg(data, image, decoding, fit)
    else:
        kept, side, decoded = False, 0, _decode_other(data, max_pixels, swap_rb)
    jpegs = []
    for size in sizes:
        if kept and size == side:
            jpegs.append(data)
            continue
        square = _fit(decoded, size, fit)
        if swap_rb and decoded.mode == "RGB":
            square = np.ascontiguousarray(square[..., ::-1])
        square = _padded(_finish(square, decoded), size)
        jpegs.append(_encode(square, quality, subsampling))
    width, height = decoded.width, decoded.height
    if decoded.orientation in (5, 6, 7, 8):
        width, height = height, width
    return ConvertedSizes(tuple(jpegs), width, height)


class _Decoded(NamedTuple):
    """Pixels u8[H,W,C] of an image of width x height, at 1/reduction, and how to show them."""

    pixels: ImageArray
    mode: str
    width: int
    height: int
    reduction: int = 1
    orientation: int = 1
    profile: bytes | None = None


def _decode_jpeg(data: bytes, image: JpegImageFile, size: int, fit: str) -> _Decoded:
    width, height = image.size
    mode, profile = image.mode, image.info.get("icc_profile")
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
        reduction = _reduction(width, height, size, fit)
        pixels = jpeg_decoder.decode_reduced(data, image, reduction)
    except ImageRejectedError:
        raise
    except DECODE_ERRORS as error:
        raise ImageRejectedError(f"cannot be decoded: {error}") from error
    return _Decoded(pixels, mode, width, height, reduction, orientation, profile)


def _decode_other(data: bytes, max_pixels: int, swap_rb: bool) -> _Decoded:
    image = raster.read(data, max_pixels)
    _check_mode(image, swap_rb)
    width, height = image.size
    pixels = np.asarray(image).reshape(height, width, -1)
    return _Decoded(pixels, image.mode, width, height, profile=image.info.get("icc_profile"))


def _check_mode(image: Image.Image, swap_rb: bool) -> None:
    if image.mode == "CMYK" and not image.info.get("icc_profile"):
        raise ImageRejectedError("CMYK without an ICC profile: its colors are unknown")
    if image.mode == "CMYK" and swap_rb:
        raise ImageRejectedError("red and blue of a CMYK image cannot be swapped")


def _is_kept(data: bytes, asked: passthrough.Asked) -> bool:
    """Whether a file is plain and decodes without a warning."""
    return passthrough.is_plain(data, asked) and jpeg_decoder.is_sound(data)


def _reduction(width: int, height: int, size: int, fit: str) -> int:
    """The largest of 1, 2, 4, 8 that divides the source and leaves at least twice the target."""
    extent = max(width, height) if fit == "pad" else min(width, height)
    # Pillow cannot reduce a side to less than one pixel, as in very narrow strips.
    return next((f for f in (8, 4, 2) if extent >= 2 * size * f and min(width, height) >= f), 1)


def _fit(decoded: _Decoded, size: int, fit: str) -> ImageArray:
    """Resamples decoded pixels to size x size, or less where padding is due."""
    pixels, width, height, reduction = decoded.pixels, decoded.width, decoded.height, decoded.reduction
    if fit == "crop":
        return resample(pixels, _center_square(width, height, reduction), size, size)
    whole = (0.0, 0.0, width / reduction, height / reduction)
    if fit == "stretch":
        return resample(pixels, whole, size, size)
    longest = max(width, height)
    across, down = (max(1, round(extent * size / longest)) for extent in (width, height))
    return resample(pixels, whole, across, down)


def _padded(pixels: ImageArray, size: int) -> ImageArray:
    """Centers pixels on a black square; they must be upright and sRGB, where zeros are black."""
    height, width = pixels.shape[:2]
    if height == width == size:
        return pixels
    square = np.zeros((size, size, 3), np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    square[top : top + height, left : left + width] = pixels
    return square


def _finish(pixels: ImageArray, decoded: _Decoded) -> ImageArray:
    """Converts resampled pixels to upright sRGB."""
    mode, profile, orientation = decoded.mode, decoded.profile, decoded.orientation
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
        ImageRejectedError: It cannot be decoded, or has more than MAX_PIXELS.
    """
    image = jpeg_decoder.open_header(data)
    raster.check_size(image, MAX_PIXELS)
    try:
        image.load()
    except DECODE_ERRORS as error:
        raise ImageRejectedError(f"cannot be decoded: {error}") from error
    return image


def preview(data: bytes, mode: str, side: int, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decodes an image as stored, at a reduced scale of at least `side` pixels where its format has one.

    Unlike `convert`, it does not notice damaged JPEG data.

    Args:
        data: File in one of `signatures.CONVERTED`.
        mode: "L" or "RGB".
        side: Least side in pixels.
        max_pixels: Limit on width * height, checked before decoding.

    Raises:
        ImageRejectedError: It cannot be decoded.
    """
    if signatures.name_of(data) != signatures.JPEG:
        return raster.read(data, max_pixels).convert(mode)
    image = jpeg_decoder.open_header(data)
    raster.check_size(image, max_pixels)
    try:
        image.draft(mode, (side, side))
        return image.convert(mode)
    except DECODE_ERRORS as error:
        raise ImageRejectedError(f"cannot be decoded: {error}") from error


def _center_square(width: int, height: int, reduction: int) -> Box:
    """Returns (left, top, right, bottom) of the center square, in pixels at 1/reduction."""
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

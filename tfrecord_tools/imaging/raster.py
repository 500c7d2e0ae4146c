"""Images in other formats than JPEG, decoded by Pillow to plain 8-bit pixels."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from tfrecord_tools.imaging import signatures
from tfrecord_tools.imaging.files import ImageRejectedError

# Formats that every build of Pillow reads. Not those that start other programs, as PostScript does.
_READERS: dict[str, type[ImageFile]] = {
    signatures.PNG: PngImageFile,
    signatures.TIFF: TiffImageFile,
    signatures.BMP: BmpImageFile,
    signatures.GIF: GifImageFile,
    signatures.WEBP: WebPImageFile,
    signatures.JPEG2000: Jpeg2KImageFile,
    signatures.PNM: PpmImageFile,
}
_SUBFILE, _DNG_VERSION = 254, 50706  # TIFF 6.0, section 8; DNG 1.7, chapter 4


def read(data: bytes, max_pixels: int) -> Image.Image:
    """Decodes the first frame or page of an image, upright.

    Transparent pixels become black, as padding is. 16-bit levels are scaled to 8 bits.

    Args:
        data: File in one of `signatures.CONVERTED`, except JPEG.
        max_pixels: Limit on width * height, checked before decoding.

    Returns:
        Image of mode L, RGB or CMYK; its ICC profile, if any, is in `info`.

    Raises:
        ImageRejectedError: It cannot be used.
    """
    kind = signatures.name_of(data)
    if kind == "empty":
        raise ImageRejectedError("the file is empty")
    if kind not in _READERS:
        raise ImageRejectedError(f"not an image that can be converted: {kind}; expected {_listed()}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata
            image = _READERS[kind](io.BytesIO(data))
            check_size(image, max_pixels)
            _check_first(image)
            if isinstance(image, PngImageFile):
                image.verify()  # checksums, which decoding ignores; the image cannot be used afterwards
                image = PngImageFile(io.BytesIO(data))
            image.load()
            profile = image.info.get("icc_profile")
            plain = _plain(ImageOps.exif_transpose(image), kind)
    except (ImageRejectedError, MemoryError):
        raise
    except Exception as error:
        # Parsers raise whatever a damaged file makes them meet, and Pillow's own message may quote the file.
        found = "cut off" if "truncated" in str(error).lower() else "damaged, or of a kind that is not supported"
        raise ImageRejectedError(f"a {kind} that cannot be decoded: {found}") from error
    plain.info = {"icc_profile": profile} if profile else {}
    return plain


def check_size(image: Image.Image, max_pixels: int) -> None:
    """Raises ImageRejectedError for an image with more pixels than the limit."""
    width, height = image.size
    if width * height > max_pixels:
        raise ImageRejectedError(f"{width} x {height} pixels are over the limit of {max_pixels}")


def _listed() -> str:
    *first, last = signatures.CONVERTED
    return f"{', '.join(first)} or {last}"


def _check_first(image: ImageFile) -> None:
    """Refuses raw files of cameras, whose first image is a small preview."""
    if isinstance(image, TiffImageFile):
        if _DNG_VERSION in image.tag_v2:
            raise ImageRejectedError("a camera's raw file (DNG); develop it to JPEG or PNG")
        if image.tag_v2.get(_SUBFILE, 0) & 1:
            raise ImageRejectedError("a TIFF whose first image is a preview, as in raw files; save it as JPEG or PNG")


def _plain(image: Image.Image, kind: str) -> Image.Image:
    """Converts an image of any mode to L, RGB or CMYK with 8 bits."""
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and kind in (signatures.PNG, signatures.PNM)):
        levels = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((np.minimum(levels, 65535) + 128) // 257).astype(np.uint8))
    if mode in ("I", "F"):
        raise ImageRejectedError("values of 32 bits, whose white is unknown; save it with 8 or 16 bits")
    if mode in ("LAB", "HSV"):
        raise ImageRejectedError(f"{mode} pixels; save it as RGB")
    if image.has_transparency_data:
        base = "L" if mode in ("L", "LA", "La") else "RGB"
        layer = image.convert("LA" if base == "L" else "RGBA")
        alpha = layer.getchannel("A")
        if alpha.getextrema() == (0, 0):  # some writers leave the channel empty
            raise ImageRejectedError("every pixel is transparent; save it without an alpha channel")
        black = Image.new(base, image.size)
        black.paste(layer.convert(base), mask=alpha)
        return black
    if mode == "1":
        return image.convert("L")
    return image if mode in ("L", "RGB", "CMYK") else image.convert("RGB")

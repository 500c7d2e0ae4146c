"""File names of images, and the exceptions of invalid ones."""

from __future__ import annotations

import struct

# In order of preference. The content decides the format: a PNG named .jpg is a PNG.
_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".jp2")
EXTENSIONS = tuple(extension for suffix in _SUFFIXES for extension in (suffix, suffix.upper()))
DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    ArithmeticError,
    struct.error,
)


class ImageRejectedError(ValueError):
    """Unusable image; the message is the reason that quarantine.csv shows, without anything that the file holds."""


def expected(name: str) -> str:
    """Returns the accepted file names of an image for messages: NAME{.jpg,.jpeg,...}."""
    return f"{name}{{{','.join(_SUFFIXES)}}}"

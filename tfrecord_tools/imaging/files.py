"""File names of JPEGs, and the exceptions Pillow raises for invalid bytes."""

from __future__ import annotations

import struct
from collections.abc import Container

EXTENSIONS = (".jpg", ".jpeg", ".JPG", ".JPEG")  # in order of preference
DECODE_ERRORS = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, struct.error)


def file_of(name: str, files: Container[str]) -> str | None:
    """Returns the file name of an image among `files`, or None."""
    return next((name + extension for extension in EXTENSIONS if name + extension in files), None)


def expected(name: str) -> str:
    """Returns the accepted file names of an image for messages: NAME{.jpg,.jpeg,...}."""
    return f"{name}{{{','.join(EXTENSIONS)}}}"

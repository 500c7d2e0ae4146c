"""What the files of JPEGs are called, and what Pillow raises for bytes that are none."""

from __future__ import annotations

import struct
from collections.abc import Container

EXTENSIONS = (".jpg", ".jpeg", ".JPG", ".JPEG")  # the first that is there counts
DECODE_ERRORS = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, struct.error)


def file_of(name: str, files: Container[str]) -> str | None:
    """The file of an image among the names of those that are there; None if it has none."""
    return next((name + extension for extension in EXTENSIONS if name + extension in files), None)


def expected(name: str) -> str:
    """How files are called, for messages: NAME{.jpg,.jpeg,...}."""
    return f"{name}{{{','.join(EXTENSIONS)}}}"

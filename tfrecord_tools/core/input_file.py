"""Reading of image files, which may come from anybody."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tfrecord_tools.core.paths import AnyPath

MAX_BYTES = 256 << 20  # 100 megapixels have 20 to 60 MB as a JPEG and up to 200 MB as a PNG


class RefusedFileError(ValueError):
    """A file that is not read; the message is the reason, without anything that the file holds."""


def read(path: AnyPath, folder: AnyPath | None = None, max_bytes: int = MAX_BYTES) -> bytes:
    """Reads a file completely.

    Args:
      path: File.
      folder: Folder that it may not leave through a link; None for any place.
      max_bytes: Largest size that is read.

    Raises:
      RefusedFileError: it is larger, no regular file, or outside the folder.
      OSError: it cannot be read.
    """
    if not isinstance(path, Path):
        _check_size(path.stat().st_size, max_bytes)
        return path.read_bytes()
    if folder is not None and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise RefusedFileError("a link that leaves the image folder; put the file itself there, e.g. with cp -L")
    _check_regular(os.stat(path))
    # It may have been replaced since: opening a pipe would wait for its writer.
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
        found = os.fstat(file.fileno())
        _check_regular(found)
        _check_size(found.st_size, max_bytes)
        data = file.read(max_bytes + 1)
        _check_size(len(data), max_bytes)
        return data


def _check_regular(found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise RefusedFileError("a folder; expected an image file")
    if not stat.S_ISREG(found.st_mode):
        kind = "a pipe" if stat.S_ISFIFO(found.st_mode) else "a socket" if stat.S_ISSOCK(found.st_mode) else "a device"
        raise RefusedFileError(f"{kind}; expected a regular file")


def _check_size(found: int, limit: int) -> None:
    if found > limit:
        size = f"{found >> 20} MiB" if found > limit + 1 else "more"
        raise RefusedFileError(f"its size, {size}, is over the limit of {limit >> 20} MiB")

"""Atomic file replacement: temporary file, fsync, rename, fsync of the folder; and tables as CSV."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tfrecord_tools.core import text

if TYPE_CHECKING:
    import pandas as pd

_TEMPORARY = re.compile(r"\.[0-9]+\.(.+)")  # names that `replacing` makes


def write_text(path: Path, content: str) -> None:
    """Writes text to a file atomically, as UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(content, encoding="utf-8")


def write_csv(path: Path, table: pd.DataFrame, float_format: str | None = None) -> None:
    """Writes a table without its index atomically; texts that a spreadsheet would run are escaped, see `text.cell`."""
    escaped = {str(name): column.map(text.cell) for name, column in table.items() if column.dtype.kind == "O"}
    write_text(path, table.assign(**escaped).to_csv(index=False, float_format=float_format))


def remove_temporary(folder: Path, names: str) -> None:
    """Removes what killed processes left of files that they were replacing; names: regular expression of the files."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if (match := _TEMPORARY.fullmatch(path.name)) and re.fullmatch(names, match[1]):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path with the suffix of `path`, which replaces `path` if the block succeeds."""
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        if error.filename is None and error.errno:  # as of a full disk, which does not say whose
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flushes a file's bytes, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum_file(path: Path) -> Path:
    """Returns the path of the file beside `path` that holds its SHA-256, as `sha256sum` writes it."""
    return path.with_name(f"{path.name}.sha256")


def checked_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes, which is that of its checksum file if there is one.

    Raises:
      ValueError: the two differ.
    """
    found, checksum = sha256(path), checksum_file(path)
    if checksum.is_file():
        expected = checksum.read_text(encoding="utf-8", errors="replace").split(" ")[0]
        if found != expected:
            raise ValueError(
                f"{path} was changed or damaged: its SHA-256 is {found}, {checksum.name} says {expected[:64]!r}; "
                "restore both from a copy"
            )
    return found

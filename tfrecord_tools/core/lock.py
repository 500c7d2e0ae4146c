"""Locks of folders that one process at a time may write to."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from tfrecord_tools.core.paths import AnyPath

try:
    import fcntl
except ModuleNotFoundError:  # some systems lack it; two processes in one folder then go unnoticed
    fcntl = None  # type: ignore[assignment]

NOTE = ".lock"  # names the process that holds the lock of its folder


class LockedError(RuntimeError):
    """Another process holds the lock of a folder; the message names the process, e.g. "process 7 on host"."""


@contextlib.contextmanager
def locked(folder: AnyPath) -> Iterator[None]:
    """Locks an existing folder against other processes until the block or this process ends.

    The lock is on the folder itself, so a killed process leaves none. `NOTE` only names its holder. URLs and file
    systems without locks have none.

    Raises:
      LockedError: another process holds it.
      OSError: the folder cannot be opened.
    """
    if fcntl is None or not isinstance(folder, Path):
        yield
        return
    note = folder / NOTE
    descriptor = os.open(folder, os.O_RDONLY)  # child processes do not inherit it
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockedError(_holder(note)) from None
        except OSError:  # e.g. a network file system
            pass
        _write(note, f"process {os.getpid()} on {socket.gethostname()}\n")
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                note.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _write(note: Path, text: str) -> None:
    with contextlib.suppress(OSError):  # the lock holds without it
        note.unlink(missing_ok=True)  # of a killed process; never written through, in case it is a link
        with note.open("x", encoding="utf-8") as file:
            file.write(text)


def _holder(note: Path) -> str:
    """The process that holds the lock, as far as it is known."""
    try:
        text = note.read_text(encoding="utf-8", errors="replace")[:200].strip()
    except OSError:
        text = ""
    return " ".join(text.split()) if text.isprintable() and text else "another process"

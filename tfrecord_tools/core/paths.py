"""Local and remote paths with one interface: `gs://bucket/folder` behaves like a `pathlib.Path`.

Local paths are plain `pathlib.Path`. Paths with a scheme go through `tf.io.gfile`; TensorFlow is imported only for
them, so that local builds start fast and their workers stay small.

Files get their final names by `commit` only. On a disk that is os.replace and an fsync of the folder. An object store
has neither, but an object becomes visible only when it is complete, so that a rename (a copy, then a delete) never
shows a partial file.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TextIO, cast

from tfrecord_tools.core import startup

if TYPE_CHECKING:
    from typing import Self

    from typing_extensions import Buffer

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)  # two letters or more: C:/ is a drive
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]+\.tmp")  # names that `temporary` makes
_BUFFER = 1 << 20  # bytes; each read of an object store is a request, and a JPEG is rarely larger
# Errors of tf.errors after which a retry may succeed; a missing network is FAILED_PRECONDITION.
_PASSING = (
    "UnavailableError",
    "DeadlineExceededError",
    "ResourceExhaustedError",
    "AbortedError",
    "InternalError",
    "UnknownError",
    "FailedPreconditionError",
)


class StorageUnavailableError(OSError):
    """Remote storage that did not answer; the state of the file is unknown and a retry may succeed."""


class UntrustedNameError(ValueError):
    """A name read from a file that does not have its form, or leads out of its folder."""


class Stat(NamedTuple):
    """The used part of `os.stat_result`; st_size: bytes, times: 0 if unknown."""

    st_size: int
    st_mtime_ns: int = 0
    st_ctime_ns: int = 0


def path(text: str | os.PathLike[str]) -> AnyPath:
    """Converts a string to a path: a `RemotePath` if it has a scheme other than file://, else a `pathlib.Path`."""
    if isinstance(text, RemotePath):
        return text
    text = os.fspath(text)
    if text.lower().startswith("file://"):
        return Path(text[len("file://") :])
    return RemotePath(text) if _SCHEME.match(text) else Path(text)


def is_remote(text: str | os.PathLike[str]) -> bool:
    """Whether the path goes through TensorFlow."""
    return isinstance(path(text), RemotePath)


def member(folder: AnyPath, name: object, form: str | re.Pattern[str]) -> AnyPath:
    """Returns the path of a folder's file that another file names, such as a shard in a manifest.

    Args:
      folder: Folder that has to hold it.
      name: Name as it was read.
      form: Regular expression that the whole name has to match.

    Raises:
      UntrustedNameError: the name has another form, or the path leaves the folder, also through a link.
    """
    if not isinstance(name, str) or not re.fullmatch(form, name) or name in ("", "..") or Path(name).name != name:
        expected = form if isinstance(form, str) else form.pattern
        raise UntrustedNameError(f"{str(name)[:100]!r} is not allowed as a file name; expected {expected}")
    path = folder / name
    if isinstance(path, Path):
        found = Path(os.path.realpath(path))
        if Path(os.path.realpath(folder)) not in found.parents:
            raise UntrustedNameError(f"{path} is a link to {found}, outside its folder; put the file itself there")
    return path


def temporary(final: AnyPath) -> AnyPath:
    """Unique temporary name beside `final`; a process id would not be unique across machines."""
    return final.with_name(f".{final.name}.{uuid.uuid4().hex}.tmp")


def sync(file: BinaryIO) -> None:
    """Flushes an open file to the disk; a remote one is uploaded when it is closed."""
    file.flush()
    with contextlib.suppress(io.UnsupportedOperation):  # raised by fileno() of a remote file
        os.fsync(file.fileno())


def commit(source: AnyPath, final: AnyPath) -> None:
    """Renames a complete file to its final name in the same folder, replacing any other."""
    if isinstance(source, RemotePath):
        source.replace(final)
        return
    os.replace(source, final)
    descriptor = os.open(source.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacing(path: AnyPath) -> Iterator[tuple[BinaryIO, Callable[..., None]]]:
    """Opens a temporary file that becomes `path` at the end of the block, or is removed if the block raises.

    Yields:
      (file, rename). rename(other_path, check) chooses another final name in the same folder, and a check that is
      called with the temporary file's path once it is on the disk, and may raise.
    """
    written = temporary(path)
    final, checks = path, []

    def rename(other: AnyPath, check: Callable[[AnyPath], None]) -> None:
        nonlocal final
        final = other
        checks.append(check)

    try:
        with written.open("wb") as file:
            yield file, rename
            sync(file)
        for check in checks:
            check(written)
        commit(written, final)
    except BaseException:
        written.unlink(missing_ok=True)
        raise


def write_whole(path: AnyPath, text: str) -> None:
    """Replaces a text file atomically."""
    with replacing(path) as (file, _):
        file.write(text.encode())


def temporary_files(folder: AnyPath) -> list[AnyPath]:
    """Temporary files that killed processes left in a folder."""
    return [path for path in folder.iterdir() if _TEMPORARY.fullmatch(path.name)]


def remove_tree(folder: AnyPath) -> None:
    """Removes a folder and its contents, if it exists."""
    if isinstance(folder, RemotePath):
        folder.remove_tree()
    elif folder.exists():
        shutil.rmtree(folder, ignore_errors=True)  # files that vanish or appear meanwhile are no error
        if folder.exists():
            shutil.rmtree(folder)


def free_bytes(folder: AnyPath) -> int | None:
    """Free space of the disk that holds a folder; None if unknown."""
    return shutil.disk_usage(folder).free if isinstance(folder, Path) and folder.is_dir() else None


# ------------------------------------------------------------------------------------------------- remote


class RemotePath:
    """The part of `pathlib.Path` that this package uses, on `tf.io.gfile`.

    Methods raise OSError and its subclasses as `pathlib.Path` does, or `StorageUnavailableError`.
    """

    def __init__(self, url: str) -> None:
        match = _SCHEME.match(url)
        if match is None:
            raise ValueError(f"{url!r} has no scheme; expected e.g. gs://bucket/folder")
        head, tail = match.group(), url[match.end() :]
        self._url = head.lower() + re.sub("/+", "/", tail).rstrip("/")

    def __str__(self) -> str:
        return self._url

    def __repr__(self) -> str:
        return f"RemotePath({self._url!r})"

    def __fspath__(self) -> str:
        return self._url

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and self._url == other._url

    def __lt__(self, other: RemotePath) -> bool:
        return self._url < other._url

    def __hash__(self) -> int:
        return hash(self._url)

    def __truediv__(self, name: str | os.PathLike[str]) -> Self:
        return type(self)(f"{self._url}/{os.fspath(name)}")

    @property
    def name(self) -> str:
        """Last part."""
        return self._url.rsplit("/", 1)[-1]

    @property
    def parent(self) -> Self:
        """All but the last part; a bucket is its own parent."""
        head, _, tail = self._url.partition("://")
        return type(self)(f"{head}://{tail.rsplit('/', 1)[0]}")

    def with_name(self, name: str) -> Self:
        """Path with another last part."""
        return self.parent / name

    def exists(self) -> bool:
        """Whether it is a file or a folder."""
        with _as_os_errors(self._url) as gfile:
            return bool(gfile.exists(self._url))

    def is_dir(self) -> bool:
        """Whether it is a folder; in an object store, a prefix of any name."""
        with _as_os_errors(self._url) as gfile:
            return bool(gfile.isdir(self._url))

    def is_file(self) -> bool:
        """Whether it is a file."""
        return self.exists() and not self.is_dir()

    def stat(self) -> Stat:
        """Size and time of the file."""
        with _as_os_errors(self._url) as gfile:
            found = gfile.stat(self._url)
            return Stat(int(found.length), int(found.mtime_nsec))

    def iterdir(self) -> Iterator[Self]:
        """Contents of the folder, one level deep."""
        with _as_os_errors(self._url) as gfile:
            names = gfile.listdir(self._url)
        # Object stores end folders with a slash, and may list an empty name for the folder itself.
        return (self / name for name in dict.fromkeys(name.strip("/") for name in names) if name)

    def glob(self, pattern: str) -> Iterator[Self]:
        """Paths below this folder that match a pattern."""
        with _as_os_errors(self._url) as gfile:
            found = gfile.glob(f"{self._url}/{pattern}")
        return (type(self)(each) for each in sorted(found))

    def mkdir(self, parents: bool = True, exist_ok: bool = True) -> None:
        """Makes the folder and its parents; one that exists is no error, as object stores have none."""
        with _as_os_errors(self._url) as gfile:
            gfile.makedirs(self._url)

    def unlink(self, missing_ok: bool = False) -> None:
        """Removes the file."""
        try:
            with _as_os_errors(self._url) as gfile:
                gfile.remove(self._url)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def replace(self, target: AnyPath) -> None:
        """Renames the file, replacing any other."""
        with _as_os_errors(self._url) as gfile:
            gfile.rename(self._url, os.fspath(target), overwrite=True)

    def remove_tree(self) -> None:
        """Removes the folder and its contents."""
        with contextlib.suppress(FileNotFoundError), _as_os_errors(self._url) as gfile:
            gfile.rmtree(self._url)

    def open(
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Any:
        """Opens the file for reading or writing, as the built-in `open` does."""
        if mode.replace("t", "") not in ("r", "w", "rb", "wb"):
            raise ValueError(f"mode {mode!r}; expected r, w, rb or wb")
        raw = _RemoteFile(self._url, "wb" if "w" in mode else "rb")
        buffered = io.BufferedWriter(raw, _BUFFER) if "w" in mode else io.BufferedReader(raw, _BUFFER)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding or "utf-8", errors, newline)

    def read_bytes(self) -> bytes:
        """Reads the file."""
        with self.open("rb") as file:
            return cast(BinaryIO, file).read()

    def write_bytes(self, data: bytes) -> None:
        """Writes the file; use `commit` if others may read it meanwhile."""
        with self.open("wb") as file:
            file.write(data)

    def read_text(self, encoding: str | None = None) -> str:
        """Reads the file as text."""
        with self.open("r", encoding=encoding) as file:
            return cast(TextIO, file).read()


AnyPath = Path | RemotePath


class _RemoteFile(io.RawIOBase):
    """GFile with the interface and errors of `io.FileIO`."""

    def __init__(self, url: str, mode: str) -> None:
        self._url, self._writing = url, mode == "wb"
        with _as_os_errors(url) as gfile:
            self._file = gfile.GFile(url, mode)
            if not self._writing:
                self._file.size()  # opens it, so that a missing file raises here, as in open()

    def readable(self) -> bool:
        return not self._writing

    def writable(self) -> bool:
        return self._writing

    def seekable(self) -> bool:
        return not self._writing

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with _as_os_errors(self._url):
            self._file.seek(offset, whence)
            return int(self._file.tell())

    def tell(self) -> int:
        with _as_os_errors(self._url):
            return int(self._file.tell())

    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer).cast("B")
        with _as_os_errors(self._url):
            data = self._file.read(len(view))
        view[: len(data)] = data
        return len(data)

    def write(self, data: Buffer) -> int:
        written = bytes(data)
        with _as_os_errors(self._url):
            self._file.write(written)
        return len(written)

    def close(self) -> None:
        if not self.closed:
            try:
                with _as_os_errors(self._url):
                    self._file.close()  # uploads the file to an object store
            finally:
                super().close()


@contextlib.contextmanager
def _as_os_errors(url: str) -> Iterator[Any]:
    """Yields `tf.io.gfile`, and turns its errors into OSErrors that name the path."""
    try:
        tf = startup.import_tensorflow()
    except ImportError as error:
        raise OSError(errno.EPROTONOSUPPORT, "needs TensorFlow (pip install 'melanoma-tf[tensorflow]')", url) from error
    try:
        yield tf.io.gfile
    except tf.errors.NotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), url) from error
    except (tf.errors.PermissionDeniedError, tf.errors.UnauthenticatedError) as error:
        raise PermissionError(errno.EACCES, f"{os.strerror(errno.EACCES)}: {error.message}", url) from error
    except tf.errors.UnimplementedError as error:
        known = ", ".join(f"{scheme}://" for scheme in sorted(tf.io.gfile.get_registered_schemes()) if scheme)
        reason = f"TensorFlow {tf.__version__} here knows {known}; install a file system for it or mount the storage"
        raise OSError(errno.EPROTONOSUPPORT, reason, url) from error
    except tf.errors.OpError as error:
        kind = StorageUnavailableError if type(error).__name__ in _PASSING else OSError
        raise kind(errno.EIO, error.message, url) from error

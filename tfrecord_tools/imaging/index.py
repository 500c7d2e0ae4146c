"""Where images are: in folders, at any depth, or in HDF5 files."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tfrecord_tools.core import input_file, names, paths
from tfrecord_tools.core.paths import AnyPath
from tfrecord_tools.imaging import hdf5
from tfrecord_tools.records import shards

_NO_TEXT = re.compile("[\ud800-\udfff]")  # what Python makes of bytes that are not UTF-8
_OTHERS = "__MACOSX"  # in archives packed on a Mac: files that are no images, under the images' names


class ImagesError(ValueError):
    """Images that cannot be found, or two of one name; the message names the folders or files."""


class Located(NamedTuple):
    """Position of an image.

    Attributes:
      file: Name for messages, relative to the given folder.
      path: File that holds it.
      part: Its bytes in that file; None if the file is the image and nothing else.
      origin: File that the image first came from; None if it is this one.
    """

    file: str
    path: str
    part: shards.Part | None = None
    origin: shards.Origin | None = None


class ImageIndex:
    """The images in some folders and HDF5 files, by name: that of the file without its extension.

    Folders are searched at any depth; links to other folders are not followed, and hidden files are ignored.
    """

    def __init__(self, roots: Sequence[AnyPath]) -> None:
        """Lists the images.

        Args:
          roots: Folders and HDF5 files.

        Raises:
          ImagesError: one of them cannot be read, or is neither.
        """
        self.roots = tuple(roots)
        self.links: list[str] = []  # folders that were not followed
        self._found: dict[str, list[tuple[AnyPath, str]]] = {}  # root and file of each name
        for root in roots:
            for file in self._listed(root):
                name = names.without_extension(file.rpartition("/")[2])
                self._found.setdefault(name, []).append((root, file))

    def __str__(self) -> str:
        return ", ".join(map(str, self.roots))

    @property
    def names(self) -> set[str]:
        """Names of all images."""
        return set(self._found)

    @property
    def files(self) -> list[Located]:
        """The image files in the folders, sorted by their names below these."""
        return sorted(_file(*each) for places in self._found.values() for each in places if not _is_hdf5(each[0]))

    def locate(self, wanted: Sequence[str]) -> list[Located | None]:
        """Returns the position of each named image, None for those that are not there.

        A name that occurs at several places is accepted if their bytes are the same.

        Raises:
          ImagesError: two different images have one name.
        """
        packed: dict[AnyPath, dict[str, str]] = {}  # root -> its name of an image -> ours
        places: dict[str, list[Located]] = {}
        for name in wanted:
            found = places[name] = []
            for root, file in self._found.get(name, ()):
                if _is_hdf5(root):
                    packed.setdefault(root, {})[file] = name
                else:
                    found.append(_file(root, file))
        for root, members in packed.items():
            for file, part in hdf5.parts(root, members).items():
                places[members[file]].append(Located(f"{root.name}: {file}", str(root), part))
        return [_only(name, places[name]) for name in wanted]

    def _listed(self, root: AnyPath) -> list[str]:
        """Names of the images of a folder or HDF5 file, relative to it."""
        if _is_hdf5(root):
            return hdf5.names(root)
        try:
            return sorted(_walk(root, self.links) if isinstance(root, Path) else _walk_remote(root))
        except OSError as error:
            expected = "expected the folder of the images, or an HDF5 file of them"
            raise ImagesError(f"{error.filename or root}: {error.strerror}; {expected}") from error


def _walk(root: Path, links: list[str]) -> Iterator[str]:
    def fail(error: OSError) -> None:
        raise error

    for folder, below, files in os.walk(root, onerror=fail):
        below[:] = [name for name in below if not _is_hidden(name)]
        links += [path for name in below if os.path.islink(path := os.path.join(folder, name))]
        start = "" if folder == str(root) else f"{Path(folder).relative_to(root).as_posix()}/"
        yield from (start + name for name in files if names.is_image_file(name) and not _is_hidden(name))


def _walk_remote(root: AnyPath, start: str = "") -> Iterator[str]:
    for path in root.iterdir():
        if names.is_image_file(path.name):  # each further question is a request
            yield start + path.name
        elif not _is_hidden(path.name) and path.is_dir():
            yield from _walk_remote(path, f"{start}{path.name}/")


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == _OTHERS


def _is_hdf5(root: AnyPath) -> bool:
    return root.name.lower().endswith(hdf5.EXTENSIONS)


def _file(root: AnyPath, file: str) -> Located:
    # Names may be no text on some disks; quarantine.csv is text.
    return Located(_NO_TEXT.sub("\N{REPLACEMENT CHARACTER}", file), str(root / file))


def _only(name: str, places: Sequence[Located]) -> Located | None:
    if len(places) < 2:
        return places[0] if places else None
    if len(set(map(digest, places))) > 1:
        where = " and ".join(each.path if each.part is None else f"{each.path} ({each.file})" for each in places[:2])
        more = f" and {len(places) - 2} more" if len(places) > 2 else ""
        raise ImagesError(
            f"image {name}: different bytes under this name: {where}{more}; expected one image, so name the folder of "
            "the right ones in --images, or remove the others"
        )
    return places[0]


def digest(place: Located) -> bytes:
    """SHA-256 of an image's bytes; its path if they cannot be read or built, which equals no other."""
    if place.part is not None:
        return place.part.sha256
    path = paths.path(place.path)
    try:
        known = not isinstance(path, Path) or _is_built(os.stat(path))
        return bytes.fromhex(shards.file_sha256(path)) if known else place.path.encode()
    except OSError:
        return place.path.encode()


def size(place: Located) -> int:
    """Number of an image's bytes; 0 if it is no regular file on a disk, or too large to be built."""
    if place.part is not None:
        return place.part.length
    try:
        found = os.stat(place.path)
    except OSError:
        return 0
    return found.st_size if _is_built(found) else 0


def _is_built(found: os.stat_result) -> bool:
    """Whether a file has the kind and size of those that are built; others may never end."""
    return stat.S_ISREG(found.st_mode) and found.st_size <= input_file.MAX_BYTES


def start(place: Located) -> bytes:
    """First bytes of an image that can be read."""
    with paths.path(place.path).open("rb") as file:
        file.seek(place.part.offset if place.part else 0)
        return file.read(16)

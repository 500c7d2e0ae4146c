"""Images in an HDF5 file: one dataset of the bytes of an image file per name, as in ISIC 2024's train-image.hdf5.

The file is asked only where the bytes are, and they are read from there as from any other file, so that workers need no
HDF5 library and nothing outside the file can be read through it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tfrecord_tools.core.paths import AnyPath
from tfrecord_tools.records import shards

EXTENSIONS = (".hdf5", ".h5", ".hdf")


class Hdf5Error(ValueError):
    """An HDF5 file that holds no images in this form; the message names file and dataset."""


def names(path: AnyPath) -> list[str]:
    """Returns the names at the root of an HDF5 file.

    Raises:
      Hdf5Error: it is none, or is not on a disk.
    """
    with _opened(path) as file:
        return list(file)


def parts(path: AnyPath, wanted: Iterable[str]) -> dict[str, shards.Part]:
    """Returns the place of each wanted image in an HDF5 file, in the order of the places.

    Raises:
      Hdf5Error: one is a link, is in another file, or is not one block of bytes in this one.
    """
    with _opened(path) as file:
        size = os.path.getsize(path)
        blocks = sorted((*_block(file, name, f"{path}: {name}", size), name) for name in wanted)
    with path.open("rb") as data:
        found = {}
        for offset, length, name in blocks:
            data.seek(offset)
            found[name] = shards.Part(offset, length, hashlib.sha256(data.read(length)).digest())
        return found


def _opened(path: AnyPath) -> Any:
    import h5py

    if not isinstance(path, Path):
        raise Hdf5Error(f"{path}: HDF5 files are read from a disk; copy it to one, and name the copy")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        reason = "no such file" if not path.exists() else f"not an HDF5 file that can be read: {error}"
        raise Hdf5Error(f"{path}: {reason}") from error


def _block(file: Any, name: str, where: str, size: int) -> tuple[int, int]:
    """(offset, length) of a dataset's bytes; size: of the file."""
    import h5py

    # A link or virtual dataset could put the bytes of another file of this machine into the records.
    if file.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
        raise Hdf5Error(f"{where}: a link to another place or file; expected the image itself")
    item = h5py.h5o.open(file.id, name.encode())
    if not isinstance(item, h5py.h5d.DatasetID):
        raise Hdf5Error(f"{where}: not a dataset; expected one for each image, at the root of the file")
    made, kind = item.get_create_plist(), item.get_type()
    if made.get_external_count() or made.get_layout() == h5py.h5d.VIRTUAL:
        raise Hdf5Error(f"{where}: its bytes are in another file; expected them in this one")
    bytes_like = item.rank <= 1 and kind.get_class() in (h5py.h5t.OPAQUE, h5py.h5t.INTEGER, h5py.h5t.STRING)
    fixed = bytes_like and not (kind.get_class() == h5py.h5t.STRING and kind.is_variable_str())
    if not fixed or (kind.get_class() == h5py.h5t.INTEGER and kind.get_size() != 1):
        raise Hdf5Error(f"{where}: no bytes of an image file; expected those of a JPEG, as one value or a row of bytes")
    offset, length = item.get_offset(), item.get_storage_size()
    if made.get_layout() != h5py.h5d.CONTIGUOUS or offset is None or offset + length > size:
        raise Hdf5Error(f"{where}: its bytes are compressed, in pieces or not written; expected them as one block")
    return int(offset), int(length)

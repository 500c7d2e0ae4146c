"""Reading of HDF5 weights that may come from elsewhere."""

from __future__ import annotations

import contextlib
import lzma
import math
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py

KERAS_ARCHIVE = "model.weights.h5"  # the weights in a `.keras` file
_MAX_LINKS = 200_000  # a file of EfficientNetV2-L with optimizer has about 10,000
_MAX_CHUNKS = 10_000  # of a dataset; h5py makes hundreds
_PLAIN_FILTERS = {h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
_CHECKSUM_BYTES = 4
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, lzma.LZMAError)


def allowance(variables: Iterable[Any]) -> int:
    """Bytes of values that a file for a model's variables may declare; files of whole models hold the optimizer too."""
    return 32 * sum(math.prod(variable.shape) for variable in variables) + (64 << 20)


@contextlib.contextmanager
def opened(path: Path, most: int) -> Iterator[h5py.File]:
    """Opens an HDF5 file, or the weights in a `.keras` file, once it is known to be safe to read.

    No code in a `.keras` file is run, and its config is not read.

    Args:
      path: file.
      most: bytes of values that it may declare, see `allowance`.

    Raises:
      ValueError: the file is neither, would read other files (external links and storage, virtual datasets), or
        declares more values.
    """
    with contextlib.ExitStack() as stack:
        source: Any = path
        if not h5py.is_hdf5(path) and zipfile.is_zipfile(path):
            source = stack.enter_context(tempfile.TemporaryFile())
            _extract(path, source, most)
        try:
            file = stack.enter_context(h5py.File(source, "r"))
        except OSError as error:
            raise ValueError(f"{path} is not a readable HDF5 file: {error}") from error
        try:
            _check(file, path, most)
        except (KeyError, OSError, RuntimeError, TypeError) as error:  # what h5py raises on damaged files
            raise ValueError(f"{path} is a damaged HDF5 file: {error}") from error
        yield file


def _extract(path: Path, target: Any, most: int) -> None:
    """Copies the weights of a `.keras` file."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = archive.getinfo(KERAS_ARCHIVE).file_size
            if size > most:
                raise ValueError(_too_large(path, size, most))
            with archive.open(KERAS_ARCHIVE) as member:  # ends after `size` bytes, whatever the stream holds
                shutil.copyfileobj(member, target)
    except (KeyError, OSError, RuntimeError, EOFError, *_ZIP_ERRORS) as error:
        raise ValueError(
            f"{path} is a zip file without readable {KERAS_ARCHIVE} ({error}); load it in Keras and write its weights "
            "with model.save_weights('NAME.weights.h5')"
        ) from error


def _check(file: h5py.File, path: Path, most: int) -> None:
    total, links, pending = 0, 0, [file["/"]]
    seen = {h5py.h5o.get_info(pending[0].id).addr}
    while pending:
        group = pending.pop()
        for name in group:
            links += 1
            if links > _MAX_LINKS:
                raise ValueError(f"{path} has more than {_MAX_LINKS} entries; expected the weights of one model")
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.SoftLink):
                continue  # what it names has a link of its own in this file
            if not isinstance(link, h5py.HardLink):
                raise ValueError(f"{path}: {group.name}/{name} is a link to another file; expected the values")
            entry = group[name]
            if isinstance(entry, h5py.Dataset):
                total += _declared(entry, path, most)
            elif isinstance(entry, h5py.Group) and (address := h5py.h5o.get_info(entry.id).addr) not in seen:
                seen.add(address)
                pending.append(entry)
            if total > most:
                raise ValueError(_too_large(path, total, most))


def _declared(dataset: h5py.Dataset, path: Path, most: int) -> int:
    """Bytes that a dataset takes in memory; HDF5 fills what is not in the file, and inflates what is compressed."""
    plan = dataset.id.get_create_plist()
    if plan.get_external_count() or plan.get_layout() == h5py.h5d.VIRTUAL:
        raise ValueError(f"{path}: {dataset.name} takes its values from another file; expected the values")
    size = dataset.id.get_type().get_size()
    declared, chunk = (size * math.prod(lengths or (0,)) for lengths in (dataset.shape, dataset.chunks))
    filters = [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]
    compressed = [i for i, code in enumerate(filters) if code not in _PLAIN_FILTERS]
    if compressed and max(declared, chunk) <= most:
        if [filters[i] for i in compressed] != [h5py.h5z.FILTER_DEFLATE]:
            raise ValueError(f"{path}: {dataset.name} has an unknown compression; expected none, or gzip")
        _check_chunks(dataset, path, chunk + _CHECKSUM_BYTES, compressed[0])
    return max(declared, chunk)


def _check_chunks(dataset: h5py.Dataset, path: Path, size: int, place: int) -> None:
    """Checks that no chunk inflates to more than `size` bytes, because HDF5 inflates all that is stored."""
    if math.prod(-(-length // step) for length, step in zip(dataset.shape, dataset.chunks, strict=True)) > _MAX_CHUNKS:
        raise ValueError(f"{path}: {dataset.name} has more than {_MAX_CHUNKS} chunks; expected the weights of a layer")
    for part in dataset.iter_chunks():
        start = tuple(along.start for along in part)
        if not dataset.id.get_chunk_info_by_coord(start).size:
            continue  # never written
        skipped, stored = dataset.id.read_direct_chunk(start)
        try:
            if not skipped >> place & 1 and len(zlib.decompressobj().decompress(stored, size + 1)) > size:
                raise ValueError(f"{path}: {dataset.name} inflates to more than it declares; it is damaged or a trap")
        except zlib.error as error:
            raise ValueError(f"{path}: {dataset.name} is damaged: {error}") from error


def _too_large(path: Path, size: int, most: int) -> str:
    return (
        f"{path} declares more than {size / 2**20:,.0f} MiB of values; expected at most {most / 2**20:,.0f} MiB for "
        "this model"
    )

"""State dicts that PyTorch wrote before 1.6, read without PyTorch and without running their code.

Five pickles in a row (magic number, protocol, system, the state dict, the keys of its storages), then each storage in
the order of the keys: its number of values as an int64, and the values (`torch.serialization._legacy_load`).
"""

from __future__ import annotations

import collections
import io
import math
import pickle
import pickletools
import reprlib
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_DTYPES = {("torch", "FloatStorage"): "<f4", ("torch", "LongStorage"): "<i8"}
# What damaged pickles, and pickles of other things than tensors, make the unpickler and the checks below raise.
_ERRORS = (
    *(pickle.UnpicklingError, EOFError, AttributeError, LookupError, TypeError, ValueError, struct.error),
    *(OverflowError, MemoryError, RecursionError),
)


class _Storage(NamedTuple):
    """A flat array after the pickles: its key, NumPy's name of its dtype, and its number of values."""

    key: str
    dtype: str
    length: int


class _Tensor(NamedTuple):
    """A view of a storage; offset and strides count values."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Unpickler(pickle.Unpickler):
    """Knows dicts and tensors; any other global is an error, so nothing in a file is ever called."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _DTYPES:
            return _DTYPES[module, name]
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            # A new function each time: a pickle may set attributes of what it is given.
            return lambda storage, offset, shape, strides, *_: _Tensor(storage, offset, shape, strides)
        raise pickle.UnpicklingError(f"it names {module}.{name}, expected tensors only")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, count, view = pid
        if kind != "storage" or dtype not in _DTYPES.values() or view is not None or not isinstance(key, str):
            raise pickle.UnpicklingError(f"unknown storage {reprlib.repr(pid)}")
        return _Storage(key, dtype, _whole(count))


def read(path: Path) -> dict[str, np.ndarray]:
    """Reads a state dict of float32 and int64 tensors.

    Args:
      path: a `.pth` file in PyTorch's format before 1.6.

    Returns:
      Each tensor by its name.

    Raises:
      ValueError: the file is damaged, of another format, or holds anything but tensors; the message names the first
        global that it may not have.
    """
    content = path.read_bytes()
    try:
        stream = io.BytesIO(content)
        magic, protocol, system, state, keys = (_load(stream, len(content)) for _ in range(5))
        if (magic, protocol, system["little_endian"]) != (_MAGIC, _PROTOCOL, True):
            raise ValueError(f"magic number {reprlib.repr(magic)}, protocol {reprlib.repr(protocol)}")
        declared = {tensor.storage.key: tensor.storage for tensor in state.values()}
        storages = _storages(content, stream.tell(), [declared[key] for key in keys])
        # Tensors may share a storage, and each is copied.
        needed = sum(math.prod(map(_whole, t.shape)) * np.dtype(t.storage.dtype).itemsize for t in state.values())
        if needed > len(content):
            raise ValueError(f"its tensors have {needed} bytes, more than the {len(content)} of the file")
        return {_name(name): _array(tensor, storages[tensor.storage.key]) for name, tensor in state.items()}
    except _ERRORS as error:
        raise ValueError(f"{path} is not a state dict in PyTorch's format before 1.6, or damaged: {error}") from error


def _load(stream: io.BytesIO, size: int) -> Any:
    """Unpickles an object. The unpickler makes room for its memo by the largest index, so that is looked at first."""
    start = stream.tell()
    for code, value, _ in pickletools.genops(stream):
        if code.name in ("PUT", "BINPUT", "LONG_BINPUT") and value is not None and value > size:
            raise ValueError(f"index {value} of a pickle in a file of {size} bytes")
    stream.seek(start)
    return _Unpickler(stream).load()


def _storages(content: bytes, start: int, declared: list[_Storage]) -> dict[str, np.ndarray]:
    """Views of `content`, so that no file makes more memory than it has bytes."""
    found = {}
    for storage in declared:
        (count,) = struct.unpack_from("<q", content, start)
        start += 8
        end = start + count * np.dtype(storage.dtype).itemsize
        if count != storage.length or end > len(content):
            raise ValueError(
                f"storage {storage.key} has {count} values, expected {storage.length} in {len(content) - start} bytes"
            )
        found[storage.key] = np.frombuffer(content, storage.dtype, count, start)
        start = end
    if start != len(content):
        raise ValueError(f"{len(content) - start} bytes after the last storage")
    return found


def _array(tensor: _Tensor, values: np.ndarray) -> np.ndarray:
    shape, strides = ([_whole(n) for n in numbers] for numbers in (tensor.shape, tensor.strides))
    last = _whole(tensor.offset) + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if not 0 < math.prod(shape) <= len(values) or last >= len(values):
        raise ValueError(f"a tensor of shape {tuple(shape)} reaches beyond its storage of {len(values)} values")
    steps = [step * values.itemsize for step in strides]
    return np.lib.stride_tricks.as_strided(values[tensor.offset :], shape, steps, writeable=False).copy()


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**62:
        raise ValueError(f"{reprlib.repr(value)} where a number of values is expected")
    return value


def _name(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a tensor is called {reprlib.repr(name)}; expected text")
    return name

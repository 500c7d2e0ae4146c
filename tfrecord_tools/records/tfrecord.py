"""TFRecord files and tf.train.Example messages in pure Python, without TensorFlow or protobuf.

Building and verifying shards start fast and their worker processes stay small, because TensorFlow is not imported.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import google_crc32c

from tfrecord_tools.core import paths

_COUNT_IN_NAME = re.compile(r"-([0-9]+)\.")  # the de-facto way to learn a shard's size without reading it
_CRC_MASK_DELTA = 0xA282EAD8  # tensorflow/core/lib/hash/crc32c.h
_INT64_MAX = 2**63 - 1

Values = list[bytes] | list[int] | list[float]


class ExampleError(ValueError):
    """Bytes that are not a tf.train.Example."""


class CorruptRecordError(ValueError):
    """Bytes of a shard that do not match their checksums.

    Attributes:
      path: the shard.
      record: number of the record, from 0.
      reason: what is wrong with it.
    """

    def __init__(self, path: str | os.PathLike[str], record: int, reason: str) -> None:
        super().__init__(f"{os.fspath(path)}: record {record}: {reason}")
        self.path, self.record, self.reason = os.fspath(path), record, reason

    def __reduce__(self) -> tuple[type[CorruptRecordError], tuple[str, int, str]]:
        return type(self), (self.path, self.record, self.reason)  # worker processes send it pickled


def shard_count(name: str | os.PathLike[str]) -> int:
    """Number of records that a shard's file name `...-COUNT.tfrec` promises.

    Raises:
      ValueError: the name has no count.
    """
    match = _COUNT_IN_NAME.search(Path(name).name)
    if match is None:
        raise ValueError(f"{os.fspath(name)}: no record count in the file name; expected e.g. train00-2071.tfrec")
    return int(match.group(1))


# ---------------------------------------------------------------------------------------------- framing
# https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details:
# u64 length, u32 masked crc32c of length, data, u32 masked crc32c of data; all little endian.


class Scanned(NamedTuple):
    """A record as it lies in its file.

    Attributes:
      at: offset of the first byte of its data.
      data: its bytes; empty if they are damaged.
      damage: why they are.
      lost: bytes from this record to the end of the file, if the next record cannot be found.
    """

    at: int
    data: bytes
    damage: CorruptRecordError | None = None
    lost: int = 0


def write_record(file: BinaryIO, data: bytes) -> None:
    """Appends a framed record to an open binary file."""
    length = struct.pack("<Q", len(data))
    file.write(length + struct.pack("<I", _masked_crc(length)))
    file.write(data)
    file.write(struct.pack("<I", _masked_crc(data)))


def read_records(path: str | os.PathLike[str]) -> Iterator[bytes]:
    """Yields the records of a shard after checking both checksums of each.

    Raises:
      CorruptRecordError: a checksum is wrong, or the file is cut off.
    """
    for record in scan_records(path):
        if record.damage is not None:
            raise record.damage
        yield record.data


def scan_records(path: str | os.PathLike[str]) -> Iterator[Scanned]:
    """Yields the records of a shard, damaged ones too.

    Damaged data cost one record. A damaged length, or a file that is cut off, ends the scan, because the position of
    the next record is unknown.
    """
    shard = paths.path(path)
    left = size = shard.stat().st_size
    with shard.open("rb") as file:
        index = 0
        while header := file.read(12):
            here, left = (path, index, size - left + 12), left - len(header)
            if len(header) < 12:
                yield _damaged(*here, f"cut off: its header has {len(header)} of 12 bytes", len(header))
                return
            length, crc = struct.unpack("<QI", header)
            if _masked_crc(header[:8]) != crc:
                yield _damaged(*here, "the checksum of its length is wrong", 12 + left)
                return
            if length + 4 > left:
                yield _damaged(*here, f"cut off: {length + 4} bytes expected, {left} are left", 12 + left)
                return
            data = file.read(length)
            if _masked_crc(data) == struct.unpack("<I", file.read(4))[0]:
                yield Scanned(here[2], data)
            else:
                yield _damaged(*here, "the checksum of its data is wrong")
            left -= length + 4
            index += 1


def _damaged(path: str | os.PathLike[str], index: int, at: int, reason: str, lost: int = 0) -> Scanned:
    return Scanned(at, b"", CorruptRecordError(path, index, reason), lost)


def _masked_crc(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + _CRC_MASK_DELTA) & 0xFFFFFFFF


# ----------------------------------------------------------------------------- protobuf: tf.train.Example
# https://protobuf.dev/programming-guides/encoding/: a field is a tag (number << 3 | wire type) and its payload.


def encode_example(features: Mapping[str, bytes | int]) -> bytes:
    """Serializes scalar features as a tf.train.Example, in the order of the mapping."""
    entries = []
    for key, value in features.items():
        # A Feature holds a BytesList as field 1 or an Int64List (packed varints) as field 3; both lists are field 1.
        feature = _field(1, _field(1, value)) if isinstance(value, bytes) else _field(3, _field(1, _varint(value)))
        entries.append(_field(1, _field(1, key.encode()) + _field(2, feature)))
    return _field(1, b"".join(entries))


def decode_example(data: bytes) -> dict[str, Values]:
    """Features of a tf.train.Example of any writer, by key.

    Raises:
      ExampleError: the bytes are not a tf.train.Example.
    """
    features: dict[str, Values] = {}
    for message in _messages(memoryview(data), 1):
        for entry in _messages(message, 1):
            key = b"".join(bytes(part) for part in _messages(entry, 1))
            features[key.decode(errors="replace")] = [value for part in _messages(entry, 2) for value in _values(part)]
    return features


def _varint(value: int) -> bytes:
    value &= 2**64 - 1  # negative int64 are written as their two's complement
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _read_varint(data: memoryview, at: int) -> tuple[int, int]:
    """Returns (value, offset of the byte after it)."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (2**64 - 1), at
    raise ExampleError("not a tf.train.Example: a number in it is cut off or too long")


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yields (field number, value) of a protobuf message: an int for a varint, else the payload's bytes."""
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        wire_type = tag & 7
        if wire_type == 0:
            value, at = _read_varint(data, at)
            yield tag >> 3, value
            continue
        if wire_type == 2:
            length, at = _read_varint(data, at)
        elif wire_type in (1, 5):  # fixed 64 and 32 bits
            length = 8 if wire_type == 1 else 4
        else:
            raise ExampleError(f"not a tf.train.Example: wire type {wire_type} at byte {at}")
        if at + length > len(data):
            raise ExampleError(f"not a tf.train.Example: field {tag >> 3} needs {length} bytes, has {len(data) - at}")
        yield tag >> 3, data[at : at + length]
        at += length


def _messages(data: memoryview, number: int) -> Iterator[memoryview]:
    """Payloads of the fields of one number."""
    return (value for found, value in _fields(data) if found == number and isinstance(value, memoryview))


def _values(feature: memoryview) -> Iterator[Any]:
    """Values of a Feature: of its BytesList (1), FloatList (2) or Int64List (3)."""
    for kind, values in _fields(feature):
        if not isinstance(values, memoryview):
            raise ExampleError("not a tf.train.Example: a feature that is no list")
        for number, value in _fields(values):
            if number != 1:
                continue
            if kind == 1:
                yield bytes(value) if isinstance(value, memoryview) else value
            elif kind == 2 and isinstance(value, memoryview):
                yield from (item for (item,) in struct.iter_unpack("<f", value[: len(value) // 4 * 4]))
            elif kind == 3:
                yield from _integers(value)


def _integers(value: int | memoryview) -> Iterator[int]:
    """One unpacked or many packed varints as signed int64."""
    numbers, at = [], 0
    if isinstance(value, int):
        numbers.append(value)
    else:
        while at < len(value):
            number, at = _read_varint(value, at)
            numbers.append(number)
    yield from (number - 2**64 if number > _INT64_MAX else number for number in numbers)

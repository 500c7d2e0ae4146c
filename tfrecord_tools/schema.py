"""The one definition of a record: names, dtypes, vocabularies, encode, parse, and TFRecord framing.

A record is a `tf.train.Example` in the dialect that Kaggle notebooks on SIIM-ISIC 2020 read
(https://www.kaggle.com/c/siim-isic-melanoma-classification, keys `image` to `target`), plus keys of our own.
TensorFlow is imported only inside `feature_spec` and `parse`: building and verifying shards start fast and
their worker processes stay small, because the few bytes of protobuf and framing are written here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import google_crc32c

from tfrecord_tools.core import paths

if TYPE_CHECKING:
    import tensorflow as tf

SCHEMA_VERSION = 1

# The index of a word is its code. The order is that of first appearance in Kaggle's train.csv, so codes equal
# what notebooks got from pandas.factorize. Never reorder; only append.
SEX = ("male", "female")
SITE = ("head/neck", "upper extremity", "lower extremity", "torso", "palms/soles", "oral/genital")
DIAGNOSIS = (
    "unknown",
    "nevus",
    "melanoma",
    "seborrheic keratosis",
    "lentigo NOS",
    "lichenoid keratosis",
    "solar lentigo",
    "cafe-au-lait macule",
    "atypical melanocytic proliferation",
    # From here on not in ISIC 2020; `tfrecord_tools.metadata.formats` says which words of which source they stand for.
    "basal cell carcinoma",
    "squamous cell carcinoma",
    "actinic keratosis",
    "actinic keratosis or intraepithelial carcinoma",  # HAM10000 does not tell them apart
    "benign keratosis",
    "dermatofibroma",
    "vascular lesion",
    "other benign",
    "other malignant",
)
MISSING = -1  # the dialect's code for an empty cell
MAX_AGE = 120  # years
CODE = "code:"  # before a patient who is a number of the table that a writer of TFRecords had
IMAGE_NAME = re.compile(r"[A-Za-z0-9_-]+")  # no dot, no slash: a name never leaves the image folder
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # no identifier has one: two that look alike would differ

_BYTES_KEYS = ("image", "image_name", "lesion", "patient", "sha256", "source")
_TEXT_KEYS = ("image_name", "lesion", "patient", "source")  # bytes in the record, str in `Record`
_LABEL_KEYS = ("diagnosis", "target")  # a test record has neither
_COUNT_IN_NAME = re.compile(r"-([0-9]+)\.")  # the de-facto way to learn a shard's size without reading it
_CRC_MASK_DELTA = 0xA282EAD8  # tensorflow/core/lib/hash/crc32c.h
_INT64_MAX = 2**63 - 1


class Part(NamedTuple):
    """Bytes of a file that are an image: `length` from `offset` on, with this SHA-256 (32 bytes)."""

    offset: int
    length: int
    sha256: bytes


class Origin(NamedTuple):
    """The file that a image first came from. width, height: pixels as displayed. sha256: 32 raw bytes."""

    width: int
    height: int
    sha256: bytes


class SchemaError(ValueError):
    """A record does not have the agreed form; the message names the key and what is expected."""


class CorruptRecordError(ValueError):
    """A shard's bytes do not match their checksums; the message names the shard and the record (from 0)."""

    def __init__(self, path: str | os.PathLike[str], record: int, reason: str) -> None:
        super().__init__(f"{os.fspath(path)}: record {record}: {reason}")
        self.path, self.record, self.reason = os.fspath(path), record, reason

    def __reduce__(self) -> tuple[type[CorruptRecordError], tuple[str, int, str]]:
        return type(self), (self.path, self.record, self.reason)  # so that it crosses process borders


@dataclasses.dataclass(frozen=True)
class Record:
    """One image with its metadata, field for field what a shard holds; -1 or "" where a value is missing.

    image: JPEG bytes, upright RGB. patient_id: `stable_id(patient)`. sex, anatom_site_general_challenge,
    diagnosis: indices into SEX, SITE, DIAGNOSIS. age_approx: years. target: 1 melanoma, 0 other, -1 unlabelled.
    width, height: pixels of the source image as displayed. fold: -1 for test. group: images with the same group
    must never be in two folds. source: data set, e.g. "isic2020". sha256: 32 raw bytes, of the source file.
    """

    image: bytes
    image_name: str
    patient_id: int
    sex: int
    age_approx: int
    anatom_site_general_challenge: int
    patient: str
    width: int
    height: int
    fold: int
    group: int
    source: str
    sha256: bytes
    lesion: str = ""
    diagnosis: int = MISSING
    target: int = MISSING


_KEYS = tuple(sorted(field.name for field in dataclasses.fields(Record)))
_INT_RANGES = {
    "patient_id": (-1, _INT64_MAX),
    "sex": (-1, len(SEX) - 1),
    "age_approx": (-1, MAX_AGE),
    "anatom_site_general_challenge": (-1, len(SITE) - 1),
    "width": (1, _INT64_MAX),
    "height": (1, _INT64_MAX),
    "fold": (-1, _INT64_MAX),
    "group": (-1, _INT64_MAX),
    "diagnosis": (-1, len(DIAGNOSIS) - 1),
    "target": (-1, 1),
}


def stable_id(text: str) -> int:
    """A non-negative int64 for a name: the first 8 bytes of its SHA-256, big endian, without the sign bit."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") & _INT64_MAX


def shard_count(name: str | os.PathLike[str]) -> int:
    """The number of records that a shard's file name `...-COUNT.tfrec` promises; SchemaError if it has none."""
    match = _COUNT_IN_NAME.search(Path(name).name)
    if match is None:
        raise SchemaError(f"{os.fspath(name)}: no record count in the file name; expected e.g. train00-2071.tfrec")
    return int(match.group(1))


# ------------------------------------------------------------------------------------------------ records


def encode(record: Record) -> bytes:
    """Serialises a record as tf.train.Example bytes, always the same bytes (keys sorted).

    An unlabelled record (target -1) leaves out `diagnosis` and `target`, as Kaggle's test shards do.
    Raises SchemaError naming the key if a value is out of range.
    """
    _check(record)
    labelled = record.target != MISSING
    entries = []
    for key in _KEYS:
        if key in _LABEL_KEYS and not labelled:
            continue
        value = getattr(record, key)
        if key in _TEXT_KEYS:
            value = value.encode()
        # A Feature holds a BytesList as field 1 or an Int64List (packed varints) as field 3; both lists are field 1.
        feature = _field(1, _field(1, value)) if key in _BYTES_KEYS else _field(3, _field(1, _varint(value)))
        entries.append(_field(1, _field(1, key.encode()) + _field(2, feature)))
    return _field(1, b"".join(entries))


def decode(data: bytes) -> Record:
    """Parses what `encode` wrote, in pure Python.

    Raises SchemaError if the bytes are no tf.train.Example, a key is missing or has the wrong type, or a value
    is out of range. Keys that this version does not know are ignored.
    """
    features = read_example(data)
    values: dict[str, Any] = {}
    for key in _KEYS:
        if key not in features:
            if key in _LABEL_KEYS:
                continue
            raise SchemaError(f"key {key!r} is missing; the record has {sorted(features)}")
        found: list[Any] = list(features[key])
        kind: type = bytes if key in _BYTES_KEYS else int
        if len(found) != 1 or not isinstance(found[0], kind):
            kinds = sorted({type(value).__name__ for value in found})
            raise SchemaError(f"key {key!r}: expected one {kind.__name__}, found {len(found)} value(s) of {kinds}")
        (value,) = found
        try:
            values[key] = str(value, "utf-8") if key in _TEXT_KEYS else value
        except UnicodeDecodeError as error:
            raise SchemaError(f"key {key!r}: {value[:40]!r} is not UTF-8") from error
    record = Record(**values)
    _check(record)
    return record


def _check(record: Record) -> None:
    for key, (low, high) in _INT_RANGES.items():
        value = getattr(record, key)
        if not low <= value <= high:
            raise SchemaError(f"key {key!r}: {value} is not in {low}..{high}")
    if not record.image:
        raise SchemaError("key 'image': empty; expected the bytes of a JPEG")
    if not IMAGE_NAME.fullmatch(record.image_name):
        raise SchemaError(f"key 'image_name': {record.image_name!r} does not match {IMAGE_NAME.pattern}")
    if len(record.sha256) != 32:
        raise SchemaError(f"key 'sha256': {len(record.sha256)} bytes; expected the 32 raw bytes of a SHA-256")


def feature_spec(labelled: bool) -> dict[str, tf.io.FixedLenFeature]:
    """The spec for `tf.io.parse_single_example`: every key of a record as a scalar, bytes or int64.

    labelled: whether `target` is asked for (and required). Keys that other writers of the dialect leave out
    have a default, -1 or b"", so their shards parse too.
    """
    import tensorflow as tf

    required = {"image", "image_name", "target"}
    spec = {}
    for key in _KEYS:
        if key in _LABEL_KEYS and not labelled:
            continue
        dtype, default = (tf.string, b"") if key in _BYTES_KEYS else (tf.int64, MISSING)
        spec[key] = tf.io.FixedLenFeature([], dtype, None if key in required else default)
    return spec


def parse(serialized: tf.Tensor, keys: Sequence[str] | None = None) -> dict[str, tf.Tensor]:
    """Graph function: serialized examples, a scalar or [B] -> {key: as many strings or int64}; images stay JPEG bytes.

    A record without `target` (test data) gets target -1. keys: only these, in a fifth of the time of all.
    """
    import tensorflow as tf

    spec = feature_spec(labelled=True)
    spec["target"] = tf.io.FixedLenFeature([], tf.int64, MISSING)
    return tf.io.parse_example(serialized, {key: spec[key] for key in keys or spec})


# ------------------------------------------------------------------------------------- protobuf wire format
# https://protobuf.dev/programming-guides/encoding/: a field is a tag (number << 3 | wire type) and its payload.


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
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (2**64 - 1), at
    raise SchemaError("not a tf.train.Example: a number in it is cut off or too long")


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yields (field number, int for a varint or the payload bytes) of one protobuf message."""
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
            raise SchemaError(f"not a tf.train.Example: wire type {wire_type} at byte {at}")
        if at + length > len(data):
            raise SchemaError(f"not a tf.train.Example: field {tag >> 3} needs {length} bytes, has {len(data) - at}")
        yield tag >> 3, data[at : at + length]
        at += length


def _messages(data: memoryview, number: int) -> Iterator[memoryview]:
    return (value for found, value in _fields(data) if found == number and isinstance(value, memoryview))


def read_example(data: bytes) -> dict[str, list[bytes] | list[int] | list[float]]:
    """The features of a tf.train.Example by key, of any writer; SchemaError if the bytes are none."""
    features: dict[str, list[bytes] | list[int] | list[float]] = {}
    for message in _messages(memoryview(data), 1):
        for entry in _messages(message, 1):
            key = b"".join(bytes(part) for part in _messages(entry, 1))
            features[key.decode(errors="replace")] = [value for part in _messages(entry, 2) for value in _values(part)]
    return features


def _values(feature: memoryview) -> Iterator[Any]:
    for kind, values in _fields(feature):
        if not isinstance(values, memoryview):
            raise SchemaError("not a tf.train.Example: a feature that is no list")
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


# ------------------------------------------------------------------------------------------ TFRecord framing
# https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details:
# u64 length, u32 masked crc32c of length, data, u32 masked crc32c of data; all little endian.


def _masked_crc(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + _CRC_MASK_DELTA) & 0xFFFFFFFF


def write_record(file: BinaryIO, data: bytes) -> None:
    """Appends one framed record to an open binary file."""
    length = struct.pack("<Q", len(data))
    file.write(length + struct.pack("<I", _masked_crc(length)))
    file.write(data)
    file.write(struct.pack("<I", _masked_crc(data)))


class Scanned(NamedTuple):
    """A record as it lies in its file. at: first byte of its data. damage: why there are none.

    lost: bytes from this record on to the end of the file, if nothing behind it can be found.
    """

    at: int
    data: bytes
    damage: CorruptRecordError | None = None
    lost: int = 0


def scan_records(path: str | os.PathLike[str]) -> Iterator[Scanned]:
    """The records of a shard, damaged ones too, both checksums of each checked.

    Wrong data cost one record. A wrong length, and a file that is cut off, end it: where the next begins is not known.
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


def read_records(path: str | os.PathLike[str]) -> Iterator[bytes]:
    """Yields the records of a shard, both checksums of each checked.

    Raises CorruptRecordError naming the shard and the record number (from 0), also when the file is cut off.
    """
    for record in scan_records(path):
        if record.damage is not None:
            raise record.damage
        yield record.data

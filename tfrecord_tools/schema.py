"""The record: names, dtypes and vocabularies of its keys; encode, decode, and parse in a TensorFlow graph.

A record is a `tf.train.Example` in the dialect that Kaggle notebooks on SIIM-ISIC 2020 read
(https://www.kaggle.com/c/siim-isic-melanoma-classification, keys `image` to `target`), plus keys of our own.
TensorFlow is imported only by `feature_spec` and `parse`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tfrecord_tools.records import tfrecord

if TYPE_CHECKING:
    import tensorflow as tf

SCHEMA_VERSION = 1
read_records = tfrecord.read_records  # `decode(data) for data in read_records(path)` reads a shard

# The index of a word is its code. Words are in the order of their first appearance in Kaggle's train.csv, so that
# codes equal those of pandas.factorize in notebooks. Never reorder; only append.
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
    # The rest is not in ISIC 2020; `tfrecord_tools.metadata.vocabulary` maps words of other sources to it.
    "basal cell carcinoma",
    "squamous cell carcinoma",
    "actinic keratosis",
    "actinic keratosis or intraepithelial carcinoma",  # HAM10000 does not distinguish them
    "benign keratosis",
    "dermatofibroma",
    "vascular lesion",
    "other benign",
    "other malignant",
)
MISSING = -1  # the dialect's code for an empty cell
MAX_AGE = 120  # years
CODE = "code:"  # prefix of a patient known only by a number in the table of another writer of TFRecords
IMAGE_NAME = re.compile(r"[A-Za-z0-9_-]+")  # no dot or slash: a name cannot leave the image folder
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # not allowed in identifiers: two that look alike would differ

_BYTES_KEYS = ("image", "image_name", "lesion", "patient", "sha256", "source")
_TEXT_KEYS = ("image_name", "lesion", "patient", "source")  # bytes in the record, str in `Record`
_LABEL_KEYS = ("diagnosis", "target")  # a test record has neither
_INT64_MAX = 2**63 - 1


class SchemaError(ValueError):
    """A record that does not have the form of `Record`; the message names the key and the expected value."""


@dataclasses.dataclass(frozen=True)
class Record:
    """One image with its metadata, field for field as in a shard; -1 or "" where a value is missing.

    Attributes:
      image: JPEG bytes, upright RGB.
      image_name: name of the image, unique within its data set.
      patient_id: `stable_id(patient)`.
      sex: index into SEX.
      age_approx: years.
      anatom_site_general_challenge: index into SITE.
      patient: name of the patient in the source.
      width: pixels of the source image as displayed.
      height: pixels of the source image as displayed.
      fold: -1 for test.
      group: images of one group are never in two folds.
      source: data set, e.g. "isic2020".
      sha256: 32 raw bytes, of the source file.
      lesion: name of the lesion in the source.
      diagnosis: index into DIAGNOSIS.
      target: 1 melanoma, 0 other, -1 unlabelled.
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


def word(vocabulary: Sequence[str], code: int) -> str | None:
    """Returns the word of a code; None where a value is missing."""
    return None if code == MISSING else vocabulary[code]


def stable_id(text: str) -> int:
    """Non-negative int64 of a name: the first 8 bytes of its SHA-256, big endian, without the sign bit."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") & _INT64_MAX


def encode(record: Record) -> bytes:
    """Serializes a record as a tf.train.Example, always to the same bytes (keys sorted).

    An unlabelled record (target -1) leaves out `diagnosis` and `target`, as Kaggle's test shards do.

    Raises:
      SchemaError: a value is out of range.
    """
    _check(record)
    labelled = record.target != MISSING
    features = {key: getattr(record, key) for key in _KEYS if labelled or key not in _LABEL_KEYS}
    return tfrecord.encode_example(features | {key: features[key].encode() for key in _TEXT_KEYS})


def decode(data: bytes) -> Record:
    """Parses the bytes of `encode`, in pure Python; unknown keys are ignored.

    Raises:
      SchemaError: the bytes are not a tf.train.Example, a key is missing or has the wrong type, or a value is out of
        range.
    """
    try:
        features = tfrecord.decode_example(data)
    except tfrecord.ExampleError as error:
        raise SchemaError(str(error)) from error
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
    """Spec for `tf.io.parse_single_example`: every key of a record as a scalar, bytes or int64.

    Keys that other writers of the dialect leave out have a default, -1 or b"", so that their shards parse too.

    Args:
      labelled: whether `target` is in the spec, and required.
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
    """Parses serialized records in a TensorFlow graph; images stay JPEG bytes.

    Args:
      serialized: string[] or string[B].
      keys: keys to parse; all by default. A few are parsed in a fifth of the time.

    Returns:
      A string or int64 tensor of the shape of `serialized` for each key; target -1 for a record without one.
    """
    import tensorflow as tf

    spec = feature_spec(labelled=True)
    spec["target"] = tf.io.FixedLenFeature([], tf.int64, MISSING)
    return tf.io.parse_example(serialized, {key: spec[key] for key in keys or spec})

"""Dialects of foreign records: their keys in terms of ours, and the meaning of their values.

Values may be codes, words or numbers, in any of the three types of a tf.train.Example.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from tfrecord_tools import schema
from tfrecord_tools.core import names
from tfrecord_tools.metadata import formats, vocabulary
from tfrecord_tools.metadata.vocabulary import COLUMN_MAP
from tfrecord_tools.records import shards
from tfrecord_tools.schema import DIAGNOSIS, MISSING, SEX, SITE

KEYS = ("image", *(column for column in formats.COLUMNS if column not in ("benign_malignant", "image_type")))
CODED: Final = {"sex": SEX, "anatom_site_general_challenge": SITE, "diagnosis": DIAGNOSIS}
_WORDS: Final = {
    "sex": vocabulary.sex_code,
    "anatom_site_general_challenge": vocabulary.site_code,
    "diagnosis": vocabulary.diagnosis_code,
}
_SITES = ("anatom_site_general_challenge", "anatom_site_general")


class ForeignError(ValueError):
    """Unusable foreign TFRecords; the message names shard, record, key, value and the allowed values."""


class UnknownCodeError(ForeignError):
    """A code of our key `ours` without a known word."""

    def __init__(self, message: str, ours: str) -> None:
        super().__init__(message)
        self.ours = ours


@dataclasses.dataclass(frozen=True)
class Dialect:
    """A set of keys. keys: our key -> the keys that may hold it. marks: keys that distinguish it from the others."""

    name: str
    title: str
    keys: Mapping[str, tuple[str, ...]]
    marks: tuple[str, ...] = ()

    def found(self, features: Iterable[str]) -> dict[str, str]:
        """Returns {our key: the record's key} of the keys that a record has."""
        have = set(features)
        chosen = {ours: next((key for key in keys if key in have), None) for ours, keys in self.keys.items()}
        return {ours: key for ours, key in chosen.items() if key is not None}

    def images(self) -> Dialect:
        """Returns the dialect without the metadata that a table gives, except the target, which is compared."""
        kept = ("image", "image_name", "target", "group", *_ORIGIN)
        return dataclasses.replace(self, keys={ours: keys for ours, keys in self.keys.items() if ours in kept})

    def missing(self, features: Iterable[str]) -> list[str]:
        """Returns the required keys that these lack."""
        have = set(features)
        needed = [self.keys[ours] for ours in ("image", "image_name")] + [(mark,) for mark in self.marks]
        return [" or ".join(keys) for keys in needed if not have & set(keys)]


_KAGGLE: Final = {**{key: (key,) for key in KEYS}, "anatom_site_general_challenge": _SITES}
_ORIGIN: Final = ("width", "height", "sha256")  # of the image's source file; only our records have them
_OURS: Final = {
    **_KAGGLE,
    **{"patient_id": ("patient",), "lesion_id": ("lesion",)},
    **{key: (key,) for key in ("source", "group", *_ORIGIN)},
}
# The first match is used.
DIALECTS: Final = (
    Dialect("tfrecord_tools", "shards of tfrecord_tools.build", _OURS, ("patient", "lesion", "group", "sha256")),
    # https://www.kaggle.com/cdeotte/how-to-create-tfrecords: merged external data, `source` is a code, no diagnosis
    Dialect(
        "deotte",
        "Chris Deotte's merged data, with a code `source`",
        {**_KAGGLE, "source": ("source",)},
        ("patient_id", "sex", "source"),
    ),
    Dialect("kaggle", "the competition's shards, and others like them", _KAGGLE, ("patient_id", "sex", "age_approx")),
)


def recognise(keys: Iterable[str]) -> Dialect:
    """Returns the dialect with these keys; raises ForeignError listing the dialects and the keys that each lacks."""
    have = sorted(keys)
    for dialect in DIALECTS:
        if not dialect.missing(have):
            return dialect
    needs = "\n".join(
        f"  {each.name}: {each.title}; missing {', '.join(each.missing(have))}" for each in reversed(DIALECTS)
    )
    more = f"  {COLUMN_MAP}: any other, with a column map: image=...,image_name=...,patient_id=...,target=..."
    raise ForeignError(f"unknown keys {', '.join(have)}; expected one of\n{needs}\n{more}")


def dialect_of(keys: Iterable[str], name: str | None = None, columns: Mapping[str, str] | None = None) -> Dialect:
    """Returns the dialect that a column map describes, else the named one, else the one recognised by keys.

    Args:
      keys: Keys of a record.
      name: A name of DIALECTS.
      columns: {our key: its key}, "" for none.

    Raises:
      ForeignError: no such dialect, or a record with these keys cannot be in it.
    """
    have = sorted(keys)
    if columns is not None:
        unknown = [f"{ours}={key}" for ours, key in columns.items() if ours not in KEYS or (key and key not in have)]
        if unknown:
            allowed = f"OURS=KEY with OURS one of {', '.join(KEYS)} and KEY one of {', '.join(have)}"
            raise ForeignError(f"column map {', '.join(unknown)}: expected {allowed}")
        if "patient_id" not in columns and "patient_id" not in have:
            raise ForeignError(
                "the column map has no patient_id, so folds could share a patient; "
                f"pass an empty patient_id= if the records have no patients; found {', '.join(have)}"
            )
        mapped = {**_KAGGLE, **{ours: (key,) if key else () for ours, key in columns.items()}}
        dialect = Dialect(COLUMN_MAP, "by its column map", mapped)
    elif name is None:
        return recognise(have)
    else:
        named = [each for each in DIALECTS if each.name == name]
        if not named:
            raise ForeignError(f"no dialect {name!r}; expected one of {', '.join(each.name for each in DIALECTS)}")
        dialect = named[0]
    if missing := dialect.missing(have):
        raise ForeignError(f"dialect {dialect.name}: missing key(s) {', '.join(missing)}; found {', '.join(have)}")
    return dialect


# ---------------------------------------------------------------------------------------------------- values


def name_of(features: Mapping[str, Sequence[Any]], dialect: Dialect) -> str:
    """Returns the image name of a record that may be unusable otherwise; "" without a valid one."""
    found = list(features.get(dialect.found(features).get("image_name", ""), ()))
    try:
        name = str(found[0], "utf-8") if len(found) == 1 and isinstance(found[0], bytes) else ""
    except UnicodeDecodeError:
        return ""
    name = names.without_extension(name)
    return name if schema.IMAGE_NAME.fullmatch(name) else ""


class Content(NamedTuple):
    """The content of a record.

    row: as `table.read_table` returns it. image: as written. source: the data set. origin: of the image, None if
    unknown. group: images with an equal one belong in one fold; None if unknown.
    """

    row: dict[str, str | int]
    image: bytes
    source: str
    origin: shards.Origin | None
    group: int | None


def content_of(features: Mapping[str, Sequence[Any]], dialect: Dialect, codes: Mapping[str, Sequence[str]]) -> Content:
    """Returns the content of a record.

    Args:
      features: Values of each key.
      dialect: Meaning of the keys.
      codes: {sex, anatom_site_general_challenge or diagnosis: words in the order of the writer's codes}. No words:
        read as missing. Absent: the order of Kaggle's train.csv. Values that are words need no codes.

    Raises:
      UnknownCodeError: a code has no word.
      ForeignError: another value is not allowed; names the key.
    """
    at = dialect.found(features)
    for ours in ("image", "image_name"):
        if ours not in at:
            raise ForeignError(f"key {' or '.join(dialect.keys[ours])} is missing; found {', '.join(sorted(features))}")
    values = {ours: _one(key, features[key]) for ours, key in at.items()}
    image = values["image"]
    if not isinstance(image, bytes) or not image:
        raise ForeignError(f"key {at['image']!r}: expected the bytes of a JPEG, found {_shown(image)}")
    name = names.without_extension(_text(at["image_name"], values["image_name"]))
    if vocabulary.is_missing(name):
        raise ForeignError(f"key {at['image_name']!r}: {name!r} names no image")
    if not schema.IMAGE_NAME.fullmatch(name):
        raise ForeignError(f"key {at['image_name']!r}: {name!r} does not match {schema.IMAGE_NAME.pattern}")
    row: dict[str, str | int] = {"image_name": name}
    for ours, column in (("patient_id", "patient"), ("lesion_id", "lesion")):
        row[column] = _identifier(at[ours], values[ours]) if ours in at else ""
    row["age_approx"] = _number(at["age_approx"], values["age_approx"], schema.MAX_AGE) if "age_approx" in at else -1
    for ours in CODED:
        row[ours] = _code(ours, at[ours], values[ours], codes.get(ours)) if ours in at else MISSING
    row["target"] = _number(at["target"], values["target"], 1) if "target" in at else MISSING
    columns = ("image_name", "patient", "lesion", "sex", "age_approx", *_SITES[:1], "diagnosis", "target")
    ordered = {column: row[column] for column in columns}
    return Content(ordered, image, _source(dialect, at, values), _origin(values), _group(values))


def _source(dialect: Dialect, at: Mapping[str, str], values: Mapping[str, Any]) -> str:
    """A name unchanged; a code prefixed with the dialect's name, because its meaning depends on it."""
    value = values.get("source")
    if value in (None, MISSING, b""):
        return dialect.name
    return f"{dialect.name}-{value}" if isinstance(value, int) else _text(at["source"], value)


def _origin(values: Mapping[str, Any]) -> shards.Origin | None:
    if not all(key in values for key in _ORIGIN):
        return None
    width, height, digest = (values[key] for key in _ORIGIN)
    for key, value in (("width", width), ("height", height)):
        if not isinstance(value, int) or value < 1:
            raise ForeignError(f"key {key!r}: {_shown(value)} is not allowed; expected pixels, 1 or more")
    if not isinstance(digest, bytes) or len(digest) != 32:
        raise ForeignError(f"key 'sha256': {_shown(digest)} is not allowed; expected the 32 raw bytes of a SHA-256")
    return shards.Origin(width, height, digest)


def _group(values: Mapping[str, Any]) -> int | None:
    value = values.get("group")
    if value is not None and not isinstance(value, int):
        raise ForeignError(f"key 'group': {_shown(value)} is not allowed; expected a whole number")
    return None if value == MISSING else value


def _one(key: str, found: Sequence[Any]) -> Any:
    """The only value of a feature; None if it is empty."""
    if len(found) > 1:
        raise ForeignError(f"key {key!r}: {len(found)} values; expected one")
    return found[0] if found else None


def _shown(value: Any) -> str:
    return repr(value[:40] if isinstance(value, bytes) else value)


def _text(key: str, value: Any) -> str:
    try:
        if isinstance(value, bytes):
            text = value.decode()
            if schema.CONTROL.search(text):
                raise ForeignError(f"key {key!r}: {text[:40]!r} has a control character; expected none")
            return text
    except UnicodeDecodeError:
        pass
    raise ForeignError(f"key {key!r}: {_shown(value)} is not text")


def _identifier(key: str, value: Any) -> str:
    """A name unchanged; a code prefixed with `schema.CODE`, so that it is never mistaken for a name; "" if missing."""
    if value is None or value != value:  # NaN is not itself
        return ""
    text = str(value) if isinstance(value, int) else _text(key, value)
    if vocabulary.is_missing(text.removeprefix(schema.CODE)):
        return ""
    return f"{schema.CODE}{text}" if isinstance(value, int) else text


def _number(key: str, value: Any, highest: int) -> int:
    """A whole number from 0 to highest, as int, float or text; -1 if missing (none, -1, NaN, "")."""
    if value is None or value in (b"", MISSING) or value != value:  # NaN is not itself
        return MISSING
    try:
        number = float(value)  # of int, float and bytes
    except (TypeError, ValueError):
        number = -2.0
    if number == MISSING:
        return MISSING
    if not (0 <= number <= highest and number == int(number)):
        raise ForeignError(f"key {key!r}: {_shown(value)} is not allowed; expected 0 to {highest}, or -1 for missing")
    return int(number)


def _code(ours: str, key: str, value: Any, order: Sequence[str] | None) -> int:
    """Our code of the writer's code or word."""
    try:
        if isinstance(value, bytes):
            return _WORDS[ours](COLUMN_MAP, _text(key, value))
        if order is not None and not order:
            return MISSING
        try:
            number = _number(key, value, len(CODED[ours] if order is None else order) - 1)
        except ForeignError as error:
            raise UnknownCodeError(str(error), ours) from None
        if order is None or number == MISSING:
            return number
        return _WORDS[ours](COLUMN_MAP, order[number])
    except ForeignError:
        raise
    except ValueError as error:
        raise ForeignError(f"key {key!r}: {_shown(value)} is not allowed; expected {error}") from None


def parse_codes(text: str) -> dict[str, tuple[str, ...]]:
    """Parses --codes: "sex=female|male,diagnosis=" -> {key: words in the order of the writer's codes}.

    A key without words is read as missing. Raises ForeignError naming the malformed part.
    """
    found: dict[str, tuple[str, ...]] = {}
    for part in text.split(","):
        ours, equals, given = (piece.strip() for piece in part.partition("="))
        if not equals or ours not in CODED:
            raise ForeignError(f"--codes {part!r}: expected KEY=WORD|WORD with KEY one of {', '.join(CODED)}")
        order = tuple(word.strip() for word in given.split("|")) if given else ()
        for word in order:
            try:
                _WORDS[ours](COLUMN_MAP, word)
            except ValueError as error:
                raise ForeignError(f"--codes {ours}: {word!r} is not allowed; expected {error}") from None
        found[ours] = order
    return found

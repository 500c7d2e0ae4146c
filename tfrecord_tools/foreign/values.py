"""Values of a foreign record in terms of our table.

Values may be codes, words, numbers or one-hot lists, in any of the three types of a tf.train.Example.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from tfrecord_tools import schema
from tfrecord_tools.core import names
from tfrecord_tools.foreign.codes import CODED, TARGETS, Codes, code_of, target_of
from tfrecord_tools.foreign.dialects import ORIGIN, OWN, Dialect, ForeignError
from tfrecord_tools.metadata import vocabulary
from tfrecord_tools.records import shards
from tfrecord_tools.schema import MISSING

_OF_THE_IMAGE: Final = ("image", "image_name", "group", *ORIGIN)  # keys that no table replaces
_COLUMNS: Final = ("image_name", "patient", "lesion", "sex", "age_approx", "anatom_site_general_challenge", "diagnosis")


class UnknownCodeError(ForeignError):
    """A value of our key `ours` that is not among the known codes or words."""

    def __init__(self, message: str, ours: str) -> None:
        super().__init__(message)
        self.ours = ours


class Content(NamedTuple):
    """The content of a record.

    Attributes:
      row: As `table.read_table` returns it; a code whose words are unknown is missing.
      codes: The writer's code of each key of CODED, MISSING where it wrote a word or nothing.
      image: As written.
      source: The data set; the name of the dialect if it is missing or cannot be used.
      ignored: Reason why the record's source cannot be used, "" otherwise.
      origin: Of the image, None if unknown.
      group: Images with an equal one belong in one fold; None if unknown.
    """

    row: dict[str, str | int]
    codes: dict[str, int]
    image: bytes
    source: str
    ignored: str
    origin: shards.Origin | None
    group: int | None


class _Coded(NamedTuple):
    """A value of a key of CODED. meaning: our code. word: that it rests on. code: the writer's."""

    meaning: int = MISSING
    word: str = ""
    code: int = MISSING


def name_of(features: Mapping[str, Sequence[Any]], dialect: Dialect) -> str:
    """Returns the image name of a record that may be unusable otherwise; "" without a valid one."""
    key = dialect.found(features).get("image_name", "")
    try:
        return _name(key, _one(key, features[key])) if key else ""
    except ForeignError:
        return ""


def content_of(
    features: Mapping[str, Sequence[Any]], dialect: Dialect, stated: Codes, images_only: bool = False
) -> Content:
    """Returns the content of a record.

    Args:
      features: Values of each key.
      dialect: Meaning of the keys.
      stated: Words of the writer's codes. Values that are words need none.
      images_only: Whether a table gives the metadata: those of the record are missing, except codes, which are
        compared with it, and unusable ones are no error.

    Raises:
      UnknownCodeError: a value is not among the known codes or words.
      ForeignError: another value is not allowed; names the key.
    """
    at = dialect.found(features)
    for ours in ("image", "image_name"):
        if ours not in at:
            raise ForeignError(f"key {' or '.join(dialect.keys[ours])} is missing; found {', '.join(sorted(features))}")
    given = at if not images_only else {ours: key for ours, key in at.items() if ours in _OF_THE_IMAGE}
    values = {ours: _one(key, features[key]) for ours, key in given.items() if ours not in (*CODED, "source")}
    image = values["image"]
    if not isinstance(image, bytes) or not image:
        raise ForeignError(f"key {at['image']!r}: expected the bytes of an image file, found {_shown(image)}")
    row: dict[str, str | int] = {"image_name": _name(at["image_name"], values["image_name"])}
    for ours, column in (("patient_id", "patient"), ("lesion_id", "lesion")):
        row[column] = _identifier(at[ours], values[ours]) if ours in values else ""
    age = values.get("age_approx")
    row["age_approx"] = MISSING if age is None else _number(at["age_approx"], age, schema.MAX_AGE)
    coded = _all_coded(features, at, stated, dialect.name == OWN, images_only)
    row |= {ours: each.meaning for ours, each in coded.items()}
    if "target" not in at and not images_only:
        row["target"] = _implied_target(at, coded["diagnosis"])
    ordered = {column: row[column] for column in (*_COLUMNS, "target")}
    codes = {ours: each.code for ours, each in coded.items()}
    source, ignored = _source(dialect.name, given.get("source", ""), features)
    return Content(ordered, codes, image, source, ignored, _origin(values), _group(values))


# ------------------------------------------------------------------------------------------- codes and words


def _all_coded(
    features: Mapping[str, Sequence[Any]], at: Mapping[str, str], stated: Codes, own: bool, images_only: bool
) -> dict[str, _Coded]:
    found = {}
    for ours in CODED:
        order = stated.get(ours)
        if order is None and own:
            order = CODED[ours]
        elif order is None and ours == "target":
            order = TARGETS
        try:
            found[ours] = _coded(ours, at[ours], features[at[ours]], order, images_only) if ours in at else _Coded()
        except ForeignError:
            if not images_only:
                raise
            found[ours] = _Coded()
    return found


def _coded(ours: str, key: str, found: Sequence[Any], order: Sequence[str] | None, images_only: bool) -> _Coded:
    if order is not None and not order:
        return _Coded()
    classes = len(found) if len(found) > 1 else 0
    value = _hot(key, found) if classes else _one(key, found)
    number = _whole(key, value)
    if number is None:
        word = _text(key, value)
        try:
            return _Coded(code_of(ours, word), word)
        except ValueError as error:
            raise UnknownCodeError(f"key {key!r}: {_shown(value)} is not allowed; expected {error}", ours) from None
    if number == MISSING:
        return _Coded()
    if order is None:
        return _Coded(code=number)
    if classes not in (0, len(order)) or number >= len(order):
        if images_only:  # the table decides what it means
            return _Coded(code=number)
        raise UnknownCodeError(_without_word(ours, key, value, classes, order), ours)
    return _Coded(code_of(ours, order[number]), order[number], number)


def _without_word(ours: str, key: str, value: Any, classes: int, order: Sequence[str]) -> str:
    if classes:
        return f"key {key!r}: one of {classes} classes, and words for {len(order)}; expected a word for each"
    several = " without --codes target=WORD|WORD|..." if ours == "target" and order is TARGETS else ""
    return f"key {key!r}: {_shown(value)} is not allowed; expected 0 to {len(order) - 1}, or -1 for missing{several}"


def _hot(key: str, found: Sequence[Any]) -> int:
    """The index of the 1 in a one-hot list."""
    if any(isinstance(each, bytes) or each not in (0, 1) for each in found) or sum(found) != 1:
        raise ForeignError(f"key {key!r}: {len(found)} values; expected one, or a single 1 among zeros")
    return list(found).index(1)


def _whole(key: str, value: Any) -> int | None:
    """A whole number from 0, as int, float or text; -1 if missing, None if it is a word."""
    if _is_missing(value, words=False):
        return MISSING
    try:
        number = float(value)  # of int, float and bytes
    except (TypeError, ValueError):
        return None
    if math.isnan(number):
        return MISSING
    if not math.isfinite(number) or number < MISSING or number != int(number):
        raise ForeignError(f"key {key!r}: {_shown(value)} is not allowed; expected a code from 0, or -1 for missing")
    return int(number)


def _implied_target(at: Mapping[str, str], diagnosis: _Coded) -> int:
    """The target of a record without one: that of its diagnosis, -1 without a diagnosis."""
    found = target_of(diagnosis.word, diagnosis.meaning)
    if diagnosis.meaning != MISSING and found == MISSING:
        raise ForeignError(f"key {at['diagnosis']!r}: {diagnosis.word!r} does not determine whether it is a melanoma")
    return found


# --------------------------------------------------------------------------------------------- other values


def _name(key: str, value: Any) -> str:
    name = names.without_extension(names.without_folders(_text(key, value)))
    if vocabulary.is_missing(name):
        raise ForeignError(f"key {key!r}: {name!r} names no image")
    if not schema.IMAGE_NAME.fullmatch(name):
        raise ForeignError(f"key {key!r}: {name!r} does not match {schema.IMAGE_NAME.pattern}")
    return name


def _source(dialect: str, key: str, features: Mapping[str, Sequence[Any]]) -> tuple[str, str]:
    """The data set, and why the record's word for it cannot be used, which makes no image unusable.

    A name stays unchanged; a code is prefixed with the dialect's name, because its meaning depends on it.
    """
    try:
        value = _one(key, features[key]) if key else None
        if _is_missing(value):
            return dialect, ""
        if isinstance(value, float) and value.is_integer():  # an integer column of pandas with empty cells
            value = int(value)
        return (f"{dialect}-{value}" if isinstance(value, int) else _text(key, value)), ""
    except ForeignError as error:
        return dialect, str(error)


def _origin(values: Mapping[str, Any]) -> shards.Origin | None:
    if not all(key in values for key in ORIGIN):
        return None
    width, height, digest = (values[key] for key in ORIGIN)
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


def _is_missing(value: Any, words: bool = True) -> bool:
    """Whether a value stands for none: nothing, -1, NaN, or, unless words mean something, a placeholder as "nan"."""
    if value is None or value == MISSING or value != value:  # NaN is not itself
        return True
    text = value.decode(errors="replace").strip() if isinstance(value, bytes) else None
    return text is not None and (not text or text == str(MISSING) or (words and vocabulary.is_missing(text)))


def _identifier(key: str, value: Any) -> str:
    """A name unchanged; a code prefixed with `schema.CODE`, so that it is never mistaken for a name; "" if missing."""
    if _is_missing(value):
        return ""
    if isinstance(value, float) and value.is_integer():  # an integer column of pandas with empty cells
        value = int(value)
    return f"{schema.CODE}{value}" if isinstance(value, int) else _text(key, value)


def _number(key: str, value: Any, highest: int) -> int:
    """A whole number from 0 to highest, as int, float or text; -1 if missing."""
    if _is_missing(value):
        return MISSING
    try:
        number = float(value)  # of int, float and bytes
    except (TypeError, ValueError):
        number = math.nan
    if number == MISSING:
        return MISSING
    if not (0 <= number <= highest and number == int(number)):
        raise ForeignError(f"key {key!r}: {_shown(value)} is not allowed; expected 0 to {highest}, or -1 for missing")
    return int(number)

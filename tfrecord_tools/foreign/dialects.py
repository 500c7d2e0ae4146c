"""Dialects of foreign records: their keys in terms of ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Final

from tfrecord_tools.metadata import formats
from tfrecord_tools.metadata.vocabulary import COLUMN_MAP

KEYS = ("image", *(column for column in formats.COLUMNS if column not in ("benign_malignant", "image_type")))
_SITES = ("anatom_site_general_challenge", "anatom_site_general")


class ForeignError(ValueError):
    """Unusable foreign TFRecords; the message names shard, record, key, value and the allowed values."""


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

    def missing(self, features: Iterable[str]) -> list[str]:
        """Returns the required keys that these lack."""
        have = set(features)
        needed = [self.keys[ours] for ours in ("image", "image_name")] + [(mark,) for mark in self.marks]
        return [" or ".join(keys) for keys in needed if not have & set(keys)]


_KAGGLE: Final = {**{key: (key,) for key in KEYS}, "anatom_site_general_challenge": _SITES}
ORIGIN: Final = ("width", "height", "sha256")  # of the image's source file; only our records have them
_OURS: Final = {
    **_KAGGLE,
    **{"patient_id": ("patient",), "lesion_id": ("lesion",)},
    **{key: (key,) for key in ("source", "group", *ORIGIN)},
}
OWN: Final = "tfrecord_tools"  # the dialect of our own shards, whose codes are those of `schema`
# The first match is used.
DIALECTS: Final = (
    Dialect(OWN, "shards of tfrecord_tools.build", _OURS, ("patient", "lesion", "group", "sha256")),
    # https://www.kaggle.com/cdeotte/how-to-create-tfrecords: merged external data, `source` is a code, no diagnosis
    Dialect(
        "deotte",
        "Chris Deotte's merged data, with a code `source`",
        {**_KAGGLE, "source": ("source",)},
        ("patient_id", "sex", "source"),
    ),
    Dialect("kaggle", "the competition's shards, and others like them", _KAGGLE, ("patient_id", "sex", "age_approx")),
)


def recognize(keys: Iterable[str]) -> Dialect:
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
    """Returns the dialect that a column map describes, else the named one, else the one recognized by keys.

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
        return recognize(have)
    else:
        named = [each for each in DIALECTS if each.name == name]
        if not named:
            raise ForeignError(f"no dialect {name!r}; expected one of {', '.join(each.name for each in DIALECTS)}")
        dialect = named[0]
    if missing := dialect.missing(have):
        raise ForeignError(f"dialect {dialect.name}: missing key(s) {', '.join(missing)}; found {', '.join(have)}")
    return dialect

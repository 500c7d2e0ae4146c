"""Lists of pairs of names of one image, and their resolution: group, drop or keep."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import os
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from tfrecord_tools import schema
from tfrecord_tools.core import paths
from tfrecord_tools.core.paths import AnyPath
from tfrecord_tools.core.text import cell, counted, from_cell
from tfrecord_tools.metadata import csv_rows

Mode = Literal["group", "drop", "keep"]
MODES: tuple[Mode, ...] = ("group", "drop", "keep")  # the default first
COLUMNS = ("image_name_1", "image_name_2")  # as in ISIC_2020_Training_Duplicates.csv

_WRITTEN = (*COLUMNS, "similarity", "symmetry")
_HEADER = ",".join(_WRITTEN).encode() + b"\n"


class PairsError(ValueError):
    """A list that cannot be used; the message names file, line, column and value."""


class Pair(NamedTuple):
    """Two names of one image.

    Attributes:
      similarity: None if not measured.
      symmetry: one of fingerprint.SYMMETRIES; "" if unknown.
    """

    first: str
    second: str
    similarity: float | None = None
    symmetry: str = ""


def read(path: str | os.PathLike[str]) -> list[Pair]:
    """Reads a CSV with the columns image_name_1, image_name_2 and optionally similarity; others are ignored.

    Raises:
      PairsError: the file is no such list.
    """
    try:
        (_, header), *rows = csv_rows.read(path) or [(1, [])]
    except csv_rows.CsvError as error:
        raise PairsError(str(error)) from error
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        found = ", ".join(header) or "nothing"
        raise PairsError(f"{path}: line 1: missing column(s) {', '.join(missing)}; found {found}")
    return [_pair(cells, header, f"{path}: line {line}") for line, cells in rows]


def _pair(cells: list[str], header: list[str], where: str) -> Pair:
    if len(cells) != len(header):
        raise PairsError(f"{where}: {counted(len(cells), 'cell')}; the header has {len(header)}")
    row = dict(zip(header, map(from_cell, cells), strict=True))
    for column in COLUMNS:
        if not schema.IMAGE_NAME.fullmatch(row[column]):
            raise PairsError(f"{where}: column {column}: {row[column]!r} does not match {schema.IMAGE_NAME.pattern}")
    first, second = (row[column] for column in COLUMNS)
    if first == second:
        raise PairsError(f"{where}: column {COLUMNS[1]}: {second!r} is {COLUMNS[0]} too; expected another image")
    return Pair(first, second, _similarity(row.get("similarity", ""), where))


def _similarity(text: str, where: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise PairsError(f"{where}: column similarity: {text!r} is not allowed; expected a number")
    return value


def to_csv(pairs: Iterable[Pair]) -> str:
    """Formats pairs as a CSV that `read` reads."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_WRITTEN)
    for each in pairs:
        similarity = "" if each.similarity is None else f"{each.similarity:.3f}"
        writer.writerow(map(cell, [each.first, each.second, similarity, each.symmetry]))
    return out.getvalue()


def check_output(path: AnyPath) -> None:
    """Checks before the search that `write` can write, and replaces nothing but another list.

    Raises:
      PairsError: it cannot, or would.
    """
    try:
        if path.exists() and not path.is_file():
            raise PairsError(f"{path}: not a file; expected a new name, or a list of pairs to replace")
        if path.is_file():
            with path.open("rb") as file:
                begin = file.read(len(_HEADER))
            if begin not in (_HEADER, b""):
                raise PairsError(
                    f"{path}: refusing to overwrite it: not a list of pairs of this package; choose another"
                )
        elif not path.parent.is_dir() and not paths.is_remote(path):
            raise PairsError(f"{path}: no such folder {path.parent}; make it first")
        temporary = paths.temporary(path)
        try:
            temporary.open("wb").close()
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise PairsError(f"{path}: cannot be written: {error.strerror or error}") from error


def write(path: AnyPath, pairs: Iterable[Pair]) -> None:
    """Replaces a list atomically.

    Raises:
      PairsError: the file cannot be written.
    """
    try:
        paths.write_whole(path, to_csv(pairs))
    except OSError as error:
        raise PairsError(f"{path}: cannot be written: {error.strerror or error}") from error


class Contradiction(NamedTuple):
    """Names of one image that disagree in a column; one value for each name."""

    column: str
    names: tuple[str, ...]
    values: tuple[object, ...]


@dataclasses.dataclass(frozen=True)
class Resolution:
    """Treatment of the duplicates of a table.

    Attributes:
      dropped: name -> name that is kept instead.
      same: pairs for `split.leak_groups`, to be called before any image is dropped: an image of two patients shows that
        they are one.
      contradictions: disagreements for a person to resolve.
    """

    dropped: dict[str, str]
    same: list[tuple[str, str]]
    contradictions: list[Contradiction]


def resolve(
    names: Sequence[str],
    columns: Mapping[str, Sequence[object]],
    pairs: Iterable[tuple[str, str]],
    mode: Mode,
    usable: Container[str] | None = None,
) -> Resolution:
    """Applies --on_duplicates to a table.

    Args:
      names: images of the table.
      columns: columns to compare within a set of duplicates, such as target and patient, one value per name; -1 and ""
        are missing.
      pairs: pairs of names; those with a name that is not in the table are ignored.
      mode: "drop" keeps the alphabetically first name of each set, "group" keeps all in one fold, "keep" only reports.
      usable: names that "drop" prefers to keep.

    Raises:
      ValueError: unknown mode.
    """
    if mode not in MODES:
        raise ValueError(f"on_duplicates {mode!r}; expected one of {', '.join(MODES)}")
    known = {name: index for index, name in enumerate(names)}
    within = sorted({(min(pair), max(pair)) for pair in pairs if pair[0] in known and pair[1] in known})
    sets = connected(within)
    contradictions = []
    for column, cells in columns.items():
        for each in sets:
            values = tuple(cells[known[name]] for name in each)
            if len({value for value in values if value not in (schema.MISSING, "")}) > 1:
                contradictions.append(Contradiction(column, each, values))
    dropped: dict[str, str] = {}
    for each in sets if mode == "drop" else ():
        stays = next((name for name in each if usable is None or name in usable), each[0])
        dropped |= {name: stays for name in each if name != stays}
    return Resolution(dropped, [] if mode == "keep" else within, contradictions)


def connected(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, ...]]:
    """Connected components of two or more names, each sorted, in order."""
    of: dict[str, set[str]] = {}
    for one, other in pairs:
        first, second = of.setdefault(one, {one}), of.setdefault(other, {other})
        if first is not second:
            small, large = sorted((first, second), key=len)
            large |= small
            of.update(dict.fromkeys(small, large))
    return sorted({tuple(sorted(each)) for each in of.values() if len(each) > 1})

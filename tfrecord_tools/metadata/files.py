"""Files of a table: read, and joined where there are several."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import re
from collections.abc import Collection, Sequence

from tfrecord_tools.core import paths
from tfrecord_tools.core.text import counted
from tfrecord_tools.metadata import csv_rows, formats
from tfrecord_tools.metadata.formats import TableError
from tfrecord_tools.metadata.problems import Problem

_PREAMBLE = 20  # rows in which the header of a published table is looked for
_UNNAMED = re.compile(r"(Unnamed: \d+)?")  # pandas' index, and what spreadsheets leave
_REPEATED = ("lesion_id", "patient_id")  # one row of a file may describe several images, by these columns
_COLUMNS_SHOWN = 10


@dataclasses.dataclass(frozen=True)
class File:
    """A CSV, or several joined.

    Attributes:
      path: Start of error messages.
      name: Its name.
      header: All named columns.
      columns: Those that were kept.
      rows: Position, and the cells of `columns`.
      problems: Rows that are not among these.
    """

    path: str
    name: str
    header: list[str]
    columns: list[str]
    rows: list[tuple[str, list[str]]]
    problems: list[Problem]


def read(given: Sequence[paths.AnyPath], wanted: Collection[str], mapped: bool) -> File:
    """Reads a CSV, or joins several by the one column that they share.

    Args:
      given: Their paths.
      wanted: Columns to keep of a single file; all others only take memory.
      mapped: Whether a column map names the columns, so that the first row is the header.

    Raises:
      TableError: one cannot be read, or they cannot be joined.
    """
    first, *others = [_read(path, wanted if len(given) == 1 else None, mapped) for path in given]
    for other in others:
        first = _join(first, other)
    return first


def _read(path: paths.AnyPath, wanted: Collection[str] | None, mapped: bool) -> File:
    try:
        lines = csv_rows.rows(path)
        start = list(itertools.islice(lines, _PREAMBLE))
        header, start = _header(path, start, mapped)
        named = {column: index for index, column in enumerate(header) if not _UNNAMED.fullmatch(column)}
        kept = {column: index for column, index in named.items() if wanted is None or column in wanted}
        last = max(named.values(), default=-1)
        rows, problems = [], []
        for line, cells in itertools.chain(start, lines):
            if len(cells) <= last or any(cells[len(header) :]):
                found = counted(len(cells), "cell")
                problems.append(Problem(f"line {line}", f"{{detail}}; the header has {last + 1}", detail=found))
            else:
                rows.append((f"line {line}", [cells[index] for index in kept.values()]))
    except csv_rows.CsvError as error:
        raise TableError(str(error)) from error
    if not rows and not problems:
        raise TableError(f"{path}: no rows; expected a header and one line per image")
    return File(str(path), path.name, list(named), list(kept), rows, problems)


def _header(
    path: paths.AnyPath, start: list[tuple[int, list[str]]], mapped: bool
) -> tuple[Sequence[str], list[tuple[int, list[str]]]]:
    """(header, rows after it), of the first rows of a file."""
    if not start:
        raise TableError(f"{path}: empty; expected a header and one line per image")
    at = 0
    if not mapped:
        if implied := formats.implied_header(start[0][1]):
            return implied, start
        at = next((at for at, (_, cells) in enumerate(start) if formats.is_header(cells)), 0)
    line, header = start[at]
    counts = collections.Counter(column for column in header if not _UNNAMED.fullmatch(column))
    if twice := sorted(repr(column) for column, count in counts.items() if count > 1):
        more = f" and {len(twice) - _COLUMNS_SHOWN} more" if len(twice) > _COLUMNS_SHOWN else ""
        shown = ", ".join(twice[:_COLUMNS_SHOWN]) + more
        raise TableError(f"{path}: line {line}: column(s) {shown} occur twice; expected once")
    return header, start[at + 1 :]


def _join(one: File, other: File) -> File:
    """Joins two files by their only shared column; a row that one of them lacks is a problem."""
    path, name = f"{one.path} + {other.path}", f"{one.name} + {other.name}"
    theirs = set(other.header)
    shared = [column for column in one.header if column in theirs]
    if len(shared) != 1:
        raise TableError(f"{path}: columns in both: {', '.join(shared) or 'none'}; expected only the image's name")
    (key,) = shared
    if key in _REPEATED and _repeats(other, key) and not _repeats(one, key):
        one, other = other, one
    problems = [each._replace(where=f"{file.name}: {each.where}") for file in (one, other) for each in file.problems]
    at, there = one.columns.index(key), other.columns.index(key)
    partners: dict[str, tuple[str, list[str]]] = {}
    for where, cells in other.rows:
        first, _ = partners.setdefault(cells[there], (where, cells))
        if first != where:
            what = "is also in {detail}; expected once"
            problems.append(Problem(f"{other.name} {where}", what, key, cells[there], first))
    rows, found = [], set()
    for where, cells in one.rows:
        found.add(cells[at])
        if cells[at] in partners:
            also, more = partners[cells[at]]
            rows.append((f"{where} ({other.name}: {also})", [*cells, *more[:there], *more[there + 1 :]]))
        else:
            problems.append(Problem(where, f"is not in {other.name}", key, cells[at]))
    for value, (where, _) in partners.items():
        if value not in found:
            problems.append(Problem(f"{other.name} {where}", f"is not in {one.name}", key, value))
    header = [*one.header, *(column for column in other.header if column != key)]
    return File(path, name, header, header, rows, problems)


def _repeats(file: File, key: str) -> bool:
    at = file.columns.index(key)
    return len({cells[at] for _, cells in file.rows}) < len(file.rows)

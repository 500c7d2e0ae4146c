"""CSV reader that keeps the line number of each row, for error messages."""

from __future__ import annotations

import csv
import io
import os

from tfrecord_tools.core import paths


class CsvError(ValueError):
    """A malformed CSV; the message names its path and, if known, the line."""


def read(path: str | os.PathLike[str]) -> list[tuple[int, list[str]]]:
    """Returns (number of its first line, from 1; stripped cells) of every row that is not blank.

    Raises:
      CsvError: the file cannot be read, is not UTF-8 (a byte order mark is ignored) or not CSV.
    """
    try:
        data = paths.path(path).read_bytes()
    except OSError as error:
        raise CsvError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        text = data.decode("utf-8-sig")  # -sig: Excel writes a byte order mark
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise CsvError(f"{path}: line {line}: not UTF-8 text: {error.reason}; save the table as UTF-8") from error
    rows, begin = [], 1
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for cells in reader:
            if cells:
                rows.append((begin, [cell.strip() for cell in cells]))
            begin = reader.line_num + 1
    except csv.Error as error:
        hint = 'is a quotation mark (") that opens here not closed?'
        raise CsvError(f"{path}: line {begin}: not CSV: {error}; {hint}") from error
    return rows

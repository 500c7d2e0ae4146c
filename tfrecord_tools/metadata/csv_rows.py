"""The rows of a CSV, each with its line, so that errors can name it."""

from __future__ import annotations

import csv
import io
import os

from tfrecord_tools.core import paths


class CsvError(ValueError):
    """A file is no CSV; the message names its path and, where there is one, the line."""


def read(path: str | os.PathLike[str]) -> list[tuple[int, list[str]]]:
    """(line where it begins, from 1; cells without blanks around them) of every row that is not blank.

    Raises CsvError if the file cannot be read, is not UTF-8 (a byte order mark is passed over) or no CSV.
    """
    try:
        data = paths.path(path).read_bytes()
    except OSError as error:
        raise CsvError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        text = data.decode("utf-8-sig")  # -sig: Excel puts a byte order mark in front
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

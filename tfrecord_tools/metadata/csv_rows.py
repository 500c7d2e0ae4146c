"""CSV reader that keeps the line number of each row, for error messages.

Cells are separated by what separates those of the first line: commas, tabs, semicolons or bars.
"""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
from collections.abc import Iterable, Iterator

from tfrecord_tools.core import paths

_SEPARATORS = (",", "\t", ";", "|")
_QUOTED = re.compile(r'"[^"]*"')
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_WORKBOOK = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # Excel's .xlsx and .xls


class CsvError(ValueError):
    """A malformed CSV; the message names its path and, if known, the line."""


def read(path: str | os.PathLike[str]) -> list[tuple[int, list[str]]]:
    """Returns the rows of `rows`."""
    return list(rows(path))


def rows(path: str | os.PathLike[str]) -> Iterator[tuple[int, list[str]]]:
    """Yields (number of its first line, from 1; stripped cells) of every row that is not blank or only separators.

    Raises:
      CsvError: the file cannot be read, is not text, or not CSV.
    """
    try:
        data = paths.path(path).read_bytes()
    except OSError as error:
        raise CsvError(f"{path}: cannot be read: {error.strerror}") from error
    # A stream: a StringIO takes four bytes a character.
    text = io.TextIOWrapper(io.BytesIO(data), _encoding(path, data), newline="")
    separator = _separator(text)
    text.seek(0)
    reader = csv.reader(text, delimiter=separator, strict=True)
    begin = 1
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                yield begin, stripped
            begin = reader.line_num + 1
    except csv.Error as error:
        hint = 'is a quotation mark (") that opens here not closed?'
        raise CsvError(f"{path}: line {begin}: not CSV: {error}; {hint}") from error


def _encoding(path: str | os.PathLike[str], data: bytes) -> str:
    """The encoding of a file: UTF-8, UTF-16 with its mark, or else what Windows writes in western Europe."""
    if data.startswith(_WORKBOOK):
        raise CsvError(f"{path}: an Excel workbook; expected CSV, so save the sheet as 'CSV UTF-8'")
    if data.startswith(_UTF_16):
        if error := _error(data, "utf-16"):
            raise CsvError(f"{path}: not UTF-16 text, as its first bytes say: {error.reason}")
        return "utf-16"
    error = _error(data, "utf-8-sig")  # -sig: Excel writes a byte order mark
    if error is None:
        return "utf-8-sig"
    if b"\0" in data or _error(data, "cp1252"):
        line = data.count(b"\n", 0, error.start) + 1
        raise CsvError(f"{path}: line {line}: not UTF-8 text: {error.reason}; save the table as UTF-8")
    return "cp1252"


def _error(data: bytes, encoding: str) -> UnicodeDecodeError | None:
    try:
        data.decode(encoding)
    except UnicodeDecodeError as error:
        return error
    return None


def _separator(text: Iterable[str]) -> str:
    """The separator that is most frequent in the first line that has any, outside quotation marks."""
    for line in text:
        bare = _QUOTED.sub("", line)
        found = max(_SEPARATORS, key=bare.count)
        if found in bare:
            return found
    return _SEPARATORS[0]

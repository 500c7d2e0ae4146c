"""Numbers in messages, and cells of CSV files."""

from __future__ import annotations

import re
from typing import Any

# Spreadsheets run a cell that begins so as a formula; apostrophes before it are counted, so that none gets lost.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?")


def verb(number: int, one: str, many: str) -> str:
    """The word that goes with a number: "is" for 1, "are" otherwise."""
    return one if number == 1 else many


def counted(number: int, noun: str, plural: str = "") -> str:
    """Number and noun, "1 image" or "2 images"; plural: needed only if it is not the noun and an s."""
    return f"{number} {noun}" if number == 1 else f"{number} {plural or noun + 's'}"


def shown(text: str, limit: int = 80) -> str:
    """Text of a stranger's file for a terminal: on one line, without control characters, not longer than `limit`."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: limit + 1])
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


def cell(value: Any) -> Any:
    """Value to write into a CSV: a text that a spreadsheet would run as a formula gets an apostrophe before it."""
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def from_cell(value: Any) -> Any:
    """The value that `cell` made a cell of."""
    return value[1:] if isinstance(value, str) and value.startswith("'") and _FORMULA.match(value) else value

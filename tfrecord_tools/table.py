"""Metadata CSVs -> one checked table.

The csv module reads the file, not pandas: it knows the line of every row, which the errors name, and it takes no
"NA" or "nan" for a missing value behind the user's back.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from tfrecord_tools.schema import DIAGNOSIS, IMAGE_NAME, MAX_AGE, MISSING, SEX, SITE

REQUIRED = ("image_name", "patient_id", "sex", "age_approx", "anatom_site_general_challenge")
LABELS = ("target", "diagnosis", "benign_malignant")  # any of these makes a table a labelled one
_BENIGN_MALIGNANT = ("benign", "malignant")  # the index is the target
_ERRORS_SHOWN = 10  # enough to see a pattern, few enough to read


class TableError(ValueError):
    """A CSV is not what it should be; the message names file, line, column, value and what is allowed."""


def is_labelled(path: str | os.PathLike[str]) -> bool:
    """Whether the CSV's header has a column that only labelled data have."""
    return any(column in LABELS for column in _read_lines(Path(path))[0][1])


def read_table(path: str | os.PathLike[str], labelled: bool) -> pd.DataFrame:
    """Reads a CSV in the form of Kaggle's SIIM-ISIC 2020 train.csv (labelled) or test.csv.

    Returns one row per image, in file order: image_name, patient: str ("" = missing, test only), lesion: str ("" =
    missing, from the column lesion_id if there is one);
    sex, age_approx (years), anatom_site_general_challenge, diagnosis, target: int64, codes as in schema, -1 = missing.
    Other columns are ignored. Raises TableError listing the first problems if there are any.
    """
    path = Path(path)
    (_, header), *lines = _read_lines(path)
    _check_header(path, header, labelled)
    if not lines:
        raise TableError(f"{path.name}: no rows; expected a header and one line per image")
    errors: list[str] = []
    seen: dict[str | int, int] = {}
    rows = []
    for line, cells in lines:
        if len(cells) != len(header):
            errors.append(f"line {line}: {len(cells)} cells; the header has {len(header)}")
            continue
        row, problems = _check_row(dict(zip(header, cells, strict=True)), labelled)
        first = seen.setdefault(row["image_name"], line)
        if first != line:
            problems.append(f"column image_name: {row['image_name']!r} stands in line {first} too; expected once")
        errors.extend(f"line {line}: {problem}" for problem in problems)
        rows.append(row)
    if errors:
        more = len(errors) - _ERRORS_SHOWN
        shown = errors[:_ERRORS_SHOWN] + ([f"... and {more} more"] if more > 0 else [])
        raise TableError("\n  ".join([f"{path.name}: {len(errors)} problem(s)", *shown]))
    return pd.DataFrame(rows)


def _read_lines(path: Path) -> list[tuple[int, list[str]]]:
    """(line number from 1, cells) of every line that is not blank; at least the header."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # -sig: Excel puts a byte order mark in front
            reader = csv.reader(file, strict=True)
            lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if cells]
    except OSError as error:
        raise TableError(f"{path}: cannot be read: {error.strerror}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise TableError(f"{path.name}: not a UTF-8 CSV file: {error}") from error
    if not lines:
        raise TableError(f"{path.name}: empty; expected a header with the columns {', '.join(REQUIRED)}")
    return lines


def _check_header(path: Path, header: list[str], labelled: bool) -> None:
    required = REQUIRED + (("target",) if labelled else ())
    missing = [column for column in required if column not in header]
    if missing:
        raise TableError(f"{path.name}: line 1: missing column(s) {', '.join(missing)}; found {', '.join(header)}")
    twice = sorted({column for column in header if header.count(column) > 1})
    if twice:
        raise TableError(f"{path.name}: line 1: column(s) {', '.join(twice)} stand twice; expected once")


def _check_row(cells: dict[str, str], labelled: bool) -> tuple[dict[str, str | int], list[str]]:
    """One row of the table, and what is wrong with it."""
    problems = []

    def check(column: str, convert: Callable[[str], int]) -> int:
        try:
            return convert(cells.get(column, ""))
        except ValueError as error:
            problems.append(f"column {column}: {cells[column]!r} is not allowed; expected {error}")
            return MISSING

    name, patient = cells["image_name"], cells["patient_id"]
    if not IMAGE_NAME.fullmatch(name):
        problems.append(f"column image_name: {name!r} is not allowed; expected letters, digits, _ and - only")
    if labelled and not patient:
        problems.append("column patient_id: empty; expected an identifier, or folds could share a patient")
    row: dict[str, str | int] = {
        "image_name": name,
        "patient": patient,
        "lesion": cells.get("lesion_id", ""),
        "sex": check("sex", _word(SEX)),
        "age_approx": check("age_approx", _age),
        "anatom_site_general_challenge": check("anatom_site_general_challenge", _word(SITE)),
        "diagnosis": check("diagnosis", _word(DIAGNOSIS)) if labelled else MISSING,
        "target": check("target", _target) if labelled else MISSING,
    }
    if labelled:
        target, verdict = row["target"], check("benign_malignant", _word(_BENIGN_MALIGNANT))
        if MISSING not in (target, verdict) and target != verdict:
            problems.append(
                f"column benign_malignant: {cells['benign_malignant']!r} contradicts target {target}; "
                f"expected {_BENIGN_MALIGNANT[int(target)]!r}"
            )
    return row, problems


def _word(vocabulary: tuple[str, ...]) -> Callable[[str], int]:
    def code(cell: str) -> int:
        if not cell:
            return MISSING
        if cell not in vocabulary:
            raise ValueError(f"one of {', '.join(vocabulary)}, or nothing")
        return vocabulary.index(cell)

    return code


def _age(cell: str) -> int:
    if not cell:
        return MISSING
    allowed = f"whole years from 0 to {MAX_AGE}, or nothing"
    try:
        age = float(cell)
    except ValueError:
        raise ValueError(allowed) from None
    if not (math.isfinite(age) and 0 <= age <= MAX_AGE and age == int(age)):
        raise ValueError(allowed)
    return int(age)


def _target(cell: str) -> int:
    if cell not in ("0", "1"):
        raise ValueError("0 or 1")
    return int(cell)

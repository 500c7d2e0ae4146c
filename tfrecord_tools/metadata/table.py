"""Reader of metadata CSVs from any source into one checked table.

`csv_rows` replaces pandas' reader because it knows the line of each row, for error messages, and does not silently
read "NA" or "nan" as missing.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from tfrecord_tools.core import paths
from tfrecord_tools.core.text import counted
from tfrecord_tools.metadata import csv_rows, formats, vocabulary
from tfrecord_tools.metadata.formats import TableError
from tfrecord_tools.schema import CONTROL, IMAGE_NAME, MAX_AGE, MISSING

PathLike = str | os.PathLike[str]
_ERRORS_SHOWN = 10  # enough to show a pattern
_EXTENSION = re.compile(r"\.jpe?g$", re.IGNORECASE)
_IMAGE = "image_name"
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}  # found in files that are only named CSV
_VERDICTS = ("benign", "malignant")  # of benign_malignant; the index is the target


@dataclasses.dataclass(frozen=True)
class _File:
    """A CSV, or several joined. path: start of error messages. rows: (position, cell of each column)."""

    path: str
    name: str
    header: list[str]
    rows: list[tuple[str, dict[str, str]]]
    errors: list[str]


def form_of(
    path: PathLike | Sequence[PathLike], form: str | None = None, columns: Mapping[str, str] | None = None
) -> formats.Form:
    """Returns the form of a CSV, or of several joined; arguments as of `read_table`.

    Raises:
      TableError: no form fits; names the file, and the columns of each form.
    """
    return _form(_read(path), form, columns)


def is_labelled(
    path: PathLike | Sequence[PathLike], form: str | None = None, columns: Mapping[str, str] | None = None
) -> bool:
    """Returns whether the CSV's header has a column with labels."""
    file = _read(path)
    return _form(file, form, columns).is_labelled(file.header)


def read_table(
    path: PathLike | Sequence[PathLike],
    labelled: bool,
    form: str | None = None,
    columns: Mapping[str, str] | None = None,
    keep_unlabelled: bool = False,
) -> pd.DataFrame:
    """Reads the metadata of any form in `formats.FORMS`, or of any CSV with a column map.

    Args:
      path: A CSV, or several to join by the one column that they share (ISIC 2019: ground truth, metadata).
      labelled: Whether to read diagnosis and target.
      form: A name of `formats.FORMS`; None recognises it by the header.
      columns: {our column: its column} for a table in no known form.
      keep_unlabelled: Give rows whose target cannot be determined target -1, instead of an error.

    Returns:
      One row per image, in file order; other columns are ignored.
        image_name, patient, lesion: str, "" if missing.
        sex, age_approx (years), anatom_site_general_challenge, diagnosis: int64, codes as in schema, -1 if missing.
        target: int64, 1 for a melanoma, 0 for everything else, -1 if missing; see `vocabulary.target_of`.

    Raises:
      TableError: lists the first problems.
    """
    file = _read(path)
    reader = _Reader(_form(file, form, columns), file, labelled, keep_unlabelled)
    errors, seen, rows = list(file.errors), dict[str, str](), []
    for where, cells in file.rows:
        row, problems = reader.row(cells)
        first = seen.setdefault(str(row[_IMAGE]), where)
        if first != where:
            problems.append(f"column {reader.at[_IMAGE]}: {row[_IMAGE]!r} is also in {first}; expected once")
        errors.extend(f"{where}: {problem}" for problem in problems)
        rows.append(row)
    _raise(file, errors)
    return pd.DataFrame(rows)


def read_names(
    path: PathLike | Sequence[PathLike], form: str | None = None, columns: Mapping[str, str] | None = None
) -> list[str]:
    """Reads only the image names of a table for `read_table`, or of any with a column image_name, in file order.

    Raises:
      TableError: lists the first problems.
    """
    file = _read(path)
    if form is None and columns is None and _IMAGE in file.header:
        columns = {}
    if columns is not None:
        columns = {"patient_id": "", **columns}
    reader = _Reader(_form(file, form, columns), file, labelled=False, keep_unlabelled=False)
    errors, names = list(file.errors), []
    for where, cells in file.rows:
        name, problems = reader.name(cells)
        names.append(name)
        errors.extend(f"{where}: {problem}" for problem in problems)
    _raise(file, errors)
    return names


def _raise(file: _File, errors: Sequence[str]) -> None:
    """Raises TableError with the first errors, if there are any."""
    if errors:
        more = len(errors) - _ERRORS_SHOWN
        shown = list(errors[:_ERRORS_SHOWN]) + ([f"... and {more} more"] if more > 0 else [])
        raise TableError("\n  ".join([f"{file.path}: {counted(len(errors), 'problem')}", *shown]))


# ---------------------------------------------------------------------------------------------------- files


def _form(file: _File, name: str | None, columns: Mapping[str, str] | None) -> formats.Form:
    try:
        return formats.form_of(file.header, name, columns)
    except TableError as error:
        raise TableError(f"{file.path}: line 1: {error}") from None


def _read(path: PathLike | Sequence[PathLike]) -> _File:
    """The CSV, or the join of several."""
    given = [path] if isinstance(path, (str, os.PathLike)) else list(path)
    first, *others = [_read_file(paths.path(each)) for each in given]
    for other in others:
        first = _join(first, other)
    return first


def _read_file(path: paths.AnyPath) -> _File:
    (_, header), *lines = _read_lines(path)
    if len(header) == 1 and (between := next((each for each in _SEPARATORS if each in header[0]), None)):
        kind = _SEPARATORS[between]
        raise TableError(f"{path}: line 1: cells are separated by {kind}; expected commas, so save the table with them")
    twice = sorted(repr(column) for column, count in collections.Counter(header).items() if count > 1)
    if twice:
        more = f" and {len(twice) - _ERRORS_SHOWN} more" if len(twice) > _ERRORS_SHOWN else ""
        names = ", ".join(twice[:_ERRORS_SHOWN]) + more
        raise TableError(f"{path}: line 1: column(s) {names} occur twice; expected once")
    rows, errors = [], []
    for line, cells in lines:
        if len(cells) == len(header):
            rows.append((f"line {line}", dict(zip(header, cells, strict=True))))
        else:
            errors.append(f"line {line}: {counted(len(cells), 'cell')}; the header has {len(header)}")
    return _File(str(path), path.name, header, rows, errors)


def _read_lines(path: paths.AnyPath) -> list[tuple[int, list[str]]]:
    """(line number from 1, cells) of every row that is not blank: the header and at least one more."""
    try:
        lines = csv_rows.read(path)
    except csv_rows.CsvError as error:
        raise TableError(str(error)) from error
    if not lines:
        raise TableError(f"{path}: empty; expected a header and one line per image")
    if len(lines) == 1:
        raise TableError(f"{path}: no rows; expected a header and one line per image")
    return lines


def _join(one: _File, other: _File) -> _File:
    """Joins two files by their only shared column; a row that one of them lacks is an error."""
    path, name = f"{one.path} + {other.path}", f"{one.name} + {other.name}"
    theirs = set(other.header)
    shared = [column for column in one.header if column in theirs]
    if len(shared) != 1:
        raise TableError(f"{path}: columns in both: {', '.join(shared) or 'none'}; expected only the image's name")
    errors = [f"{file.name}: {error}" for file in (one, other) for error in file.errors]
    (key,) = shared
    partners: dict[str, tuple[str, dict[str, str]]] = {}
    for where, cells in other.rows:
        first, _ = partners.setdefault(cells[key], (where, cells))
        if first != where:
            errors.append(f"{other.name} {where}: column {key}: {cells[key]!r} is also in {first}; expected once")
    rows, found = [], set()
    for where, cells in one.rows:
        found.add(cells[key])
        if cells[key] in partners:
            also, more = partners[cells[key]]
            rows.append((f"{where} ({other.name}: {also})", {**cells, **more}))
        else:
            errors.append(f"{where}: column {key}: {cells[key]!r} is not in {other.name}")
    for image, (where, _) in partners.items():
        if image not in found:
            errors.append(f"{other.name} {where}: column {key}: {image!r} is not in {one.name}")
    return _File(path, name, [*one.header, *(column for column in other.header if column != key)], rows, errors)


# ----------------------------------------------------------------------------------------------------- rows


class _Reader:
    """Converter of rows in one form to rows of our table. at: our column -> its column."""

    def __init__(self, form: formats.Form, file: _File, labelled: bool, keep_unlabelled: bool) -> None:
        self.form, self.labelled, self.keep_unlabelled = form, labelled, keep_unlabelled
        self.at = form.columns(file.header)
        # Kaggle's tables must have a target, even if another column determines it.
        has_label = form.is_labelled(file.header) and (form.name != "isic2020" or "target" in self.at)
        if labelled and not has_label:
            missing = "diagnosis (or diagnosis_1, benign_malignant)" if form.external else "target"
            raise TableError(
                f"{file.path}: line 1: missing column(s) {missing}; found {', '.join(file.header)}. "
                "For images without a target pass --split test"
            )

    def row(self, cells: Mapping[str, str]) -> tuple[dict[str, str | int], list[str]]:
        """Returns one row of the table, and its problems."""
        problems: list[str] = []

        def cell(ours: str) -> str:
            return cells[self.at[ours]] if ours in self.at else ""

        def check(ours: str, convert: Callable[[str], int]) -> int:
            try:
                return convert(cell(ours))
            except ValueError as error:
                problems.append(f"column {self.at[ours]}: {cell(ours)!r} is not allowed; expected {error}")
                return MISSING

        name, wrong = self.name(cells)
        problems += wrong
        patient = cell("patient_id")
        if self.labelled and self.form.has_patients and not patient:
            at = self.at["patient_id"]
            problems.append(f"column {at}: empty; expected an identifier, or folds could share a patient")
        for ours in ("patient_id", "lesion_id"):
            if CONTROL.search(cell(ours)):
                problems.append(f"column {self.at[ours]}: {cell(ours)!r} has a control character; expected none")
        source = self.form.words
        row: dict[str, str | int] = {
            "image_name": name,
            "patient": patient,
            "lesion": cell("lesion_id"),
            "sex": check("sex", lambda word: vocabulary.sex_code(source, word)),
            "age_approx": check("age_approx", _age),
            "anatom_site_general_challenge": check(
                "anatom_site_general_challenge", lambda word: vocabulary.site_code(source, word)
            ),
            "diagnosis": MISSING,
            "target": MISSING,
        }
        if self.labelled:
            row["diagnosis"], row["target"], wrong = self._labels(cells)
            problems += wrong
        return row, problems

    def name(self, cells: Mapping[str, str]) -> tuple[str, list[str]]:
        """Returns (image name, problems)."""
        cell = cells[self.at[_IMAGE]]
        name = _EXTENSION.sub("", cell) if self.form.file_names else cell
        if IMAGE_NAME.fullmatch(name):
            return name, []
        return name, [f"column {self.at[_IMAGE]}: {name!r} is not allowed; expected letters, digits, _ and - only"]

    def _labels(self, cells: Mapping[str, str]) -> tuple[int, int, list[str]]:
        """(diagnosis, target, problems)."""
        column, word = self._diagnosis(cells)
        try:
            if self.form.classes:
                word = vocabulary.one_hot(cells)
            diagnosis = vocabulary.diagnosis_code(self.form.words, word)
        except ValueError as error:
            return MISSING, MISSING, [f"column {column}: {word!r} is not allowed; expected {error}"]
        verdict = cells[self.at["benign_malignant"]] if "benign_malignant" in self.at else ""
        if "target" in self.at:
            return (diagnosis, *self._given_target(cells, verdict, vocabulary.target_of(word, diagnosis, ""), word))
        try:
            target = vocabulary.target_of(word, diagnosis, verdict)
        except ValueError as error:
            at = self.at["benign_malignant"]
            return diagnosis, MISSING, [f"column {at}: {verdict!r} is not allowed; expected {error}"]
        if target == MISSING and not self.keep_unlabelled:
            found = f"column {column}: {word!r} does not determine"
            if "benign_malignant" in self.at:
                found = (
                    f"column {column}: {word!r} and column {self.at['benign_malignant']} {verdict!r} do not determine"
                )
            advice = "give a diagnosis, leave the row out, or build the table without targets with --split test"
            return diagnosis, MISSING, [f"{found} whether it is a melanoma; {advice}"]
        return diagnosis, target, []

    def _diagnosis(self, cells: Mapping[str, str]) -> tuple[str, str]:
        """(column, cell) of the diagnosis, as named in an error."""
        if self.form.classes:
            classes = [name for name in vocabulary.CLASSES_2019 if name in cells]
            return "/".join(classes), "/".join(cells[name] for name in classes)
        if "diagnosis" in self.at and (word := cells[self.at["diagnosis"]]):
            return self.at["diagnosis"], word
        if self.form.words == "isic_archive" and formats.LEVELS[0] in cells:
            return formats.LEVELS[0], vocabulary.deepest_level(cells.get(level, "") for level in formats.LEVELS)
        return self.at.get("diagnosis", "diagnosis"), ""

    def _given_target(
        self, cells: Mapping[str, str], verdict: str, implied: int, diagnosis: str
    ) -> tuple[int, list[str]]:
        """(target, problems) of a table with a target, which verdict and diagnosis (target: implied) must match."""
        at, cell = self.at["target"], cells[self.at["target"]]
        if cell not in ("0", "1"):
            return MISSING, [f"column {at}: {cell!r} is not allowed; expected 0 or 1"]
        target, expected = int(cell), _VERDICTS[int(cell)]
        if implied not in (MISSING, target):
            problem = f"column {at}: {cell!r} contradicts the diagnosis {diagnosis!r}; expected {implied}"
            return target, [f"{problem}, because only a melanoma has target 1"]
        if verdict in ("", expected):
            return target, []
        column = f"column {self.at['benign_malignant']}: {verdict!r}"
        if verdict not in _VERDICTS:
            return target, [f"{column} is not allowed; expected one of {', '.join(_VERDICTS)}, or nothing"]
        return target, [f"{column} contradicts target {cell}; expected {expected!r}"]


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

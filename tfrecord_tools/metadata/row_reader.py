"""Rows of a form as rows of our table."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tfrecord_tools.core import names
from tfrecord_tools.metadata import vocabulary
from tfrecord_tools.metadata.files import File
from tfrecord_tools.metadata.formats import TableError
from tfrecord_tools.metadata.forms import Form
from tfrecord_tools.metadata.problems import Problem
from tfrecord_tools.schema import CONTROL, IMAGE_NAME, MAX_AGE, MISSING

_IMAGE = "image_name"
_SITE = "anatom_site_general_challenge"
_PATH = re.compile(r"::?")  # between the levels of a diagnosis that are in one cell
_VERDICTS = ("benign", "malignant")  # of benign_malignant; the index is the target
_ADVICE = "give a diagnosis, leave the row out, or build the table without targets with --split test"


class Labels(NamedTuple):
    """diagnosis: its code. target: -1 if undecided or wrong. undecided: why, None if it is not."""

    diagnosis: int
    target: int
    undecided: Problem | None = None


class RowReader:
    """Converter of the rows of a file. at: our column -> its column."""

    def __init__(self, form: Form, file: File, labelled: bool) -> None:
        """Checks that the file has labels, if they are to be read; raises TableError if it has none."""
        self.form, self.labelled = form, labelled
        self.at = form.columns(file.header)
        self._index = {column: index for index, column in enumerate(file.columns)}
        self._levels = [level for level in form.levels if level in self._index]
        self._sites = [site for site in form.sites if site in self._index]
        self._classes = [name for name in (*form.classes, *form.more_classes) if name in self._index]
        # Kaggle's tables must have a target, even if another column determines it.
        has_label = form.is_labelled(file.header) and (form.name != "isic2020" or "target" in self.at)
        if labelled and not has_label:
            missing = "diagnosis (or diagnosis_1, benign_malignant)" if form.external else "target"
            raise TableError(
                f"{file.path}: line 1: missing column(s) {missing}; found {', '.join(file.header)}. "
                "For images without a target pass --split test"
            )

    def cell(self, cells: Sequence[str], ours: str) -> str:
        """Returns the cell of our column, "" if the table has none."""
        return cells[self._index[self.at[ours]]] if ours in self.at else ""

    def row(self, where: str, cells: Sequence[str]) -> tuple[dict[str, str | int], list[Problem], Problem | None]:
        """Returns one row of the table, its problems, and why its target is undecided, if it is."""
        problems: list[Problem] = []

        def check(ours: str, value: str, convert: Callable[[str], int]) -> int:
            try:
                return convert(value)
            except ValueError as error:
                column = self.at.get(ours) or self._sites[0]
                problems.append(Problem(where, f"is not allowed; expected {error}", column, value))
                return MISSING

        name, wrong = self.name(where, cells)
        problems += wrong
        given = (self.cell(cells, "patient_id"), self.cell(cells, "lesion_id"))
        patient, lesion = ("" if vocabulary.is_missing(each) else each for each in given)
        if self.labelled and self.form.has_patients and not patient:
            found = "names no patient" if given[0] else "empty"
            what = f"{found}; expected an identifier, or folds could share a patient"
            problems.append(Problem(where, what, self.at["patient_id"], given[0] or None))
        for ours, value in zip(("patient_id", "lesion_id"), given, strict=True):
            if CONTROL.search(value):
                problems.append(Problem(where, "has a control character; expected none", self.at[ours], value))
        source = self.form.words
        row: dict[str, str | int] = {
            "image_name": name,
            "patient": patient,
            "lesion": lesion,
            "sex": check("sex", self.cell(cells, "sex"), lambda word: vocabulary.sex_code(source, word)),
            "age_approx": check("age_approx", self.cell(cells, "age_approx"), _age),
            _SITE: check(_SITE, self._site(cells), lambda word: vocabulary.site_code(source, word)),
            "diagnosis": MISSING,
            "target": MISSING,
        }
        undecided = None
        if self.labelled:
            labels = self._labels(where, cells, problems)
            row["diagnosis"], row["target"], undecided = labels
        return row, problems, undecided

    def name(self, where: str, cells: Sequence[str]) -> tuple[str, list[Problem]]:
        """Returns (image name, problems)."""
        cell = self.cell(cells, _IMAGE)
        name = names.without_extension(cell)
        if vocabulary.is_missing(name):
            return name, [Problem(where, "names no image; expected the name of its file", self.at[_IMAGE], cell)]
        if IMAGE_NAME.fullmatch(name):
            return name, []
        what = "is not allowed; expected letters, digits, _ and - only"
        return name, [Problem(where, what, self.at[_IMAGE], name)]

    def _site(self, cells: Sequence[str]) -> str:
        site = self.cell(cells, _SITE)
        if self._sites and vocabulary.is_missing(site):
            return vocabulary.deepest_site(cells[self._index[level]] for level in self._sites)
        return site

    def _labels(self, where: str, cells: Sequence[str], problems: list[Problem]) -> Labels:
        """The labels of a row; adds what is wrong with them to its problems."""
        column, word = self._diagnosis(cells)
        verdict = self.cell(cells, "benign_malignant")
        try:
            if self._classes:
                word = vocabulary.one_hot({name: cells[self._index[name]] for name in self._classes}, self.form.rest)
            diagnosis = vocabulary.diagnosis_code(self.form.words, word, verdict)
        except ValueError as error:
            problems.append(Problem(where, f"is not allowed; expected {error}", column, word))
            return Labels(MISSING, MISSING)
        try:
            implied = vocabulary.target_of(word, diagnosis, verdict)
        except ValueError as error:
            at = self.at["benign_malignant"]
            problems.append(Problem(where, f"is not allowed; expected {error}", at, verdict))
            return Labels(diagnosis, MISSING)
        if "target" in self.at:
            implied = vocabulary.target_of(word, diagnosis, "")
            return Labels(diagnosis, self._given_target(where, cells, implied, word, problems))
        if implied != MISSING:
            return Labels(diagnosis, implied)
        also = f"and column {self.at['benign_malignant']} {verdict!r} do" if "benign_malignant" in self.at else "does"
        return Labels(
            diagnosis,
            MISSING,
            Problem(where, f"{also} not determine whether it is a melanoma; {_ADVICE}", column, word),
        )

    def _diagnosis(self, cells: Sequence[str]) -> tuple[str, str]:
        """(column, word) of the diagnosis, as named in an error."""
        if self._classes:
            return "/".join(self._classes), "/".join(cells[self._index[name]] for name in self._classes)
        word = self.cell(cells, "diagnosis")
        if word and not (self._levels and vocabulary.is_missing(word)):
            levels = _PATH.split(word)
            return self.at["diagnosis"], vocabulary.deepest_level(levels) if levels[1:] else word
        if self._levels:
            return self._levels[0], vocabulary.deepest_level(cells[self._index[level]] for level in self._levels)
        return self.at.get("diagnosis", "diagnosis"), ""

    def _given_target(
        self, where: str, cells: Sequence[str], implied: int, diagnosis: str, problems: list[Problem]
    ) -> int:
        """The target of a table with that column, which verdict and diagnosis (target: implied) must match."""
        at, cell = self.at["target"], self.cell(cells, "target")
        target = {**vocabulary.TARGETS, **self.form.target_words}.get(cell.lower(), MISSING)
        if target == MISSING:
            allowed = " or ".join(self.form.target_words) or "0 or 1"
            problems.append(Problem(where, f"is not allowed; expected {allowed}", at, cell))
            return MISSING
        if implied not in (MISSING, target):
            what = f"contradicts the diagnosis {{detail}}; expected {implied}, because only a melanoma has target 1"
            if target == 1:
                what += f". If {at} means any malignancy, pass --columns ...,benign_malignant={at},target="
            problems.append(Problem(where, what, at, cell, repr(diagnosis)))
            return target
        verdict = vocabulary.verdict_of(self.cell(cells, "benign_malignant"))
        other_malignancy = verdict == "malignant" and implied == 0
        if verdict not in ("", _VERDICTS[target]) and not other_malignancy:
            what = f"contradicts target {cell}; expected {_VERDICTS[target]!r}"
            problems.append(Problem(where, what, self.at["benign_malignant"], verdict))
        return target


def _age(cell: str) -> int:
    if vocabulary.is_missing(cell):
        return MISSING
    allowed = f"whole years from 0 to {MAX_AGE}, or nothing"
    try:
        age = float(cell.replace(",", "."))
    except ValueError:
        raise ValueError(allowed) from None
    if not (math.isfinite(age) and 0 <= age <= MAX_AGE and age == int(age)):
        raise ValueError(allowed)
    return int(age)

"""Folds that a column of a table gives, so that results stand beside others' on the same split."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence

from tfrecord_tools.builder.inputs import Input
from tfrecord_tools.builder.settings import BuildError, InputSpec
from tfrecord_tools.core.text import counted, shown, verb
from tfrecord_tools.dedup import pairs
from tfrecord_tools.metadata import table, vocabulary

_WHOLE = re.compile(r"([+-]?[0-9]+)(?:\.0*)?")  # pandas writes 3.0 where the column has empty cells
_FRACTION = re.compile(r"[+-]?[0-9]*[.,][0-9]+")
_NAMED = 3  # images that a message names
_LISTED = 30  # values that are printed with their folds


@dataclasses.dataclass(frozen=True)
class GivenFolds:
    """The cells of a column.

    Attributes:
      flag: --folds_from and its value, for messages.
      cells: Cell of each image name.
      modulo: Number of folds that numbers are taken modulo, None for a fold of each value.
    """

    flag: str
    cells: Mapping[str, str]
    modulo: int | None = None

    def left_out(self, names: Sequence[str]) -> dict[str, str]:
        """Returns {name: cell} of the images in no fold, because their cell is empty or a negative number."""
        found = {name: self.cells[name] for name in names if name in self.cells}
        return {name: cell for name, cell in found.items() if vocabulary.is_missing(cell) or (_number(cell) or 0) < 0}

    def numbered(self, names: Sequence[str]) -> dict[str, int]:
        """Returns the fold of each cell of images that are in one: values in ascending order, or modulo.

        Raises:
          BuildError: an image has no cell, or a cell is neither a whole number nor a word, or no number to take modulo.
        """
        if absent := [name for name in names if name not in self.cells]:
            few = ", ".join(absent[:_NAMED]) + (", ..." if len(absent) > _NAMED else "")
            raise BuildError(
                f"{self.flag}: {len(absent)} of {counted(len(names), 'image')} {verb(len(absent), 'has', 'have')} no "
                f"row there: {few}; expected one for each, with -1 for those to leave out"
            )
        for name in names:
            if _number(self.cells[name]) is None and _FRACTION.fullmatch(self.cells[name]):
                raise BuildError(f"{self.flag}: {self.cells[name]} of {name}; expected whole numbers, or words")
        cells = sorted({self.cells[name] for name in names})
        numbers = {cell: number for cell in cells if (number := _number(cell)) is not None}
        numbers = dict(sorted(numbers.items(), key=lambda item: item[1]))
        if len(numbers) < len(cells):
            if self.modulo is not None:
                word = next(cell for cell in cells if cell not in numbers)
                raise BuildError(
                    f"{self.flag}: --folds {self.modulo} takes numbers modulo, got {shown(word)!r}; leave out --folds "
                    f"for a fold of each of the {counted(len(cells), 'value')}"
                )
            return {cell: fold for fold, cell in enumerate(cells)}
        if self.modulo is not None:
            return {cell: number % self.modulo for cell, number in numbers.items()}
        order = {number: fold for fold, number in enumerate(dict.fromkeys(numbers.values()))}
        return {cell: order[number] for cell, number in numbers.items()}


def _number(cell: str) -> int | None:
    found = _WHOLE.fullmatch(cell)
    return int(found[1]) if found else None


def read(spec: InputSpec) -> Mapping[str, str] | None:
    """Reads the column of another table; None if --folds_from names none.

    Raises:
      table.TableError: it cannot be read, or has no such column.
    """
    file, column = spec.folds_column
    return table.read_column(file, column) if file is not None else None


def find(spec: InputSpec, modulo: int | None, listed: Mapping[str, str] | None, found: Sequence[Input]) -> GivenFolds:
    """Returns the given folds of the training images.

    Args:
      spec: Settings with a --folds_from.
      modulo: --folds, None if it was not given.
      listed: The column of another table, as `read` returns it.
      found: All input of the build.

    Raises:
      BuildError: there are no training images, or no table with the column.
    """
    flag = f"--folds_from {spec.folds_from}"
    train = next((each for each in found if each.split == "train"), None)
    if train is None:
        raise BuildError(f"{flag}: no training images here, and others have no folds; leave it out")
    cells = train.fold_cells if listed is None else listed
    if cells is None:
        raise BuildError(f"{flag}: these images come without a table; expected FILE.csv:COLUMN, with their image_name")
    return GivenFolds(flag, cells, modulo)


def describe(numbered: Mapping[str, int]) -> str:
    """Returns the values and their folds as text."""
    shown_first = [f"{shown(cell)} -> {fold}" for cell, fold in itertools.islice(numbered.items(), _LISTED)]
    return ", ".join(shown_first) + (f", ... ({len(numbered)})" if len(numbered) > _LISTED else "")


def check_apart(
    flag: str, folds: Mapping[str, int], groups: Mapping[str, str], own: Mapping[str, str], mode: pairs.Mode
) -> None:
    """Raises BuildError if a patient, a lesion or an image under two names is in two folds.

    Args:
      flag: --folds_from and its value, for messages.
      folds: Fold of each image name.
      groups: Leak group of each.
      own: Leak group of each, if duplicates join none.
      mode: The treatment of duplicates.
    """
    for each, kind, remedy in (
        (own, "of one patient or lesion", "give each group one fold there, and -1 to images to leave out"),
        (groups, "joined by duplicates", _REMEDIES[mode]),
    ):
        if crossing := _crossing(folds, each):
            group, names = crossing[0]
            where = " and ".join(f"{name} in fold {folds[name]}" for name in names)
            number = counted(len(crossing), f"group of images {kind}", f"groups of images {kind}")
            raise BuildError(
                f"{flag}: {number} {verb(len(crossing), 'is', 'are')} in several folds, which would leak; first "
                f"{group}: {where}; {remedy}"
            )


_REMEDIES: dict[pairs.Mode, str] = {
    "group": "--on_duplicates drop leaves one of each image, --on_duplicates keep accepts them in several folds",
    "drop": "duplicates show that they are one patient or lesion; --on_duplicates keep accepts them in several folds",
    "keep": "give each group one fold there",
}


def _crossing(folds: Mapping[str, int], groups: Mapping[str, str]) -> list[tuple[str, tuple[str, str]]]:
    """Each group in several folds, with two of its images that are in different ones."""
    members = collections.defaultdict[str, list[str]](list)
    for name in folds:
        members[groups[name]].append(name)
    found = []
    for group, names in members.items():
        other = next((name for name in names if folds[name] != folds[names[0]]), None)
        if other is not None:
            found.append((group, (names[0], other)))
    return found

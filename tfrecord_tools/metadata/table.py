"""Reader of metadata tables from any source into one checked table.

`csv_rows` replaces pandas' reader because it knows the line of each row, for error messages, and does not silently
read "NA" or "nan" as missing.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from tfrecord_tools.core import paths
from tfrecord_tools.metadata import files, formats, problems
from tfrecord_tools.metadata.formats import TableError
from tfrecord_tools.metadata.forms import Form
from tfrecord_tools.metadata.row_reader import RowReader

PathLike = str | os.PathLike[str]
_IMAGE = "image_name"


class Rows(NamedTuple):
    """Rows of a table.

    Attributes:
      frame: One row per image, in file order; other columns are ignored.
        image_name, patient, lesion: str, "" if missing.
        sex, age_approx (years), anatom_site_general_challenge, diagnosis: int64, codes as in schema, -1 if missing.
        target: int64, 1 for a melanoma, 0 for everything else, -1 if missing; see `vocabulary.target_of`.
      undecided: Why the target of a row cannot be determined, by image name; these rows are not in the frame.
    """

    frame: pd.DataFrame
    undecided: dict[str, problems.Problem]


class Table:
    """A CSV, or several joined, in one of `formats.FORMS` or with a column map.

    Attributes:
      path: Its path, or paths, for messages.
      form: Its form.
      header: All its columns.
    """

    def __init__(
        self,
        path: PathLike | Sequence[PathLike],
        form: str | None = None,
        columns: Mapping[str, str] | None = None,
        more: Iterable[str] = (),
    ) -> None:
        """Reads the file.

        Args:
          path: A CSV, or several to join by the one column that they share (ISIC 2019: ground truth, metadata).
          form: A name of `formats.FORMS`; None recognizes it by the header.
          columns: {our column: its column} for a table in no known form.
          more: Its columns that `column` is to return.

        Raises:
          TableError: it cannot be read, or no form fits; names the file, and the columns of the nearest forms.
        """
        given = [path] if isinstance(path, (str, os.PathLike)) else list(path)
        wanted = {*formats.KNOWN, *(columns or {}).values(), *more}
        self._file = files.read([paths.path(each) for each in given], wanted, columns is not None)
        self.path, self.header = self._file.path, self._file.header
        try:
            self.form: Form = formats.form_of(self.header, form, columns)
        except TableError as error:
            raise TableError(f"{self.path}: line 1: {error}") from None

    @property
    def is_labelled(self) -> bool:
        """Whether its form reads labels from it."""
        return self.form.is_labelled(self.header)

    @property
    def target_rule(self) -> str:
        """Where its targets come from, as a clause."""
        return self.form.rule(self.header)

    @property
    def split(self) -> str:
        """The split that it is made for: "train" if it is labelled, else "test".

        Raises:
          TableError: it has labels that its form does not read.
        """
        if unread := formats.unread_labels(self.form, self.header):
            mapped = self.form.name == formats.COLUMN_MAP
            who, remedy = ("--columns", "name them there") if mapped else (f"form {self.form.name}", "leave out --form")
            raise TableError(
                f"{self.path}: line 1: column(s) {', '.join(unread)} look like labels, which {who} does not read; "
                f"{remedy}, or pass --split test for images without targets"
            )
        return "train" if self.is_labelled else "test"

    def image_types(self) -> dict[str, str]:
        """Returns the image_type of each image ("dermoscopic", "RCM: mosaic", ... or ""); {} without that column."""
        reader = RowReader(self.form, self._file, labelled=False)
        if "image_type" not in reader.at:
            return {}
        return {reader.name(*row)[0]: reader.cell(row[1], "image_type") for row in self._file.rows}

    def column(self, name: str) -> dict[str, str]:
        """Returns the cell of each image in a column, whatever its form makes of it.

        Raises:
          TableError: there is no such column, an image name is not allowed, or an image has two cells that differ.
        """
        if name not in self._file.columns:
            raise TableError(f"{self.path}: no column {name}; found {', '.join(self.header)}")
        at, found = self._file.columns.index(name), dict[str, str]()
        for image, (where, cells) in zip(self.names(), self._file.rows, strict=True):
            if found.setdefault(image, cells[at]) != cells[at]:
                raise TableError(f"{self.path}: {where}: column {name}: {image} has {cells[at]!r} and {found[image]!r}")
        return found

    def names(self) -> list[str]:
        """Returns only the image names, in file order; raises TableError if one is not allowed."""
        reader = RowReader(self.form, self._file, labelled=False)
        wrong, found = list(self._file.problems), []
        for row in self._file.rows:
            name, more = reader.name(*row)
            found.append(name)
            wrong += more
        problems.check(self.path, wrong)
        return found

    def read(self, labelled: bool, skip: Container[str] = ()) -> Rows:
        """Reads the rows.

        Args:
          labelled: Whether to read diagnosis and target.
          skip: Names of images whose rows are left out unchecked.

        Raises:
          TableError: names the first problem of each kind, or says that no target can be determined.
        """
        reader = RowReader(self.form, self._file, labelled)
        wrong, seen, rows, undecided = list(self._file.problems), dict[str, str](), [], dict[str, problems.Problem]()
        for where, cells in self._file.rows:
            if skip and reader.name(where, cells)[0] in skip:
                continue
            row, more, open_ = reader.row(where, cells)
            name = str(row[_IMAGE])
            first = seen.setdefault(name, where)
            if first != where:
                what = "is also in {detail}; expected once"
                more.append(problems.Problem(where, what, reader.at[_IMAGE], name, first))
            wrong += more
            if open_ is None:
                rows.append(row)
            else:
                undecided[name] = open_
        problems.check(self.path, wrong)
        if not rows:
            problems.check(self.path, list(undecided.values()))
        return Rows(pd.DataFrame(rows), undecided)


def read_table(
    path: PathLike | Sequence[PathLike],
    labelled: bool,
    form: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Reads a table all of whose rows are wanted, as the frame of `Rows`.

    Raises:
      TableError: as `Table`; or the target of a row cannot be determined.
    """
    table = Table(path, form, columns)
    rows = table.read(labelled)
    problems.check(table.path, list(rows.undecided.values()))
    return rows.frame


def read_names(
    path: PathLike | Sequence[PathLike], form: str | None = None, columns: Mapping[str, str] | None = None
) -> list[str]:
    """Reads only the image names of a table, or of any with a column image_name, in file order.

    Raises:
      TableError: as `Table`; or a name is not allowed.
    """
    return _any(path, form, columns).names()


def read_column(path: PathLike, column: str) -> dict[str, str]:
    """Reads one column of a table in a known form, or of any with a column image_name: {image name: cell}.

    Raises:
      TableError: as `Table`, or `Table.column`.
    """
    return _any(path, None, None, [column]).column(column)


def _any(
    path: PathLike | Sequence[PathLike],
    form: str | None,
    columns: Mapping[str, str] | None,
    more: Iterable[str] = (),
) -> Table:
    """A table of which only the image names need be known."""
    if columns is not None:
        return Table(path, form, {"patient_id": "", **columns}, more)
    try:
        return Table(path, form, None if form else {"patient_id": ""}, more)
    except TableError:  # no column image_name: a form must name it
        return Table(path, form, more=more)

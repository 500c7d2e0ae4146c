"""Problems of a table, each kind of them reported once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tfrecord_tools.core.text import counted
from tfrecord_tools.metadata.formats import TableError

_KINDS_SHOWN = 10
_VALUES_SHOWN = 5


class Problem(NamedTuple):
    """What is wrong with a row.

    Attributes:
      where: Its place.
      what: What is wrong, without the value: problems with the same `what` are of one kind.
      column: Column of the value, "" if it is of the whole row.
      value: The value, None if it is empty.
      detail: What is true of this row only, for {detail} in `what`.
    """

    where: str
    what: str
    column: str = ""
    value: str | None = None
    detail: str = ""

    def __str__(self) -> str:
        named = f"column {self.column}: " if self.column else ""
        named += f"{self.value!r} " if self.value is not None else ""
        return f"{self.where}: {named}{self.what.replace('{detail}', self.detail)}"


def check(path: str, problems: Sequence[Problem]) -> None:
    """Raises TableError with the first problem of each kind and the number of the others, if there are any."""
    if not problems:
        return
    kinds: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        kinds.setdefault((problem.column, problem.what), []).append(problem)
    lines = [f"{path}: {counted(len(problems), 'problem')}", *map(_kind, list(kinds.values())[:_KINDS_SHOWN])]
    if len(kinds) > _KINDS_SHOWN:
        lines.append(f"... and {counted(len(kinds) - _KINDS_SHOWN, 'more kind')}")
    raise TableError("\n  ".join(lines))


def _kind(alike: Sequence[Problem]) -> str:
    first, *others = alike
    if not others:
        return str(first)
    values = [value for value in dict.fromkeys(repr(each.value) for each in others) if value != repr(first.value)]
    shown = ", ".join(values[:_VALUES_SHOWN]) + (", ..." if len(values) > _VALUES_SHOWN else "")
    found = f", values {shown}" if first.column and values else ""
    return f"{first} (and {counted(len(others), 'more row')}: {others[0].where}{', ...' if others[1:] else ''}{found})"

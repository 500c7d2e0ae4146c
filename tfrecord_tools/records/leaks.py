"""Leaks: patients, lesions, groups and source files that are in two folds or two data sets."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from typing import NamedTuple

from tfrecord_tools import schema
from tfrecord_tools.core.text import counted


class Place(NamedTuple):
    """Records that may share patients with each other, but not with those of another place.

    Attributes:
      name: folder and split.
      fold: -1 for test.
    """

    name: str
    fold: int

    def __str__(self) -> str:
        return self.name if self.fold < 0 else f"{self.name} fold {self.fold}"


class _First(NamedTuple):
    """The first record with some value."""

    place: Place
    where: str
    name: str
    folder: str
    inputs: str


class Leaks:
    """First place of every patient, lesion, group, source file and image name, over all folders.

    A patient who is a number of another writer's table is compared only within builds of the same input files.
    """

    def __init__(self) -> None:
        self._first: dict[tuple[str, str, str], _First] = {}
        self._between: collections.Counter[tuple[str, str]] = collections.Counter()
        self._inputs: set[str] = set()
        self._coded: dict[str, tuple[str, str]] = {}
        self._names: dict[tuple[str, str], str] = {}
        self._reported: set[tuple[str, str, Place]] = set()

    def problems(self, folder: str, record: schema.Record, place: Place, where: str, inputs: str) -> Iterator[str]:
        """Yields the leaks and repeated names that a record reveals.

        Args:
          folder: folder of the build; names are unique within it.
          record: record to compare with all before.
          place: place of the record.
          where: position of the record, for messages.
          inputs: equal for builds of the same input files.
        """
        self._inputs.add(inputs)
        coded = record.patient.startswith(schema.CODE)
        if coded:
            self._coded.setdefault(inputs, (folder, record.patient))
        scope = inputs if coded else ""
        twice = self._names.setdefault((folder, record.image_name), where)
        if twice != where:
            yield f"{where}: image_name {record.image_name} is also {twice}; expected once"
        this = _First(place, where, record.image_name, folder, inputs)
        leak = self._leak("patient", record.patient, this, scope) if record.patient else None
        # A group holds its patients and lesions, so it reveals something new only where neither leaks.
        if not leak and record.lesion:
            leak = self._leak("lesion", record.lesion, this)
        if not leak and record.group != schema.MISSING:
            leak = self._leak("group", str(record.group), this, scope)
        for found in (leak, self._leak("source sha256", record.sha256.hex(), this)):
            if found and found[0] not in self._reported:  # a patient with a hundred images leaks once per fold
                self._reported.add(found[0])
                yield found[1]

    def _leak(self, kind: str, value: str, this: _First, scope: str = "") -> tuple[tuple[str, str, Place], str] | None:
        """Key and message of a leak, if the value was met in another place before; scope: where it means the same."""
        first = self._first.setdefault((kind, value, scope), this)
        if first.place == this.place:
            return None
        # --against compares names, so it does not recognize a file under another, nor leave anything of the same table.
        same_names = kind != "source sha256" or first.name == this.name
        if first.folder != this.folder and first.inputs != this.inputs and same_names:
            self._between[first.folder, this.folder] += (kind, value, this.place) not in self._reported
        line = (
            f"{this.where}: leak: {kind} {value} of {this.place} is also in {first.place} ({first.where}): "
            f"images {this.name} and {first.name}"
        )
        return (kind, value, this.place), line

    def notes(self) -> Iterator[str]:
        """Yields remedies, and notes on folders whose patients cannot be compared with those of others."""
        for (first, other), number in self._between.items():
            found = f"{counted(number, 'leak')} between {first} and {other}"
            yield f"{found}: build {other} again with --against {first} --overwrite"
        for folder, patient in self._coded.values() if len(self._inputs) > 1 else ():
            yield (
                f"{folder}: its patients are numbers of its writer's table ({patient}), not compared with those of "
                "other input files, so a patient may be in both unseen; build it with --csv"
            )

"""Leaks: patients, lesions, groups and source files that are in two folds or two data sets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tfrecord_tools import schema


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


class Leaks:
    """First place of every patient, lesion, group, source file and image name, over all folders.

    A patient who is a number of another writer's table is compared only within builds of the same input files.
    """

    def __init__(self) -> None:
        self._first: dict[tuple[str, str, str], tuple[Place, str, str]] = {}
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
        leak = self._leak("patient", record.patient, record, place, where, scope) if record.patient else None
        # A group holds its patients and lesions, so it reveals something new only where neither leaks.
        if not leak and record.lesion:
            leak = self._leak("lesion", record.lesion, record, place, where)
        leak = leak or self._leak("group", str(record.group), record, place, where, scope)
        for found in (leak, self._leak("source sha256", record.sha256.hex(), record, place, where)):
            if found and found[0] not in self._reported:  # a patient with a hundred images leaks once per fold
                self._reported.add(found[0])
                yield found[1]

    def _leak(
        self, kind: str, value: str, record: schema.Record, place: Place, where: str, scope: str = ""
    ) -> tuple[tuple[str, str, Place], str] | None:
        """Key and message of a leak, if the value was met in another place before; scope: where it means the same."""
        name = record.image_name
        first_place, first_where, first = self._first.setdefault((kind, value, scope), (place, where, name))
        if first_place == place:
            return None
        line = (
            f"{where}: leak: {kind} {value} of {place} is also in {first_place} ({first_where}): "
            f"images {name} and {first}"
        )
        return (kind, value, place), line

    def notes(self) -> Iterator[str]:
        """Yields notes on folders whose patients cannot be compared with those of others."""
        for folder, patient in self._coded.values() if len(self._inputs) > 1 else ():
            yield (
                f"{folder}: its patients are numbers of its writer's table ({patient}), not compared with those of "
                "other input files, so a patient may be in both unseen; build it with --csv"
            )

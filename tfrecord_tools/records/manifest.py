"""The manifest of a build: its settings, inputs, folds and shards.

The parent process replaces the manifest atomically each time a shard is committed, so that every listed shard is
complete and checked.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from tfrecord_tools import schema
from tfrecord_tools.core import json_file, paths
from tfrecord_tools.core.paths import AnyPath
from tfrecord_tools.records.shards import SHARD_NAME, Quarantined, ShardError, ShardResult

MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True)
class FoldTotals:
    """Totals over the shards of a fold.

    Attributes:
      fold: -1 for test.
      positives: None for test.
      shards: number of shards.
    """

    split: str
    fold: int
    records: int
    positives: int | None
    patients: int
    shards: int

    @classmethod
    def of(cls, results: Sequence[ShardResult]) -> FoldTotals:
        """Sums shards of one fold, none of which share a patient."""
        first = results[0]
        records, patients = (sum(getattr(each, field) for each in results) for field in ("records", "patients"))
        positives = None if first.positives is None else sum(each.positives or 0 for each in results)
        return cls(first.split, first.fold, records, positives, patients, len(results))


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Description of a build that does not depend on where, when or with how many workers it was made.

    Attributes:
      settings: settings that determine the bytes of the shards.
      versions: versions of packages that may change them.
      inputs: by split: name, sha256, rows and form of the CSV, data sets, a digest of the assignment to shards, rows
        left out, and warnings; the names of test, in the order of the CSV.
      shards: committed shards.
      complete: False until the last shard is committed.
    """

    settings: dict[str, Any]
    versions: dict[str, str]
    inputs: dict[str, dict[str, Any]]
    shards: tuple[ShardResult, ...] = ()
    complete: bool = False

    @property
    def quarantined(self) -> list[Quarantined]:
        """Unreadable parts of foreign shards, then the unusable images of each shard."""
        unread = [Quarantined(**entry) for each in self.inputs.values() for entry in each.get("quarantined", ())]
        return unread + [image for result in self.shards for image in result.quarantined]

    @property
    def lost(self) -> int:
        """Number of records of foreign shards known to be lost with the rest of their file."""
        return sum(int(each.get("lost_records", 0)) for each in self.inputs.values())

    @property
    def warnings(self) -> list[str]:
        """Warnings of the build."""
        return [str(text) for each in self.inputs.values() for text in each.get("warnings", ())]

    @property
    def folds(self) -> list[FoldTotals]:
        """Totals of each fold, then of test."""
        by_place: dict[tuple[str, int], list[ShardResult]] = {}
        for result in self.shards:
            by_place.setdefault((result.split, result.fold), []).append(result)
        ordered = sorted(by_place.items(), key=lambda item: (item[0][0] != "train", item[0]))
        return [FoldTotals.of(results) for _, results in ordered]

    def write(self, folder: AnyPath) -> None:
        """Replaces the folder's manifest atomically."""
        fields = dataclasses.asdict(self)
        listed, complete = fields.pop("shards"), fields.pop("complete")
        content = {"schema_version": schema.SCHEMA_VERSION, **fields}
        content |= {"folds": [dataclasses.asdict(fold) for fold in self.folds], "shards": listed, "complete": complete}
        paths.write_whole(folder / MANIFEST, json.dumps(content, indent=1) + "\n")

    @classmethod
    def read(cls, folder: AnyPath) -> Manifest:
        """Reads the manifest of a folder.

        Raises:
          ShardError: there is none, it cannot be read, or it lists what is no shard of this folder.
        """
        path = folder / MANIFEST
        try:
            content = json_file.read(path)
            version = content.pop("schema_version")
            if version != schema.SCHEMA_VERSION:
                raise ShardError(f"{path}: schema_version {version!r}; this version reads {schema.SCHEMA_VERSION}")
            content.pop("folds", None)  # a property that follows from the shards
            read = cls(**{**content, "shards": tuple(ShardResult.from_json(entry) for entry in content["shards"])})
            read.quarantined, read.lost, read.warnings  # noqa: B018 -- raises if their form is wrong
            names = [paths.member(folder, entry.name, SHARD_NAME).name for entry in read.shards]
            if len(set(names)) < len(names):
                raise ValueError("lists a shard twice")
            if not (isinstance(read.settings, dict) and isinstance(read.inputs, dict) and type(read.complete) is bool):
                raise ValueError("expected settings and inputs by name, and complete as true or false")
            return read
        except OSError as error:
            expected = f"expected the folder of a finished build{_builds_in(folder)}"
            raise ShardError(f"{path}: {error.strerror}; {expected}") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            remedy = "restore it from a copy, or build again"
            raise ShardError(f"{path}: not a manifest: {error}; {remedy}") from error


def _builds_in(folder: AnyPath) -> str:
    """Hint for a folder that holds builds, as --size 256,384 makes it; "" for any other."""
    try:
        found = sorted(str(each) for each in folder.iterdir() if (each / MANIFEST).is_file())
    except OSError:
        return ""
    return f"; {folder} holds builds, so name one of them: {' '.join(found)}" if found else ""

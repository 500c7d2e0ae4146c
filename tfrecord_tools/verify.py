"""Re-reads every record of finished builds and checks that no patient leaks from one fold to another.

  python -m tfrecord_tools.verify tfrecords/384
  python -m tfrecord_tools.verify train_folder test_folder --json

Prints one line per problem, naming shard and record (counted from 0), and exits with 1 if there is any.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import app, flags

from tfrecord_tools import image, schema, shards

Place = tuple[str, int]  # (folder and split, fold): what must not share a patient; test records have fold -1


@dataclasses.dataclass
class Verification:
    """What was read, and the problems found, one line each."""

    shards: int = 0
    records: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)


class _Seen:
    """Where patients, groups, sources and names were met first, over all folders."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, str], tuple[Place, str]] = {}
        self._names: dict[tuple[str, str], str] = {}
        self._told: set[tuple[str, str, Place]] = set()

    def problems(self, folder: str, record: schema.Record, place: Place, where: str) -> Iterator[str]:
        """The leaks and repetitions that this record brings to light."""
        twice = self._names.setdefault((folder, record.image_name), where)
        if twice != where:
            yield f"{where}: image_name {record.image_name} is also {twice}; expected once"
        leaks = self._leak("patient", record.patient, place, where) if record.patient else None
        # A group holds its patients, so it tells something new only where no patient leaks.
        leaks = leaks or self._leak("group", str(record.group), place, where)
        for leak in (leaks, self._leak("source sha256", record.sha256.hex(), place, where)):
            if leak and leak[0] not in self._told:  # a patient with a hundred images leaks once per fold
                self._told.add(leak[0])
                yield leak[1]

    def _leak(self, kind: str, value: str, place: Place, where: str) -> tuple[tuple[str, str, Place], str] | None:
        """(what to tell once, line) if the value was met in another place before."""
        first_place, first_where = self._first.setdefault((kind, value), (place, where))
        if first_place == place:
            return None
        line = f"{where}: leak: {kind} {value} of {_say(place)} is also in {_say(first_place)} ({first_where})"
        return (kind, value, place), line


def verify(folders: Sequence[str | os.PathLike[str]]) -> Verification:
    """Checks each folder, and that none shares a patient, group or source file with another.

    Raises nothing on bad data: every finding is a line in the result's `problems`.
    """
    result, seen = Verification(), _Seen()
    for folder in map(Path, folders):
        try:
            manifest = shards.Manifest.read(folder)
        except shards.ShardError as error:
            result.problems.append(str(error))
            continue
        if not manifest.complete:
            result.problems.append(f"{folder}: the build is not complete; go on with its --resume")
        listed = {entry.name for entry in manifest.shards}
        for path in sorted(folder.glob("*.tfrec")):
            if path.name not in listed:
                result.problems.append(f"{path}: not in {shards.MANIFEST}; expected only the shards listed there")
        size = manifest.settings.get("size")
        for entry in manifest.shards:
            result.shards += 1
            result.problems += _check_shard(folder, entry, size, seen, result)
    return result


def _check_shard(
    folder: Path, entry: shards.ShardResult, size: object, seen: _Seen, result: Verification
) -> Iterator[str]:
    path = folder / entry.name
    if not path.is_file():
        yield f"{path}: missing; {shards.MANIFEST} lists it with {entry.records} records"
        return
    if shards.file_sha256(path) != entry.sha256:
        yield f"{path}: sha256 differs from {shards.MANIFEST}"
    found, positives = 0, 0
    try:
        for index, data in enumerate(schema.read_records(path)):
            found += 1
            where = f"{path}: record {index}"
            try:
                record = schema.decode(data)
            except schema.SchemaError as error:
                yield f"{where}: {error}"
                continue
            positives += record.target == 1
            yield from (f"{where}: {problem}" for problem in _check_record(record, entry, size))
            yield from seen.problems(str(folder), record, (f"{folder} {entry.split}", record.fold), where)
    except schema.CorruptRecord as error:
        yield str(error)
        return  # what follows cannot be read, so the counts say nothing
    finally:
        result.records += found
    promised = schema.shard_count(entry.name)
    if not found == promised == entry.records:
        yield f"{path}: {found} records; its name says {promised}, {shards.MANIFEST} {entry.records}"
    if entry.positives is not None and positives != entry.positives:
        yield f"{path}: {positives} malignant records; {shards.MANIFEST} says {entry.positives}"


def _check_record(record: schema.Record, entry: shards.ShardResult, size: object) -> Iterator[str]:
    if record.fold != entry.fold:
        yield f"fold {record.fold}; expected {entry.fold}, as {shards.MANIFEST} says of its shard"
    if (record.target == schema.MISSING) != (entry.split == "test"):
        yield f"target {record.target} in a {entry.split} shard"
    if record.patient and record.patient_id != schema.stable_id(record.patient):
        yield f"patient_id {record.patient_id} is not that of patient {record.patient}"
    try:
        picture = image.decode(record.image)
    except image.ImageRejected as error:
        yield f"image {record.image_name}: {error}"
        return
    if picture.size != (size, size) or picture.mode != "RGB":
        found = f"{picture.size[0]} x {picture.size[1]} {picture.mode}"
        yield f"image {record.image_name}: {found}; expected {size} x {size} RGB"


def _say(place: Place) -> str:
    name, fold = place
    return name if fold < 0 else f"{name} fold {fold}"


def define_flags() -> None:
    """Defines the flags; called only when this is the command, so that commands can be imported side by side."""
    flags.DEFINE_bool("json", False, "Print one JSON object: folders, shards, records, problems.")
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS["json"])


def main(argv: Sequence[str]) -> None:
    """The command; exits with 1 if anything is wrong."""
    folders = argv[1:]
    if not folders:
        sys.exit("error: no folder given; usage: python -m tfrecord_tools.verify DIR [DIR...]")
    result = verify(folders)
    if flags.FLAGS.json:
        print(json.dumps({"folders": list(folders), **dataclasses.asdict(result)}, indent=1))
    else:
        for problem in result.problems:
            print(problem)
        verdict = f"{len(result.problems)} problem(s)" if result.problems else "all sound, no leak between folds"
        print(f"{', '.join(folders)}: {result.shards} shards, {result.records} records: {verdict}")
    if result.problems:
        sys.exit(1)


def run() -> None:
    """Console entry point."""
    define_flags()
    app.run(main)


if __name__ == "__main__":
    run()

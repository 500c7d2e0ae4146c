"""Re-reads every record of finished builds and checks that nothing leaks from one fold or folder to another.

  python -m tfrecord_tools.verify tfrecords/384
  python -m tfrecord_tools.verify train_folder external_folder test_folder --json

A leak is a patient, lesion, group, source file or nearly identical image in two folds, or in two folders. Builds of
the same CSV with the same folds at different sizes count as one folder. --noduplicates skips the search for nearly
identical images; --pairs lists them, those within one fold too, as a CSV that `build --duplicates` takes.
Prints one line per problem, naming shard and record (counted from 0), ten of each kind (--json: all), and exits with 1
if there is any. Notes repeat the warnings of the builds.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from absl import flags

from tfrecord_tools import schema
from tfrecord_tools.builder import split
from tfrecord_tools.builder.output_dir import QUARANTINE
from tfrecord_tools.core import cli, json_file, paths
from tfrecord_tools.core.paths import AnyPath
from tfrecord_tools.core.text import counted, verb
from tfrecord_tools.dedup import pairs
from tfrecord_tools.dedup.stored import Location, NearDuplicate, StoredImages
from tfrecord_tools.imaging import convert
from tfrecord_tools.metadata import vocabulary
from tfrecord_tools.records import shards, tfrecord
from tfrecord_tools.records.leaks import Leaks, Place
from tfrecord_tools.records.manifest import MANIFEST, Manifest

# Start of a problem's line: its place, and the words that it shares with others of its kind.
_KIND = re.compile(r".*?: (?:record \d+: )?((?:leak: )?\w+)")
_SHOWN = 10  # lines of each kind; enough to show a pattern
# Settings that determine the folds, together with the input.
_FOLD_SETTINGS = ("folds", "shards", "seed", "on_duplicates", "duplicates", "against", "folds_from", "folds_file")
_SAID = ("identical", "left_out", "warnings")  # of an input in the manifest, for people


@dataclasses.dataclass
class Verification:
    """Result of `verify`.

    Attributes:
      shards: number of shards read.
      records: number of records read.
      near_duplicates: pairs of images in two places, identical files included.
      pairs: if asked for, all pairs of nearly identical images, those of one fold too.
      notes: checks that could not be made, and remedies.
      problems: one line each.
    """

    shards: int = 0
    records: int = 0
    near_duplicates: list[NearDuplicate] = dataclasses.field(default_factory=list)
    pairs: list[pairs.Pair] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)


def verify(
    folders: Sequence[str | os.PathLike[str]], near_duplicates: bool = True, workers: int = 1, all_pairs: bool = False
) -> Verification:
    """Checks each folder, and that no two folds or folders share a patient, lesion, group, source file or image.

    Builds of one CSV at several sizes may hold the same records in the same fold, and only there; two builds at one
    size may not. Bad data raise nothing: every finding is a line in the result's `problems`.

    Args:
      folders: builds.
      near_duplicates: whether to search for nearly identical images under two names.
      workers: threads of that search.
      all_pairs: whether to list all pairs that it finds, not only those in two places.
    """
    verifier = _Verifier(near_duplicates)
    result = verifier.result
    given: dict[str, AnyPath] = {}
    for folder in map(paths.path, folders):
        other = given.setdefault(os.path.realpath(folder) if isinstance(folder, Path) else str(folder), folder)
        if other is not folder:
            result.problems.append(f"{folder}: the folder {other} again; expected each once")
        else:
            verifier.check_folder(folder)
    result.notes += verifier.leaks.notes()
    if verifier.images is not None:
        _add_duplicates(result, verifier.images, workers, all_pairs)
    return result


def _add_duplicates(result: Verification, images: StoredImages, workers: int, all_pairs: bool) -> None:
    for problem, apart, found in images.problems(workers, all_pairs):
        result.problems += [problem] if problem else []
        if apart:
            result.near_duplicates.append(found)
        if all_pairs and found.image_name_1 != found.image_name_2:
            names = found.image_name_1, found.image_name_2
            result.pairs.append(pairs.Pair(*names, found.similarity, found.symmetry))
    number = sum(found.image_name_1 != found.image_name_2 for found in result.near_duplicates)
    if number:
        before = "" if all_pairs else "list them with --pairs FILE, then "
        result.notes.append(
            f"{counted(number, 'pair')} of nearly identical images {verb(number, 'lies', 'lie')} in two folds or "
            f"folders: {before}build again with --duplicates FILE --overwrite"
        )


# ------------------------------------------------------------------------------------------ folders and shards


class _Shard(NamedTuple):
    """A shard of a manifest.

    Attributes:
      size: pixels of its images' sides, as in the manifest.
      home: name of the place of its records, see `Place`.
      inputs: equal for builds of the same input files.
    """

    folder: AnyPath
    entry: shards.ShardResult
    size: object
    home: str
    inputs: str

    @property
    def path(self) -> AnyPath:
        return self.folder / self.entry.name


@dataclasses.dataclass
class _Counts:
    """Counts of the records of a shard."""

    records: int = 0
    positives: int = 0
    patients: set[str] = dataclasses.field(default_factory=set)


class _Verifier:
    """Checks folders one after the other, each also against those before."""

    def __init__(self, near_duplicates: bool) -> None:
        self.result, self.leaks = Verification(), Leaks()
        self.images = StoredImages() if near_duplicates else None
        self._homes: dict[str, dict[object, str]] = {}
        self._placeholders: collections.Counter[tuple[str, str]] = collections.Counter()

    def check_folder(self, folder: AnyPath) -> None:
        try:
            manifest = Manifest.read(folder)
        except shards.ShardError as error:
            self.result.problems.append(str(error))
            return
        self.result.problems += _check_manifest(folder, manifest)
        self.result.notes += _empty_folds(folder, manifest)
        self.result.notes += _warnings(folder, manifest)
        size = manifest.settings.get("size")
        home = {}
        for kind in {entry.split for entry in manifest.shards}:
            sizes = self._homes.setdefault(_origin(folder, manifest, kind), {})
            # Another size is the same build again; the same size is another build, or a copy.
            home[kind] = str(folder) if size in sizes else next(iter(sizes.values()), str(folder))
            sizes.setdefault(size, home[kind])
        for entry in manifest.shards:
            self.result.shards += 1
            inputs = manifest.inputs.get(entry.split, {}).get("sha256", str(folder))
            shard = _Shard(folder, entry, size, f"{home[entry.split]} {entry.split}", inputs)
            self.result.problems += self._check_shard(shard)
        for (key, word), number in self._placeholders.items():
            found = f"{counted(number, 'record')} of the {key} {word!r}, which stands for a missing one"
            self.result.problems.append(f"{folder}: {found}; build again, so that they are not folded together")
        self._placeholders.clear()

    def _check_shard(self, shard: _Shard) -> Iterator[str]:
        path, entry = shard.path, shard.entry
        if not path.is_file():
            yield f"{path}: missing; {MANIFEST} lists it with {counted(entry.records, 'record')}"
            return
        try:
            if shards.file_sha256(path) != entry.sha256:
                yield f"{path}: sha256 differs from {MANIFEST}"
        except OSError as error:
            yield f"{path}: cannot be read: {error.strerror or error}"
            return
        counts = _Counts()
        for index, scanned in enumerate(tfrecord.scan_records(path)):
            if scanned.damage is not None:
                yield str(scanned.damage)
                return  # the rest may be unreadable too, so the counts mean nothing
            counts.records += 1
            self.result.records += 1
            location = Location(path, index, scanned.at, len(scanned.data))
            yield from self._check_data(shard, scanned.data, location, counts)
        yield from _check_counts(path, entry, counts)

    def _check_data(self, shard: _Shard, data: bytes, location: Location, counts: _Counts) -> Iterator[str]:
        where = str(location)
        try:
            record = schema.decode(data)
        except schema.SchemaError as error:
            yield f"{where}: {error}"
            return
        counts.positives += record.target == 1
        counts.patients.add(record.patient)
        place = Place(shard.home, record.fold)
        yield from (f"{where}: {problem}" for problem in _check_record(record, shard.entry))
        yield from self.leaks.problems(str(shard.folder), self._named(record), place, where, shard.inputs)
        try:
            image = convert.decode(record.image)
        except convert.ImageRejectedError as error:
            yield f"{where}: image {record.image_name}: {error}"
            return
        if image.size != (shard.size, shard.size) or image.mode != "RGB":
            found = f"{image.size[0]} x {image.size[1]} {image.mode}"
            yield f"{where}: image {record.image_name}: {found}; expected {shard.size} x {shard.size} RGB"
        if self.images is not None:
            self.images.add(image, record, place, location)

    def _named(self, record: schema.Record) -> schema.Record:
        """A record without placeholders for patient and lesion, which are counted, and without their group."""
        given = {"patient": record.patient, "lesion": record.lesion}
        named = {key: "" if vocabulary.is_missing(word) else word for key, word in given.items()}
        missing = {key: word for key, word in given.items() if word != named[key]}
        if not missing:
            return record
        self._placeholders.update(missing.items())
        return dataclasses.replace(record, patient=named["patient"], lesion=named["lesion"], group=schema.MISSING)


def _origin(folder: AnyPath, manifest: Manifest, kind: str) -> str:
    """Text that is equal for builds of the same table into the same folds, whatever their image size."""
    table = manifest.inputs.get(kind)
    if not table:
        return str(folder)
    table = {key: value for key, value in table.items() if key not in _SAID}
    settings = {key: manifest.settings.get(key) for key in _FOLD_SETTINGS}
    return json.dumps([kind, table, settings], sort_keys=True)


def _check_record(record: schema.Record, entry: shards.ShardResult) -> Iterator[str]:
    if record.fold != entry.fold:
        yield f"fold {record.fold}; expected {entry.fold}, as {MANIFEST} says of its shard"
    if (record.target == schema.MISSING) != (entry.split == "test"):
        yield f"target {record.target} in a {entry.split} shard"
    if record.patient and record.patient_id != schema.stable_id(record.patient):
        yield f"patient_id {record.patient_id} is not that of patient {record.patient}"


def _check_counts(path: AnyPath, entry: shards.ShardResult, counts: _Counts) -> Iterator[str]:
    promised, patients, size = tfrecord.shard_count(entry.name), len(counts.patients - {""}), path.stat().st_size
    if not counts.records == promised == entry.records:
        records = counted(counts.records, "record")
        yield f"{path}: {records}; its name says {promised}, {MANIFEST} {entry.records}"
    if entry.positives is not None and counts.positives != entry.positives:
        yield f"{path}: {counted(counts.positives, 'record')} of melanoma; {MANIFEST} says {entry.positives}"
    if patients != entry.patients:
        yield f"{path}: {counted(patients, 'patient')}; {MANIFEST} says {entry.patients}"
    if size != entry.bytes:
        yield f"{path}: {counted(size, 'byte')}; {MANIFEST} says {entry.bytes}"


def _check_manifest(folder: AnyPath, manifest: Manifest) -> Iterator[str]:
    if not manifest.complete:
        yield f"{folder}: the build is not complete; go on with its --resume"
    elif not (folder / QUARANTINE).is_file():
        yield (
            f"{folder / QUARANTINE}: missing; expected in every build, with a line for each image "
            f"that could not be used ({len(manifest.quarantined)} here)"
        )
    if manifest.complete and not any(entry.records for entry in manifest.shards):
        yield f"{folder}: no records; expected at least one, see {folder / QUARANTINE}"
    yield from _check_folds(folder, manifest)
    listed = {entry.name for entry in manifest.shards}
    for path in sorted((each for each in folder.iterdir() if each.name.endswith(".tfrec")), key=str):
        if path.name not in listed:
            yield f"{path}: not in {MANIFEST}; expected only the shards listed there"


def _check_folds(folder: AnyPath, manifest: Manifest) -> Iterator[str]:
    """Compares the totals of the folds, which `Manifest.read` ignores, with those of the shards."""
    path = folder / MANIFEST
    listed_folds = json_file.read(path).get("folds")
    if not isinstance(listed_folds, list) or len(listed_folds) != len(manifest.folds):
        found = counted(len(listed_folds), "fold") if isinstance(listed_folds, list) else "no list"
        yield f"{path}: folds: {found}; its shards have {len(manifest.folds)}"
        return
    for number, (each, totals) in enumerate(zip(listed_folds, map(dataclasses.asdict, manifest.folds), strict=True)):
        for key, value in totals.items():
            is_ = each.get(key) if isinstance(each, dict) else None
            if is_ != value:
                yield f"{path}: folds[{number}].{key}: {json.dumps(is_)}; its shards say {json.dumps(value)}"


def _empty_folds(folder: AnyPath, manifest: Manifest) -> Iterator[str]:
    """Yields a note for each fold without records; a build without any record is a problem instead."""
    filled = {entry.fold for entry in manifest.shards if entry.records}
    folds = manifest.settings.get("folds")
    if not filled or not manifest.complete or "train" not in manifest.inputs or not isinstance(folds, int):
        return
    for fold in range(folds):
        if fold not in filled:
            yield f"{folder}: fold {fold} has no record, so no model can be judged on it; see {folder / QUARANTINE}"


def _warnings(folder: AnyPath, manifest: Manifest) -> Iterator[str]:
    """Yields the warnings of the build again, and those that its quarantine has caused."""
    yield from (f"{folder}: warning of its build: {text}" for text in manifest.warnings)
    totals = [(each.fold, each.records, each.positives or 0) for each in manifest.folds if each.split == "train"]
    for text in split.one_class(totals) if manifest.complete else ():
        if not any(text in each for each in manifest.warnings):
            yield f"{folder}: {text}"


def _shown(problems: Sequence[str]) -> Iterator[str]:
    """Yields the first problems of each kind, and how many more there are."""
    kinds: dict[str, list[str]] = {}
    for problem in problems:
        match = _KIND.match(problem)
        kinds.setdefault(match[1] if match else problem, []).append(problem)
    for kind, found in kinds.items():
        yield from found[:_SHOWN]
        if len(found) > _SHOWN:
            yield f"... and {len(found) - _SHOWN} more like the last ({kind}); --json lists all"


# ------------------------------------------------------------------------------------------------- command


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_bool(
        "json",
        False,
        "Print one JSON object: folders, shards, records, near_duplicates, notes, problems; with --pairs also pairs.",
    )
    flags.DEFINE_bool("duplicates", True, "Search for nearly identical images in two folds or folders.")
    flags.DEFINE_string("pairs", None, "CSV to write all pairs of nearly identical images to.")
    flags.DEFINE_integer("workers", os.cpu_count() or 1, "Threads that compare images.", 1)


def main(argv: Sequence[str]) -> None:
    """Runs the command; exits with 1 if there is any problem."""
    folders = argv[1:]
    if not folders:
        raise cli.UsageError("no folder given; usage: python -m tfrecord_tools.verify DIR [DIR...] (--help)")
    if flags.FLAGS.pairs and not flags.FLAGS.duplicates:
        raise cli.UsageError("--pairs and --noduplicates together; --pairs needs the search; see --help")
    try:
        if flags.FLAGS.pairs:
            pairs.check_output(paths.path(flags.FLAGS.pairs))
    except pairs.PairsError as error:
        raise pairs.PairsError(f"--pairs {error}") from error
    result = verify(folders, flags.FLAGS.duplicates, flags.FLAGS.workers, bool(flags.FLAGS.pairs))
    if flags.FLAGS.json:
        found = {"folders": list(folders), **dataclasses.asdict(result)}
        if not flags.FLAGS.pairs:
            del found["pairs"]  # an empty list would say that there are none
        print(json.dumps(found, indent=1))
    else:
        for problem in _shown(result.problems):
            print(problem)
        for note in result.notes:
            print(f"note: {note}")
        verdict = counted(len(result.problems), "problem") if result.problems else "all sound, no leak between folds"
        print(
            f"{', '.join(folders)}: {counted(result.shards, 'shard')}, {counted(result.records, 'record')}: {verdict}"
        )
    if flags.FLAGS.pairs:
        try:
            pairs.write(paths.path(flags.FLAGS.pairs), result.pairs)
        except pairs.PairsError as error:
            raise pairs.PairsError(f"--pairs {error}") from error
    if result.problems:
        sys.exit(1)


def run() -> None:
    """Console entry point."""
    cli.run(main, define_flags, __doc__, positional=True)


if __name__ == "__main__":
    run()

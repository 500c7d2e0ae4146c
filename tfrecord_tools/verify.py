"""Re-reads every record of finished builds and checks that nothing leaks from one fold or folder to another.

  python -m tfrecord_tools.verify tfrecords/384
  python -m tfrecord_tools.verify train_folder external_folder test_folder --json

A leak is a patient, lesion, group, source file or nearly identical image in two folds, or in two folders. Builds of
the same CSV with the same folds at different sizes count as one folder. --noduplicates leaves out the search for nearly
identical images; --pairs lists them, those within one fold too, as a CSV that `build --duplicates` takes.
Prints one line per problem, naming shard and record (counted from 0), and exits with 1 if there is any.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import flags
from PIL import Image

from tfrecord_tools import schema
from tfrecord_tools.builder.output_dir import QUARANTINE
from tfrecord_tools.core import cli, paths
from tfrecord_tools.core.paths import AnyPath
from tfrecord_tools.core.text import counted, verb
from tfrecord_tools.dedup import pairs, search
from tfrecord_tools.dedup.fingerprint import SYMMETRIES, Fingerprint, fingerprint_of
from tfrecord_tools.imaging import convert
from tfrecord_tools.records import shards, tfrecord
from tfrecord_tools.records.manifest import MANIFEST, Manifest

At = tuple[AnyPath, int, int, int]  # shard, number of the record in it, first byte of its data, length of its data
Place = tuple[str, int]  # (folder and split, fold): what must not share a patient; test records have fold -1


_FOLD_SETTINGS = (
    "folds",
    "shards",
    "seed",
    "on_duplicates",
    "duplicates",
    "against",
)  # with the input, make the folds


@dataclasses.dataclass(frozen=True)
class NearDuplicate:
    """One image in two places. where: "SHARD: record N". symmetry: a word of SYMMETRIES."""

    image_name_1: str
    where_1: str
    image_name_2: str
    where_2: str
    similarity: float
    symmetry: str


@dataclasses.dataclass
class Verification:
    """What was read, the problems found, one line each, and notes: what could not be checked, and remedies.

    near_duplicates: the pairs of images among them, those of identical files included, for programs. pairs: if they
    were asked for, all nearly identical images, those of one fold too.
    """

    shards: int = 0
    records: int = 0
    near_duplicates: list[NearDuplicate] = dataclasses.field(default_factory=list)
    pairs: list[pairs.Pair] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)


class _Seen:
    """Where patients, groups, sources and names were met first, over all folders.

    A patient who is a number of a writer's table is compared only with those of the same input files.
    """

    def __init__(self) -> None:
        self._first: dict[tuple[str, str, str], tuple[Place, str, str]] = {}
        self._inputs: set[str] = set()
        self._coded: dict[str, tuple[str, str]] = {}
        self._names: dict[tuple[str, str], str] = {}
        self._told: set[tuple[str, str, Place]] = set()

    def problems(self, folder: str, record: schema.Record, place: Place, where: str, made_of: str) -> Iterator[str]:
        """The leaks and repetitions that this record brings to light. made_of: equal for equal input files."""
        self._inputs.add(made_of)
        coded = record.patient.startswith(schema.CODE)
        if coded:
            self._coded.setdefault(made_of, (folder, record.patient))
        within = made_of if coded else ""
        twice = self._names.setdefault((folder, record.image_name), where)
        if twice != where:
            yield f"{where}: image_name {record.image_name} is also {twice}; expected once"
        leaks = self._leak("patient", record.patient, record, place, where, within) if record.patient else None
        # A group holds its patients and lesions, so it tells something new only where neither leaks.
        if not leaks and record.lesion:
            leaks = self._leak("lesion", record.lesion, record, place, where)
        leaks = leaks or self._leak("group", str(record.group), record, place, where, within)
        for leak in (leaks, self._leak("source sha256", record.sha256.hex(), record, place, where)):
            if leak and leak[0] not in self._told:  # a patient with a hundred images leaks once per fold
                self._told.add(leak[0])
                yield leak[1]

    def _leak(
        self, kind: str, value: str, record: schema.Record, place: Place, where: str, within: str = ""
    ) -> tuple[tuple[str, str, Place], str] | None:
        """(what to tell once, line) if the value was met in another place before. within: where it means the same."""
        name = record.image_name
        first_place, first_where, first = self._first.setdefault((kind, value, within), (place, where, name))
        if first_place == place:
            return None
        line = (
            f"{where}: leak: {kind} {value} of {_say(place)} is also in {_say(first_place)} ({first_where}): "
            f"images {name} and {first}"
        )
        return (kind, value, place), line

    def notes(self) -> Iterator[str]:
        """What could not be compared: codes, where there is more than the files that they are of."""
        for folder, patient in self._coded.values() if len(self._inputs) > 1 else ():
            yield (
                f"{folder}: its patients are numbers of its writer's table ({patient}), not compared with those of "
                "other input files, so a patient may be in both unseen; build it with --csv"
            )


class _Images:
    """Fingerprints of all records and where their JPEGs lie, to find near-duplicates in two places; 2 KB a record."""

    def __init__(self) -> None:
        self._prints: list[Fingerprint] = []
        self._records: list[tuple[At, str, Place]] = []
        self._hashes: list[bytes] = []
        self._places: dict[Place, int] = {}

    def add(self, image: Image.Image, sha256: bytes, name: str, place: Place, at: At) -> None:
        self._prints.append(fingerprint_of(image))
        self._records.append((at, name, place))
        self._hashes.append(sha256)
        self._places.setdefault(place, len(self._places))

    def problems(self, workers: int, everywhere: bool) -> Iterator[tuple[str, bool, NearDuplicate]]:
        """(line, whether in two places, pair) of each near-duplicate; line "" for the same source, told elsewhere.

        everywhere: those within one place too.
        """
        labels = [self._places[record[-1]] for record in self._records]
        for match in search.matches(self._prints, self._jpeg, None if everywhere else labels, workers):
            first, second = match.first, match.second
            ((path_1, number_1, *_), name_1, place_1) = self._records[first]
            ((path_2, number_2, *_), name_2, place_2) = self._records[second]
            where_1, where_2 = f"{path_1}: record {number_1}", f"{path_2}: record {number_2}"
            symmetry = SYMMETRIES[match.symmetry]
            line = (
                f"{where_2}: leak: image {name_2} of {_say(place_2)} is nearly {name_1} in {_say(place_1)} "
                f"({where_1}), {symmetry}, similarity {match.similarity:.2f}"
            )
            pair = NearDuplicate(name_1, where_1, name_2, where_2, round(match.similarity, 4), symmetry)
            apart = labels[first] != labels[second]
            yield line if apart and self._hashes[first] != self._hashes[second] else "", apart, pair

    def _jpeg(self, index: int) -> bytes:
        path, _, at, size = self._records[index][0]
        with path.open("rb") as file:
            file.seek(at)
            return schema.decode(file.read(size)).image


def verify(
    folders: Sequence[str | os.PathLike[str]], near_duplicates: bool = True, workers: int = 1, all_pairs: bool = False
) -> Verification:
    """Checks each folder, and that no two folds or folders share a patient, lesion, group, source file or image.

    near_duplicates: whether to look for nearly identical images under two names too. workers: threads for that.
    all_pairs: list them all, not only those in two places.
    Builds of one CSV at several sizes may hold the same in the same fold, and only there; two at one size may not.
    Raises nothing on bad data: every finding is a line in the result's `problems`.
    """
    result, seen = Verification(), _Seen()
    images = _Images() if near_duplicates else None
    homes: dict[str, dict[object, str]] = {}
    given: dict[str, AnyPath] = {}
    for folder in map(paths.path, folders):
        other = given.setdefault(os.path.realpath(folder) if isinstance(folder, Path) else str(folder), folder)
        if other is not folder:
            result.problems.append(f"{folder}: the folder {other} again; expected each once")
            continue
        try:
            manifest = Manifest.read(folder)
        except shards.ShardError as error:
            result.problems.append(str(error))
            continue
        result.problems += _check_manifest(folder, manifest)
        result.notes += _empty_folds(folder, manifest)
        size = manifest.settings.get("size")
        home = {}
        for split in {entry.split for entry in manifest.shards}:
            sizes = homes.setdefault(_origin(folder, manifest, split), {})
            # At another size it is the same build again; at the same it is another, or a copy.
            home[split] = str(folder) if size in sizes else next(iter(sizes.values()), str(folder))
            sizes.setdefault(size, home[split])
        for entry in manifest.shards:
            result.shards += 1
            place = (f"{home[entry.split]} {entry.split}", entry.fold)
            made_of = manifest.inputs.get(entry.split, {}).get("sha256", str(folder))
            result.problems += _check_shard(folder, entry, size, seen, result, place, made_of, images)
    result.notes += seen.notes()
    if images is not None:
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
    return result


def _origin(folder: AnyPath, manifest: Manifest, split: str) -> str:
    """What is equal for builds of the same table into the same folds, whatever the size of their images."""
    table = manifest.inputs.get(split)
    if not table:
        return str(folder)
    settings = {key: manifest.settings.get(key) for key in _FOLD_SETTINGS}
    return json.dumps([split, table, settings], sort_keys=True)


def _check_shard(
    folder: AnyPath,
    entry: shards.ShardResult,
    size: object,
    seen: _Seen,
    result: Verification,
    home: Place,
    made_of: str,
    images: _Images | None,
) -> Iterator[str]:
    path = folder / entry.name
    if not path.is_file():
        yield f"{path}: missing; {MANIFEST} lists it with {counted(entry.records, 'record')}"
        return
    try:
        if shards.file_sha256(path) != entry.sha256:
            yield f"{path}: sha256 differs from {MANIFEST}"
    except OSError as error:
        yield f"{path}: cannot be read: {error.strerror or error}"
        return
    found, positives, at = 0, 0, 0
    patients: set[str] = set()
    try:
        for index, data in enumerate(tfrecord.read_records(path)):
            found += 1
            where = f"{path}: record {index}"
            begin, at = at + 12, at + len(data) + 16  # 12 bytes of framing before the data, 4 behind
            try:
                record = schema.decode(data)
            except schema.SchemaError as error:
                yield f"{where}: {error}"
                continue
            positives += record.target == 1
            patients.add(record.patient)
            place = (home[0], record.fold)
            yield from (f"{where}: {problem}" for problem in _check_record(record, entry))
            yield from seen.problems(str(folder), record, place, where, made_of)
            try:
                image = convert.decode(record.image)
            except convert.ImageRejectedError as error:
                yield f"{where}: image {record.image_name}: {error}"
                continue
            if image.size != (size, size) or image.mode != "RGB":
                is_ = f"{image.size[0]} x {image.size[1]} {image.mode}"
                yield f"{where}: image {record.image_name}: {is_}; expected {size} x {size} RGB"
            if images is not None:
                images.add(image, record.sha256, record.image_name, place, (path, index, begin, len(data)))
    except tfrecord.CorruptRecordError as error:
        yield str(error)
        return  # what follows cannot be read, so the counts say nothing
    finally:
        result.records += found
    promised = tfrecord.shard_count(entry.name)
    if not found == promised == entry.records:
        yield f"{path}: {counted(found, 'record')}; its name says {promised}, {MANIFEST} {entry.records}"
    if entry.positives is not None and positives != entry.positives:
        yield f"{path}: {counted(positives, 'record')} of melanoma; {MANIFEST} says {entry.positives}"
    if len(patients - {""}) != entry.patients:
        yield f"{path}: {counted(len(patients - {''}), 'patient')}; {MANIFEST} says {entry.patients}"
    if path.stat().st_size != entry.bytes:
        yield f"{path}: {counted(path.stat().st_size, 'byte')}; {MANIFEST} says {entry.bytes}"


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
    """The totals of the folds, which `Manifest.read` passes over, for they follow from the shards."""
    path = folder / MANIFEST
    told = json.loads(path.read_text(encoding="utf-8")).get("folds")
    if not isinstance(told, list) or len(told) != len(manifest.folds):
        found = counted(len(told), "fold") if isinstance(told, list) else "no list"
        yield f"{path}: folds: {found}; its shards have {len(manifest.folds)}"
        return
    for number, (each, totals) in enumerate(zip(told, map(dataclasses.asdict, manifest.folds), strict=True)):
        for key, value in totals.items():
            is_ = each.get(key) if isinstance(each, dict) else None
            if is_ != value:
                yield f"{path}: folds[{number}].{key}: {json.dumps(is_)}; its shards say {json.dumps(value)}"


def _empty_folds(folder: AnyPath, manifest: Manifest) -> Iterator[str]:
    """Folds of which no image could be used, unless there is none at all, which is a problem."""
    filled = {entry.fold for entry in manifest.shards if entry.records}
    folds = manifest.settings.get("folds")
    if not filled or not manifest.complete or "train" not in manifest.inputs or not isinstance(folds, int):
        return
    for fold in range(folds):
        if fold not in filled:
            yield f"{folder}: fold {fold} has no record, so no model can be judged on it; see {folder / QUARANTINE}"


def _check_record(record: schema.Record, entry: shards.ShardResult) -> Iterator[str]:
    if record.fold != entry.fold:
        yield f"fold {record.fold}; expected {entry.fold}, as {MANIFEST} says of its shard"
    if (record.target == schema.MISSING) != (entry.split == "test"):
        yield f"target {record.target} in a {entry.split} shard"
    if record.patient and record.patient_id != schema.stable_id(record.patient):
        yield f"patient_id {record.patient_id} is not that of patient {record.patient}"


def _say(place: Place) -> str:
    name, fold = place
    return name if fold < 0 else f"{name} fold {fold}"


def define_flags() -> None:
    """Defines the flags."""
    flags.DEFINE_bool(
        "json",
        False,
        "Print one JSON object: folders, shards, records, near_duplicates, notes, problems; with --pairs also pairs.",
    )
    flags.DEFINE_bool("duplicates", True, "Look for nearly identical images in two folds or folders.")
    flags.DEFINE_string("pairs", None, "CSV to write the pairs of nearly identical images to, wherever they lie.")
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
            del found["pairs"]  # not looked for, which an empty list would not say
        print(json.dumps(found, indent=1))
    else:
        for problem in result.problems:
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

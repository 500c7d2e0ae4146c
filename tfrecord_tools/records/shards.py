"""Write a shard, commit it, read it back; the manifest of a build.

A shard gets its final name only when it is whole: temp file in the same folder -> write -> fsync -> read back and
check -> os.replace -> fsync of the folder. Then the parent process adds it to manifest.json, itself replaced whole.
So whatever kills a build, a file under a final name is complete, and what the manifest lists is checked.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tfrecord_tools import schema
from tfrecord_tools.core import paths
from tfrecord_tools.core.paths import AnyPath

MANIFEST = "manifest.json"
SHARD_NAME = re.compile(r"((?:train|test)[0-9]{2,})-[0-9]+\.tfrec")


class ShardError(RuntimeError):
    """A shard could not be written or does not read back; the message names it."""


@dataclasses.dataclass(frozen=True)
class Source:
    """One image to put into a shard. path: None if no file was found; file: its name, for quarantine.csv.

    group: images with the same name here never cross folds. source: the data set, for the record. part: None if the
    file is the image and nothing else. origin: the file that the image first came from, None if it is this one.
    copies: names of its duplicates, which were dropped. The other fields are those of `schema.Record`.
    """

    image_name: str
    file: str
    path: str | None
    patient: str
    lesion: str
    group: str
    sex: int
    age_approx: int
    anatom_site_general_challenge: int
    diagnosis: int
    target: int
    source: str
    part: schema.Part | None = None
    origin: schema.Origin | None = None
    copies: tuple[str, ...] = ()

    def read(self) -> bytes:
        """The image's bytes; OSError if they cannot be read, ShardError if they are no longer what they were."""
        assert self.path is not None
        path = paths.path(self.path)
        if self.part is None:
            return path.read_bytes()
        with path.open("rb") as file:
            file.seek(self.part.offset)
            data = file.read(self.part.length)
        if hashlib.sha256(data).digest() != self.part.sha256:
            raise ShardError(f"{path}: changed while it was read: the image at byte {self.part.offset} is another")
        return data


@dataclasses.dataclass(frozen=True)
class ShardTask:
    """All that `write_shard` needs, so that any worker anywhere makes the same bytes of it.

    folders: one for each size of image. convert: JPEG file -> (a JPEG for the record in each folder, source width,
    source height); raises ValueError with the reason if the image cannot be used. Picklable. fold: -1 for test.
    sources: in the order of the records.
    """

    prefix: str
    split: str
    fold: int
    folders: tuple[str, ...]
    convert: Callable[[bytes], tuple[Sequence[bytes], int, int]]
    sources: tuple[Source, ...]


@dataclasses.dataclass(frozen=True)
class Quarantined:
    """An image that did not get into its shard, or a part of foreign shards that did into none, and why.

    image_name: "" if it is not known.
    """

    image_name: str
    file: str
    reason: str


@dataclasses.dataclass(frozen=True)
class ShardResult:
    """A committed shard, field for field its entry in the manifest. positives: None for test. sha256: hex."""

    name: str
    split: str
    fold: int
    records: int
    positives: int | None
    patients: int
    bytes: int
    sha256: str
    quarantined: tuple[Quarantined, ...]

    @property
    def prefix(self) -> str:
        """The name without the count: train00-2071.tfrec -> train00."""
        return self.name.rsplit("-", 1)[0]

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> ShardResult:
        """Raises TypeError or KeyError if the entry is not one."""
        return cls(**{**entry, "quarantined": tuple(Quarantined(**image) for image in entry["quarantined"])})


@dataclasses.dataclass(frozen=True)
class WrittenShard:
    """The committed shard in each of its task's folders, in their order: the same records at different sizes."""

    results: tuple[ShardResult, ...]

    @property
    def prefix(self) -> str:
        """The name that they share, without the count."""
        return self.results[0].prefix

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> WrittenShard:
        """Raises TypeError or KeyError if the content is not one."""
        return cls(tuple(ShardResult.from_json(entry) for entry in content["results"]))


def write_shard(task: ShardTask, progress: Callable[[int], None] = lambda images: None) -> WrittenShard:
    """Writes, checks and commits one shard, in each of its folders; memory does not grow with the number of images.

    progress: called after each image with 1; may raise to stop, which leaves nothing behind.
    An image that is missing or cannot be used goes to the results' `quarantined`.
    Raises ShardError naming the shard if it cannot be written (disk full; in which folder) or does not read back.
    """
    tally = _Tally()
    folders = [paths.path(folder) for folder in task.folders]
    try:
        with contextlib.ExitStack() as stack:
            opened = []
            for folder in folders:
                stack.enter_context(_writing(task, folder))
                # The final name holds the count, which is known only at the end.
                opened.append(stack.enter_context(paths.replacing(folder / f"{task.prefix}.tfrec")))
            for source in task.sources:
                with _writing(task, folders[0]):  # storage that does not answer, of which nothing else is known
                    records = _convert(source, task)
                tally.add(source, records)
                if not isinstance(records, Quarantined):
                    for folder, (file, _), record in zip(folders, opened, records, strict=True):
                        with _writing(task, folder):
                            schema.write_record(file, schema.encode(record))
                progress(1)
            name = f"{task.prefix}-{tally.records}.tfrec"
            for folder, (_, rename) in zip(folders, opened, strict=True):
                rename(folder / name, functools.partial(_read_back, records=tally.records))
        results = []
        for folder in folders:
            with _writing(task, folder):
                results.append(tally.result(task, folder / name))
        return WrittenShard(tuple(results))
    except schema.CorruptRecordError as error:
        where = paths.path(error.path).parent
        raise ShardError(f"{where}: shard {task.prefix} does not read back as written: {error.reason}") from error


@contextlib.contextmanager
def _writing(task: ShardTask, folder: AnyPath) -> Iterator[None]:
    """An OSError of the block becomes a ShardError that names the folder; of several only one may be full."""
    try:
        yield
    except OSError as error:
        free = paths.free_bytes(folder)
        reason = f"{error.strerror or error}" + ("" if free is None else f" ({free / 1e6:.0f} MB free)")
        kept = "the finished shards are kept, go on with --resume"
        raise ShardError(f"{folder}: cannot write shard {task.prefix}: {reason}; {kept}") from error


def prefix(split: str, number: int) -> str:
    """What the names of a shard begin with, whatever it holds; `SHARD_NAME` finds it again."""
    return f"{split}{number:02d}"


class _Tally:
    """Counts what goes into a shard."""

    def __init__(self) -> None:
        self.records, self._positives = 0, 0
        self._patients: set[str] = set()
        self._quarantined: list[Quarantined] = []

    def add(self, source: Source, outcome: list[schema.Record] | Quarantined) -> None:
        if isinstance(outcome, Quarantined):
            self._quarantined.append(outcome)
            return
        self.records += 1
        self._positives += source.target == 1
        self._patients |= {source.patient} - {""}

    def result(self, task: ShardTask, path: AnyPath) -> ShardResult:
        return ShardResult(
            name=path.name,
            split=task.split,
            fold=task.fold,
            records=self.records,
            positives=self._positives if task.split == "train" else None,
            patients=len(self._patients),
            bytes=path.stat().st_size,
            sha256=file_sha256(path),
            quarantined=tuple(self._quarantined),
        )


def _convert(source: Source, task: ShardTask) -> list[schema.Record] | Quarantined:
    def reject(reason: str) -> Quarantined:
        if source.copies:
            again = "--resume" if source.part is None else "build again with --overwrite"
            were = "duplicate {} was" if len(source.copies) == 1 else "duplicates {} were"
            reason += f"; its {were.format(', '.join(source.copies))} dropped for it: mend it and {again}"
        return Quarantined(source.image_name, source.file, reason)

    if source.path is None:
        return reject("file is missing")
    try:
        data = source.read()
    except paths.StorageUnavailableError:
        raise  # nothing is known about the image: fail, so that a runner tries the shard again
    except OSError as error:
        return reject(f"cannot be read: {error.strerror}")
    try:
        jpegs, width, height = task.convert(data)
    except ValueError as error:
        return reject(str(error))
    origin = source.origin or schema.Origin(width, height, hashlib.sha256(data).digest())
    record = schema.Record(
        image=jpegs[0],
        image_name=source.image_name,
        patient_id=schema.stable_id(source.patient) if source.patient else schema.MISSING,
        sex=source.sex,
        age_approx=source.age_approx,
        anatom_site_general_challenge=source.anatom_site_general_challenge,
        patient=source.patient,
        lesion=source.lesion,
        width=origin.width,
        height=origin.height,
        fold=task.fold,
        group=schema.stable_id(source.group),
        source=source.source,
        sha256=origin.sha256,
        diagnosis=source.diagnosis,
        target=source.target,
    )
    return [dataclasses.replace(record, image=jpeg) for jpeg in jpegs]


def _read_back(path: AnyPath, records: int) -> None:
    found = 0
    for data in schema.read_records(path):
        try:
            schema.decode(data)
        except schema.SchemaError as error:
            raise schema.CorruptRecordError(path, found, str(error)) from error
        found += 1
    if found != records:
        raise schema.CorruptRecordError(path, found, f"{found} records were read back of {records} written")


# ---------------------------------------------------------------------------------------------------- files


def file_sha256(path: str | os.PathLike[str] | AnyPath) -> str:
    """Hex SHA-256 of a file."""
    with paths.path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ------------------------------------------------------------------------------------------------- manifest


@dataclasses.dataclass(frozen=True)
class FoldTotals:
    """What the shards of a fold hold together. fold: -1 for test. positives: None for test. shards: how many."""

    split: str
    fold: int
    records: int
    positives: int | None
    patients: int
    shards: int

    @classmethod
    def of(cls, results: Sequence[ShardResult]) -> FoldTotals:
        """The totals of these shards, all of one fold; a patient is in one of them only."""
        first = results[0]
        records, patients = (sum(getattr(each, field) for each in results) for field in ("records", "patients"))
        positives = None if first.positives is None else sum(each.positives or 0 for each in results)
        return cls(first.split, first.fold, records, positives, patients, len(results))


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a build is and holds: nothing in it depends on where, when or with how many workers it was made.

    settings: everything that determines the bytes. versions: of what may change them. inputs: by split, what the
    records are made of: name, sha256, rows and form of the CSV, data sets, where each image goes. complete: False until
    the last shard is there.
    """

    settings: dict[str, Any]
    versions: dict[str, str]
    inputs: dict[str, dict[str, Any]]
    shards: tuple[ShardResult, ...] = ()
    complete: bool = False

    @property
    def quarantined(self) -> list[Quarantined]:
        """What could not be used: of foreign shards, and the images of each shard."""
        unread = [Quarantined(**entry) for each in self.inputs.values() for entry in each.get("quarantined", ())]
        return unread + [image for result in self.shards for image in result.quarantined]

    @property
    def lost(self) -> int:
        """Records of foreign shards that are known to be lost with the rest of their file."""
        return sum(int(each.get("lost_records", 0)) for each in self.inputs.values())

    @property
    def folds(self) -> list[FoldTotals]:
        """The totals of each fold, then of test."""
        by_place: dict[tuple[str, int], list[ShardResult]] = {}
        for result in self.shards:
            by_place.setdefault((result.split, result.fold), []).append(result)
        ordered = sorted(by_place.items(), key=lambda item: (item[0][0] != "train", item[0]))
        return [FoldTotals.of(results) for _, results in ordered]

    def write(self, folder: AnyPath) -> None:
        """Replaces the folder's manifest whole."""
        fields = dataclasses.asdict(self)
        listed, complete = fields.pop("shards"), fields.pop("complete")
        content = {"schema_version": schema.SCHEMA_VERSION, **fields}
        content |= {"folds": [dataclasses.asdict(fold) for fold in self.folds], "shards": listed, "complete": complete}
        paths.write_whole(folder / MANIFEST, json.dumps(content, indent=1) + "\n")

    @classmethod
    def read(cls, folder: AnyPath) -> Manifest:
        """Raises ShardError if the folder has no manifest that can be read."""
        path = folder / MANIFEST
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            version = content.pop("schema_version")
            if version != schema.SCHEMA_VERSION:
                raise ShardError(f"{path}: schema_version {version!r}; this version reads {schema.SCHEMA_VERSION}")
            content.pop("folds", None)  # they follow from the shards
            read = cls(**{**content, "shards": tuple(ShardResult.from_json(entry) for entry in content["shards"])})
            read.quarantined, read.lost  # noqa: B018 -- raise if they are in no such form
            return read
        except OSError as error:
            expected = f"expected the folder of a finished build{_builds_in(folder)}"
            raise ShardError(f"{path}: {error.strerror}; {expected}") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ShardError(f"{path}: not a manifest: {error}") from error


def _builds_in(folder: AnyPath) -> str:
    """A hint if it is the parent of builds, as --size 256,384 makes them; else ""."""
    try:
        found = sorted(str(each) for each in folder.iterdir() if (each / MANIFEST).is_file())
    except OSError:
        return ""
    return f"; {folder} holds builds, so name one of them: {' '.join(found)}" if found else ""

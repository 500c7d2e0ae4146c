"""Writing shards: each image once, at several sizes; checked by reading back before it gets its final name.

Temporary file in the same folder -> write -> fsync -> read back and check -> os.replace -> fsync of the folder. So a
file under a final name is complete, whatever kills a build.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from tfrecord_tools import schema
from tfrecord_tools.core import paths
from tfrecord_tools.core.paths import AnyPath
from tfrecord_tools.records import tfrecord

SHARD_NAME = re.compile(r"((?:train|test)[0-9]{2,})-[0-9]+\.tfrec")
_SHA256 = re.compile("[0-9a-f]{64}")


class ShardError(RuntimeError):
    """A shard or manifest that cannot be written, or does not read back; the message names it."""


class Part(NamedTuple):
    """Bytes of a file that are an image.

    Attributes:
      offset: first byte.
      length: number of bytes.
      sha256: 32 raw bytes.
    """

    offset: int
    length: int
    sha256: bytes


class Origin(NamedTuple):
    """File that an image first came from.

    Attributes:
      width: pixels as displayed.
      height: pixels as displayed.
      sha256: 32 raw bytes.
    """

    width: int
    height: int
    sha256: bytes


@dataclasses.dataclass(frozen=True)
class Source:
    """One image to put into a shard; fields that are not listed are those of `schema.Record`.

    Attributes:
      file: name of the file, for quarantine.csv.
      path: None if no file was found.
      group: images of one group are never in two folds.
      source: data set.
      part: None if the file is the image and nothing else.
      origin: file that the image first came from; None if it is this one.
      copies: names of its duplicates, which were dropped.
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
    part: Part | None = None
    origin: Origin | None = None
    copies: tuple[str, ...] = ()

    def read(self) -> bytes:
        """Reads the image.

        Raises:
          OSError: the file cannot be read.
          ShardError: the file has changed since the images in it were listed.
        """
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
    """Input of `write_shard`, picklable; every worker on every machine writes the same bytes for it.

    Attributes:
      prefix: name of the shard without its count.
      fold: -1 for test.
      folders: one for each size of image.
      convert: JPEG file -> (a JPEG for the record in each folder, source width, source height). Raises ValueError with
        the reason if the image cannot be used.
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
    """An image that could not be used, or an unreadable part of a foreign shard.

    Attributes:
      image_name: "" if unknown.
    """

    image_name: str
    file: str
    reason: str


@dataclasses.dataclass(frozen=True)
class ShardResult:
    """A committed shard; its entry in the manifest has the same fields.

    Attributes:
      positives: None for test.
      bytes: size of the file.
      sha256: hex digest of the file.
    """

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
        """Name without the count: train00-2071.tfrec -> train00."""
        return self.name.rsplit("-", 1)[0]

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> ShardResult:
        """Reads an entry of the manifest.

        Raises:
          TypeError, KeyError, ValueError: it is none.
        """
        read = cls(**{**entry, "quarantined": tuple(Quarantined(**image) for image in entry["quarantined"])})
        counts = {"records": read.records, "positives": read.positives, "patients": read.patients, "bytes": read.bytes}
        for key, value in {**counts, "fold": read.fold}.items():
            least = -1 if key == "fold" else 0
            if not (type(value) is int and value >= least) and not (key == "positives" and value is None):
                raise ValueError(f"{read.name}: {key}: {value!r}; expected a whole number from {least}")
        if read.split not in ("train", "test"):
            raise ValueError(f"{read.name}: split: {read.split!r}; expected train or test")
        if not (isinstance(read.sha256, str) and _SHA256.fullmatch(read.sha256)):
            raise ValueError(f"{read.name}: sha256: {read.sha256!r}; expected 64 hexadecimal digits")
        return read


@dataclasses.dataclass(frozen=True)
class WrittenShard:
    """A committed shard in each folder of its task, in their order: the same records at several sizes."""

    results: tuple[ShardResult, ...]

    @property
    def prefix(self) -> str:
        """Common name, without the count."""
        return self.results[0].prefix

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> WrittenShard:
        """Reads what `dataclasses.asdict` made of it.

        Raises:
          TypeError, KeyError, ValueError: the content is no written shard.
        """
        return cls(tuple(ShardResult.from_json(entry) for entry in content["results"]))


def write_shard(task: ShardTask, progress: Callable[[int], None] = lambda images: None) -> WrittenShard:
    """Writes, checks and commits a shard in each of its folders.

    Memory does not grow with the number of images. An image that cannot be used is listed in the result's
    `quarantined`.

    Args:
      task: images, metadata and folders of the shard.
      progress: called with 1 after each image; may raise to stop, which leaves no file.

    Raises:
      ShardError: the shard cannot be written (disk full; names the folder) or does not read back.
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
                with _writing(task, folders[0]):  # remote storage did not answer
                    records = _convert(source, task)
                tally.add(source, records)
                if not isinstance(records, Quarantined):
                    for folder, (file, _), record in zip(folders, opened, records, strict=True):
                        with _writing(task, folder):
                            tfrecord.write_record(file, schema.encode(record))
                progress(1)
            name = f"{task.prefix}-{tally.records}.tfrec"
            for folder, (_, rename) in zip(folders, opened, strict=True):
                rename(folder / name, functools.partial(_read_back, records=tally.records))
        results = []
        for folder in folders:
            with _writing(task, folder):
                results.append(tally.result(task, folder / name))
        return WrittenShard(tuple(results))
    except tfrecord.CorruptRecordError as error:
        where = paths.path(error.path).parent
        raise ShardError(f"{where}: shard {task.prefix} does not read back as written: {error.reason}") from error


@contextlib.contextmanager
def _writing(task: ShardTask, folder: AnyPath) -> Iterator[None]:
    """Turns an OSError into a ShardError that names the folder, because only one of several may be full."""
    try:
        yield
    except OSError as error:
        free = paths.free_bytes(folder)
        reason = f"{error.strerror or error}" + ("" if free is None else f" ({free / 1e6:.0f} MB free)")
        kept = "the finished shards are kept, go on with --resume"
        raise ShardError(f"{folder}: cannot write shard {task.prefix}: {reason}; {kept}") from error


def prefix(split: str, number: int) -> str:
    """Name of a shard without its count; `SHARD_NAME` parses it."""
    return f"{split}{number:02d}"


class _Tally:
    """Counts of a shard while it is written."""

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
            reason += f"; its {were.format(', '.join(source.copies))} dropped for it: fix it and {again}"
        return Quarantined(source.image_name, source.file, reason)

    if source.path is None:
        return reject("file is missing")
    try:
        data = source.read()
    except paths.StorageUnavailableError:
        raise  # the image may be sound: fail, so that a runner tries the shard again
    except OSError as error:
        return reject(f"cannot be read: {error.strerror}")
    try:
        jpegs, width, height = task.convert(data)
    except ValueError as error:
        return reject(str(error))
    origin = source.origin or Origin(width, height, hashlib.sha256(data).digest())
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
    for data in tfrecord.read_records(path):
        try:
            schema.decode(data)
        except schema.SchemaError as error:
            raise tfrecord.CorruptRecordError(path, found, str(error)) from error
        found += 1
    if found != records:
        raise tfrecord.CorruptRecordError(path, found, f"read back {found} of {records} records written")


def file_sha256(path: str | os.PathLike[str] | AnyPath) -> str:
    """Hex SHA-256 of a file."""
    with paths.path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

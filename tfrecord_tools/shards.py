"""Write a shard, commit it, read it back; the manifest of a build.

A shard gets its final name only when it is whole: temp file in the same folder -> write -> fsync -> read back and
check -> os.replace -> fsync of the folder. Then the parent process adds it to manifest.json, itself replaced whole.
So whatever kills a build, a file under a final name is complete, and what the manifest lists is checked.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from tfrecord_tools import schema

MANIFEST = "manifest.json"
SHARD_NAME = re.compile(r"((?:train|test)[0-9]{2,})-[0-9]+\.tfrec")
_TEMPORARY = re.compile(r"\..+\.[0-9]+\.tmp")  # what `replacing` makes: .NAME.PID.tmp


class ShardError(RuntimeError):
    """A shard could not be written or does not read back; the message names it."""


@dataclasses.dataclass(frozen=True)
class Source:
    """One image to put into a shard. path: None if no file was found; file: its name, for quarantine.csv.

    group: images with the same name here never cross folds. The other fields are those of `schema.Record`.
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


@dataclasses.dataclass(frozen=True)
class ShardTask:
    """All that `write_shard` needs, so that any worker anywhere makes the same bytes of it.

    convert: JPEG file -> (JPEG for the record, source width, source height); raises ValueError with the reason
    if the image cannot be used. Picklable. fold: -1 for test. sources: in the order of the records.
    """

    prefix: str
    split: str
    fold: int
    folder: str
    data_set: str
    convert: Callable[[bytes], tuple[bytes, int, int]]
    sources: tuple[Source, ...]


@dataclasses.dataclass(frozen=True)
class Quarantined:
    """An image that did not get into its shard, and why."""

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


def write_shard(task: ShardTask, progress: Callable[[int], None] = lambda images: None) -> ShardResult:
    """Writes, checks and commits one shard; memory does not grow with the number of images.

    progress: called after each image with 1; may raise to stop, which leaves nothing behind.
    An image that is missing or cannot be used goes to the result's `quarantined`.
    Raises ShardError naming the shard if it cannot be written (disk full) or does not read back.
    """
    folder = Path(task.folder)
    records, positives, patients, quarantined = 0, 0, set(), []
    try:
        # The final name holds the count, which is known only at the end.
        with replacing(folder / f"{task.prefix}.tfrec") as (file, rename):
            for source in task.sources:
                record = _convert(source, task)
                if isinstance(record, Quarantined):
                    quarantined.append(record)
                else:
                    schema.write_record(file, schema.encode(record))
                    records += 1
                    positives += source.target == 1
                    patients.add(source.patient or source.image_name)
                progress(1)
            name = f"{task.prefix}-{records}.tfrec"
            rename(folder / name, lambda temporary: _read_back(temporary, records))
        size, digest = os.path.getsize(folder / name), file_sha256(folder / name)
    except OSError as error:
        free = shutil.disk_usage(folder).free / 1e6 if folder.is_dir() else 0.0
        reason = f"{error.strerror or error} ({free:.0f} MB free)"
        raise ShardError(f"{folder}: cannot write shard {task.prefix}: {reason}") from error
    except schema.CorruptRecord as error:
        raise ShardError(f"{folder}: shard {task.prefix} does not read back as written: {error.reason}") from error
    labelled = positives if task.split == "train" else None
    return ShardResult(name, task.split, task.fold, records, labelled, len(patients), size, digest, tuple(quarantined))


def _convert(source: Source, task: ShardTask) -> schema.Record | Quarantined:
    def reject(reason: str) -> Quarantined:
        return Quarantined(source.image_name, source.file, reason)

    if source.path is None:
        return reject("file is missing")
    try:
        with open(source.path, "rb") as file:
            data = file.read()
    except OSError as error:
        return reject(f"cannot be read: {error.strerror}")
    try:
        jpeg, width, height = task.convert(data)
    except ValueError as error:
        return reject(str(error))
    return schema.Record(
        image=jpeg,
        image_name=source.image_name,
        patient_id=schema.stable_id(source.patient) if source.patient else schema.MISSING,
        sex=source.sex,
        age_approx=source.age_approx,
        anatom_site_general_challenge=source.anatom_site_general_challenge,
        patient=source.patient,
        lesion=source.lesion,
        width=width,
        height=height,
        fold=task.fold,
        group=schema.stable_id(source.group),
        source=task.data_set,
        sha256=hashlib.sha256(data).digest(),
        diagnosis=source.diagnosis,
        target=source.target,
    )


def _read_back(path: Path, records: int) -> None:
    found = 0
    for data in schema.read_records(path):
        try:
            schema.decode(data)
        except schema.SchemaError as error:
            raise schema.CorruptRecord(path, found, str(error)) from error
        found += 1
    if found != records:
        raise schema.CorruptRecord(path, found, f"{found} records were read back of {records} written")


# ---------------------------------------------------------------------------------------------------- files


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[tuple[BinaryIO, Callable[..., None]]]:
    """A temp file that becomes `path` whole, or vanishes if the block raises.

    Yields (file, rename): rename(other_path, check) chooses another final name in the same folder, and a check that
    is called with the temp file's path once it is safe on disk, and may raise.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    final, checks = path, []

    def rename(other: Path, check: Callable[[Path], None]) -> None:
        nonlocal final
        final = other
        checks.append(check)

    try:
        with temporary.open("wb") as file:
            yield file, rename
            file.flush()
            os.fsync(file.fileno())
        for check in checks:
            check(temporary)
        os.replace(temporary, final)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, text: str) -> None:
    """Replaces a text file whole, or leaves it as it was."""
    with replacing(path) as (file, _):
        file.write(text.encode())


def temporary_files(folder: Path) -> list[Path]:
    """What killed builds left half-written."""
    return [path for path in folder.iterdir() if _TEMPORARY.fullmatch(path.name)]


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Hex SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ------------------------------------------------------------------------------------------------- manifest


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a build is and holds: nothing in it depends on where, when or with how many workers it was made.

    settings: everything that determines the bytes. versions: of what may change them. inputs: by split, the CSV's
    name, sha256 and rows. complete: False until the last shard is there.
    """

    settings: dict[str, Any]
    versions: dict[str, str]
    inputs: dict[str, dict[str, Any]]
    shards: tuple[ShardResult, ...] = ()
    complete: bool = False

    def write(self, folder: Path) -> None:
        """Replaces the folder's manifest whole."""
        content = {"schema_version": schema.SCHEMA_VERSION, **dataclasses.asdict(self)}
        write_whole(folder / MANIFEST, json.dumps(content, indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Raises ShardError if the folder has no manifest that can be read."""
        path = folder / MANIFEST
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            version = content.pop("schema_version")
            if version != schema.SCHEMA_VERSION:
                raise ShardError(f"{path}: schema_version {version!r}; this version reads {schema.SCHEMA_VERSION}")
            return cls(**{**content, "shards": tuple(ShardResult.from_json(entry) for entry in content["shards"])})
        except OSError as error:
            raise ShardError(f"{path}: {error.strerror}; expected the folder of a finished build") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ShardError(f"{path}: not a manifest: {error}") from error

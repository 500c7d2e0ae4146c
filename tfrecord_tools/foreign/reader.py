"""TFRecords that others wrote -> rows and images for a build of ours.

Two things go wrong in them, and neither shows when they are merely parsed. Whole-number codes follow the order of
the table that the writer happened to have, so the same shard set may call women 0 in one place and 1 in another;
`doubts` finds what can be found, and a table of the images (`with_table`) settles it. And OpenCV's BGR may have been
written as RGB, which `channels` sees: skin is redder than blue.
"""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from tfrecord_tools import schema
from tfrecord_tools.core import paths
from tfrecord_tools.core.text import counted, verb
from tfrecord_tools.foreign.dialects import (
    CODED,
    Dialect,
    ForeignError,
    UnknownCodeError,
    content_of,
    dialect_of,
    name_of,
)
from tfrecord_tools.imaging.channel_order import Channels, channels_look_swapped
from tfrecord_tools.records import shards, tfrecord
from tfrecord_tools.schema import DIAGNOSIS, MISSING

_GZIP = b"\x1f\x8b"
_RARE = 0.01  # of the records; so many may have a code without a word before all of that key's codes are in doubt
_SAMPLE = 16  # images of each shard whose channels are looked at; a swapped shard shows in the first handful


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a record's image lies: which part of which file. record: its number there. origin: see `shards.Origin`."""

    path: str
    part: shards.Part
    record: int
    origin: shards.Origin | None


@dataclasses.dataclass(frozen=True)
class ForeignRecord:
    """image: the bytes as written. row: as `table.read_table` returns one. place: to read the image again.

    source, group: as `dialects.Content` has them.
    """

    image: bytes
    row: dict[str, str | int]
    place: Place
    source: str
    group: int | None
    dialect: str


class Unusable(NamedTuple):
    """A record, or what else of a file cannot be used, as quarantine.csv has it.

    image_name: "" if not known. code_of: the key of ours if the reason is a code that there is no word for. lost: how
    many records of the file are not there or lost with it, as far as its name tells; 0 for a record alone.
    """

    image_name: str
    file: str
    reason: str
    code_of: str = ""
    lost: int = 0


@dataclasses.dataclass(frozen=True)
class ForeignShards:
    """Some foreign shards, their images left where they are.

    frame: rows as `table.read_table` returns them. places, sources: of each row, where its image lies and its data set.
    same: pairs of image names that their records keep in one fold. doubts: why the codes in it may mean something
    else, in words for the user. channels: of the first images of each shard, by its path. unusable: in the order of
    shards and records.
    """

    dialect: str
    frame: pd.DataFrame
    places: tuple[Place, ...]
    sources: tuple[str, ...]
    same: tuple[tuple[str, str], ...]
    labelled: bool
    doubts: tuple[str, ...]
    channels: Mapping[str, Channels]
    unusable: tuple[Unusable, ...] = ()


# --------------------------------------------------------------------------------------------------- reading


def read(
    path: str | os.PathLike[str],
    dialect: str | None = None,
    columns: Mapping[str, str] | None = None,
    codes: Mapping[str, Sequence[str]] | None = None,
    images_only: bool = False,
) -> Iterator[ForeignRecord | Unusable]:
    """The records of one foreign shard, in order, one in memory at a time, and what of it cannot be used.

    dialect: a name of DIALECTS; None recognises it by the first record that has one. columns: {our key: its key} for
    any other. codes: {sex, anatom_site_general_challenge or diagnosis: the words in the order of the writer's codes},
    empty to read them as missing; default: the order of Kaggle's train.csv. images_only: a table tells all else.

    A damaged record, or one that is no Example or has a bad value, costs itself; a wrong length costs the rest of the
    file. Raises ForeignError if the file cannot be read, is compressed or has no record in such a dialect.
    """
    path = os.fspath(path)
    start, chosen = _start_of(path), _dialect_in(path, dialect, columns)
    if chosen is not None and images_only:
        chosen = chosen.images()
    promised, count, lost = _promised(path), 0, 0
    for count, scanned in enumerate(tfrecord.scan_records(path), start=1):
        where, lost = f"{os.path.basename(path)}: record {count - 1}", scanned.lost
        if scanned.damage is None:
            yield _record(path, count - 1, where, scanned, chosen, codes or {})
        elif lost and start == _GZIP and count == 1:
            raise ForeignError(f"{path}: compressed with gzip; expected plain TFRecords, so gunzip it first")
        else:
            missing = max(promised - count + 1, 0) if lost and promised is not None else 0
            told = _told_lost(lost, promised, missing) if lost else ""
            yield Unusable("", where, scanned.damage.reason + told, lost=missing)
    if promised is not None and promised != count and not lost:
        told = f"{counted(count, 'record')}; the file name says {promised}"
        yield Unusable("", os.path.basename(path), told, lost=max(promised - count, 0))


def _record(
    path: str,
    number: int,
    where: str,
    scanned: tfrecord.Scanned,
    dialect: Dialect | None,
    codes: Mapping[str, Sequence[str]],
) -> ForeignRecord | Unusable:
    try:
        features = tfrecord.decode_example(scanned.data)
    except tfrecord.ExampleError as error:
        return Unusable("", where, str(error))
    assert dialect is not None  # there is at least this Example, so one was found
    try:
        row, image, source, origin, group = content_of(features, dialect, codes)
    except ForeignError as error:
        code_of = error.ours if isinstance(error, UnknownCodeError) else ""
        return Unusable(name_of(features, dialect), where, str(error), code_of)
    part = shards.Part(scanned.at + scanned.data.index(image), len(image), hashlib.sha256(image).digest())
    return ForeignRecord(image, row, Place(path, part, number, origin), source, group, dialect.name)


def _dialect_in(path: str, name: str | None, columns: Mapping[str, str] | None) -> Dialect | None:
    """The dialect of the first record that has one, None if none can be read; ForeignError if none is in any."""
    refused = None
    for number, scanned in enumerate(tfrecord.scan_records(path)):
        try:
            features = tfrecord.decode_example(scanned.data) if scanned.damage is None else None
        except tfrecord.ExampleError:
            continue
        if features is None:
            continue
        try:
            return dialect_of(features, name, columns)
        except ForeignError as error:
            refused = refused or ForeignError(f"{path}: record {number}: {error}")
    if refused is not None:
        raise refused
    return None


def _told_lost(size: int, promised: int | None, missing: int) -> str:
    which = f", {missing} of the {promised} of its name" if missing else ""
    return f"; where the next record begins is not known, so the rest of the file is lost: {size} bytes{which}"


def read_shards(
    files: Iterable[str | os.PathLike[str]],
    dialect: str | None = None,
    columns: Mapping[str, str] | None = None,
    codes: Mapping[str, Sequence[str]] | None = None,
    images_only: bool = False,
) -> ForeignShards:
    """Everything about foreign shards but their images; arguments and errors as of `read`.

    Raises ForeignError too if no record can be used, an image name stands twice, or only some of the records have a
    target and no table tells it.
    """
    rows: list[dict[str, str | int]] = []
    places: list[Place] = []
    sources: list[str] = []
    same: list[tuple[str, str]] = []
    first_of: dict[int, str] = {}
    where: dict[str, str] = {}
    found: dict[str, Channels] = {}
    unusable: list[Unusable] = []
    dialects = set()
    for path in sorted(os.fspath(file) for file in files):
        sample: list[bytes] = []
        for record in read(path, dialect, columns, codes, images_only):
            if isinstance(record, Unusable):
                unusable.append(record)
                continue
            name = str(record.row["image_name"])
            if name in where:
                raise ForeignError(f"{path}: image_name {name!r} stands in {where[name]} too; expected once")
            where[name] = path
            rows.append(record.row)
            places.append(record.place)
            sources.append(record.source)
            if record.group is not None and (first := first_of.setdefault(record.group, name)) != name:
                same.append((first, name))
            dialects.add(record.dialect)
            if len(sample) < _SAMPLE:
                sample.append(record.image)
        found[path] = channels_look_swapped(sample)
    if not rows:
        first = f"; the first: {unusable[0].file}: {unusable[0].reason}" if unusable else ""
        raise ForeignError(f"no records that can be used in the foreign TFRecords; expected at least one{first}")
    frame = pd.DataFrame(rows)
    labelled = frame["target"] != MISSING
    if labelled.any() and not labelled.all() and not images_only:
        name = frame["image_name"][~labelled].iloc[0]
        some = f"{labelled.sum()} of {len(rows)} records {verb(labelled.sum(), 'has', 'have')} a target"
        raise ForeignError(f"{some}, {name!r} has none; build those with and those without one apart")
    names = "+".join(sorted(dialects))
    doubtful = [*doubts(frame), *_unknown_codes(unusable, len(rows) + len(unusable))]
    merged = ("sex", "anatom_site_general_challenge")
    unknown = [key for key in merged if key not in (codes or {})]
    if "deotte" in dialects and unknown:
        doubtful.append(
            f"the codes of {' and '.join(unknown)} follow the order of a merged table that is not known here"
        )
    return ForeignShards(
        dialect=names,
        frame=frame,
        places=tuple(places),
        sources=tuple(sources),
        same=tuple(same),
        labelled=bool(labelled.all()),
        doubts=tuple(doubtful),
        channels=found,
        unusable=tuple(unusable),
    )


def find(pattern: str) -> list[str]:
    """The files that a glob pattern names, sorted; ForeignError if there are none, or it cannot be known."""
    place = paths.path(pattern)
    try:
        if isinstance(place, paths.RemotePath):
            found = sorted(str(path) for path in place.parent.glob(place.name) if path.is_file())
        else:
            found = sorted(path for path in glob.glob(str(place)) if os.path.isfile(path))
        is_folder = not found and place.is_dir()
    except OSError as error:
        raise ForeignError(f"{pattern}: cannot be read: {error.strerror or error}") from error
    if is_folder:
        whole = f"{pattern.rstrip('/')}/*.tfrec"
        raise ForeignError(f"{pattern!r} is a folder; expected a file or a pattern in quotes, as {whole!r}")
    if not found:
        raise ForeignError(f"no file matches {pattern!r}")
    return found


def _start_of(path: str) -> bytes:
    try:
        with paths.path(path).open("rb") as file:
            return file.read(len(_GZIP))
    except OSError as error:
        raise ForeignError(f"{path}: cannot be read: {error.strerror}") from error


def _promised(path: str) -> int | None:
    """The number of records that the name says; None if it says none."""
    try:
        return tfrecord.shard_count(path)
    except ValueError:
        return None


# ----------------------------------------------------------------------------------------------------- trust


def doubts(frame: pd.DataFrame) -> list[str]:
    """What in the rows contradicts itself, so that the codes cannot mean what they were taken for; often nothing.

    A melanoma is what target 1 means, and a patient has one sex. That all is consistent proves nothing.
    """
    found = []
    known = frame[(frame["target"] != MISSING) & (frame["diagnosis"] != MISSING)]
    wrong = known[(known["diagnosis"] == DIAGNOSIS.index("melanoma")) != (known["target"] == 1)]
    if len(wrong):
        row = wrong.iloc[0]
        found.append(
            f"{len(wrong)} of {len(known)} records {verb(len(wrong), 'has', 'have')} a diagnosis that contradicts "
            f"{verb(len(wrong), 'its', 'their')} target: {row['image_name']} has target {row['target']} and diagnosis "
            f"{DIAGNOSIS[int(row['diagnosis'])]!r}"
        )
    sexes = frame[(frame["sex"] != MISSING) & (frame["patient"] != "")].groupby("patient")["sex"].nunique()
    if two := int((sexes > 1).sum()):
        who = str(sexes.idxmax())
        who = f"the one with code {who.removeprefix(schema.CODE)}" if who.startswith(schema.CODE) else repr(who)
        found.append(f"{two} of {len(sexes)} patients {verb(two, 'has', 'have')} two sexes, among them {who}")
    return found


def _unknown_codes(unusable: Sequence[Unusable], records: int) -> Iterator[str]:
    """A code without a word is a bad value where it is rare; where it is not, all codes have other words."""
    for ours in CODED:
        found = [each for each in unusable if each.code_of == ours]
        if len(found) > max(1, _RARE * records):
            yield f"{len(found)} of {records} records have a code of {ours} without a word, first {found[0].file}: " + (
                found[0].reason
            )


def with_table(frame: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The rows of `table` (of `table.read_table`) for the images of `frame`, in the order of `frame`.

    So names, patients, lesions and words come from the table, and only the images from the shards. Raises
    ForeignError if an image is not in the table, or both know its target and differ.
    """
    rows = table.set_index("image_name", drop=False)
    absent = [name for name in frame["image_name"] if name not in rows.index]
    if len(absent) == len(frame):
        raise ForeignError(
            f"the table names none of the {counted(len(frame), 'image')} of the TFRecords; they are called like "
            f"{absent[0]!r}, those of the table like {table['image_name'].iloc[0]!r}"
        )
    if absent:
        raise ForeignError(
            f"the table does not name {len(absent)} of the {len(frame)} images of the TFRecords, first {absent[0]!r}; "
            "give one that names all of them"
        )
    chosen = rows.loc[frame["image_name"].tolist()].reset_index(drop=True)
    both = (frame["target"] != MISSING).to_numpy() & (chosen["target"] != MISSING).to_numpy()
    differing = chosen[both & (frame["target"].to_numpy() != chosen["target"].to_numpy())]
    if len(differing):
        raise ForeignError(
            f"{len(differing)} of {int(both.sum())} records {verb(len(differing), 'has', 'have')} another target "
            f"than the table, first {differing['image_name'].iloc[0]!r}: {differing['target'].iloc[0]} in the table"
        )
    return chosen

"""Reader of foreign TFRecords: rows and images for a build.

Parsing alone hides two errors. Integer codes follow the order of the writer's table, so two sets of shards may use
different codes for one word: `doubts` lists contradictions, and a table of the images (`with_table`) replaces the
codes. And some writers stored OpenCV's BGR as RGB: `channels` compares red with blue, because skin is redder.
"""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
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
_RARE = 0.01  # share of records with an unknown code above which all codes of that key are in doubt
_SAMPLE = 16  # images of each shard to compare red and blue in; a few are enough


@dataclasses.dataclass(frozen=True)
class Place:
    """Position of a record's image in a file. record: its number there. origin: see `shards.Origin`."""

    path: str
    part: shards.Part
    record: int
    origin: shards.Origin | None


@dataclasses.dataclass(frozen=True)
class ForeignRecord:
    """A record of a foreign shard.

    image: the bytes as written. row: as `table.read_table` returns one. place: position of the image, for reading it
    again. source, group: see `dialects.Content`.
    """

    image: bytes
    row: dict[str, str | int]
    place: Place
    source: str
    group: int | None
    dialect: str


class Unusable(NamedTuple):
    """An unusable record or rest of a file, as a line of quarantine.csv.

    image_name: "" if unknown. code_of: our key, if the reason is a code without a word. lost: number of records that
    are absent or lost with it, according to the file name; 0 for a single record.
    """

    image_name: str
    file: str
    reason: str
    code_of: str = ""
    lost: int = 0


@dataclasses.dataclass(frozen=True)
class ForeignShards:
    """The content of some foreign shards, without their images.

    Attributes:
      dialect: Names of their dialects.
      frame: Rows as `table.read_table` returns them.
      places: Position of each row's image.
      sources: Data set of each row.
      same: Pairs of image names that their records keep in one fold.
      labelled: Whether all records have a target.
      doubts: Reasons to distrust the codes, for the user.
      channels: Red and blue of the first images of each shard, by its path.
      unusable: In the order of shards and records.
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
    """Yields the usable and unusable records of one foreign shard, in order, with one in memory at a time.

    A damaged record, one that is no Example and one with a bad value are lost alone; a wrong length loses the rest of
    the file.

    Args:
      path: File or URL.
      dialect: A name of DIALECTS; None recognises it by the first record that has one.
      columns: {our key: its key} for any other dialect.
      codes: {sex, anatom_site_general_challenge or diagnosis: words in the order of the writer's codes}. No words:
        read as missing. Default: the order of Kaggle's train.csv.
      images_only: Ignore the metadata, which a table gives.

    Raises:
      ForeignError: the file cannot be read, is compressed or has no record in such a dialect.
    """
    path = os.fspath(path)
    start, chosen = _start_of(path), _dialect_in(path, dialect, columns)
    if chosen is not None and images_only:
        chosen = chosen.images()
    declared, count, lost = _declared_count(path), 0, 0
    for count, scanned in enumerate(tfrecord.scan_records(path), start=1):
        where, lost = f"{os.path.basename(path)}: record {count - 1}", scanned.lost
        if scanned.damage is None:
            yield _record(path, count - 1, where, scanned, chosen, codes or {})
        elif lost and start == _GZIP and count == 1:
            raise ForeignError(f"{path}: compressed with gzip; expected plain TFRecords, run gunzip first")
        else:
            missing = max(declared - count + 1, 0) if lost and declared is not None else 0
            more = _lost_text(lost, declared, missing) if lost else ""
            yield Unusable("", where, scanned.damage.reason + more, lost=missing)
    if declared is not None and declared != count and not lost:
        reason = f"{counted(count, 'record')}; the file name says {declared}"
        yield Unusable("", os.path.basename(path), reason, lost=max(declared - count, 0))


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
    assert dialect is not None  # this Example exists, so a dialect was found
    try:
        row, image, source, origin, group = content_of(features, dialect, codes)
    except ForeignError as error:
        code_of = error.ours if isinstance(error, UnknownCodeError) else ""
        return Unusable(name_of(features, dialect), where, str(error), code_of)
    part = shards.Part(scanned.at + scanned.data.index(image), len(image), hashlib.sha256(image).digest())
    return ForeignRecord(image, row, Place(path, part, number, origin), source, group, dialect.name)


def _dialect_in(path: str, name: str | None, columns: Mapping[str, str] | None) -> Dialect | None:
    """The dialect of the first record that has one; None if no record is readable, ForeignError if none has one."""
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


def _lost_text(size: int, declared: int | None, missing: int) -> str:
    which = f", {missing} of the {declared} records in its name" if missing else ""
    return f"; the start of the next record is unknown, so the rest of the file is lost: {size} bytes{which}"


def read_shards(
    files: Iterable[str | os.PathLike[str]],
    dialect: str | None = None,
    columns: Mapping[str, str] | None = None,
    codes: Mapping[str, Sequence[str]] | None = None,
    images_only: bool = False,
) -> ForeignShards:
    """Reads everything except the images of foreign shards; arguments as of `read`.

    Raises:
      ForeignError: as `read`; no record is usable; an image name occurs twice; or only some of the records have a
        target and no table gives it.
    """
    collected = _Collected()
    for path in sorted(os.fspath(file) for file in files):
        sample: list[bytes] = []
        for record in read(path, dialect, columns, codes, images_only):
            if isinstance(record, Unusable):
                collected.unusable.append(record)
                continue
            collected.add(path, record)
            if len(sample) < _SAMPLE:
                sample.append(record.image)
        collected.channels[path] = channels_look_swapped(sample)
    return collected.shards(codes or {}, images_only)


@dataclasses.dataclass
class _Collected:
    """The records of some shards, without their images. path_of: by image name. first_of: image name by group."""

    rows: list[dict[str, str | int]] = dataclasses.field(default_factory=list)
    places: list[Place] = dataclasses.field(default_factory=list)
    sources: list[str] = dataclasses.field(default_factory=list)
    same: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    dialects: set[str] = dataclasses.field(default_factory=set)
    channels: dict[str, Channels] = dataclasses.field(default_factory=dict)
    unusable: list[Unusable] = dataclasses.field(default_factory=list)
    path_of: dict[str, str] = dataclasses.field(default_factory=dict)
    first_of: dict[int, str] = dataclasses.field(default_factory=dict)

    def add(self, path: str, record: ForeignRecord) -> None:
        name = str(record.row["image_name"])
        if name in self.path_of:
            raise ForeignError(f"{path}: image_name {name!r} is also in {self.path_of[name]}; expected once")
        self.path_of[name] = path
        self.rows.append(record.row)
        self.places.append(record.place)
        self.sources.append(record.source)
        self.dialects.add(record.dialect)
        if record.group is not None and (first := self.first_of.setdefault(record.group, name)) != name:
            self.same.append((first, name))

    def shards(self, codes: Mapping[str, Sequence[str]], images_only: bool) -> ForeignShards:
        if not self.rows:
            first = f"; the first: {self.unusable[0].file}: {self.unusable[0].reason}" if self.unusable else ""
            raise ForeignError(f"no usable record in the foreign TFRecords; expected at least one{first}")
        frame = pd.DataFrame(self.rows)
        labelled = frame["target"] != MISSING
        if labelled.any() and not labelled.all() and not images_only:
            name = frame["image_name"][~labelled].iloc[0]
            some = f"{labelled.sum()} of {len(frame)} records {verb(labelled.sum(), 'has', 'have')} a target"
            raise ForeignError(f"{some}, {name!r} has none; build those with and those without one separately")
        return ForeignShards(
            dialect="+".join(sorted(self.dialects)),
            frame=frame,
            places=tuple(self.places),
            sources=tuple(self.sources),
            same=tuple(self.same),
            labelled=bool(labelled.all()),
            doubts=(*doubts(frame), *_unknown_codes(self.unusable, len(frame)), *self._merged_codes(codes)),
            channels=self.channels,
            unusable=tuple(self.unusable),
        )

    def _merged_codes(self, codes: Mapping[str, Sequence[str]]) -> Iterator[str]:
        unknown = [key for key in ("sex", "anatom_site_general_challenge") if key not in codes]
        if "deotte" in self.dialects and unknown:
            yield f"the codes of {' and '.join(unknown)} follow the order of a merged table, which is unknown"


def find(pattern: str) -> list[str]:
    """Returns the files that match a glob pattern, sorted; raises ForeignError if there are none."""
    place = paths.path(pattern)
    try:
        if isinstance(place, paths.RemotePath):
            found = sorted(str(path) for path in place.parent.glob(place.name) if path.is_file())
        else:
            found = sorted(path for path in glob.glob(_escaped(place)) if os.path.isfile(path))
        is_folder = not found and place.is_dir()
    except OSError as error:
        raise ForeignError(f"{pattern}: cannot be read: {error.strerror or error}") from error
    if is_folder:
        whole = f"{pattern.rstrip('/')}/*.tfrec"
        raise ForeignError(f"{pattern!r} is a folder; expected a file or a pattern in quotes, e.g. {whole!r}")
    if not found:
        raise ForeignError(f"no file matches {pattern!r}")
    return found


def _escaped(pattern: Path) -> str:
    """A pattern whose beginning means itself as far as it exists, as a folder called [v1] does."""
    known, rest = Path(), list(pattern.parts)
    while rest and os.path.lexists(known / rest[0]):
        known /= rest.pop(0)
    return str(Path(glob.escape(str(known)), *rest))


def _start_of(path: str) -> bytes:
    try:
        with paths.path(path).open("rb") as file:
            return file.read(len(_GZIP))
    except OSError as error:
        raise ForeignError(f"{path}: cannot be read: {error.strerror}") from error


def _declared_count(path: str) -> int | None:
    """The number of records in the file name; None without one."""
    try:
        return tfrecord.shard_count(path)
    except ValueError:
        return None


# ----------------------------------------------------------------------------------------------------- trust


def doubts(frame: pd.DataFrame) -> list[str]:
    """Returns the contradictions that show that codes are misread; often none, which proves nothing.

    A record has target 1 exactly if it is a melanoma, and a patient has one sex.
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


def _unknown_codes(unusable: Sequence[Unusable], usable: int) -> Iterator[str]:
    """Doubts about keys with many unknown codes. A rare one is a bad value; many show another order of words."""
    records = usable + len(unusable)
    for ours in CODED:
        found = [each for each in unusable if each.code_of == ours]
        if len(found) > max(1, _RARE * records):
            yield f"{len(found)} of {records} records have a code of {ours} without a word, first {found[0].file}: " + (
                found[0].reason
            )


def with_table(frame: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows of a table for the images of foreign shards.

    Args:
      frame: Rows of the shards, which give names and order.
      table: Rows of `table.read_table`, which give everything else.

    Raises:
      ForeignError: an image is not in the table, or both give a target and differ.
    """
    rows = table.set_index("image_name", drop=False)
    absent = [name for name in frame["image_name"] if name not in rows.index]
    if len(absent) == len(frame):
        raise ForeignError(
            f"the table has none of the {counted(len(frame), 'image')} of the TFRecords; their names are like "
            f"{absent[0]!r}, those of the table like {table['image_name'].iloc[0]!r}"
        )
    if absent:
        raise ForeignError(
            f"the table lacks {len(absent)} of the {len(frame)} images of the TFRecords, first {absent[0]!r}; "
            "pass one with all of them"
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

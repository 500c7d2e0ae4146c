"""Reader of foreign TFRecords: rows and images for a build. `trust` judges what their values mean."""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from tfrecord_tools.core import paths
from tfrecord_tools.core.text import counted, verb
from tfrecord_tools.foreign import trust
from tfrecord_tools.foreign.codes import CODED, Codes
from tfrecord_tools.foreign.dialects import Dialect, ForeignError, dialect_of
from tfrecord_tools.foreign.values import UnknownCodeError, content_of, name_of
from tfrecord_tools.imaging.channel_order import Channels, channels_look_swapped
from tfrecord_tools.records import shards, tfrecord
from tfrecord_tools.schema import MISSING

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
    again. codes, source, ignored, group: see `values.Content`.
    """

    image: bytes
    row: dict[str, str | int]
    codes: dict[str, int]
    place: Place
    source: str
    ignored: str
    group: int | None
    dialect: str


class Unusable(NamedTuple):
    """An unusable record or rest of a file, as a line of quarantine.csv.

    image_name: "" if unknown. code_of: our key, if the reason is an unknown code or word. lost: number of records that
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
      codes: The writer's code of each row and key of `codes.CODED`, MISSING if none.
      places: Position of each row's image.
      sources: Data set of each row.
      same: Pairs of image names that their records keep in one fold.
      labelled: Whether all records have a target.
      repeated: Number of records that repeat another one, which is taken once.
      doubts: Reasons to distrust the values, for the user.
      ignored: Which sources are taken as missing, as they cannot be used; "" if none.
      channels: Red and blue of the first images of each shard, by its path.
      unusable: In the order of shards and records.
    """

    dialect: str
    frame: pd.DataFrame
    codes: pd.DataFrame
    places: tuple[Place, ...]
    sources: tuple[str, ...]
    same: tuple[tuple[str, str], ...]
    labelled: bool
    repeated: int
    doubts: tuple[str, ...]
    ignored: str
    channels: Mapping[str, Channels]
    unusable: tuple[Unusable, ...] = ()


# --------------------------------------------------------------------------------------------------- reading


def read(
    path: str | os.PathLike[str],
    dialect: str | None = None,
    columns: Mapping[str, str] | None = None,
    codes: Codes | None = None,
    images_only: bool = False,
) -> Iterator[ForeignRecord | Unusable]:
    """Yields the usable and unusable records of one foreign shard, in order, with one in memory at a time.

    A damaged record, one that is no Example and one with a bad value are lost alone; a wrong length loses the rest of
    the file.

    Args:
      path: File or URL.
      dialect: A name of DIALECTS; None recognizes it by the first record that has one.
      columns: {our key: its key} for any other dialect.
      codes: {sex, anatom_site_general_challenge, diagnosis or target: words in the order of the writer's codes}. No
        words: read as missing. Codes without words are missing, except targets 0 and 1.
      images_only: Ignore the metadata, which a table gives.

    Raises:
      ForeignError: the file cannot be read, is compressed or has no record in such a dialect.
    """
    path = os.fspath(path)
    start, chosen = _start_of(path), _dialect_in(path, dialect, columns)
    declared, count, lost = _declared_count(path), 0, 0
    for count, scanned in enumerate(tfrecord.scan_records(path), start=1):
        where, lost = f"{os.path.basename(path)}: record {count - 1}", scanned.lost
        if scanned.damage is None:
            yield _record(_Scanned(path, count - 1, where, scanned), chosen, codes or {}, images_only)
        elif lost and start == _GZIP and count == 1:
            raise ForeignError(f"{path}: compressed with gzip; expected plain TFRecords, run gunzip first")
        else:
            missing = max(declared - count + 1, 0) if lost and declared is not None else 0
            more = _lost_text(lost, declared, missing) if lost else ""
            yield Unusable("", where, scanned.damage.reason + more, lost=missing)
    if declared is not None and declared != count and not lost:
        reason = f"{counted(count, 'record')}; the file name says {declared}"
        yield Unusable("", os.path.basename(path), reason, lost=max(declared - count, 0))


class _Scanned(NamedTuple):
    """A sound record before its values are read. where: file and number, for messages."""

    path: str
    number: int
    where: str
    scanned: tfrecord.Scanned


def _record(found: _Scanned, dialect: Dialect | None, codes: Codes, images_only: bool) -> ForeignRecord | Unusable:
    path, number, where, scanned = found
    try:
        features = tfrecord.decode_example(scanned.data)
    except tfrecord.ExampleError as error:
        return Unusable("", where, str(error))
    assert dialect is not None  # this Example exists, so a dialect was found
    try:
        content = content_of(features, dialect, codes, images_only)
    except ForeignError as error:
        code_of = error.ours if isinstance(error, UnknownCodeError) else ""
        return Unusable(name_of(features, dialect), where, str(error), code_of)
    image = content.image
    part = shards.Part(scanned.at + scanned.data.index(image), len(image), hashlib.sha256(image).digest())
    place = Place(path, part, number, content.origin)
    more = content.source, content.ignored, content.group
    return ForeignRecord(image, content.row, content.codes, place, *more, dialect.name)


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
    codes: Codes | None = None,
    images_only: bool = False,
) -> ForeignShards:
    """Reads everything except the images of foreign shards; arguments as of `read`.

    A record that occurs again is taken once; different records of one image name are unusable.

    Raises:
      ForeignError: as `read`; no record is usable; or only some of the records have a target and no table gives it.
    """
    collected = _Collected(images_only)
    for path in sorted(os.fspath(file) for file in files):
        sample: list[bytes] = []
        for record in read(path, dialect, columns, codes, images_only):
            if isinstance(record, Unusable):
                collected.unusable.append(record)
                continue
            collected.add(record)
            if len(sample) < _SAMPLE:
                sample.append(record.image)
        collected.channels[path] = channels_look_swapped(sample)
    return collected.shards()


@dataclasses.dataclass
class _Collected:
    """The records of some shards, without their images.

    images_only: as of `read`. records: the first of each image name. others: further ones of a name that differ.
    """

    images_only: bool
    records: dict[str, ForeignRecord] = dataclasses.field(default_factory=dict)
    others: dict[str, list[ForeignRecord]] = dataclasses.field(default_factory=dict)
    repeated: int = 0
    channels: dict[str, Channels] = dataclasses.field(default_factory=dict)
    unusable: list[Unusable] = dataclasses.field(default_factory=list)

    def add(self, record: ForeignRecord) -> None:
        name = str(record.row["image_name"])
        record = dataclasses.replace(record, image=b"")
        first = self.records.setdefault(name, record)
        if first is record:
            return
        compared = 1 if self.images_only else None
        if _content(first)[:compared] == _content(record)[:compared]:
            self.repeated += 1
        else:
            self.others.setdefault(name, []).append(record)

    def shards(self) -> ForeignShards:
        for name, others in self.others.items():
            self.unusable.extend(_unlike(name, [self.records.pop(name), *others]))
        if not self.records:
            first = f"; the first: {self.unusable[0].file}: {self.unusable[0].reason}" if self.unusable else ""
            raise ForeignError(f"no usable record in the foreign TFRecords; expected at least one{first}")
        found = list(self.records.values())
        frame = pd.DataFrame([record.row for record in found])
        labelled = frame["target"] != MISSING
        doubts = (*trust.contradictions(frame), *_unknown_codes(self.unusable, len(frame)))
        if labelled.any() and not labelled.all() and not self.images_only and not doubts:
            name = frame["image_name"][~labelled].iloc[0]
            some = f"{labelled.sum()} of {len(frame)} records {verb(labelled.sum(), 'has', 'have')} a target"
            raise ForeignError(f"{some}, {name!r} has none; build those with and those without one separately")
        return ForeignShards(
            dialect="+".join(sorted({record.dialect for record in found})),
            frame=frame,
            codes=pd.DataFrame([record.codes for record in found]),
            places=tuple(record.place for record in found),
            sources=tuple(record.source for record in found),
            same=tuple(_same(found)),
            labelled=bool(labelled.all()),
            repeated=self.repeated,
            doubts=doubts,
            ignored=_ignored(found),
            channels=self.channels,
            unusable=tuple(self.unusable),
        )


def _ignored(records: Sequence[ForeignRecord]) -> str:
    reasons = [record.ignored for record in records if record.ignored]
    if not reasons:
        return ""
    some = f"the source of {len(reasons)} of {counted(len(records), 'record')} is taken as missing"
    return f"{some}, as it cannot be used, first {reasons[0]}; name the data set with --source"


def _content(record: ForeignRecord) -> tuple[object, ...]:
    """Everything of a record except its place, the image first."""
    return record.place.part.sha256, record.row, record.codes, record.source, record.group, record.place.origin


def _unlike(name: str, found: Sequence[ForeignRecord]) -> Iterator[Unusable]:
    """The records of one image name that differ, each with the place of another."""
    where = [f"{os.path.basename(each.place.path)}: record {each.place.record}" for each in found]
    for number, each in enumerate(found):
        other = 1 if number == 0 else 0
        images = {found[other].place.part.sha256, each.place.part.sha256}
        what = "image" if len(images) > 1 else "metadata"
        yield Unusable(name, where[number], f"its name is also that of {where[other]}, with other {what}")


def _same(records: Iterable[ForeignRecord]) -> Iterator[tuple[str, str]]:
    """Pairs of image names whose records have one group."""
    first_of: dict[int, str] = {}
    for record in records:
        name = str(record.row["image_name"])
        if record.group is not None and (first := first_of.setdefault(record.group, name)) != name:
            yield first, name


def _unknown_codes(unusable: Sequence[Unusable], usable: int) -> Iterator[str]:
    """Doubts about keys with many unknown values. A rare one is a bad value; many show another vocabulary."""
    records = usable + len(unusable)
    for ours in CODED:
        found = [each for each in unusable if each.code_of == ours]
        if len(found) > max(1, _RARE * records):
            yield f"{len(found)} of {records} records have a code of {ours} without a word, first {found[0].file}: " + (
                found[0].reason
            )


def find(pattern: str) -> list[str]:
    """Returns the files that match a glob pattern, sorted; raises ForeignError if there are none.

    Brackets in the part of a path that exists are taken for themselves, as are those that match nothing as a pattern.
    """
    place = paths.path(pattern)
    try:
        found = _matching(_escaped(place)) or _matching(pattern.replace("[", "[[]"))
        is_folder = not found and place.is_dir()
    except OSError as error:
        raise ForeignError(f"{pattern}: cannot be read: {error.strerror or error}") from error
    if is_folder:
        whole = f"{pattern.rstrip('/')}/*.tfrec"
        raise ForeignError(f"{pattern!r} is a folder; expected a file or a pattern in quotes, e.g. {whole!r}")
    if not found:
        raise ForeignError(f"no file matches {pattern!r}")
    return found


def _escaped(place: paths.AnyPath) -> str:
    """A pattern whose beginning means itself as far as it exists, as a folder called [v1] does."""
    if isinstance(place, paths.RemotePath):
        return str(place)
    known, rest = Path(), list(place.parts)
    while rest and os.path.lexists(known / rest[0]):
        known /= rest.pop(0)
    return str(Path(glob.escape(str(known)), *rest))


def _matching(pattern: str) -> list[str]:
    place = paths.path(pattern)
    if isinstance(place, paths.RemotePath):
        return sorted(str(path) for path in place.parent.glob(place.name) if path.is_file())
    return sorted(path for path in glob.glob(str(place)) if os.path.isfile(path))


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

"""Near-duplicates among the records of shards, found without holding their images in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

from PIL import Image

from tfrecord_tools import schema
from tfrecord_tools.core.paths import AnyPath
from tfrecord_tools.dedup import search
from tfrecord_tools.dedup.fingerprint import SYMMETRIES, Fingerprint, fingerprint_of
from tfrecord_tools.records.leaks import Place


@dataclasses.dataclass(frozen=True)
class NearDuplicate:
    """One image in two places.

    Attributes:
      where_1: "SHARD: record N".
      where_2: "SHARD: record N".
      symmetry: one of fingerprint.SYMMETRIES.
    """

    image_name_1: str
    where_1: str
    image_name_2: str
    where_2: str
    similarity: float
    symmetry: str


class Location(NamedTuple):
    """Position of a record: its number in a shard, and the offset and length of its data in bytes."""

    shard: AnyPath
    record: int
    offset: int
    length: int

    def __str__(self) -> str:
        return f"{self.shard}: record {self.record}"


class StoredImages:
    """Fingerprints and locations of all records, to find near-duplicates in two places; 2 KB a record."""

    def __init__(self) -> None:
        self._prints: list[Fingerprint] = []
        self._records: list[tuple[Location, str, Place]] = []
        self._hashes: list[bytes] = []
        self._places: dict[Place, int] = {}

    def add(self, image: Image.Image, record: schema.Record, place: Place, location: Location) -> None:
        """Adds the decoded image of a record."""
        self._prints.append(fingerprint_of(image))
        self._records.append((location, record.image_name, place))
        self._hashes.append(record.sha256)
        self._places.setdefault(place, len(self._places))

    def problems(self, workers: int, everywhere: bool) -> Iterator[tuple[str, bool, NearDuplicate]]:
        """Yields (line, whether in two places, pair) of each near-duplicate.

        The line is "" within one place, and for a pair of one source file, which `Leaks` reports.

        Args:
          workers: threads.
          everywhere: whether to search within each place too.
        """
        labels = [self._places[record[-1]] for record in self._records]
        for match in search.matches(self._prints, self._jpeg, None if everywhere else labels, workers):
            first, second = match.first, match.second
            where_1, name_1, place_1 = self._records[first]
            where_2, name_2, place_2 = self._records[second]
            symmetry = SYMMETRIES[match.symmetry]
            line = (
                f"{where_2}: leak: image {name_2} of {place_2} is nearly {name_1} in {place_1} "
                f"({where_1}), {symmetry}, similarity {match.similarity:.2f}"
            )
            pair = NearDuplicate(name_1, str(where_1), name_2, str(where_2), round(match.similarity, 4), symmetry)
            apart = labels[first] != labels[second]
            yield line if apart and self._hashes[first] != self._hashes[second] else "", apart, pair

    def _jpeg(self, index: int) -> bytes:
        location = self._records[index][0]
        with location.shard.open("rb") as file:
            file.seek(location.offset)
            return schema.decode(file.read(location.length)).image

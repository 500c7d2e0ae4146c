"""Images that are the same byte for byte, under two names."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence, Set

from tfrecord_tools.imaging import index
from tfrecord_tools.imaging.index import Located


def sets(images: Iterable[tuple[str, Located | None]]) -> list[tuple[str, ...]]:
    """Returns the names of each set of two or more images with the same bytes, sorted.

    Only files of one size are read. Files that cannot be read, and those of remote storage, are in no set.

    Args:
      images: Name and position of each image.
    """
    by_size: dict[int, list[tuple[str, Located]]] = {}
    for name, place in images:
        if place is not None and (size := index.size(place)):
            by_size.setdefault(size, []).append((name, place))
    return sorted(found for alike in by_size.values() for found in _same(alike))


def pairs(found: Iterable[Sequence[str]], tables: Sequence[Set[str]]) -> Iterator[tuple[str, str]]:
    """Yields pairs that connect the names of each set, also if only those of one table are looked at."""
    for names in found:
        by_table = [[name for name in names if name in table] for table in tables]
        for within in (*by_table, [each[0] for each in by_table if each]):
            yield from itertools.pairwise(within)


def _same(alike: list[tuple[str, Located]]) -> Iterator[tuple[str, ...]]:
    if len({name for name, _ in alike}) < 2:
        return
    by_digest: dict[bytes, set[str]] = {}
    for name, place in alike:
        by_digest.setdefault(index.digest(place), set()).add(name)
    yield from (tuple(sorted(names)) for names in by_digest.values() if len(names) > 1)

"""Images that are the same byte for byte, under two names."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor

from tfrecord_tools.imaging import index, signatures
from tfrecord_tools.imaging.index import Located

_THREADS = 16  # the waits for network storage overlap


def sets(images: Iterable[tuple[str, Located | None]]) -> list[tuple[str, ...]]:
    """Returns the names of each set of two or more images with the same bytes, sorted.

    Only files of one size are read. Files that are no images, cannot be read or are in remote storage are in no set.

    Args:
      images: Name and position of each image.
    """
    known = [(name, place) for name, place in images if place is not None]
    with ThreadPoolExecutor(_THREADS) as threads:
        by_size: dict[int, dict[str, Located]] = {}
        for (name, place), size in zip(known, threads.map(lambda each: index.size(each[1]), known), strict=True):
            by_size.setdefault(size, {})[name] = place
        alike = [each for size, found in by_size.items() if size and len(found) > 1 for each in found.items()]
        by_digest: dict[bytes, dict[str, Located]] = {}
        for (name, place), digest in zip(alike, threads.map(lambda each: index.digest(each[1]), alike), strict=True):
            by_digest.setdefault(digest, {})[name] = place
    same = [found for found in by_digest.values() if len(found) > 1]
    return sorted(tuple(sorted(found)) for found in same if _is_image(next(iter(found.values()))))


def _is_image(place: Located) -> bool:
    # Copies of an error page, as failed downloads leave them, do not show that their patients are one.
    return signatures.name_of(index.start(place)) in signatures.CONVERTED


def pairs(found: Iterable[Sequence[str]], tables: Sequence[Set[str]]) -> Iterator[tuple[str, str]]:
    """Yields pairs that connect the names of each set, also if only those of one table are looked at."""
    for names in found:
        by_table = [[name for name in names if name in table] for table in tables]
        for within in (*by_table, [each[0] for each in by_table if each]):
            yield from itertools.pairwise(within)

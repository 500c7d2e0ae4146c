"""Images that are the same byte for byte, under two names."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence, Set

from tfrecord_tools.imaging import index
from tfrecord_tools.imaging.index import Located

# First bytes of JPEG, PNG, BMP, TIFF, GIF, WebP and JPEG 2000. Copies of an error page, as failed downloads leave them,
# do not show that their patients are one.
_IMAGES = (b"\xff\xd8\xff", b"\x89PNG", b"BM", b"II*\0", b"MM\0*", b"GIF8", b"RIFF", b"\0\0\0\x0cjP")


def sets(images: Iterable[tuple[str, Located | None]]) -> list[tuple[str, ...]]:
    """Returns the names of each set of two or more images with the same bytes, sorted.

    Only files of one size are read. Files that are no images, cannot be read or are in remote storage are in no set.

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
    by_digest: dict[bytes, dict[str, Located]] = {}
    for name, place in alike:
        by_digest.setdefault(index.digest(place), {})[name] = place
    for found in by_digest.values():
        if len(found) > 1 and index.start(next(iter(found.values()))).startswith(_IMAGES):
            yield tuple(sorted(found))

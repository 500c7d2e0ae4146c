"""Search for the same image under two names among many images.

Three steps, each on the pairs that the previous one lets through:

1. A hash of the 77 lowest DCT coefficients of the fingerprint, looked up in random-hyperplane tables under all eight
   mirrorings and quarter turns, so that the cost does not grow with the square of the number of images.
2. Alignment of the two fingerprints (32 x 32).
3. Alignment at 64 x 64 from the JPEGs.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from tfrecord_tools.core import input_file
from tfrecord_tools.dedup import align
from tfrecord_tools.dedup.align import Floats
from tfrecord_tools.dedup.fingerprint import COARSE, SYMMETRIES, DuplicatesError, Fingerprint, fingerprint, transform
from tfrecord_tools.dedup.pairs import Pair

Ints = npt.NDArray[np.int64]

# Similarity that step 3 requires. HAM10000: re-encoded, resized, mirrored and 5 % cropped copies have 0.82 or more (99
# of 100); the three most similar images of different lesions have 0.73, 0.64 and 0.58.
CONFIRMED = 0.78

_COEFFICIENTS = 12  # DCT orders u + v below this
_COSINE = 0.75  # between two signatures that share a bucket; 5 % cropped copies have 0.82 or more (99 of 100)
_TANGENT = 0.1  # squared tangent distance that step 1 allows; 5 % cropped copies have 0.09 or less (998 of 1000)
_DETAIL_COARSE = 0.82  # correlation that step 2 requires; copies have 0.91 or more (99 of 100)
_TABLES, _PROBED_BITS = 12, 4  # a query probes 2**4 buckets of each table: all values of its uncertain bits
_MORE_BITS = 3  # a table has 8 to 16 times as many buckets as images, so that buckets do not grow with their number
_MAX_BITS = 24  # 128 MB a table; reached at 2 million images
_CHUNK = 1024  # pairs aligned at once: 30 MB
_QUERIES = 65536  # queries looked up at once
_THREAD_SHARE = 256  # images that threads read ahead, so that memory does not grow with the data set
_INVERSE = np.array([0, 1, 2, 3, 4, 6, 5, 7])  # index into SYMMETRIES of the inverse of each


class Match(NamedTuple):
    """A pair of images by their indices.

    Attributes:
      first: smaller than second.
      similarity: correlation of details, CONFIRMED to 1.
      symmetry: index into SYMMETRIES.
    """

    first: int
    second: int
    similarity: float
    symmetry: int


class Found(NamedTuple):
    """Result of a search.

    Attributes:
      pairs: sorted by name.
      unreadable: (name, reason) of each image that could not be compared.
    """

    pairs: list[Pair]
    unreadable: list[tuple[str, str]]


def candidates(
    fingerprints: Sequence[Fingerprint], apart: Sequence[int] | None = None
) -> Iterator[tuple[int, int, int]]:
    """Yields (first, second, symmetry) of pairs that may be one image, first < second: steps 1 and 2.

    Args:
      fingerprints: one for each image.
      apart: label of each image, if only pairs with different labels are wanted.
    """
    if len(fingerprints) < 2:
        return
    labels = None if apart is None else np.asarray(apart)
    yield from _alike(fingerprints, _hashed(fingerprints, labels))


def matches(
    fingerprints: Sequence[Fingerprint],
    read: Callable[[int], bytes],
    apart: Sequence[int] | None = None,
    workers: int = 1,
) -> list[Match]:
    """Pairs of images that are the same: all three steps.

    Args:
      fingerprints: one for each image.
      read: returns the JPEG of an index; called for candidates only.
      apart: label of each image, if only pairs with different labels are wanted.
      workers: threads.
    """

    def judge(candidate: tuple[int, int, int]) -> Match:
        first, second, symmetry = candidate
        return Match(first, second, align.similarity(read(first), read(second), symmetry), symmetry)

    best: dict[tuple[int, int], Match] = {}
    with threadpool_limits(1, "blas"):  # products of small matrices: threads of BLAS would only compete with ours
        for match in _parallel(judge, candidates(fingerprints, apart), workers):
            known = best.get(match[:2])
            if match.similarity >= CONFIRMED and (known is None or match.similarity > known.similarity):
                best[match[:2]] = match
    return [best[key] for key in sorted(best)]


def find(images: Iterable[tuple[str, bytes | str | os.PathLike[str]]], workers: int = 1) -> Found:
    """Pairs among named images, each given as its bytes or the path of its file.

    Files are read once for their fingerprint and again if they are candidates, so that memory holds 1 KB an image.

    Args:
      images: (name, bytes or file) of each image.
      workers: threads.
    """

    def look(item: tuple[str, bytes | str | os.PathLike[str]]) -> Fingerprint | str:
        try:
            return fingerprint(_bytes_of(item[1]))
        except (DuplicatesError, input_file.RefusedFileError, OSError) as error:
            return str(error)

    named = sorted(images, key=lambda item: item[0])
    looked = list(_parallel(look, named, workers))
    kept = [index for index, found in enumerate(looked) if not isinstance(found, str)]
    unreadable = [(named[index][0], found) for index, found in enumerate(looked) if isinstance(found, str)]
    prints = [found for found in looked if not isinstance(found, str)]
    found_pairs = [
        Pair(named[kept[first]][0], named[kept[second]][0], similarity, SYMMETRIES[symmetry])
        for first, second, similarity, symmetry in matches(
            prints, lambda index: _bytes_of(named[kept[index]][1]), workers=workers
        )
    ]
    return Found(found_pairs, unreadable)


def _bytes_of(source: bytes | str | os.PathLike[str]) -> bytes:
    return source if isinstance(source, bytes) else input_file.read(Path(source))


Given = TypeVar("Given")
Made = TypeVar("Made")


def _parallel(function: Callable[[Given], Made], items: Iterable[Given], workers: int) -> Iterator[Made]:
    """Maps in threads, in order, reading only `_THREAD_SHARE` items ahead."""
    with ThreadPoolExecutor(workers) as threads:
        share: list[Given] = []
        for item in items:
            share.append(item)
            if len(share) == _THREAD_SHARE:
                yield from threads.map(function, share)
                share = []
        yield from threads.map(function, share)


# ------------------------------------------------------------------------------ step 1: hash and hash tables


@functools.cache
def _basis() -> tuple[Ints, Ints, Floats, Floats, Floats]:
    """DCT coefficients of a signature: (u, v, matrix, mean, spread).

    Mean and spread standardise them on dermoscopy (fitted by eye to HAM10000): most images show a dark spot in the
    middle, and power falls with frequency.
    """
    u, v = (axis.ravel() for axis in np.mgrid[:_COEFFICIENTS, :_COEFFICIENTS])
    keep = (u + v > 0) & (u + v < _COEFFICIENTS)
    u, v = u[keep], v[keep]
    places = (np.arange(COARSE) + 0.5) / COARSE
    rows = np.cos(np.pi * u[:, None] * places)
    columns = np.cos(np.pi * v[:, None] * places)
    norm = np.where(u == 0, 0.5, 1) * np.where(v == 0, 0.5, 1)
    matrix = (rows[:, :, None] * columns[:, None, :] * np.sqrt(norm)[:, None, None]).reshape(len(u), -1)
    mean = np.where((u == 2) & (v == 2), -0.25, np.where((u + v == 2) & (u != v), 0.36, 0.0))
    spread = (u**2 + v**2) ** -0.58 * np.where(u * v == 0, 1, 0.5) * np.where((u % 2 == 0) & (v % 2 == 0), 1.4, 1)
    return u, v, matrix.T.astype(np.float32), mean.astype(np.float32), spread.astype(np.float32)


def _unit(vectors: Floats) -> Floats:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-6))


def _coefficients(fingerprints: Sequence[Fingerprint]) -> Floats:
    """DCT coefficients f32[n,77] of unit length, independent of brightness and contrast."""
    _, _, matrix, _, _ = _basis()
    chunks = [
        np.stack(fingerprints[start : start + _CHUNK]).reshape(-1, COARSE**2).astype(np.float32) @ matrix
        for start in range(0, len(fingerprints), _CHUNK)
    ]
    return _unit(np.concatenate(chunks))


def _signatures(coefficients: Floats, symmetry: int) -> Floats:
    """Signatures f32[n,77] under a symmetry, computed from the coefficients: signs change, u and v swap."""
    u, v, _, mean, spread = _basis()
    if symmetry & 4:
        place = {pair: index for index, pair in enumerate(zip(u.tolist(), v.tolist(), strict=True))}
        coefficients = coefficients[:, [place[pair] for pair in zip(v.tolist(), u.tolist(), strict=True)]]
    sign = (-1.0) ** (v * (symmetry & 1) + u * (symmetry >> 1 & 1))
    return _unit((coefficients * sign.astype(np.float32) - mean) / spread)


class _Table:
    """Hash table of signatures; the bucket's bits are the sides of random hyperplanes that a signature lies on."""

    def __init__(self, signatures: Floats, bits: int, seed: int) -> None:
        self._planes = np.random.default_rng(seed).standard_normal((signatures.shape[1], bits)).astype(np.float32)
        self._weights = 1 << np.arange(bits)
        numbers = (signatures @ self._planes > 0) @ self._weights
        self._order = np.argsort(numbers, kind="stable")
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(numbers, minlength=1 << bits))])

    def look_up(self, queries: Floats) -> tuple[Ints, Ints]:
        """Indices (query, signature) of all pairs that share a bucket; uncertain bits of a query count as both."""
        sides = queries @ self._planes
        uncertain = self._weights[np.argpartition(np.abs(sides), _PROBED_BITS, axis=1)[:, :_PROBED_BITS]]
        subsets = np.arange(1 << _PROBED_BITS)[:, None] >> np.arange(_PROBED_BITS) & 1
        numbers = ((sides > 0) @ self._weights)[:, None] ^ (uncertain @ subsets.T)
        begin, end = self._starts[numbers].ravel(), self._starts[numbers + 1].ravel()
        sizes = end - begin
        query = np.repeat(np.arange(len(queries)).repeat(numbers.shape[1]), sizes)
        inside = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return query, self._order[np.repeat(begin, sizes) + inside]


def _hashed(fingerprints: Sequence[Fingerprint], apart: Ints | None) -> tuple[Ints, Ints, Ints]:
    """Indices (first, second, symmetry) of the pairs that step 1 lets through; first < second, each once."""
    coefficients, count = _coefficients(fingerprints), len(fingerprints)
    plain = _signatures(coefficients, 0)
    bits = int(np.clip(np.ceil(np.log2(count)) + _MORE_BITS, 6, _MAX_BITS))
    tables = [_Table(plain, bits, seed) for seed in range(_TABLES)]
    kept = []
    for symmetry in range(8):
        turned = _signatures(coefficients, symmetry)
        keys = np.concatenate(list(_near(tables, plain, turned, apart)))
        # transform(image `turned`, symmetry) is the plain one; a pair is often met from both sides.
        other, one = np.divmod(np.unique(keys), count)
        one, other = _within_tangents(fingerprints, plain, turned, one, other)
        turn = np.where(one < other, symmetry, _INVERSE[symmetry])
        kept.append((np.minimum(one, other) * count + np.maximum(one, other)) * 8 + turn)
    keys, turns = np.divmod(np.unique(np.concatenate(kept)), 8)
    return keys // count, keys % count, turns


def _near(tables: Sequence[_Table], plain: Floats, turned: Floats, apart: Ints | None) -> Iterator[Ints]:
    """Yields keys (index in plain) * n + (index in turned) of signatures that share a bucket and are near."""
    count = len(plain)
    for buckets in tables:
        for start in range(0, count, _QUERIES):
            one, other = buckets.look_up(turned[start : start + _QUERIES])
            one += start
            use = one != other
            if apart is not None:
                use &= apart[one] != apart[other]
            one, other = one[use], other[use]
            for part in range(0, len(one), _QUERIES):
                few = slice(part, part + _QUERIES)
                near = np.einsum("nd,nd->n", turned[one[few]], plain[other[few]]) >= _COSINE
                yield other[few][near] * count + one[few][near]
    yield np.zeros(0, np.int64)


def _within_tangents(
    fingerprints: Sequence[Fingerprint], plain: Floats, turned: Floats, one: Ints, other: Ints
) -> tuple[Ints, Ints]:
    """Keeps the pairs (turned[one], plain[other]), sorted by `other`, whose tangent distance is small."""
    keep = np.zeros(len(one), bool)
    for start in range(0, len(fingerprints), _CHUNK):
        begin, end = np.searchsorted(other, [start, start + _CHUNK])
        if begin == end:
            continue
        tangents = _tangents(fingerprints[start : start + _CHUNK])
        for part in range(begin, end, 4 * _CHUNK):
            few = slice(part, min(part + 4 * _CHUNK, end))
            offset = turned[one[few]] - plain[other[few]]
            along = np.einsum("nd,ndk->nk", offset, tangents[other[few] - start])
            keep[few] = (offset**2).sum(1) - (along**2).sum(1) <= _TANGENT
    return one[keep], other[keep]


def _tangents(fingerprints: Sequence[Fingerprint]) -> Floats:
    """Orthonormal directions f32[n,77,6] in which a signature moves when its image is shifted or stretched.

    One direction is for contrast. The length of a difference orthogonal to them is the tangent distance (Simard, LeCun
    and Denker, NIPS 1992).
    """
    _, _, matrix, mean, spread = _basis()
    images = np.stack(fingerprints).astype(np.float32)
    t = (np.arange(COARSE, dtype=np.float32) + 0.5) / COARSE * 2 - 1
    dy, dx = (cast(Floats, slope) for slope in np.gradient(images, axis=(1, 2)))
    changes = np.stack([dy, dy * t[:, None], dx, dx * t, images], 1).reshape(len(images), 5, -1) @ matrix
    length = np.maximum(np.linalg.norm(changes[:, 4], axis=1), 1e-6)[:, None, None]
    center = (changes[:, 4:] / length - mean) / spread
    directions = np.concatenate([changes / length / spread, center], 1).transpose(0, 2, 1)
    return np.linalg.qr(directions)[0].astype(np.float32)


# ------------------------------------------------------------------------------------- step 2: alignment


def _alike(fingerprints: Sequence[Fingerprint], hashed: tuple[Ints, Ints, Ints]) -> Iterator[tuple[int, int, int]]:
    """Yields the pairs of step 1 that step 2 lets through."""
    for start in range(0, len(hashed[0]), _CHUNK):
        first, second, symmetry = (each[start : start + _CHUNK] for each in hashed)
        turned = [transform(fingerprints[i], s) for i, s in zip(first, symmetry, strict=True)]
        others = [fingerprints[i] for i in second]
        _, similar = align.coarse(np.stack(turned).astype(np.float32), np.stack(others).astype(np.float32))
        for index in np.flatnonzero(similar >= _DETAIL_COARSE):
            yield int(first[index]), int(second[index]), int(symmetry[index])

"""The same image under two names: re-encoded, resized, slightly cropped, mirrored or turned by quarters.

  python -m tfrecord_tools.duplicates --images jpeg/ --out pairs.csv
  python -m tfrecord_tools.duplicates --images jpeg/ --csv train.csv --out pairs.csv

Turns are quarter turns, with or without mirroring; other angles are not looked for. --csv takes every table that
`build` takes, and compares only its images.

Three steps, each on what the one before lets through: (1) a hash of the 77 lowest DCT coefficients of a 32 x 32 grey
thumbnail, looked up in random-hyperplane tables under all eight mirrorings and quarter turns, so that nothing is
compared with everything; (2) the two thumbnails, one stretched and shifted onto the other by least squares; (3) the
same at 64 x 64 from the JPEGs. Steps 2 and 3 judge details only (what is left after a blur is taken away): skin with a
dark spot in the middle is alike in every image, hairs and pigment network are not.
"""

from __future__ import annotations

import functools
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt
from absl import flags
from PIL import Image, UnidentifiedImageError
from threadpoolctl import threadpool_limits

from tfrecord_tools.core import cli, paths
from tfrecord_tools.core.text import counted
from tfrecord_tools.dedup import pairs as lists
from tfrecord_tools.dedup.pairs import Pair
from tfrecord_tools.imaging import files
from tfrecord_tools.metadata import formats, table

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Fingerprint = npt.NDArray[np.uint8]  # [32, 32], grey thumbnail of the centre square: 1 KB an image

# What step 3 must reach. HAM10000: re-encoded, resized, mirrored and 5 % cropped copies have 0.82 or more (99 of 100);
# of different images of two lesions the most alike three have 0.73, 0.64 and 0.58.
CONFIRMED = 0.78

_COARSE, _FINE = 32, 64  # pixels: the thumbnails of step 2 and 3
_COEFFICIENTS = 12  # DCT orders u + v below this
_COSINE = 0.75  # between two signatures that share a bucket; 5 % cropped copies have 0.82 or more (99 of 100)
_TANGENT = 0.1  # squared tangent distance to go on to step 2; 5 % cropped copies have 0.09 or less (998 of 1000)
_DETAIL_COARSE = 0.82  # correlation to go on to step 3; copies have 0.91 or more (99 of 100)
_TABLES, _PROBED_BITS = 12, 4  # a query looks into 2**4 buckets of each table: those its uncertain bits could mean
_MORE_BITS = 3  # a table has 8 to 16 times as many buckets as there are images: a bucket stays as full however many
_MAX_BITS = 24  # 128 MB a table; reached at 2 million images
_NOISE = 2.0  # grey levels of 255; of 0.5, 1, 2 and 4 the one that parted copies and other lesions best (HAM10000)
_MAX_SHIFT, _MAX_SCALE = 0.2, 1.25  # how far step 2 may move: of half the side; more is another image
_CHUNK = 1024  # pairs aligned at once: 30 MB
_QUERIES = 65536  # queries looked up at once
_THREAD_SHARE = 256  # images read ahead by the threads, so that memory does not grow with the data set


class DuplicatesError(ValueError):
    """The images cannot be compared; the message says which and why."""


class Match(NamedTuple):
    """As Pair, with the indices of the images; first < second. symmetry: index into SYMMETRIES."""

    first: int
    second: int
    similarity: float
    symmetry: int


class Found(NamedTuple):
    """pairs: sorted by name. unreadable: (name, reason) of each image that could not be compared."""

    pairs: list[Pair]
    unreadable: list[tuple[str, str]]


# What makes the second image of the first. Bit 2: transpose, done first; bit 0: left-right; bit 1: top-bottom.
SYMMETRIES = (
    "same",
    "mirrored",
    "mirrored top to bottom",
    "turned 180",
    "transposed",
    "turned 90 clockwise",
    "turned 90 counterclockwise",
    "transposed across",
)
_INVERSE = np.array([0, 1, 2, 3, 4, 6, 5, 7])


# ------------------------------------------------------------------------------------------------ images


def fingerprint(jpeg: bytes) -> Fingerprint:
    """The grey thumbnail u8[32,32] of a JPEG's centre square. Raises DuplicatesError with the reason if it has none."""
    return _grey(jpeg, _COARSE)


def fingerprint_of(image: Image.Image) -> Fingerprint:
    """As `fingerprint`, of a image that is decoded already."""
    return _shrink(image, _COARSE)


def _grey(jpeg: bytes, size: int) -> Fingerprint:
    try:
        with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
            image.draft("L", (2 * size, 2 * size))
            return _shrink(image, size)
    except UnidentifiedImageError as error:  # its own words are the address of a buffer
        found = f"it begins with {jpeg[:8]!r}" if jpeg else "the file is empty"
        raise DuplicatesError(f"not a JPEG that can be read: {found}") from error
    except (*files.DECODE_ERRORS, Image.DecompressionBombError) as error:
        raise DuplicatesError(f"cannot be decoded: {error}") from error


def _shrink(image: Image.Image, size: int) -> Fingerprint:
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    grey = image if image.mode == "L" else image.convert("L")
    box = (left, top, left + side, top + side)
    return np.asarray(grey.resize((size, size), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0))


def _transform(images: npt.NDArray[Any], symmetry: int) -> npt.NDArray[Any]:
    """Images [...,s,s] under SYMMETRIES[symmetry]."""
    if symmetry & 4:
        images = np.swapaxes(images, -1, -2)
    if symmetry & 1:
        images = images[..., ::-1]
    if symmetry & 2:
        images = images[..., ::-1, :]
    return images


# ------------------------------------------------------------------------------- step 1: hash and hash tables


@functools.cache
def _basis() -> tuple[Ints, Ints, Floats, Floats, Floats]:
    """(u, v, matrix, mean, spread) of the DCT coefficients in a signature.

    Mean and spread make them alike in size on dermoscopy (fitted by eye to HAM10000): most images show a dark spot
    in the middle, and power falls with frequency.
    """
    u, v = (axis.ravel() for axis in np.mgrid[:_COEFFICIENTS, :_COEFFICIENTS])
    keep = (u + v > 0) & (u + v < _COEFFICIENTS)
    u, v = u[keep], v[keep]
    places = (np.arange(_COARSE) + 0.5) / _COARSE
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
    """DCT coefficients f32[n,77] of unit length: free of brightness and contrast."""
    _, _, matrix, _, _ = _basis()
    chunks = [
        np.stack(fingerprints[start : start + _CHUNK]).reshape(-1, _COARSE**2).astype(np.float32) @ matrix
        for start in range(0, len(fingerprints), _CHUNK)
    ]
    return _unit(np.concatenate(chunks))


def _signatures(coefficients: Floats, symmetry: int) -> Floats:
    """Signatures f32[n,77] of the images under a symmetry, without the images: signs change, u and v swap."""
    u, v, _, mean, spread = _basis()
    if symmetry & 4:
        place = {pair: index for index, pair in enumerate(zip(u.tolist(), v.tolist(), strict=True))}
        coefficients = coefficients[:, [place[pair] for pair in zip(v.tolist(), u.tolist(), strict=True)]]
    sign = (-1.0) ** (v * (symmetry & 1) + u * (symmetry >> 1 & 1))
    return _unit((coefficients * sign.astype(np.float32) - mean) / spread)


class _Table:
    """Buckets of signatures: the sides of `bits` random planes that a signature lies on are its bucket's number."""

    def __init__(self, signatures: Floats, bits: int, seed: int) -> None:
        self._planes = np.random.default_rng(seed).standard_normal((signatures.shape[1], bits)).astype(np.float32)
        self._weights = 1 << np.arange(bits)
        numbers = (signatures @ self._planes > 0) @ self._weights
        self._order = np.argsort(numbers, kind="stable")
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(numbers, minlength=1 << bits))])

    def look_up(self, queries: Floats) -> tuple[Ints, Ints]:
        """(index of query, index of signature) of all that share a bucket, uncertain bits taken both ways."""
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
    """(first, second, symmetry) of the pairs that steps 2 and 3 should look at; first < second, each once."""
    coefficients, count = _coefficients(fingerprints), len(fingerprints)
    plain = _signatures(coefficients, 0)
    bits = int(np.clip(np.ceil(np.log2(count)) + _MORE_BITS, 6, _MAX_BITS))
    tables = [_Table(plain, bits, seed) for seed in range(_TABLES)]
    kept = []
    for symmetry in range(8):
        turned = _signatures(coefficients, symmetry)
        keys = np.concatenate(list(_near(tables, plain, turned, apart)))
        # _transform(image `turned`, symmetry) is the plain one; a pair is often met from both sides.
        other, one = np.divmod(np.unique(keys), count)
        one, other = _within_tangents(fingerprints, plain, turned, one, other)
        turn = np.where(one < other, symmetry, _INVERSE[symmetry])
        kept.append((np.minimum(one, other) * count + np.maximum(one, other)) * 8 + turn)
    pairs, turns = np.divmod(np.unique(np.concatenate(kept)), 8)
    return pairs // count, pairs % count, turns


def _near(tables: Sequence[_Table], plain: Floats, turned: Floats, apart: Ints | None) -> Iterator[Ints]:
    """Keys (index in plain) * n + (index in turned) of signatures that share a bucket and are near."""
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
    """Those of the pairs (turned[one], plain[other]), sorted by other, whose tangent distance is small."""
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
    """Orthonormal f32[n,77,6]: where a signature goes when its image is shifted, stretched, or changes contrast.

    What is left of a difference beside these directions is the tangent distance (Simard, LeCun, Denker, NIPS 1992).
    """
    _, _, matrix, mean, spread = _basis()
    images = np.stack(fingerprints).astype(np.float32)
    t = (np.arange(_COARSE, dtype=np.float32) + 0.5) / _COARSE * 2 - 1
    dy, dx = (cast(Floats, slope) for slope in np.gradient(images, axis=(1, 2)))
    changes = np.stack([dy, dy * t[:, None], dx, dx * t, images], 1).reshape(len(images), 5, -1) @ matrix
    length = np.maximum(np.linalg.norm(changes[:, 4], axis=1), 1e-6)[:, None, None]
    centre = (changes[:, 4:] / length - mean) / spread
    directions = np.concatenate([changes / length / spread, centre], 1).transpose(0, 2, 1)
    return np.linalg.qr(directions)[0].astype(np.float32)


# --------------------------------------------------------------------------------------- step 2 and 3: pixels


@functools.cache
def _blur(size: int, sigma: float) -> Floats:
    """Gaussian blur as a matrix f32[size,size]; sigma: pixels."""
    distance = np.arange(size)[:, None] - np.arange(size)
    kernel = np.exp(-(distance**2) / (2 * sigma**2))
    return (kernel / kernel.sum(1, keepdims=True)).astype(np.float32)


def _resampling(scale: Floats, shift: Floats, size: int) -> tuple[Floats, Floats]:
    """Linear interpolation along one axis at scale * t + shift, t in -1..1 over the side.

    Returns (weights f32[n,size,size], f32[n,size]: 1 where the place lies inside the image).
    """
    t = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
    places = (scale[:, None] * t + shift[:, None] + 1) * (size / 2) - 0.5
    distance = np.abs(np.clip(places, 0, size - 1)[:, :, None] - np.arange(size, dtype=np.float32))
    return np.maximum(0, 1 - distance).astype(np.float32, copy=False), ((places > -0.5) & (places < size - 0.5)).astype(
        np.float32
    )


def _warp(images: Floats, moves: Floats) -> tuple[Floats, Floats]:
    """Images f32[n,s,s] shifted and stretched; moves f32[n,4]: shift and scale of y, then of x. And where inside."""
    size = images.shape[-1]
    rows, inside_y = _resampling(moves[:, 1], moves[:, 0], size)
    columns, inside_x = _resampling(moves[:, 3], moves[:, 2], size)
    warped: Floats = np.matmul(np.matmul(rows, images), columns.transpose(0, 2, 1)).astype(np.float32, copy=False)
    return warped, inside_y[:, :, None] * inside_x[:, None, :]


def _align(still: Floats, moving: Floats, moves: Floats, iterations: int) -> Floats:
    """Moves that bring `moving` onto `still`, up to gain and offset: Gauss-Newton (Lucas and Kanade, IJCAI 1981)."""
    count, size, _ = still.shape
    t = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
    damping = np.array([1, 1, 1, 1, 0, 0], np.float32) * 1e-4 / 6
    for _ in range(iterations):
        warped, inside = _warp(moving, moves)
        dy, dx = (cast(Floats, slope) * (size / 2) for slope in np.gradient(warped, axis=(1, 2)))
        dy, dx = dy / moves[:, 1, None, None], dx / moves[:, 3, None, None]
        terms = np.stack([dy, dy * t[:, None], dx, dx * t, warped, np.ones_like(warped)], 1)
        terms = (terms * inside[:, None]).reshape(count, 6, -1)
        normal = terms @ terms.transpose(0, 2, 1)
        normal += np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.diag(damping)
        normal += 1e-3 * np.eye(6, dtype=np.float32)  # a image of one grey has no slopes
        right = terms @ (still * inside).reshape(count, -1, 1)
        solved = np.linalg.solve(normal.astype(np.float64), right.astype(np.float64))[:, :, 0]
        gain = np.where(np.abs(solved[:, 4]) < 0.05, 1, solved[:, 4])
        step = np.clip(solved[:, :4] / gain[:, None], -0.1, 0.1)
        moves = np.clip(moves + step, [-0.4, 0.7, -0.4, 0.7], [0.4, 1.4, 0.4, 1.4]).astype(np.float32)
    return moves


def _detail_correlation(still: Floats, moving: Floats, moves: Floats, levelled: bool = False) -> Floats:
    """Correlation f32[n], -1..1, of what a blur by 2 pixels takes away; 0 for moves out of bounds.

    levelled: details are divided by their local strength (but not lifted out of noise), so that one sharp dark spot,
    which many images have, does not outweigh the skin around it.
    """
    blur = _blur(still.shape[-1], 2.0)
    warped, inside = _warp(moving, moves)
    area = np.maximum(inside.sum((1, 2)), 1)
    details = []
    for images in (still, warped):
        detail = (images - blur @ images @ blur.T) * inside
        if levelled:
            wide = _blur(still.shape[-1], 4.0)
            detail /= np.sqrt(wide @ detail**2 @ wide.T + np.float32(_NOISE**2))
        details.append((detail - (detail.sum((1, 2)) / area)[:, None, None]) * inside)
    power = np.sqrt((details[0] ** 2).sum((1, 2)) * (details[1] ** 2).sum((1, 2)))
    scales, shifts = moves[:, 1::2], moves[:, ::2]
    allowed = (np.abs(shifts) <= _MAX_SHIFT) & (scales <= _MAX_SCALE) & (scales >= 1 / _MAX_SCALE)
    similar = (details[0] * details[1]).sum((1, 2)) / np.maximum(power, 1e-3)
    return np.where(allowed.all(1), similar, 0).astype(np.float32)


def _coarse(first: Floats, second: Floats) -> tuple[Floats, Floats]:
    """(moves, correlation) of thumbnails f32[n,32,32]."""
    moves = np.tile(np.array([0, 1, 0, 1], np.float32), (len(first), 1))
    moves = _align(first, second, moves, iterations=4)
    return moves, _detail_correlation(first, second, moves)


def _alike(fingerprints: Sequence[Fingerprint], pairs: tuple[Ints, Ints, Ints]) -> Iterator[tuple[int, int, int]]:
    """Step 2 on the pairs of step 1."""
    for start in range(0, len(pairs[0]), _CHUNK):
        first, second, symmetry = (each[start : start + _CHUNK] for each in pairs)
        turned = [_transform(fingerprints[i], s) for i, s in zip(first, symmetry, strict=True)]
        others = [fingerprints[i] for i in second]
        _, similar = _coarse(np.stack(turned).astype(np.float32), np.stack(others).astype(np.float32))
        for index in np.flatnonzero(similar >= _DETAIL_COARSE):
            yield int(first[index]), int(second[index]), int(symmetry[index])


def _similarity(first: bytes, second: bytes, symmetry: int) -> float:
    """Step 3: how alike the details are once laid over each other, -1..1; a copy has CONFIRMED or more."""
    if first == second:
        return 1.0
    still = _transform(_grey(first, _FINE), symmetry).astype(np.float32)[None]
    moving = _grey(second, _FINE).astype(np.float32)[None]
    half = (1, _COARSE, 2, _COARSE, 2)
    moves, _ = _coarse(still.reshape(half).mean((2, 4)), moving.reshape(half).mean((2, 4)))
    moves = _align(still, moving, moves, iterations=2)
    return float(_detail_correlation(still, moving, moves, levelled=True)[0])


# ------------------------------------------------------------------------------------------------- searching


def candidates(
    fingerprints: Sequence[Fingerprint], apart: Sequence[int] | None = None
) -> Iterator[tuple[int, int, int]]:
    """Yields (first, second, symmetry) of what may be one image, first < second: steps 1 and 2.

    apart: where given, only pairs are looked for in which it differs.
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
    """All three steps. read: the JPEG of an index, called again for candidates only. apart: as in `candidates`."""

    def judge(candidate: tuple[int, int, int]) -> Match:
        first, second, symmetry = candidate
        return Match(first, second, _similarity(read(first), read(second), symmetry), symmetry)

    best: dict[tuple[int, int], Match] = {}
    with threadpool_limits(1, "blas"):  # products of small matrices: BLAS's own threads would only fight with ours
        for match in _parallel(judge, candidates(fingerprints, apart), workers):
            known = best.get(match[:2])
            if match.similarity >= CONFIRMED and (known is None or match.similarity > known.similarity):
                best[match[:2]] = match
    return [best[key] for key in sorted(best)]


def find(images: Iterable[tuple[str, bytes | str | os.PathLike[str]]], workers: int = 1) -> Found:
    """The pairs among named JPEGs, each given as its bytes or the path of its file.

    Files are read once for their fingerprint and again if they are candidates, so memory holds 1 KB an image.
    workers: threads; Pillow and NumPy work beside each other in them.
    """

    def look(item: tuple[str, bytes | str | os.PathLike[str]]) -> Fingerprint | str:
        try:
            return fingerprint(_bytes_of(item[1]))
        except (DuplicatesError, OSError) as error:
            return str(error)

    named = sorted(images, key=lambda item: item[0])
    looked = list(_parallel(look, named, workers))
    kept = [index for index, found in enumerate(looked) if not isinstance(found, str)]
    unreadable = [(named[index][0], found) for index, found in enumerate(looked) if isinstance(found, str)]
    prints = [found for found in looked if not isinstance(found, str)]
    pairs = [
        Pair(named[kept[first]][0], named[kept[second]][0], similarity, SYMMETRIES[symmetry])
        for first, second, similarity, symmetry in matches(
            prints, lambda index: _bytes_of(named[kept[index]][1]), workers=workers
        )
    ]
    return Found(pairs, unreadable)


def _bytes_of(source: bytes | str | os.PathLike[str]) -> bytes:
    return source if isinstance(source, bytes) else Path(source).read_bytes()


Given = TypeVar("Given")
Made = TypeVar("Made")


def _parallel(function: Callable[[Given], Made], items: Iterable[Given], workers: int) -> Iterator[Made]:
    """map() in threads, in order, reading only a little ahead."""
    with ThreadPoolExecutor(workers) as threads:
        share: list[Given] = []
        for item in items:
            share.append(item)
            if len(share) == _THREAD_SHARE:
                yield from threads.map(function, share)
                share = []
        yield from threads.map(function, share)


# --------------------------------------------------------------------------------------------------- command


def _named_files(folder: Path, names: Sequence[str] | None) -> list[tuple[str, Path]]:
    """The JPEGs of a folder; those with these names if there are any given, also where there is none of one."""
    try:
        there = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise DuplicatesError(f"{folder}: {error.strerror}; expected the folder of the images") from error
    stems = {Path(name).stem for name in there if name.endswith(files.EXTENSIONS)}
    wanted = stems if names is None else set(names)
    if not stems & wanted:
        like = f"expected files like {files.expected('NAME' if names is None else min(wanted, default='NAME'))}"
        if names is None:
            raise DuplicatesError(f"{folder}: holds no JPEGs; {like}")
        raise DuplicatesError(f"{folder}: holds none of the {counted(len(wanted), 'image')} of the table; {like}")
    return [(name, folder / (files.file_of(name, there) or name + files.EXTENSIONS[0])) for name in sorted(wanted)]


def _listed(given: str, form: str | None, columns: str | None) -> list[str]:
    mapped = formats.parse_columns(columns) if columns else None
    return table.read_names(given.split(","), form, mapped)


def define_flags() -> None:
    """Defines the flags."""
    flags.DEFINE_string("images", None, "The folder of the JPEGs.", required=True)
    flags.DEFINE_string("csv", None, "Compare only the images of this table, as for build; default: all in --images.")
    flags.DEFINE_enum("form", None, [form.name for form in formats.FORMS], "Form of --csv; default: recognised.")
    flags.DEFINE_string("columns", None, "For a --csv in no known form: image_name=file.")
    flags.DEFINE_string("out", None, "Where the pairs go, as CSV; default: standard output.")
    flags.DEFINE_integer("workers", os.cpu_count() or 1, "Threads.", 1)


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    del argv
    args = flags.FLAGS
    out = paths.path(args.out) if args.out else None
    try:
        if out is not None:
            lists.check_output(out)
        names = _listed(args.csv, args.form, args.columns) if args.csv else None
        files = _named_files(Path(args.images), names)
        found = find(files, args.workers)
        if out is not None:
            lists.write(out, found.pairs)
        else:
            sys.stdout.write(lists.to_csv(found.pairs))
    except lists.PairsError as error:
        raise lists.PairsError(f"--out {error}") from error
    for name, reason in found.unreadable:
        print(f"{name}: not compared: {reason}", file=sys.stderr)
    totals = f"{counted(len(files), 'image')}, {counted(len(found.pairs), 'pair')}"
    print(f"{totals}, {len(found.unreadable)} not compared", file=sys.stderr)


def run() -> None:
    """Console entry point."""
    cli.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()

"""Statistics of a build from one pass over its records, and thumbnails of a sample of them."""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
import io
import itertools
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from PIL import Image

from tfrecord_tools import schema
from tfrecord_tools.core.paths import AnyPath
from tfrecord_tools.core.progress import Progress
from tfrecord_tools.core.text import counted
from tfrecord_tools.imaging import convert
from tfrecord_tools.metadata.vocabulary import CLASSES
from tfrecord_tools.records import shards, tfrecord
from tfrecord_tools.records.manifest import MANIFEST, Manifest

MISSING_WORD = "(missing)"
THUMBNAIL = 160  # pixels; sharp at the 80 of a phone, about 5 kB each in the page
_THUMBNAIL_QUALITY = 80
_SIZES_SHOWN = 12  # groups of source sizes; ISIC 2020 has 89, of which 12 hold 97% of the images
AGE_STEP = 5  # years; ISIC's age_approx comes in steps of 5
_AGE_BAND = 10  # years, for rates, so that a band has enough melanomas
_PER_PATIENT = (1, 2, 3, 6, 11, 21, 51, 101)  # lower ends of the groups of images per patient
COLUMNS = ("patient", "lesion", "sex", "age_approx", "anatom_site_general_challenge", "diagnosis", "target")


class StatsError(RuntimeError):
    """A build that cannot be read; the message says why and what to do."""


class Thumbnail(NamedTuple):
    """An image of the page.

    Attributes:
      record: its record, with an empty `image`.
      jpeg: a small JPEG of it.
    """

    record: schema.Record
    jpeg: bytes


FoldKey = tuple[str, int]  # (split, fold); test has fold -1
ClassCounts = dict[int, int]  # images by target
_Heap = list[tuple[int, str, schema.Record]]  # (minus the hash, name, record)


def _groups() -> defaultdict[Any, ClassCounts]:
    return defaultdict(lambda: defaultdict(int))


@dataclasses.dataclass
class BuildStats:
    """Counts and thumbnails of a build; grows with patients and pairs, not with images.

    Attributes:
      by_fold: class counts of each fold; likewise the other `by_...`, with codes as in the records.
      per_patient: class counts of each patient.
      patients_in: patients of each fold.
      lesions: all lesions.
      missing: number of empty cells of each column.
      samples: thumbnails of a sample of each class, by target.
      thumbnails: thumbnails of the images asked for, by name.
    """

    by_fold: dict[FoldKey, ClassCounts] = dataclasses.field(default_factory=_groups)
    by_sex: dict[int, ClassCounts] = dataclasses.field(default_factory=_groups)
    by_site: dict[int, ClassCounts] = dataclasses.field(default_factory=_groups)
    by_diagnosis: dict[int, ClassCounts] = dataclasses.field(default_factory=_groups)
    by_age: dict[int, ClassCounts] = dataclasses.field(default_factory=_groups)
    by_size: dict[tuple[int, int], ClassCounts] = dataclasses.field(default_factory=_groups)
    by_source: dict[str, ClassCounts] = dataclasses.field(default_factory=_groups)
    per_patient: dict[str, ClassCounts] = dataclasses.field(default_factory=_groups)
    patients_in: dict[FoldKey, set[str]] = dataclasses.field(default_factory=lambda: defaultdict(set))
    lesions: set[str] = dataclasses.field(default_factory=set)
    missing: Counter[str] = dataclasses.field(default_factory=Counter)
    samples: dict[int, list[Thumbnail]] = dataclasses.field(default_factory=dict)
    thumbnails: dict[str, Thumbnail] = dataclasses.field(default_factory=dict)

    @property
    def total(self) -> ClassCounts:
        """Images by target."""
        return _add(self.by_fold.values())

    @property
    def classes(self) -> list[int]:
        """Targets that occur, melanoma first."""
        return [target for target in CLASSES if self.total.get(target)]


# ---------------------------------------------------------------------------------------------- reading


def read(folder: AnyPath, manifest: Manifest, sample: int, seed: int, names: Iterable[str]) -> BuildStats:
    """Reads every record of a build once.

    Args:
      folder: folder of the build.
      manifest: its manifest.
      sample: number of images of each class to sample. They are chosen by a hash of seed and name, so independently of
        their order.
      seed: seed of the sample.
      names: names of further images to keep a thumbnail of.

    Raises:
      StatsError: a shard cannot be read.
    """
    build, wanted = BuildStats(), frozenset(names)
    heaps: dict[int, _Heap] = defaultdict(list)
    progress, done = Progress(sum(entry.records for entry in manifest.shards)), 0
    for entry in manifest.shards:
        for record in _records(folder, entry):
            _count(build, record, entry.split)
            if record.image_name in wanted:
                build.thumbnails[record.image_name] = _thumbnail(record)
            _offer(heaps[record.target], sample, seed, record)
            done += 1
            progress.show(done)
    progress.end(done)
    build.samples = {
        target: [_thumbnail(item[2]) for item in sorted(heap, reverse=True)] for target, heap in heaps.items()
    }
    return build


def _records(folder: AnyPath, entry: shards.ShardResult) -> Iterator[schema.Record]:
    path = folder / entry.name
    try:
        yield from map(schema.decode, tfrecord.read_records(path))
    except FileNotFoundError:
        held = counted(entry.records, "record")
        raise StatsError(f"{path}: missing; {MANIFEST} lists it with {held}") from None
    except OSError as error:
        raise StatsError(f"{path}: cannot be read: {error.strerror}") from error
    except (tfrecord.CorruptRecordError, schema.SchemaError) as error:
        message = str(error) if isinstance(error, tfrecord.CorruptRecordError) else f"{path}: {error}"
        raise StatsError(f"{message}\nTo find every problem: python -m tfrecord_tools.verify {folder}") from error


def _count(build: BuildStats, record: schema.Record, split: str) -> None:
    fold, target = (split, record.fold), record.target
    build.by_fold[fold][target] += 1
    build.by_sex[record.sex][target] += 1
    build.by_site[record.anatom_site_general_challenge][target] += 1
    build.by_diagnosis[record.diagnosis][target] += 1
    build.by_age[record.age_approx][target] += 1
    build.by_size[record.width, record.height][target] += 1
    build.by_source[record.source][target] += 1
    for column in COLUMNS:
        build.missing[column] += getattr(record, column) in ("", schema.MISSING)
    if record.patient:
        build.per_patient[record.patient][target] += 1
        build.patients_in[fold].add(record.patient)
    if record.lesion:
        build.lesions.add(record.lesion)


def _offer(heap: _Heap, size: int, seed: int, record: schema.Record) -> None:
    """Adds a record to a heap that keeps the `size` smallest hashes."""
    digest = hashlib.sha256(f"{seed}:{record.image_name}".encode()).digest()
    item = (-int.from_bytes(digest[:8], "big"), record.image_name, record)
    if len(heap) < size:
        heapq.heappush(heap, item)
    elif size and item[:2] > heap[0][:2]:  # [:2]: records cannot be compared
        heapq.heapreplace(heap, item)


def _thumbnail(record: schema.Record) -> Thumbnail:
    try:
        image = convert.decode(record.image).convert("RGB")
    except convert.ImageRejectedError as error:
        raise StatsError(f"image {record.image_name}: {error}; see python -m tfrecord_tools.verify") from error
    side = min(THUMBNAIL, *image.size)
    out = io.BytesIO()
    small = image.resize((side, side), Image.Resampling.LANCZOS, reducing_gap=3.0)
    small.save(out, "JPEG", quality=_THUMBNAIL_QUALITY, optimize=True)
    return Thumbnail(dataclasses.replace(record, image=b""), out.getvalue())


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """95% interval of a proportion (Wilson 1927, J. Am. Stat. Assoc. 22, 209); (0, 1) without trials."""
    if not trials:
        return 0.0, 1.0
    z, share = statistics.NormalDist().inv_cdf(0.975), successes / trials
    center = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return max(center - half, 0.0), min(center + half, 1.0)


def _add(counts: Iterable[ClassCounts]) -> ClassCounts:
    total: Counter[int] = Counter()
    for each in counts:
        total.update(each)
    return dict(total)


# ---------------------------------------------------------------------------------------------- groups


def by_word(groups: Mapping[int, ClassCounts], vocabulary: Sequence[str]) -> dict[str, ClassCounts]:
    """Groups of codes under their words, the most common first, missing values last."""
    codes = sorted(groups.keys() - {schema.MISSING}, key=lambda code: (-sum(groups[code].values()), code))
    named = {vocabulary[code]: groups[code] for code in codes}
    return named | ({MISSING_WORD: groups[schema.MISSING]} if schema.MISSING in groups else {})


def age_bands(groups: Mapping[int, ClassCounts]) -> dict[str, ClassCounts]:
    """Groups of ages in bands of ten years, missing ages last."""
    named = {}
    for low in sorted({age - age % _AGE_BAND for age in groups if age != schema.MISSING}):
        named[f"{low}–{low + _AGE_BAND - 1}"] = _add(groups.get(age, {}) for age in range(low, low + _AGE_BAND))
    return named | ({MISSING_WORD: groups[schema.MISSING]} if schema.MISSING in groups else {})


def sizes(groups: Mapping[tuple[int, int], ClassCounts]) -> dict[str, ClassCounts]:
    """Groups of the most common source sizes, all others in one."""
    ordered = sorted(groups.items(), key=lambda item: (-sum(item[1].values()), item[0]))
    named = {f"{width} × {height}": counts for (width, height), counts in ordered[:_SIZES_SHOWN]}
    others = ordered[_SIZES_SHOWN:]
    return named | ({f"{len(others)} other sizes": _add(counts for _, counts in others)} if others else {})


def images_per_patient(groups: Mapping[str, ClassCounts]) -> dict[str, ClassCounts]:
    """Patients by their number of images; a patient with one image of melanoma counts as melanoma."""
    named = {}
    for low, high in itertools.pairwise([*_PER_PATIENT, math.inf]):
        label = str(low) if high - low == 1 else f"{low}–{high - 1}" if high < math.inf else f"over {low - 1}"
        # The first of CLASSES decides: one melanoma makes the patient so.
        verdicts = (
            next(target for target in CLASSES if counts.get(target))
            for counts in groups.values()
            if low <= sum(counts.values()) < high
        )
        named[label] = dict(Counter(verdicts))
    while named and not named[next(reversed(named))]:  # groups beyond the largest patient
        named.popitem()
    return named


def medians(groups: Mapping[int, ClassCounts]) -> dict[int, int]:
    """Lower median of each class, of values with their class counts."""
    return {
        target: statistics.median_low(
            Counter({value: split.get(target, 0) for value, split in groups.items()}).elements()
        )
        for target in CLASSES
        if any(split.get(target) for split in groups.values())
    }

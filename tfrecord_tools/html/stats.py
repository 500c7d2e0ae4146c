"""What a build holds, counted in one pass: classes by fold, sex, site, age and size, and a few images."""

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
from tfrecord_tools.builder import workers
from tfrecord_tools.core.paths import AnyPath
from tfrecord_tools.core.text import counted
from tfrecord_tools.imaging import convert
from tfrecord_tools.metadata.vocabulary import CLASSES
from tfrecord_tools.records import shards, tfrecord
from tfrecord_tools.records.manifest import MANIFEST, Manifest

MISSING_WORD = "(missing)"
THUMBNAIL = 160  # pixels; twice what a phone shows, and some 5 kB each in the page
_THUMBNAIL_QUALITY = 80
_SIZES_SHOWN = 12  # groups of source sizes; ISIC 2020 has 89, of which 12 hold 97% of the images
AGE_STEP = 5  # years; ISIC's age_approx comes in steps of 5
_AGE_BAND = 10  # years, for rates, so that a band has enough melanomas
_PER_PATIENT = (1, 2, 3, 6, 11, 21, 51, 101)  # lower ends of the groups of images per patient
COLUMNS = ("patient", "lesion", "sex", "age_approx", "anatom_site_general_challenge", "diagnosis", "target")


class SurveyError(RuntimeError):
    """A build cannot be read; the message says why and what to do."""


class Shown(NamedTuple):
    """What the page shows of one image: its record without the image, a thumbnail instead."""

    record: schema.Record
    thumbnail: bytes


Place = tuple[str, int]  # (split, fold); test has fold -1
Split = dict[int, int]  # images by target
Chosen = list[tuple[int, str, schema.Record]]  # a heap: minus the hash, the name, the record


def _groups() -> defaultdict[Any, Split]:
    return defaultdict(lambda: defaultdict(int))


@dataclasses.dataclass
class Survey:
    """What one pass over the records counts and keeps. It grows with patients and pairs, not with images.

    by_...: images by target of each value, codes as in the records. per_patient: images by target of each patient.
    patients_in: patients of each place. sheets: a sample of each class, by target. imaged: by name.
    """

    by_place: dict[Place, Split] = dataclasses.field(default_factory=_groups)
    by_sex: dict[int, Split] = dataclasses.field(default_factory=_groups)
    by_site: dict[int, Split] = dataclasses.field(default_factory=_groups)
    by_diagnosis: dict[int, Split] = dataclasses.field(default_factory=_groups)
    by_age: dict[int, Split] = dataclasses.field(default_factory=_groups)
    by_size: dict[tuple[int, int], Split] = dataclasses.field(default_factory=_groups)
    by_source: dict[str, Split] = dataclasses.field(default_factory=_groups)
    per_patient: dict[str, Split] = dataclasses.field(default_factory=_groups)
    patients_in: dict[Place, set[str]] = dataclasses.field(default_factory=lambda: defaultdict(set))
    lesions: set[str] = dataclasses.field(default_factory=set)
    missing: Counter[str] = dataclasses.field(default_factory=Counter)
    sheets: dict[int, list[Shown]] = dataclasses.field(default_factory=dict)
    imaged: dict[str, Shown] = dataclasses.field(default_factory=dict)

    @property
    def total(self) -> Split:
        """Images by target."""
        return _add(self.by_place.values())

    @property
    def classes(self) -> list[int]:
        """The targets that occur, melanoma first."""
        return [target for target in CLASSES if self.total.get(target)]


# ---------------------------------------------------------------------------------------------- reading


def read(folder: AnyPath, manifest: Manifest, sample: int, seed: int, names: Iterable[str]) -> Survey:
    """Reads every record of a build once.

    sample: images of each class for the contact sheets, chosen by a hash of seed and name, so not by their order.
    names: of the images to keep a thumbnail of. Raises SurveyError naming the shard that cannot be read.
    """
    found, wanted = Survey(), frozenset(names)
    chosen: dict[int, Chosen] = defaultdict(list)
    progress, done = workers.Progress(sum(entry.records for entry in manifest.shards)), 0
    for entry in manifest.shards:
        for record in _records(folder, entry):
            _count(found, record, entry.split)
            if record.image_name in wanted:
                found.imaged[record.image_name] = _shown(record)
            _offer(chosen[record.target], sample, seed, record)
            done += 1
            progress.show(done)
    progress.end(done)
    found.sheets = {target: [_shown(item[2]) for item in sorted(heap, reverse=True)] for target, heap in chosen.items()}
    return found


def _records(folder: AnyPath, entry: shards.ShardResult) -> Iterator[schema.Record]:
    path = folder / entry.name
    try:
        yield from map(schema.decode, tfrecord.read_records(path))
    except FileNotFoundError:
        held = counted(entry.records, "record")
        raise SurveyError(f"{path}: missing; {MANIFEST} lists it with {held}") from None
    except OSError as error:
        raise SurveyError(f"{path}: cannot be read: {error.strerror}") from error
    except (tfrecord.CorruptRecordError, schema.SchemaError) as error:
        told = str(error) if isinstance(error, tfrecord.CorruptRecordError) else f"{path}: {error}"
        raise SurveyError(f"{told}\nTo find all that is wrong: python -m tfrecord_tools.verify {folder}") from error


def _count(found: Survey, record: schema.Record, split: str) -> None:
    place, target = (split, record.fold), record.target
    found.by_place[place][target] += 1
    found.by_sex[record.sex][target] += 1
    found.by_site[record.anatom_site_general_challenge][target] += 1
    found.by_diagnosis[record.diagnosis][target] += 1
    found.by_age[record.age_approx][target] += 1
    found.by_size[record.width, record.height][target] += 1
    found.by_source[record.source][target] += 1
    for column in COLUMNS:
        found.missing[column] += getattr(record, column) in ("", schema.MISSING)
    if record.patient:
        found.per_patient[record.patient][target] += 1
        found.patients_in[place].add(record.patient)
    if record.lesion:
        found.lesions.add(record.lesion)


def _offer(heap: Chosen, size: int, seed: int, record: schema.Record) -> None:
    """Keeps the records with the `size` smallest hashes."""
    digest = hashlib.sha256(f"{seed}:{record.image_name}".encode()).digest()
    item = (-int.from_bytes(digest[:8], "big"), record.image_name, record)
    if len(heap) < size:
        heapq.heappush(heap, item)
    elif size and item[:2] > heap[0][:2]:  # [:2]: records cannot be compared
        heapq.heapreplace(heap, item)


def _shown(record: schema.Record) -> Shown:
    try:
        image = convert.decode(record.image).convert("RGB")
    except convert.ImageRejectedError as error:
        raise SurveyError(f"image {record.image_name}: {error}; see python -m tfrecord_tools.verify") from error
    side = min(THUMBNAIL, *image.size)
    out = io.BytesIO()
    small = image.resize((side, side), Image.Resampling.LANCZOS, reducing_gap=3.0)
    small.save(out, "JPEG", quality=_THUMBNAIL_QUALITY, optimize=True)
    return Shown(dataclasses.replace(record, image=b""), out.getvalue())


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """95% interval of a proportion (Wilson 1927, J. Am. Stat. Assoc. 22, 209); (0, 1) of no trials."""
    if not trials:
        return 0.0, 1.0
    z, share = statistics.NormalDist().inv_cdf(0.975), successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return max(centre - half, 0.0), min(centre + half, 1.0)


def _add(counts: Iterable[Split]) -> Split:
    total: Counter[int] = Counter()
    for each in counts:
        total.update(each)
    return dict(total)


# ---------------------------------------------------------------------------------------------- groups


def words(found: Mapping[int, Split], vocabulary: Sequence[str]) -> dict[str, Split]:
    """The words that occur, the commonest first, what is missing last."""
    codes = sorted(found.keys() - {schema.MISSING}, key=lambda code: (-sum(found[code].values()), code))
    named = {vocabulary[code]: found[code] for code in codes}
    return named | ({MISSING_WORD: found[schema.MISSING]} if schema.MISSING in found else {})


def age_bands(found: Mapping[int, Split]) -> dict[str, Split]:
    """Bands of ten years, what is missing last."""
    named = {}
    for low in sorted({age - age % _AGE_BAND for age in found if age != schema.MISSING}):
        named[f"{low}–{low + _AGE_BAND - 1}"] = _add(found.get(age, {}) for age in range(low, low + _AGE_BAND))
    return named | ({MISSING_WORD: found[schema.MISSING]} if schema.MISSING in found else {})


def sizes(found: Mapping[tuple[int, int], Split]) -> dict[str, Split]:
    """The commonest sizes, the others together."""
    ordered = sorted(found.items(), key=lambda item: (-sum(item[1].values()), item[0]))
    named = {f"{width} × {height}": counts for (width, height), counts in ordered[:_SIZES_SHOWN]}
    others = ordered[_SIZES_SHOWN:]
    return named | ({f"{len(others)} other sizes": _add(counts for _, counts in others)} if others else {})


def images_per_patient(found: Mapping[str, Split]) -> dict[str, Split]:
    """Patients by how many images they have; melanoma means at least one such image."""
    named = {}
    for low, high in itertools.pairwise([*_PER_PATIENT, math.inf]):
        label = str(low) if high - low == 1 else f"{low}–{high - 1}" if high < math.inf else f"over {low - 1}"
        # CLASSES stands in the order that decides: one melanoma makes the patient so.
        verdicts = (
            next(target for target in CLASSES if counts.get(target))
            for counts in found.values()
            if low <= sum(counts.values()) < high
        )
        named[label] = dict(Counter(verdicts))
    while named and not named[next(reversed(named))]:  # groups beyond the largest patient
        named.popitem()
    return named


def medians(found: Mapping[int, Split]) -> dict[int, int]:
    """Lower median of each class, of a value's images by target."""
    return {
        target: statistics.median_low(
            Counter({value: split.get(target, 0) for value, split in found.items()}).elements()
        )
        for target in CLASSES
        if any(split.get(target) for split in found.values())
    }

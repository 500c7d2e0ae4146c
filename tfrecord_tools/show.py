"""One self-contained HTML page of what a build holds: counts and rates, pictures, quarantine, duplicates.

  python -m tfrecord_tools.show tfrecords/384 --out page.html
  python -m tfrecord_tools.show tfrecords/384 --out page.html --duplicates pairs.csv

The page needs no network and runs no script: it can be mailed, archived and printed. The same build, pairs and
--seed give the same page. Every record is read once, checksums included; of the pictures only those shown are kept.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import heapq
import io
import itertools
import math
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import app, flags
from PIL import Image

from tfrecord_tools import image, page, schema, shards, workers
from tfrecord_tools.page import CLASSES, Html, card, join, note, percent, tag

MISSING_WORD = "(missing)"
_THUMBNAIL = 160  # pixels; twice what a phone shows, and some 5 kB each in the page
_THUMBNAIL_QUALITY = 80
_SIZES_SHOWN = 12  # groups of source sizes; ISIC 2020 has 89, of which 12 hold 97% of the images
_QUARANTINE_SHOWN = 500  # rows; the rest is in quarantine.csv
_AGE_STEP = 5  # years; ISIC's age_approx comes in steps of 5
_AGE_BAND = 10  # years, for rates, so that a band has enough malignant images
_PER_PATIENT = (1, 2, 3, 6, 11, 21, 51, 101)  # lower ends of the groups of images per patient
_COLUMNS = ("patient", "lesion", "sex", "age_approx", "anatom_site_general_challenge", "diagnosis", "target")


class ShowError(RuntimeError):
    """The page cannot be made; the message says why and what to do."""


class Pair(NamedTuple):
    """A line of the pairs CSV. similarity: as written there, None if it has no such column."""

    first: str
    second: str
    similarity: float | None


class Shown(NamedTuple):
    """What the page shows of one picture: its record without the image, a thumbnail instead."""

    record: schema.Record
    thumbnail: bytes


Place = tuple[str, int]  # (split, fold); test has fold -1
Split = dict[int, int]  # images by target
Chosen = list[tuple[int, str, schema.Record]]  # a heap: minus the hash, the name, the record


def _groups() -> defaultdict[Any, Split]:
    return defaultdict(lambda: defaultdict(int))


@dataclasses.dataclass
class Survey:
    """What one pass over the records counts and keeps. It grows with patients and pairs, not with pictures.

    by_...: images by target of each value, codes as in the records. per_patient: images by target of each patient.
    patients_in: patients of each place. sheets: a sample of each class, by target. pictured: by name.
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
    pictured: dict[str, Shown] = dataclasses.field(default_factory=dict)

    @property
    def total(self) -> Split:
        """Images by target."""
        return _add(self.by_place.values())

    @property
    def classes(self) -> list[int]:
        """The targets that occur, malignant first."""
        return [target for target in CLASSES if self.total.get(target)]


# ---------------------------------------------------------------------------------------------- reading


def survey(folder: Path, manifest: shards.Manifest, sample: int, seed: int, names: Iterable[str]) -> Survey:
    """Reads every record of a build once.

    sample: pictures of each class for the contact sheets, chosen by a hash of seed and name, so not by their order.
    names: of the pictures to keep a thumbnail of. Raises ShowError naming the shard that cannot be read.
    """
    found, wanted = Survey(), frozenset(names)
    chosen: dict[int, Chosen] = defaultdict(list)
    progress, done = workers.Progress(sum(entry.records for entry in manifest.shards)), 0
    for entry in manifest.shards:
        for record in _records(folder, entry):
            _count(found, record, entry.split)
            if record.image_name in wanted:
                found.pictured[record.image_name] = _shown(record)
            _offer(chosen[record.target], sample, seed, record)
            done += 1
            progress.show(done)
    progress.end(done)
    found.sheets = {target: [_shown(item[2]) for item in sorted(heap, reverse=True)] for target, heap in chosen.items()}
    return found


def _records(folder: Path, entry: shards.ShardResult) -> Iterator[schema.Record]:
    path = folder / entry.name
    try:
        yield from map(schema.decode, schema.read_records(path))
    except FileNotFoundError:
        raise ShowError(f"{path}: missing; {shards.MANIFEST} lists it with {entry.records} records") from None
    except OSError as error:
        raise ShowError(f"{path}: cannot be read: {error.strerror}") from error
    except (schema.CorruptRecord, schema.SchemaError) as error:
        told = str(error) if isinstance(error, schema.CorruptRecord) else f"{path}: {error}"
        raise ShowError(f"{told}\nTo find all that is wrong: python -m tfrecord_tools.verify {folder}") from error


def _count(found: Survey, record: schema.Record, split: str) -> None:
    place, target = (split, record.fold), record.target
    found.by_place[place][target] += 1
    found.by_sex[record.sex][target] += 1
    found.by_site[record.anatom_site_general_challenge][target] += 1
    found.by_diagnosis[record.diagnosis][target] += 1
    found.by_age[record.age_approx][target] += 1
    found.by_size[record.width, record.height][target] += 1
    found.by_source[record.source][target] += 1
    for column in _COLUMNS:
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
        picture = image.decode(record.image).convert("RGB")
    except image.ImageRejected as error:
        raise ShowError(f"image {record.image_name}: {error}; see python -m tfrecord_tools.verify") from error
    side = min(_THUMBNAIL, *picture.size)
    out = io.BytesIO()
    small = picture.resize((side, side), Image.Resampling.LANCZOS, reducing_gap=3.0)
    small.save(out, "JPEG", quality=_THUMBNAIL_QUALITY, optimize=True)
    return Shown(dataclasses.replace(record, image=b""), out.getvalue())


def read_pairs(path: Path) -> list[Pair]:
    """Reads a CSV with the columns image_name_1, image_name_2 and perhaps similarity; others are ignored.

    Raises ShowError naming file, line and what is expected.
    """
    pairs = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            columns = reader.fieldnames or []
            if not {"image_name_1", "image_name_2"} <= set(columns):
                found = ", ".join(columns) or "nothing"
                raise ShowError(f"{path.name}: expected the columns image_name_1,image_name_2; found {found}")
            for row in reader:
                first, second = (row["image_name_1"] or "").strip(), (row["image_name_2"] or "").strip()
                if not (first and second):
                    raise ShowError(f"{path.name}: line {reader.line_num}: expected two image names")
                pairs.append(Pair(first, second, _similarity(row.get("similarity"), path, reader.line_num)))
    except OSError as error:
        raise ShowError(f"{path}: cannot be read: {error.strerror}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise ShowError(f"{path.name}: not a UTF-8 CSV file: {error}") from error
    return pairs


def _similarity(cell: str | None, path: Path, line: int) -> float | None:
    if not cell or not cell.strip():
        return None
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ShowError(f"{path.name}: line {line}: column similarity: {cell!r} is not allowed; expected a number")
    return value


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
    """Patients by how many images they have; malignant means at least one malignant image."""
    named = {}
    for low, high in itertools.pairwise([*_PER_PATIENT, math.inf]):
        label = str(low) if high - low == 1 else f"{low}–{high - 1}" if high < math.inf else f"over {low - 1}"
        # CLASSES stands in the order that decides: one malignant image makes the patient so.
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


# --------------------------------------------------------------------------------------------- sections


def counts_card(found: Survey, title: str, groups: Mapping[str, Split], *notes: str) -> Html:
    """How many images each group has, by class."""
    rows = [page.Bar(label, dict(counts)) for label, counts in groups.items()]
    return card(title, page.bars(title.lower(), rows, found.classes), [note(text) for text in notes])


def rates_card(found: Survey, title: str, groups: Mapping[str, Split], *notes: str) -> Html:
    """The malignant share of each group that has labelled images."""
    rows = []
    for label, counts in groups.items():
        malignant, labelled = counts.get(1, 0), counts.get(1, 0) + counts.get(0, 0)
        if labelled:
            rows.append(page.Rate(label, malignant, labelled, *wilson(malignant, labelled)))
    overall = found.total.get(1, 0) / (found.total.get(1, 0) + found.total.get(0, 0))
    return card(title, page.rates(title.lower().removeprefix("by "), rows, overall), [note(text) for text in notes])


def tiles(found: Survey, manifest: shards.Manifest) -> Html:
    """The counts that come first, in large."""
    total = found.total
    everything, labelled = sum(total.values()), total.get(1, 0) + total.get(0, 0)
    quarantined = sum(len(entry.quarantined) for entry in manifest.shards)
    size = manifest.settings.get("size")
    boxes = [("images", everything, f"{size} × {size} pixels")]
    for target in found.classes:
        of_what = f"{percent(total[target], labelled)} of the labelled" if target >= 0 else "without a target"
        boxes.append((CLASSES[target], total[target], of_what))
    affected = sum(counts.get(1, 0) > 0 for counts in found.per_patient.values())
    boxes.append(("patients", len(found.per_patient), f"{affected:,} with a malignant image" if labelled else ""))
    if found.lesions:
        boxes.append(("lesions", len(found.lesions), ""))
    boxes.append(("shards", len(manifest.shards), f"{sum(entry.bytes for entry in manifest.shards) / 1e6:,.1f} MB"))
    boxes.append(("quarantined", quarantined, "could not be used" if quarantined else "every image was used"))
    drawn = (
        tag("div", tag("dt", name), tag("dd", f"{n:,}", tag("small", more)), class_="tile") for name, n, more in boxes
    )
    return tag("dl", drawn, class_="tiles")


def folds(found: Survey) -> Html:
    """A row for each fold, and for test."""
    header, rows = ["part", "images", "patients", "malignant", "share"], []
    for place in sorted(found.by_place, key=lambda place: (place[1] < 0, place)):
        counts = found.by_place[place]
        row = [_say(place), f"{sum(counts.values()):,}", f"{len(found.patients_in.get(place, ())):,}"]
        if labelled := counts.get(1, 0) + counts.get(0, 0):
            row += [f"{counts.get(1, 0):,}", percent(counts.get(1, 0), labelled)]
        rows.append(row)
    most = max(map(len, rows), default=0)  # 3 where nothing is labelled
    return card("Folds", page.table(header[:most], ([*row, "–", "–"][:most] for row in rows)))


def _say(place: Place) -> str:
    return f"fold {place[1]}" if place[1] >= 0 else place[0]


def ages(found: Survey) -> Html:
    """A histogram for each class, each on its own scale: on one, 2% would not be seen."""
    known = {age: counts for age, counts in found.by_age.items() if age != schema.MISSING}
    edges = range(0, max(known, default=0) + 2 * _AGE_STEP, _AGE_STEP)
    middle = medians(known)
    charts = []
    for target in found.classes:
        counts = [0] * (len(edges) - 1)
        for age, by_target in known.items():
            counts[age // _AGE_STEP] += by_target.get(target, 0)
        title = f"{CLASSES[target]}, median {middle.get(target, '–')} years"
        charts.append(page.histogram(title, edges, counts, CLASSES[target], "years"))
    return card("Age", charts, note("Each class has a scale of its own. Missing ages are left out."))


def patients(found: Survey) -> Html:
    """How many patients have how many images."""
    rows = [page.Bar(label, counts) for label, counts in images_per_patient(found.per_patient).items()]
    numbers = [sum(counts.values()) for counts in found.per_patient.values()]
    text = "No patient is named."
    if numbers:
        text = f"Median {statistics.median_low(numbers):,}, most {max(numbers):,}. Malignant: with such an image."
    return card("Images per patient", page.bars("images", rows, found.classes, "patients"), note(text))


def missing(found: Survey) -> Html:
    """Empty cells of each column of the records."""
    everything = sum(found.total.values())
    rows = [(column, f"{found.missing[column]:,}", percent(found.missing[column], everything)) for column in _COLUMNS]
    text = "Empty cells; the diagnosis “unknown” is a word of the vocabulary, not an empty cell."
    return card("Missing values", page.table(["column", "missing", "share"], rows), note(text))


def settings(manifest: shards.Manifest) -> Html:
    """What determines the bytes: settings, versions, inputs."""
    described = {f"{split} {key}": value for split, each in manifest.inputs.items() for key, value in each.items()}
    rows = [(key, str(value)) for key, value in {**manifest.settings, **described, **manifest.versions}.items()]
    return card("How it was made", page.table(["setting", "value"], rows, class_="text"))


def contact_sheets(found: Survey) -> Iterator[Html]:
    """A sample of each class."""
    for target in found.classes:
        chosen = found.sheets[target]
        yield tag("h3", f"{CLASSES[target].capitalize()}: {len(chosen):,} of {found.total[target]:,}")
        yield tag("div", (_figure(shown) for shown in chosen), class_="sheet")


def _figure(shown: Shown, *more: str) -> Html:
    record = shown.record
    sex, age = _word(schema.SEX, record.sex, "sex ?"), "age ?" if record.age_approx < 0 else f"{record.age_approx} y"
    site = _word(schema.SITE, record.anatom_site_general_challenge, "site ?")
    lines = [record.patient or "patient ?", f"{sex}, {age}", site, _word(schema.DIAGNOSIS, record.diagnosis, ""), *more]
    described = f"{record.image_name}, {CLASSES[record.target]}, {site}"
    caption = tag("figcaption", tag("b", record.image_name), (tag("span", line) for line in lines if line))
    return tag("figure", page.picture(shown.thumbnail, _THUMBNAIL, described), caption)


def _word(vocabulary: Sequence[str], code: int, otherwise: str) -> str:
    return vocabulary[code] if code != schema.MISSING else otherwise


def quarantine(manifest: shards.Manifest) -> Iterator[Html]:
    """What did not get into the shards, and why."""
    images = [each for entry in manifest.shards for each in entry.quarantined]
    if not images:
        yield tag("p", "Empty: every image that the table names is in the shards.")
        return
    rows = [(each.image_name, each.file, each.reason) for each in images[:_QUARANTINE_SHOWN]]
    yield tag("div", page.table(["image", "file", "reason"], rows, class_="text"), class_="card")
    if len(images) > len(rows):
        yield note(f"{len(rows):,} of {len(images):,} are shown; all are in quarantine.csv.")


def duplicates(found: Survey, pairs: Sequence[Pair], limit: int) -> Iterator[Html]:
    """Pairs side by side: those in two folds first, then the least similar, those with one picture last."""
    here = [pair for pair in pairs if {pair.first, pair.second} & found.pictured.keys()]
    both = [pair for pair in here if {pair.first, pair.second} <= found.pictured.keys()]
    leaks = {pair for pair in both if _differ(found, pair, "fold")}
    text = f"{len(pairs):,} pairs given: {len(both):,} with both pictures in this build, "
    yield tag("p", text, f"{len(here) - len(both):,} with one, {len(pairs) - len(here):,} with none.")
    if leaks:
        yield tag(
            "p", f"{len(leaks):,} lie in two folds: models are judged there on what they trained on.", class_="bad"
        )
    complete = set(both)

    def order(pair: Pair) -> tuple[bool, bool, float]:
        return pair not in leaks, pair not in complete, math.inf if pair.similarity is None else pair.similarity

    if len(here) > limit:
        yield note(f"{limit:,} of {len(here):,} are shown; --pairs says how many.")
    yield tag("div", (_pair(found, pair) for pair in sorted(here, key=order)[:limit]), class_="pairs")


def _differ(found: Survey, pair: Pair, field: str) -> bool:
    first, second = (getattr(found.pictured[name].record, field) for name in (pair.first, pair.second))
    return bool(first != second)


def _pair(found: Survey, pair: Pair) -> Html:
    remarks = [] if pair.similarity is None else [tag("span", f"similarity {pair.similarity:.4g}")]
    if {pair.first, pair.second} <= found.pictured.keys():
        told = {"fold": "in two folds", "target": "two labels", "patient": "two patients"}
        remarks += [tag("span", text, class_="bad") for field, text in told.items() if _differ(found, pair, field)]
    figures = []
    for name in (pair.first, pair.second):
        shown = found.pictured.get(name)
        if shown is None:
            absent = tag("div", "not in this build", class_="absent")
            figures.append(tag("figure", absent, tag("figcaption", tag("b", name))))
        else:
            fold = f"fold {shown.record.fold}" if shown.record.fold >= 0 else "test"
            figures.append(_figure(shown, f"{CLASSES[shown.record.target]}, {fold}"))
    return tag("div", tag("p", remarks) if remarks else None, figures, class_="card pair")


# ------------------------------------------------------------------------------------------------- page


def make_page(
    folder: Path, pairs: Sequence[Pair] | None = None, samples: int = 24, limit: int = 40, seed: int = 0
) -> str:
    """The page of a build, as HTML.

    pairs: duplicates, None if no list was given; limit: how many of them to show. samples: pictures of each class.
    Raises ShowError or shards.ShardError with a message for the user.
    """
    manifest = shards.Manifest.read(folder)
    names = itertools.chain.from_iterable((pair.first, pair.second) for pair in pairs or ())
    found = survey(folder, manifest, samples, seed, names)
    sections = {"What it holds": _holds(found), "How often malignant": _malignant(found)}
    sections["Files"] = tag("div", _files(found, manifest), class_="cards")
    sections["Pictures"] = join(contact_sheets(found))
    sections["Quarantine"] = join(quarantine(manifest))
    none = tag("p", "No list of pairs was given; --duplicates pairs.csv shows them side by side.")
    sections["Duplicates"] = none if pairs is None else join(duplicates(found, pairs, limit))
    title = f"TFRecord build “{folder.resolve().name}”"
    links = (tag("a", name, href=f"#{_anchor(name)}") for name in sections)
    body = [tag("h1", title), tag("nav", links, aria_label="Sections"), _warning(manifest), tiles(found, manifest)]
    for name, content in sections.items():
        body += [tag("h2", name, id=_anchor(name)), content]
    return page.document(title, body)


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _warning(manifest: shards.Manifest) -> Html | None:
    text = "This build is not complete: only its finished shards are shown. Go on with its --resume."
    return None if manifest.complete else tag("p", text, class_="warning")


def _holds(found: Survey) -> Html:
    cards = [
        folds(found),
        counts_card(found, "Sex", words(found.by_sex, schema.SEX)),
        counts_card(found, "Site", words(found.by_site, schema.SITE)),
        counts_card(found, "Diagnosis", words(found.by_diagnosis, schema.DIAGNOSIS)),
        patients(found),
        ages(found),
    ]
    if len(found.by_source) > 1:
        cards.append(counts_card(found, "Data set", found.by_source))
    return join([page.legend(found.classes), tag("div", cards, class_="cards")])


def _malignant(found: Survey) -> Html:
    total = found.total
    labelled = total.get(1, 0) + total.get(0, 0)
    if not labelled:
        return tag("p", "Nothing is labelled.")
    shortcut = "A size that goes with a class is a shortcut: it tells the camera or the clinic, not the lesion."
    cards = [
        rates_card(found, "By sex", words(found.by_sex, schema.SEX)),
        rates_card(found, "By site", words(found.by_site, schema.SITE)),
        rates_card(found, "By age", age_bands(found.by_age)),
    ]
    if len(found.by_size) > 1:
        cards.append(rates_card(found, "By source size", sizes(found.by_size), shortcut))
    text = (
        "Malignant images as a share of the labelled ones. Dashed: the share in the whole build, "
        f"{percent(total.get(1, 0), labelled)}. Lines: 95% intervals (Wilson), which take images for independent; "
        "those of one patient are not quite."
    )
    return join([tag("p", text, class_="lead"), tag("div", cards, class_="cards")])


def _files(found: Survey, manifest: shards.Manifest) -> list[Html]:
    before = "Pixels of the image files, as displayed, before cropping."
    return [counts_card(found, "Source size", sizes(found.by_size), before), missing(found), settings(manifest)]


# -------------------------------------------------------------------------------------------- command


def define_flags() -> None:
    """Defines the flags; called only when this is the command, so that commands can be imported side by side."""
    flags.DEFINE_string("out", "show.html", "The page; a file that ends in .html, replaced if it is there.")
    flags.DEFINE_string("duplicates", None, "CSV of pairs: image_name_1,image_name_2 and perhaps similarity.")
    flags.DEFINE_integer("samples", 24, "Pictures on the contact sheet of each class.", 0)
    flags.DEFINE_integer("pairs", 40, "Pairs of --duplicates to show.", 0)
    flags.DEFINE_integer("seed", 0, "Of the choice of the pictures.")
    for name in ("out", "duplicates", "samples", "pairs", "seed"):  # for --help under the console command's name
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])


def main(argv: Sequence[str]) -> None:
    """The command; exits with 1 and one message on what a user can mend."""
    if len(argv) != 2:
        sys.exit("error: expected one folder; usage: python -m tfrecord_tools.show DIR [--out page.html]")
    given, out = flags.FLAGS, Path(flags.FLAGS.out)
    if out.suffix != ".html":
        sys.exit(f"error: --out {out}; expected a name that ends in .html")
    try:
        pairs = None if given.duplicates is None else read_pairs(Path(given.duplicates))
        text = make_page(Path(argv[1]), pairs, given.samples, given.pairs, given.seed)
        out.parent.mkdir(parents=True, exist_ok=True)
        shards.write_whole(out, text)
    except (ShowError, shards.ShardError) as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {out}: cannot be written: {error.strerror}")
    print(f"{out}: {len(text.encode()) / 1e6:.1f} MB")


def run() -> None:
    """Console entry point."""
    define_flags()
    app.run(main)


if __name__ == "__main__":
    run()

"""One self-contained HTML page of what a build holds: counts and rates, images, quarantine, duplicates.

  python -m tfrecord_tools.show tfrecords/384 --out page.html
  python -m tfrecord_tools.show tfrecords/384 --out page.html --duplicates pairs.csv

The page needs no network and runs no script: it can be mailed, archived and printed. The same build, pairs and
--seed give the same page. Every record is read once, checksums included; of the images only those shown are kept.
"""

from __future__ import annotations

import itertools
import math
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from absl import flags

from tfrecord_tools import schema
from tfrecord_tools.core import cli, paths
from tfrecord_tools.core.paths import AnyPath
from tfrecord_tools.core.text import verb
from tfrecord_tools.dedup import pairs as lists
from tfrecord_tools.dedup.pairs import Pair
from tfrecord_tools.html import page, stats
from tfrecord_tools.html.page import Content, Html, card, join, note, percent, tag
from tfrecord_tools.html.stats import Place, Shown, Split, Survey
from tfrecord_tools.metadata.vocabulary import CLASSES
from tfrecord_tools.records.manifest import Manifest

_QUARANTINE_SHOWN = 500  # rows; the rest is in quarantine.csv


# --------------------------------------------------------------------------------------------- sections


def counts_card(found: Survey, title: str, groups: Mapping[str, Split], *notes: str) -> Html:
    """How many images each group has, by class."""
    rows = [page.Bar(label, dict(counts)) for label, counts in groups.items()]
    return card(title, page.bars(title.lower(), rows, found.classes), [note(text) for text in notes])


def rates_card(found: Survey, title: str, groups: Mapping[str, Split], *notes: str) -> Html:
    """The share of melanoma in each group that has labelled images."""
    rows = []
    for label, counts in groups.items():
        melanomas, labelled = counts.get(1, 0), counts.get(1, 0) + counts.get(0, 0)
        if labelled:
            rows.append(page.Rate(label, melanomas, labelled, *stats.wilson(melanomas, labelled)))
    overall = found.total.get(1, 0) / (found.total.get(1, 0) + found.total.get(0, 0))
    return card(title, page.rates(title.lower().removeprefix("by "), rows, overall), [note(text) for text in notes])


def tiles(found: Survey, manifest: Manifest) -> Html:
    """The counts that come first, in large."""
    total = found.total
    everything, labelled = sum(total.values()), total.get(1, 0) + total.get(0, 0)
    quarantined = len(manifest.quarantined)
    size = manifest.settings.get("size")
    boxes = [("images", everything, f"{size} × {size} pixels")]
    for target in found.classes:
        of_what = f"{percent(total[target], labelled)} of the labelled" if target >= 0 else "without a target"
        boxes.append((CLASSES[target], total[target], of_what))
    affected = sum(counts.get(1, 0) > 0 for counts in found.per_patient.values())
    of_whom = f"{affected:,} with a melanoma" if labelled else ""
    boxes.append(("patients", len(found.per_patient), of_whom if found.per_patient else "none is named"))
    if found.lesions:
        boxes.append(("lesions", len(found.lesions), ""))
    boxes.append(("shards", len(manifest.shards), f"{sum(entry.bytes for entry in manifest.shards) / 1e6:,.1f} MB"))
    boxes.append(("quarantined", quarantined, "could not be used" if quarantined else "all could be used"))
    drawn = (
        tag("div", tag("dt", name), tag("dd", f"{n:,}", tag("small", more)), class_="tile") for name, n, more in boxes
    )
    return tag("dl", drawn, class_="tiles")


def folds(found: Survey) -> Html:
    """A row for each fold, and for test."""
    header, rows = ["part", "images", "patients", "melanoma", "share"], []
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
    edges = range(0, max(known, default=0) + 2 * stats.AGE_STEP, stats.AGE_STEP)
    middle = stats.medians(known)
    charts = []
    for target in found.classes:
        counts = [0] * (len(edges) - 1)
        for age, by_target in known.items():
            counts[age // stats.AGE_STEP] += by_target.get(target, 0)
        title = f"{CLASSES[target]}, median {middle.get(target, '–')} years"
        charts.append(page.histogram(title, edges, counts, CLASSES[target], "years"))
    return card("Age", charts, note("Each class has a scale of its own. Missing ages are left out."))


def patients(found: Survey) -> Html:
    """How many patients have how many images."""
    rows = [page.Bar(label, counts) for label, counts in stats.images_per_patient(found.per_patient).items()]
    numbers = [sum(counts.values()) for counts in found.per_patient.values()]
    text = "No patient is named."
    if numbers:
        text = f"Median {statistics.median_low(numbers):,}, most {max(numbers):,}. Melanoma: with such an image."
    return card("Images per patient", page.bars("images", rows, found.classes, "patients"), note(text))


def missing(found: Survey) -> Html:
    """Empty cells of each column of the records."""
    everything = sum(found.total.values())
    rows = [
        (column, f"{found.missing[column]:,}", percent(found.missing[column], everything)) for column in stats.COLUMNS
    ]
    text = "Empty cells; the diagnosis “unknown” is a word of the vocabulary, not an empty cell."
    return card("Missing values", page.table(["column", "missing", "share"], rows), note(text))


def settings(manifest: Manifest) -> Html:
    """What determines the bytes: settings that were made, versions, inputs."""
    described = {
        f"{split} {key}": value
        for split, each in manifest.inputs.items()
        for key, value in each.items()
        if key != "quarantined"  # a section of its own
    }
    everything = {**manifest.settings, **described, **manifest.versions}
    rows = [
        (key, ", ".join(map(str, value)) if isinstance(value, list) else str(value))
        for key, value in everything.items()
        if value is not None
    ]
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
    return tag("figure", page.image(shown.thumbnail, stats.THUMBNAIL, described), caption)


def _word(vocabulary: Sequence[str], code: int, otherwise: str) -> str:
    return vocabulary[code] if code != schema.MISSING else otherwise


def quarantine(manifest: Manifest) -> Iterator[Html]:
    """What did not get into the shards, and why."""
    images, left_out = manifest.quarantined, _left_out(manifest)
    if left_out:
        yield tag("p", left_out)
    if not images:
        every = "every image that was not left out" if left_out else "every image that the table names"
        yield tag("p", f"Empty: {every} is in the shards." if manifest.complete else "Empty so far.")
        return
    rows = [(each.image_name, each.file, each.reason) for each in images[:_QUARANTINE_SHOWN]]
    yield tag("div", page.table(["image", "file", "reason"], rows, class_="text"), class_="card")
    if len(images) > len(rows):
        yield note(f"{len(rows):,} of {len(images):,} are shown; all are in quarantine.csv.")


def _left_out(manifest: Manifest) -> str:
    """How many images a build leaves out on purpose, and why; "" if it has none, or is not complete."""
    rows = sum(each.get("rows", 0) for each in manifest.inputs.values())
    in_shards = sum(len(entry.quarantined) + entry.records for entry in manifest.shards)
    if not manifest.complete or in_shards >= rows:
        return ""
    whys = {
        "duplicates of others (--on_duplicates drop)": manifest.settings.get("on_duplicates") == "drop",
        "held by another build (--against)": manifest.settings.get("against") is not None,
        "held by the test set": len(manifest.inputs) > 1,
    }
    reasons = ", or ".join(why for why, applies in whys.items() if applies) or "for a reason that is not known"
    number = rows - in_shards
    return f"{number:,} of {rows:,} images {verb(number, 'was', 'were')} left out before any was read: {reasons}."


def duplicates(found: Survey, pairs: Sequence[Pair], limit: int) -> Iterator[Html]:
    """Pairs side by side: those in two folds first, then the least similar, those with one image last."""
    here = [pair for pair in pairs if {pair.first, pair.second} & found.imaged.keys()]
    both = [pair for pair in here if {pair.first, pair.second} <= found.imaged.keys()]
    leaks = {pair for pair in both if _differ(found, pair, "fold")}
    text = f"{len(pairs):,} {verb(len(pairs), 'pair', 'pairs')} given: {len(both):,} with both images in this build, "
    yield tag("p", text, f"{len(here) - len(both):,} with one, {len(pairs) - len(here):,} with none.")
    if leaks:
        text = f"{len(leaks):,} {verb(len(leaks), 'lies', 'lie')} in two folds"
        yield tag("p", f"{text}: models are judged there on what they trained on.", class_="bad")
    complete = set(both)

    def order(pair: Pair) -> tuple[bool, bool, float]:
        return pair not in leaks, pair not in complete, math.inf if pair.similarity is None else pair.similarity

    if len(here) > limit:
        yield note(f"{limit:,} of {len(here):,} are shown; --most_pairs says how many.")
    yield tag("div", (_pair(found, pair) for pair in sorted(here, key=order)[:limit]), class_="pairs")


def _differ(found: Survey, pair: Pair, field: str) -> bool:
    first, second = (getattr(found.imaged[name].record, field) for name in (pair.first, pair.second))
    return bool(first != second)


def _pair(found: Survey, pair: Pair) -> Html:
    remarks: list[Content] = [] if pair.similarity is None else [tag("span", f"similarity {pair.similarity:.4g}")]
    if {pair.first, pair.second} <= found.imaged.keys():
        told = {"fold": "in two folds", "target": "two labels", "patient": "two patients"}
        remarks += [tag("span", text, class_="bad") for field, text in told.items() if _differ(found, pair, field)]
    figures = []
    for name in (pair.first, pair.second):
        shown = found.imaged.get(name)
        if shown is None:
            absent = tag("div", "not in this build", class_="absent")
            figures.append(tag("figure", absent, tag("figcaption", tag("b", name))))
        else:
            fold = f"fold {shown.record.fold}" if shown.record.fold >= 0 else "test"
            figures.append(_figure(shown, f"{CLASSES[shown.record.target]}, {fold}"))
    apart = [part for remark in remarks for part in (", ", remark)][1:]
    return tag("div", tag("p", apart) if apart else None, figures, class_="card pair")


# ------------------------------------------------------------------------------------------------- page


def make_page(
    folder: AnyPath, pairs: Sequence[Pair] | None = None, samples: int = 24, limit: int = 40, seed: int = 0
) -> str:
    """The page of a build, as HTML.

    pairs: duplicates, None if no list was given; limit: how many of them to show. samples: images of each class.
    Raises ShowError or shards.ShardError with a message for the user.
    """
    manifest = Manifest.read(folder)
    names = itertools.chain.from_iterable((pair.first, pair.second) for pair in pairs or ())
    found = stats.read(folder, manifest, samples, seed, names)
    sections = {"What it holds": _holds(found), "How often melanoma": _melanomas(found, manifest)}
    sections["Files"] = tag("div", _files(found, manifest), class_="cards")
    sections["Images"] = join(contact_sheets(found))
    sections["Quarantine"] = join(quarantine(manifest))
    none = tag("p", "No list of pairs was given; --duplicates pairs.csv shows them side by side.")
    sections["Duplicates"] = none if pairs is None else join(duplicates(found, pairs, limit))
    title = f"TFRecord build “{os.path.basename(os.path.abspath(folder))}”"
    links = (tag("a", name, href=f"#{_anchor(name)}") for name in sections)
    body = [tag("h1", title), tag("nav", links, aria_label="Sections"), _warning(manifest), tiles(found, manifest)]
    for name, content in sections.items():
        body += [tag("h2", name, id=_anchor(name)), content]
    return page.document(title, body)


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _warning(manifest: Manifest) -> Html | None:
    text = "This build is not complete: only its finished shards are shown. Go on with its --resume."
    return None if manifest.complete else tag("p", text, class_="warning")


def _holds(found: Survey) -> Html:
    cards = [
        folds(found),
        counts_card(found, "Sex", stats.words(found.by_sex, schema.SEX)),
        counts_card(found, "Site", stats.words(found.by_site, schema.SITE)),
        counts_card(found, "Diagnosis", stats.words(found.by_diagnosis, schema.DIAGNOSIS)),
        patients(found),
        ages(found),
    ]
    if len(found.by_source) > 1:
        cards.append(counts_card(found, "Data set", found.by_source))
    return join([page.legend(found.classes), tag("div", cards, class_="cards")])


def _melanomas(found: Survey, manifest: Manifest) -> Html:
    total = found.total
    labelled = total.get(1, 0) + total.get(0, 0)
    if not labelled:
        test = "A test set: no record has a target or a diagnosis"
        return tag(
            "p", f"{'No labelled record' if 'train' in manifest.inputs else test}, so there is no share to show."
        )
    shortcut = "A size that goes with a class is a shortcut: it tells the camera or the clinic, not the lesion."
    cards = [
        rates_card(found, "By sex", stats.words(found.by_sex, schema.SEX)),
        rates_card(found, "By site", stats.words(found.by_site, schema.SITE)),
        rates_card(found, "By age", stats.age_bands(found.by_age)),
    ]
    if len(found.by_size) > 1:
        cards.append(rates_card(found, "By source size", stats.sizes(found.by_size), shortcut))
    text = (
        "Images of melanoma as a share of the labelled ones. Dashed: the share in the whole build, "
        f"{percent(total.get(1, 0), labelled)}. Lines: 95% intervals (Wilson), which take images for independent; "
        "those of one patient are not quite."
    )
    return join([tag("p", text, class_="lead"), tag("div", cards, class_="cards")])


def _files(found: Survey, manifest: Manifest) -> list[Html]:
    before = "Pixels of the image files, as displayed, before cropping."
    return [counts_card(found, "Source size", stats.sizes(found.by_size), before), missing(found), settings(manifest)]


# -------------------------------------------------------------------------------------------- command


def define_flags() -> None:
    """Defines the flags."""
    flags.DEFINE_string("out", "show.html", "The page; a file that ends in .html, replaced if it is there.")
    flags.DEFINE_string("duplicates", None, "CSV of pairs: image_name_1,image_name_2 and perhaps similarity.")
    flags.DEFINE_integer("samples", 24, "Images on the contact sheet of each class.", 0)
    flags.DEFINE_integer("most_pairs", 40, "Pairs of --duplicates to show, at most.", 0)
    flags.DEFINE_integer("seed", 0, "Of the choice of the images.")


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    if len(argv) != 2:
        raise cli.UsageError("expected one folder; usage: python -m tfrecord_tools.show DIR [--out page.html] (--help)")
    given, out = flags.FLAGS, Path(flags.FLAGS.out)
    if out.suffix != ".html":
        raise cli.UsageError(f"--out {out}; expected a name that ends in .html; see --help")
    pairs = None if given.duplicates is None else lists.read(given.duplicates)
    text = make_page(paths.path(argv[1]), pairs, given.samples, given.most_pairs, given.seed)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        paths.write_whole(out, text)
    except OSError as error:
        raise OSError(f"{out}: cannot be written: {error.strerror}") from error
    print(f"{out}: {len(text.encode()) / 1e6:.1f} MB")


def run() -> None:
    """Console entry point."""
    cli.run(main, define_flags, __doc__, positional=True)


if __name__ == "__main__":
    run()

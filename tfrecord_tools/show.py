"""Shows a build as one self-contained HTML page: counts and rates, images, quarantine, duplicates.

  python -m tfrecord_tools.show tfrecords/384 --out page.html
  python -m tfrecord_tools.show tfrecords/384 --out page.html --duplicates pairs.csv

The page needs no network and runs no script, so that it can be mailed, archived and printed. The same build, pairs and
--seed give the same page. Every record is read once and its checksums are verified.
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
from tfrecord_tools.dedup import pairs
from tfrecord_tools.dedup.pairs import Pair
from tfrecord_tools.html import filters, origin, page, stats
from tfrecord_tools.html.page import Content, Html, card, join, note, percent, tag
from tfrecord_tools.html.stats import BuildStats, ClassCounts, FoldKey, Thumbnail
from tfrecord_tools.metadata.vocabulary import CLASSES
from tfrecord_tools.records.manifest import Manifest

NATURAL = 584 / 33126  # melanomas of SIIM-ISIC 2020, Rotemberg et al. 2021, doi 10.1038/s41597-021-00815-z
FAR = 2  # times as many, or as few
_QUARANTINE_SHOWN = 500  # rows; all are in quarantine.csv


# --------------------------------------------------------------------------------------------- sections


def counts_card(build: BuildStats, title: str, groups: Mapping[str, ClassCounts], *notes: str) -> Html:
    """Card of the number of images of each group, by class."""
    rows = [page.Bar(label, dict(counts)) for label, counts in groups.items()]
    return card(title, page.bars(title.lower(), rows, build.classes), [note(text) for text in notes])


def rate_rows(groups: Mapping[str, ClassCounts]) -> list[page.Rate]:
    """Share of melanoma in each group with labelled images."""
    rows = []
    for label, counts in groups.items():
        melanomas, labelled = counts.get(1, 0), counts.get(1, 0) + counts.get(0, 0)
        if labelled:
            rows.append(page.Rate(label, melanomas, labelled, *stats.wilson(melanomas, labelled)))
    return rows


def tiles(build: BuildStats, manifest: Manifest) -> Html:
    """Tiles with the main counts."""
    total = build.total
    everything, labelled = sum(total.values()), total.get(1, 0) + total.get(0, 0)
    quarantined = len(manifest.quarantined)
    size = manifest.settings.get("size")
    boxes = [("images", everything, f"{size} × {size} pixels")]
    for target in build.classes:
        of_what = f"{percent(total[target], labelled)} of the labelled" if target >= 0 else "without a target"
        boxes.append((CLASSES[target], total[target], of_what))
    affected = sum(counts.get(1, 0) > 0 for counts in build.per_patient.values())
    of_whom = f"{affected:,} with a melanoma" if labelled else ""
    boxes.append(("patients", len(build.per_patient), of_whom if build.per_patient else "none is named"))
    if build.lesions:
        boxes.append(("lesions", len(build.lesions), ""))
    boxes.append(("shards", len(manifest.shards), f"{sum(entry.bytes for entry in manifest.shards) / 1e6:,.1f} MB"))
    boxes.append(("quarantined", quarantined, "could not be used" if quarantined else "all could be used"))
    drawn = (
        tag("div", tag("dt", name), tag("dd", f"{n:,}", tag("small", more)), class_="tile") for name, n, more in boxes
    )
    return tag("dl", drawn, class_="tiles")


def folds(build: BuildStats) -> Html:
    """Card with a row for each fold, and for test."""
    header, rows = ["part", "images", "patients", "melanoma", "share"], []
    for place in sorted(build.by_fold, key=lambda place: (place[1] < 0, place)):
        counts = build.by_fold[place]
        row = [_name(place), f"{sum(counts.values()):,}", f"{len(build.patients_in.get(place, ())):,}"]
        if labelled := counts.get(1, 0) + counts.get(0, 0):
            row += [f"{counts.get(1, 0):,}", percent(counts.get(1, 0), labelled)]
        rows.append(row)
    most = max(map(len, rows), default=0)  # 3 where nothing is labelled
    return card("Folds", page.table(header[:most], ([*row, "–", "–"][:most] for row in rows)))


def _name(place: FoldKey) -> str:
    return f"fold {place[1]}" if place[1] >= 0 else place[0]


def ages(build: BuildStats) -> Html:
    """Card with an age histogram for each class, on its own scale, because 2% would be invisible on a common one."""
    known = {age: counts for age, counts in build.by_age.items() if age != schema.MISSING}
    edges = range(0, max(known, default=0) + 2 * stats.AGE_STEP, stats.AGE_STEP)
    middle = stats.medians(known)
    charts = []
    for target in build.classes:
        counts = [0] * (len(edges) - 1)
        for age, by_target in known.items():
            counts[age // stats.AGE_STEP] += by_target.get(target, 0)
        title = f"{CLASSES[target]}, median {middle.get(target, '–')} years"
        charts.append(page.histogram(title, edges, counts, CLASSES[target], "years"))
    text = "Each class has a scale of its own. Missing ages are left out."
    return card("Age", tag("div", charts, class_="charts"), note(text), class_="card wide")


def patients(build: BuildStats) -> Html:
    """Card of patients by their number of images."""
    rows = [page.Bar(label, counts) for label, counts in stats.images_per_patient(build.per_patient).items()]
    numbers = [sum(counts.values()) for counts in build.per_patient.values()]
    text = "No patient is named."
    if numbers:
        text = f"Median {statistics.median_low(numbers):,}, most {max(numbers):,}. Melanoma: with such an image."
    return card("Images per patient", page.bars("images", rows, build.classes, "patients"), note(text))


def missing(build: BuildStats) -> Html:
    """Card of the empty cells of each column."""
    everything = sum(build.total.values())
    rows = [
        (column, f"{build.missing[column]:,}", percent(build.missing[column], everything)) for column in stats.COLUMNS
    ]
    text = "Empty cells; the diagnosis “unknown” is a word of the vocabulary, not an empty cell."
    return card("Missing values", page.table(["column", "missing", "share"], rows), note(text))


def contact_sheets(build: BuildStats) -> Iterator[Html]:
    """Contact sheet of each class."""
    for target in build.classes:
        chosen = build.samples[target]
        yield tag("h3", f"{CLASSES[target].capitalize()}: {len(chosen):,} of {build.total[target]:,}")
        yield tag("div", (_figure(shown, **filters.marks(**_filtered(shown))) for shown in chosen), class_="sheet")


def _filtered(shown: Thumbnail) -> dict[str, str]:
    """Values by which an image of a contact sheet is filtered."""
    site = _word(schema.SITE, shown.record.anatom_site_general_challenge, "unknown")
    return {"site": site, "source": shown.record.source}


def _choices(build: BuildStats) -> dict[str, list[str]]:
    each = [_filtered(shown) for samples in build.samples.values() for shown in samples]
    return {name: [values[name] for values in each] for name in ("site", "source")}


def _figure(shown: Thumbnail, *more: str, **marks: str) -> Html:
    record = shown.record
    sex, age = _word(schema.SEX, record.sex, "sex ?"), "age ?" if record.age_approx < 0 else f"{record.age_approx} y"
    site = _word(schema.SITE, record.anatom_site_general_challenge, "site ?")
    lines = [record.patient or "patient ?", f"{sex}, {age}", site, _word(schema.DIAGNOSIS, record.diagnosis, ""), *more]
    described = f"{record.image_name}, {CLASSES[record.target]}, {site}"
    caption = tag("figcaption", tag("b", record.image_name), (tag("span", line) for line in lines if line))
    return tag("figure", page.image(shown.jpeg, stats.THUMBNAIL, described), caption, **marks)


def _word(vocabulary: Sequence[str], code: int, otherwise: str) -> str:
    return vocabulary[code] if code != schema.MISSING else otherwise


def quarantine(manifest: Manifest) -> Iterator[Html]:
    """Section of the images that could not be used, with the reasons."""
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
    """Sentence on the images that a build leaves out on purpose; "" if there are none, or it is not complete."""
    rows = sum(each.get("rows", 0) for each in manifest.inputs.values())
    in_shards = sum(len(entry.quarantined) + entry.records for entry in manifest.shards)
    if not manifest.complete or in_shards >= rows:
        return ""
    whys = {
        "duplicates of others (--on_duplicates drop)": manifest.settings.get("on_duplicates") == "drop",
        "held by another build (--against)": manifest.settings.get("against") is not None,
        "without a fold (--folds_from)": manifest.settings.get("folds_from") is not None,
        "held by the test set": len(manifest.inputs) > 1,
    }
    reasons = ", or ".join(why for why, applies in whys.items() if applies) or "for a reason that is not known"
    number = rows - in_shards
    return f"{number:,} of {rows:,} images {verb(number, 'was', 'were')} left out before any was read: {reasons}."


def duplicates(build: BuildStats, listed: Sequence[Pair], limit: int) -> Iterator[Html]:
    """Section of pairs: those in two folds first, then the least similar; those with one image here last."""
    here = [pair for pair in listed if {pair.first, pair.second} & build.thumbnails.keys()]
    both = [pair for pair in here if {pair.first, pair.second} <= build.thumbnails.keys()]
    leaks = {pair for pair in both if _differ(build, pair, "fold")}
    text = f"{len(listed):,} {verb(len(listed), 'pair', 'pairs')} given: {len(both):,} with both images in this build, "
    yield tag("p", text, f"{len(here) - len(both):,} with one, {len(listed) - len(here):,} with none.")
    if leaks:
        text = f"{len(leaks):,} {verb(len(leaks), 'lies', 'lie')} in two folds"
        yield tag("p", f"{text}: models are judged there on what they trained on.", class_="bad")
    complete = set(both)

    def order(pair: Pair) -> tuple[bool, bool, float]:
        return pair not in leaks, pair not in complete, math.inf if pair.similarity is None else pair.similarity

    if len(here) > limit:
        yield note(f"{limit:,} of {len(here):,} are shown; --most_pairs says how many.")
    yield tag("div", (_pair(build, pair) for pair in sorted(here, key=order)[:limit]), class_="pairs")


def _differ(build: BuildStats, pair: Pair, field: str) -> bool:
    first, second = (getattr(build.thumbnails[name].record, field) for name in (pair.first, pair.second))
    return bool(first != second)


def _pair(build: BuildStats, pair: Pair) -> Html:
    remarks: list[Content] = [] if pair.similarity is None else [tag("span", f"similarity {pair.similarity:.4g}")]
    if {pair.first, pair.second} <= build.thumbnails.keys():
        texts = {"fold": "in two folds", "target": "two labels", "patient": "two patients"}
        remarks += [tag("span", text, class_="bad") for field, text in texts.items() if _differ(build, pair, field)]
    figures = []
    for name in (pair.first, pair.second):
        shown = build.thumbnails.get(name)
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
    folder: AnyPath, listed: Sequence[Pair] | None = None, samples: int = 24, limit: int = 40, seed: int = 0
) -> str:
    """HTML page of a build.

    Args:
      folder: folder of the build.
      listed: duplicates; None if no list was given.
      samples: number of images of each class to show.
      limit: number of pairs to show.
      seed: seed of the sample.

    Raises:
      StatsError, ShardError: the build cannot be read.
    """
    manifest = Manifest.read(folder)
    names = itertools.chain.from_iterable((pair.first, pair.second) for pair in listed or ())
    build = stats.read(folder, manifest, samples, seed, names)
    sections = {"What it holds": _holds(build), "How often melanoma": _melanomas(build, manifest)}
    sections["Files"] = tag("div", _files(build), class_="cards")
    sections["Images"] = join([filters.controls(_choices(build)), contact_sheets(build)])
    sections["Quarantine"] = join(quarantine(manifest))
    none = tag("p", "No list of pairs was given; --duplicates pairs.csv shows them side by side.")
    sections["Duplicates"] = none if listed is None else join(duplicates(build, listed, limit))
    sections["How it was made"] = origin.section(folder, manifest)
    title = f"TFRecord build “{os.path.basename(os.path.abspath(folder))}”"
    links = (tag("a", name, href=f"#{_anchor(name)}") for name in sections)
    body = [tag("h1", title), tag("nav", links, aria_label="Sections"), _warning(manifest), tiles(build, manifest)]
    for name, content in sections.items():
        body += [tag("h2", name, id=_anchor(name)), content]
    return page.document(title, body, filters.style(_choices(build)))


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _warning(manifest: Manifest) -> Html | None:
    text = "This build is not complete: only its finished shards are shown. Go on with its --resume."
    return None if manifest.complete else tag("p", text, class_="warning")


def _holds(build: BuildStats) -> Html:
    cards = [
        folds(build),
        counts_card(build, "Site", stats.by_word(build.by_site, schema.SITE)),
        counts_card(build, "Diagnosis", stats.by_word(build.by_diagnosis, schema.DIAGNOSIS)),
        patients(build),
        ages(build),
        counts_card(build, "Sex", stats.by_word(build.by_sex, schema.SEX)),
    ]
    if len(build.by_source) > 1:
        cards.append(counts_card(build, "Data set", build.by_source))
    return join([page.legend(build.classes), tag("div", cards, class_="cards")])


def _melanomas(build: BuildStats, manifest: Manifest) -> Html:
    total = build.total
    labelled = total.get(1, 0) + total.get(0, 0)
    if not labelled:
        test = "A test set: no record has a target or a diagnosis"
        return tag(
            "p", f"{'No labelled record' if 'train' in manifest.inputs else test}, so there is no share to show."
        )
    share = total.get(1, 0) / labelled
    groups = {
        "By sex": rate_rows(stats.by_word(build.by_sex, schema.SEX)),
        "By site": rate_rows(stats.by_word(build.by_site, schema.SITE)),
        "By age": rate_rows(stats.age_bands(build.by_age)),
    }
    if len(build.by_size) > 1:
        groups["By source size"] = rate_rows(stats.sizes(build.by_size))
    top = page.common_axis(groups.values(), share)
    shortcut = "A size that goes with a class is a shortcut: it tells the camera or the clinic, not the lesion."
    cards = [
        card(
            title,
            page.rates(title.lower().removeprefix("by "), rows, share, top),
            note(shortcut) if title == "By source size" else None,
        )
        for title, rows in groups.items()
    ]
    text = (
        "Images of melanoma as a share of the labelled ones, all on one axis. Dashed: the share in the whole build, "
        f"{percent(total.get(1, 0), labelled)}. Lines: 95% intervals (Wilson), which take images for independent; "
        "those of one patient are not quite."
    )
    lead = [tag("p", text, class_="lead"), _prevalence(share)]
    return join([lead, tag("div", cards, class_="cards")])


def _prevalence(share: float) -> Html | None:
    """Remark on a share of melanoma that is far from the one in which dermatologists see it."""
    if NATURAL / FAR <= share <= NATURAL * FAR:
        return None
    text = (
        f"{percent(share, 1)} is far from the {percent(NATURAL, 1)} of SIIM-ISIC 2020, whose images were not chosen by "
        "their diagnosis. Probabilities and thresholds of a model trained or judged on this build do not carry over."
    )
    return tag("p", text, class_="remark")


def _files(build: BuildStats) -> list[Html]:
    before = "Pixels of the image files, as displayed, before cropping."
    return [counts_card(build, "Source size", stats.sizes(build.by_size), before), missing(build)]


# -------------------------------------------------------------------------------------------- command


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("out", "show.html", "HTML file to write, or to replace.")
    flags.DEFINE_string("duplicates", None, "CSV of pairs to show: image_name_1,image_name_2[,similarity].")
    flags.DEFINE_integer("samples", 24, "Number of images of each class to show.", 0)
    flags.DEFINE_integer("most_pairs", 40, "Largest number of pairs of --duplicates to show.", 0)
    flags.DEFINE_integer("seed", 0, "Seed of the sample of images.")


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    if len(argv) != 2:
        raise cli.UsageError("expected one folder; usage: python -m tfrecord_tools.show DIR [--out page.html] (--help)")
    given, out = flags.FLAGS, Path(flags.FLAGS.out)
    if out.suffix != ".html":
        raise cli.UsageError(f"--out {out}; expected a name that ends in .html; see --help")
    listed = None if given.duplicates is None else pairs.read(given.duplicates)
    text = make_page(paths.path(argv[1]), listed, given.samples, given.most_pairs, given.seed)
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

"""The page that shows a build: its numbers against pandas, its images against the records, and a real browser."""

import base64
import csv
import dataclasses
import html.parser
import io
import os
import re
import shutil
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from PIL import Image

from tests.support import browser
from tests.support.process import run_command
from tfrecord_tools import schema, show
from tfrecord_tools.dedup.pairs import Pair
from tfrecord_tools.html import origin, page, stats
from tfrecord_tools.records import tfrecord
from tfrecord_tools.records.manifest import Manifest
from tfrecord_tools.records.shards import Quarantined

MADE = "How it was made"
VOID = {"meta", "img", "br", "hr", "link", "input"}
HOSTILE = '"><script>alert(1)</script><img src=http://example.com/x.png>&'


class Parsed(html.parser.HTMLParser):
    """A page as its tables (heading -> rows of cells), figures (caption -> data URI), text and elements."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.figures, self.elements, self.text = {}, {}, [], ""
        self._open: list[str] = []
        self._h2, self._h3, self._source = "", "", ""
        self.feed(text)
        self.close()
        assert self._open == []  # every element is closed

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "h2":
            self._h2 = self._h3 = ""
        elif tag == "h3":
            self._h3 = ""
        elif tag == "table":
            self.rows = self.tables.setdefault((self._h2, self._h3), [])
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")
        elif tag == "img":
            self._source = dict(attrs)["src"]

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "body" not in self._open:
            return
        self.text += data + "\n"
        if "h2" in self._open:
            self._h2 += data
        elif "h3" in self._open:
            self._h3 += data
        elif self._open[-1] == "b" and self._source:
            self.figures.setdefault(data, []).append(self._source)
            self._source = ""
        if "td" in self._open or "th" in self._open:
            self.rows[-1][-1] += data

    def table(self, section, title=""):
        """{first cell: the other cells that hold text}, without the header."""
        key = next(key for key in self.tables if key[0] == section and key[1].startswith(title))
        return {row[0]: [cell for cell in row[1:] if cell] for row in self.tables[key] if row[0] and row[1:]}


def number(text):
    return int(text.replace(",", ""))


def expected_counts(frame, column, missing=True):
    """What `bars` shows: word -> [images, melanoma]."""
    filled = frame[column].fillna(stats.MISSING_WORD) if missing else frame[column]
    grouped = frame["target"].groupby(filled).agg(["size", "sum"])
    return {word: [int(size), int(positive)] for word, size, positive in grouped.itertuples()}


def shown_counts(table):
    return {word: [number(cell) for cell in cells[-2:]] for word, cells in table.items() if cells[-1] != "melanoma"}


@pytest.fixture(scope="module")
def frame(synthetic):
    return pd.read_csv(synthetic / "train.csv")


@pytest.fixture(scope="module")
def parsed(shards):
    return Parsed(show.make_page(shards))


@pytest.fixture
def out(shards, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(shards, tmp_path / "out")


def records(folder):
    for path in sorted(folder.glob("*.tfrec")):
        yield from map(schema.decode, tfrecord.read_records(path))


def change_manifest(folder, quarantined=(), **changes):
    manifest = Manifest.read(folder)
    first = dataclasses.replace(manifest.shards[0], quarantined=tuple(quarantined))
    dataclasses.replace(manifest, shards=(first, *manifest.shards[1:]), **changes).write(folder)


def write_build(template, folder, contents):
    """A build of one shard per fold, of records by fold, with a manifest like that of `template`."""
    folder.mkdir()
    manifest, entries = Manifest.read(template), []
    for fold, chosen in sorted(contents.items()):
        name = f"train{fold:02d}-{len(chosen)}.tfrec"
        with (folder / name).open("wb") as file:
            for record in chosen:
                tfrecord.write_record(file, schema.encode(record))
        entry = dataclasses.replace(manifest.shards[0], name=name, fold=fold, records=len(chosen), quarantined=())
        entries.append(entry)
    dataclasses.replace(manifest, shards=tuple(entries)).write(folder)
    return folder


# ------------------------------------------------------------------------------------------------ numbers


@pytest.mark.parametrize(
    ("title", "column"),
    [("Sex", "sex"), ("Site", "anatom_site_general_challenge"), ("Diagnosis", "diagnosis")],
)
def test_counts_are_those_of_the_table(parsed, frame, title, column):
    assert shown_counts(parsed.table("What it holds", title)) == expected_counts(frame, column)


def test_shares_are_those_of_the_table(parsed, frame):
    rows = parsed.table("How often melanoma", "By site")
    for word, (images, melanoma) in expected_counts(frame, "anatom_site_general_challenge").items():
        interval, share, count = rows[word]
        assert count == f"{melanoma:,} of {images:,}"
        assert share == page.percent(melanoma, images)
        ends = scipy.stats.binomtest(melanoma, images).proportion_ci(method="wilson")
        assert interval == f"95% interval {page.percent(ends.low, 1)} to {page.percent(ends.high, 1)}"


def test_folds_hold_what_their_records_say(parsed, shards, frame):
    by_name = frame.set_index("image_name")
    rows = parsed.table("What it holds", "Folds")
    for fold in range(5):
        chosen = by_name.loc[[record.image_name for record in records(shards) if record.fold == fold]]
        images, patients, melanoma, _ = rows[f"fold {fold}"]
        expected = (len(chosen), chosen["target"].sum(), chosen["patient_id"].nunique())
        assert (number(images), number(melanoma), number(patients)) == expected


def test_patients_are_grouped_by_their_images(parsed, frame):
    sizes = frame.groupby("patient_id")["target"].agg(["size", "max"])
    rows = shown_counts(parsed.table("What it holds", "Images per patient"))
    three = sizes[(sizes["size"] >= 3) & (sizes["size"] <= 5)]
    assert rows["3–5"] == [len(three), three["max"].sum()]
    assert sum(patients for patients, _ in rows.values()) == frame["patient_id"].nunique()
    assert f"most {sizes['size'].max()}" in parsed.text


def test_missing_cells_are_counted_by_column(parsed, frame):
    rows = parsed.table("Files", "Missing values")
    for column in ("sex", "age_approx", "anatom_site_general_challenge"):
        missing = int(frame[column].isna().sum())
        assert rows[column] == [str(missing), page.percent(missing, len(frame))]
    assert rows["lesion"] == [str(len(frame)), "100%"]


def test_the_age_histogram_has_steps_of_five_years(parsed, frame):
    melanoma = frame[frame["target"] == 1]["age_approx"].dropna()
    chart = next(rows for key, rows in parsed.tables.items() if key == ("What it holds", "Age"))
    shown = [row for row in chart if row[0] != "years"]
    shown = shown[: len(shown) // 2]  # melanoma stands first
    assert [number(count) for _, count in shown] == [
        int(((melanoma >= low) & (melanoma < low + 5)).sum()) for low in range(0, 5 * len(shown), 5)
    ]
    assert shown[9][0] == "45–49"
    assert f"melanoma, median {np.quantile(melanoma, 0.5, method='inverted_cdf'):g} years" in parsed.text


def test_source_sizes_are_those_of_the_files(parsed, synthetic):
    sizes = [Image.open(path).size for path in (synthetic / "jpeg" / "train").iterdir()]
    expected = pd.Series([f"{width} × {height}" for width, height in sizes]).value_counts()
    rows = shown_counts(parsed.table("Files", "Source size"))
    others = [rows.pop(label) for label in list(rows) if "other" in label]
    assert rows
    assert all(expected[label] == images for label, (images, _) in rows.items())
    assert sum(images for images, _ in [*rows.values(), *others]) == len(sizes)
    assert max(expected) == max(images for images, _ in rows.values())


@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (0, 40), (3, 29), (584, 33126), (16, 16)])
def test_intervals_are_wilsons(successes, trials):
    expected = scipy.stats.binomtest(successes, trials).proportion_ci(method="wilson")
    assert stats.wilson(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(584, 33126, "1.8%"), (24, 14703, "0.16%"), (1, 2, "50%"), (0, 5, "0%"), (5, 5, "100%"), (0, 0, "–")],
)
def test_small_shares_are_not_rounded_to_nothing(part, whole, text):
    assert page.percent(part, whole) == text


def test_the_whole_of_isic_2020_has_its_published_numbers(real_data, shards, out, monkeypatch):
    path = real_data / "isic2020_csv" / "train_cdeotte.csv"
    plain = next(records(shards))
    contents: dict[int, list[schema.Record]] = {}

    def code(words, word):
        return words.index(word) if word else schema.MISSING

    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            record = dataclasses.replace(
                plain,
                image_name=row["image_name"],
                patient=row["patient_id"],
                sex=code(schema.SEX, row["sex"]),
                age_approx=int(float(row["age_approx"] or schema.MISSING)),
                anatom_site_general_challenge=code(schema.SITE, row["anatom_site_general_challenge"]),
                diagnosis=code(schema.DIAGNOSIS, row["diagnosis"]),
                target=int(row["target"]),
                fold=int(row["tfrecord"]) % 5,
                width=int(row["width"]),
                height=int(row["height"]),
            )
            contents.setdefault(record.fold, []).append(record)
    # Writing and reading 33,126 records would take most of this file's time, and is tested elsewhere.
    monkeypatch.setattr(stats, "_records", lambda folder, entry: contents.pop(entry.fold))
    text = show.make_page(out)
    parsed, frame = Parsed(text), pd.read_csv(path)
    # 33,126 images, 584 of them melanoma, 2,056 patients: Rotemberg et al. 2021, doi 10.1038/s41597-021-00815-z
    assert re.search(r"images\n33,126\n.*melanoma\n584\n.*patients\n2,056\n", parsed.text, re.DOTALL)
    assert shown_counts(parsed.table("What it holds", "Sex")) == {
        "male": [17080, 364],
        "female": [15981, 220],
        "(missing)": [65, 0],
    }
    for title, column in (("Site", "anatom_site_general_challenge"), ("Diagnosis", "diagnosis")):
        assert shown_counts(parsed.table("What it holds", title)) == expected_counts(frame, column)
    assert parsed.table("How often melanoma", "By source size")["6000 × 4000"][-2:] == ["0.16%", "24 of 14,703"]
    assert len(text) < 1_000_000


# ----------------------------------------------------------------------------------------------- images


def test_each_image_stands_over_its_name(parsed, shards):
    by_name = {record.image_name: record for record in records(shards)}
    assert len(parsed.figures) == 48  # 24 of each class
    for name, (source,) in parsed.figures.items():
        shown = Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/jpeg;base64,"))))
        stored = Image.open(io.BytesIO(by_name[name].image))
        assert shown.size == stored.size
        assert np.abs(np.asarray(shown, float) - np.asarray(stored, float)).mean() < 8


def test_the_sample_depends_on_the_seed_and_on_nothing_else(shards, tmp_path):
    assert show.make_page(shards, seed=1) == show.make_page(shards, seed=1)
    everything = list(records(shards))
    turned = write_build(shards, tmp_path / "turned", {0: everything[::-1]})
    expected, other = (set(Parsed(show.make_page(shards, samples=5, seed=seed)).figures) for seed in (0, 1))
    assert set(Parsed(show.make_page(turned, samples=5)).figures) == expected
    assert expected != other


def test_memory_does_not_grow_with_the_images(shards, tmp_path):
    plain = next(records(shards))
    noise = plain.image + b"\0" * 300_000  # after the end marker, so that decoding is quick
    peaks = []
    for count in (20, 200):
        chosen = [dataclasses.replace(plain, image=noise, image_name=f"N{i}") for i in range(count)]
        folder = write_build(shards, tmp_path / str(count), {0: chosen})
        del chosen
        tracemalloc.start()
        show.make_page(folder, samples=4)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 500_000  # 180 images more are 54 MB


# -------------------------------------------------------------------------------- odd builds, hostile text


def test_the_page_is_whole_and_asks_for_nothing(parsed):
    assert not {tag for tag, _ in parsed.elements} & {"script", "link", "iframe", "object", "base", "form"}
    for tag, attributes in parsed.elements:
        assert not [key for key in attributes if key.startswith("on")]
        for key in ("src", "href", "action", "srcset", "xlink:href"):
            assert attributes.get(key, "#").startswith(("#", "data:image/jpeg;base64,")), (tag, attributes)
    policy = next(a["content"] for t, a in parsed.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_every_image_and_chart_has_a_text(parsed):
    assert all(attributes["alt"] for tag, attributes in parsed.elements if tag == "img")
    charts = [attributes for tag, attributes in parsed.elements if tag == "svg"]
    assert charts
    assert all(a.get("aria-hidden") == "true" or a.get("aria-label") for a in charts)


def test_hostile_names_are_text(out):
    change_manifest(out, [Quarantined(HOSTILE, HOSTILE, HOSTILE)], settings={HOSTILE: HOSTILE})
    parsed = Parsed(show.make_page(out, [Pair(HOSTILE, next(records(out)).image_name, 0.5)]))
    assert not [tag for tag, _ in parsed.elements if tag == "script"]
    assert all(a["src"].startswith("data:") for tag, a in parsed.elements if tag == "img")
    assert parsed.table("Quarantine")[HOSTILE] == [HOSTILE, HOSTILE]
    assert parsed.text.count(HOSTILE) >= 6  # three cells, two settings, one name of a pair


def test_only_settings_that_were_given_or_recognized_are_shown(parsed):
    rows = {key: cells for title in ("Input", "Settings") for key, cells in parsed.table(MADE, title).items()}
    assert rows["train form"] == rows["train sources"] == ["isic2020"]
    assert "None" not in [cell for cells in rows.values() for cell in cells]
    assert not {"form", "source", "against"} & rows.keys()


def test_digests_are_folded_at_the_end_of_the_page(shards):
    text = show.make_page(shards)
    assert Manifest.read(shards).inputs["train"]["sha256"] in text
    digests = [found.start() for found in re.finditer(r"\b[0-9a-f]{64}\b", text)]
    assert digests
    assert min(digests) > text.rindex("<details>") > text.rindex("<h2")


def test_the_date_is_the_manifests_and_changes_no_file(out):
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    os.utime(out / "manifest.json", (0, 86400 * 365.25 * 50))
    assert "Finished on 2020-01-01 at 12:00 UTC" in Parsed(show.make_page(out)).text
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.integration
def test_the_command_shown_makes_the_build_again(synthetic, tmp_path):
    """With its own names of files and folders; settings that are the default are left out."""
    for folder, more in (("plain", []), ("other", ["--fit=pad", "--shards=5", "--seed=3", "--quality=80"])):
        out, again = tmp_path / folder, tmp_path / f"{folder}_again"
        where = ["--csv", str(synthetic / "train.csv"), "--images", str(synthetic / "jpeg/train")]
        done = run_command("-m", "tfrecord_tools.build", "--size=32", "--workers=1", f"--out={out}", *where, *more)
        assert done.returncode == 0, done.stderr
        words = " ".join(origin.command(Manifest.read(out)))
        assert (
            words
            == f"python -m tfrecord_tools.build --size=32 --csv train.csv --images IMAGES {' '.join(more)}".strip()
        )
        named = words.replace("train.csv", where[1]).replace("IMAGES", where[3]).split()[1:]
        done = run_command(*named, "--workers=1", f"--out={again}")
        assert done.returncode == 0, done.stderr
        assert {path.name: path.read_bytes() for path in again.iterdir()} == {
            path.name: path.read_bytes() for path in out.iterdir()
        }


@pytest.mark.parametrize(("positives", "far"), [(1, False), (0, True), (4, True), (3, False)])
def test_a_share_far_from_the_natural_one_is_remarked_on(positives, far, shards, tmp_path):
    plain = next(records(shards))
    chosen = [dataclasses.replace(plain, image_name=f"N{i}", target=int(i < positives)) for i in range(100)]
    text = Parsed(show.make_page(write_build(shards, tmp_path / "out", {0: chosen}), samples=0)).text
    assert (f"{positives}.0% is far from the 1.8%".replace("0.0%", "0%") in text) == far
    assert ("is far from" in text) == far


def test_shares_side_by_side_have_one_axis(shards, tmp_path):
    """0 to 100 % where one group is all melanoma, also for the groups that are far from it."""
    plain = next(records(shards))
    chosen = [
        dataclasses.replace(plain, image_name=f"N{i}", target=int(i < 50), sex=i % 2, age_approx=70 if i < 50 else 30)
        for i in range(100)
    ]
    parsed = Parsed(show.make_page(write_build(shards, tmp_path / "out", {0: chosen}), samples=0))
    headers = {key[1]: rows[0] for key, rows in parsed.tables.items() if key[0] == "How often melanoma"}
    assert len(headers) >= 3
    assert {header[1] for header in headers.values()} == {"0100%"}


def test_an_empty_quarantine_says_so(parsed):
    assert "Empty: every image that the table names is in the shards." in parsed.text


def test_images_left_out_are_counted_beside_an_empty_quarantine(out):
    change_manifest(out)
    manifest = Manifest.read(out)
    rows = {"train": {**manifest.inputs["train"], "rows": 95}}
    settings = {**manifest.settings, "on_duplicates": "drop"}
    change_manifest(out, inputs=rows, settings=settings)
    text = Parsed(show.make_page(out)).text
    assert "5 of 95 images were left out before any was read: duplicates of others (--on_duplicates drop)." in text
    assert "Empty: every image that was not left out is in the shards." in text


def test_an_unfinished_build_says_so(out, parsed):
    change_manifest(out, complete=False)
    assert "This build is not complete" in Parsed(show.make_page(out)).text
    assert "not complete" not in parsed.text


def test_a_test_build_has_no_rates(synthetic, tmp_path):
    where = ["--csv", str(synthetic / "test.csv"), "--images", str(synthetic / "jpeg/test")]
    made = run_command("-m", "tfrecord_tools.build", "--size=32", "--workers=1", f"--out={tmp_path / 'out'}", *where)
    assert made.returncode == 0, made.stderr
    parsed, frame = Parsed(show.make_page(tmp_path / "out")), pd.read_csv(synthetic / "test.csv")
    assert "A test set: no record has a target or a diagnosis" in parsed.text
    assert "\nmelanoma\n" not in parsed.text
    assert number(parsed.table("What it holds", "Folds")["test"][0]) == len(frame)
    assert len(parsed.figures) == min(len(frame), 24)


def test_a_training_build_without_records_is_no_test_set(shards, tmp_path):
    text = Parsed(show.make_page(write_build(shards, tmp_path / "empty", {0: []}))).text
    assert "No labelled record, so there is no share to show." in text
    assert "test set" not in text


def test_no_patient_is_not_said_to_be_without_melanoma(shards, tmp_path):
    unnamed = [dataclasses.replace(record, patient="", patient_id=-1) for record in records(shards)]
    text = Parsed(show.make_page(write_build(shards, tmp_path / "unnamed", {0: unnamed}))).text
    assert "\npatients\n0\nnone is named\n" in text


# ---------------------------------------------------------------------------------------------- duplicates


def test_pairs_stand_side_by_side_with_what_differs(shards):
    everything = list(records(shards))
    first = everything[0]
    far = next(record for record in everything if record.fold != first.fold and record.target != first.target)
    near = next(record for record in everything[1:] if record.fold == first.fold)
    pairs = [Pair(first.image_name, near.image_name, 0.9), Pair(first.image_name, "ELSEWHERE", 0.5)]
    pairs += [Pair("NOWHERE", "ELSEWHERE", 0.4), Pair(first.image_name, far.image_name, 0.99)]
    parsed = Parsed(show.make_page(shards, pairs, samples=0))
    assert "4 pairs given: 2 with both images in this build, 1 with one, 1 with none." in parsed.text
    assert "1 lies in two folds" in parsed.text
    # The leak first although it is the most similar, the incomplete one last although it is the least.
    order = re.findall(r"similarity [0-9.]+", parsed.text)
    assert order == ["similarity 0.99", "similarity 0.9", "similarity 0.5"]
    leak = parsed.text.split("similarity 0.99\n")[1].split("similarity")[0]
    assert leak.startswith(", \nin two folds\n, \ntwo labels\n")
    assert "not in this build\nELSEWHERE" in parsed.text
    assert len(parsed.figures[first.image_name]) == 3


def test_only_so_many_pairs_are_shown(shards):
    names = [record.image_name for record in records(shards)]
    pairs = [Pair(names[0], name, None) for name in names[1:]]
    parsed = Parsed(show.make_page(shards, pairs, samples=0, limit=7))
    assert len(parsed.figures[names[0]]) == 7
    assert f"7 of {len(pairs)} are shown; --most_pairs says how many" in parsed.text


# ------------------------------------------------------------------------------------------------- command


def test_the_command_writes_the_page(out, tmp_path):
    names = [record.image_name for record in records(out)][:2]
    (tmp_path / "pairs.csv").write_text(f"image_name_1,image_name_2\n{names[0]},{names[1]}\n")
    where = tmp_path / "new" / "page.html"
    base = ("-m", "tfrecord_tools.show", str(out), f"--out={where}", f"--duplicates={tmp_path}/pairs.csv")
    done = run_command(*base, "--most_pairs=0", "--samples=3")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{where}: 0.")
    expected = show.make_page(out, [Pair(names[0], names[1], None)], samples=3, limit=0)
    assert where.read_text(encoding="utf-8") == expected


def damage(folder):
    path = sorted(folder.glob("*.tfrec"))[1]
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda out: (out / "manifest.json").unlink(), "manifest.json: No such file or directory; expected the folder"),
        (lambda out: sorted(out.glob("*.tfrec"))[1].unlink(), "missing; manifest.json lists it with"),
        (damage, "record 0: the checksum of its data is wrong\nTo find every problem: python -m tfrecord_tools."),
    ],
)
def test_a_damaged_build_is_one_message(out, tmp_path, change, message):
    change(out)
    done = run_command("-m", "tfrecord_tools.show", str(out), f"--out={tmp_path}/page.html")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "error: expected one folder; usage: python -m tfrecord_tools.show DIR"),
        (["somewhere", "--out=train.csv"], "error: --out train.csv; expected a name that ends in .html"),
    ],
)
def test_a_wrong_command_is_one_message(args, message):
    done = run_command("-m", "tfrecord_tools.show", *args)
    assert done.returncode == 2
    assert done.stderr.startswith(message)


# ------------------------------------------------------------------------------------------------- browser


@pytest.fixture(scope="module")
def window():
    program = browser.find()
    if program is None:
        pytest.skip(f"none of {', '.join(browser.NAMES)} is installed")
    with browser.page(program) as opened:
        yield opened


@pytest.fixture(scope="module")
def file(shards, tmp_path_factory):
    names = [record.image_name for record in records(shards)]
    pairs = [Pair(names[0], names[1], 0.93), Pair(names[2], HOSTILE, 0.9)]
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(show.make_page(shards, pairs), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", [1200, 400])
def test_a_browser_shows_it_at_any_width(window, file, width):
    window.open(file, width)
    assert window.complaints() == []
    assert window.requests() == [file.resolve().as_uri()]
    widths = window.evaluate("[...document.images].map(image => image.naturalWidth)")
    assert len(widths) == 48 + 3
    assert min(widths) == 32
    assert window.evaluate("document.documentElement.scrollWidth") == width  # nothing sticks out
    cells = "[...document.querySelectorAll('svg.cell')].map(cell => cell.getBoundingClientRect().width)"
    assert min(window.evaluate(cells)) >= 50  # the bars keep room to be seen
    # Cards of one row end at one height, and each row ends where its section ends: no holes.
    script = """[...document.querySelectorAll('.cards')].every(cards => {
      const edge = cards.getBoundingClientRect(), rows = {};
      for (const card of cards.children) {
        const box = card.getBoundingClientRect();
        (rows[Math.round(box.top)] ||= []).push(box);
      }
      return Object.values(rows).every(row => Math.abs(Math.max(...row.map(b => b.right)) - edge.right) < 1
        && new Set(row.map(b => Math.round(b.bottom))).size == 1);
    })"""
    assert window.evaluate(script)


def contrast(window, selector):
    """Of an element's text on its nearest background (WCAG 2.2, success criterion 1.4.3: at least 4.5)."""
    script = """(() => {let e = document.querySelector('%s'), ink = getComputedStyle(e).color, back;
      do { back = getComputedStyle(e).backgroundColor; e = e.parentElement; } while (e && back == 'rgba(0, 0, 0, 0)');
      return [ink, back]})()"""
    luminances = []
    for color in window.evaluate(script % selector):
        channels = np.array([int(value) for value in re.findall(r"\d+", color)[:3]]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        luminances.append(float(linear @ [0.2126, 0.7152, 0.0722]))
    return (max(luminances) + 0.05) / (min(luminances) + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read_in_light_and_dark(window, file, dark):
    window.open(file, 800, dark)
    red = window.evaluate("getComputedStyle(document.body).backgroundColor").split("(")[1].split(",")[0]
    assert (int(red) < 128) == dark
    for selector in ("h1", ".card .note", ".tile small", "thead th", ".sheet figcaption span", ".of", ".absent"):
        assert contrast(window, selector) >= 4.5, selector

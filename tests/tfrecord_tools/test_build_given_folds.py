"""Folds from a column of a table, through the whole build."""

import csv
from pathlib import Path

import pytest

from tests.support.builds import contents, records_of, replaced, settings
from tests.support.foreign import foreign_settings
from tests.support.images import flat_jpeg
from tfrecord_tools import build, show, verify
from tfrecord_tools.builder.settings import BuildSettings
from tfrecord_tools.html import origin

WORDS = ("ham", "bcn", "ph2", "ddi")  # not in order


def rows_of(data):
    with (data / "train.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def write(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


@pytest.fixture(scope="module")
def given(data, tmp_path_factory):
    """The table with columns of folds, by patient: part from 0 to 6 with one patient of -1 and one empty, and where."""
    rows = rows_of(data)
    patients = sorted({row["patient_id"] for row in rows})
    parts = {patient: str(at % 7) for at, patient in enumerate(patients)} | {patients[2]: "-1", patients[3]: ""}
    for row in rows:
        row["part"] = parts[row["patient_id"]]
        row["where"] = WORDS[patients.index(row["patient_id"]) % 4]
    return write(tmp_path_factory.mktemp("given") / "table.csv", rows), rows


@pytest.fixture(scope="module")
def built(data, given, tmp_path_factory):
    """A build by part: its settings and manifest."""
    out = tmp_path_factory.mktemp("built") / "out"
    asked = settings(data, out, csv=given[0], folds_from="part")
    return asked, build.build(asked)


def fold_by_name(folder):
    return {name: record.fold for name, record in records_of(folder).items()}


def test_a_column_of_the_table_gives_the_folds(given, built):
    asked, manifest = built
    _, rows = given
    expected = {row["image_name"]: int(row["part"]) for row in rows if row["part"] not in ("-1", "")}
    assert fold_by_name(asked.output.out) == expected
    assert {key: manifest.settings[key] for key in ("folds", "shards", "folds_from", "folds_file", "folds_modulo")} == {
        "folds": 7,
        "shards": 35,  # the first multiple of 7 above 30
        "folds_from": "part",
        "folds_file": None,
        "folds_modulo": None,
    }
    outside = {cell: sum(row["part"] == cell for row in rows) for cell in ("-1", "")}
    described = manifest.inputs["train"]
    assert described["left_out"] == {"no fold: -1": outside["-1"], "no fold: empty": outside[""]}
    assert described["given_folds"] == {str(fold): fold for fold in range(7)}


def test_such_a_build_verifies_and_is_shown(built):
    asked, manifest = built
    result = verify.verify([asked.output.out], near_duplicates=False)
    assert result.problems == []
    page = show.make_page(Path(asked.output.out))
    assert "were left out before any was read: without a fold (--folds_from)" in page
    assert "--folds_from=part" in origin.command(manifest)
    assert not [word for word in origin.command(manifest) if word.startswith("--folds=")]


def test_resume_completes_it_and_refuses_another_split(data, given, built):
    asked, _ = built
    before = contents(asked.output.out)
    build.build(replaced(asked, resume=True))
    assert contents(asked.output.out) == before
    with pytest.raises(build.BuildError, match="folds_from: 'part' then, None now"):
        build.build(settings(data, asked.output.out, csv=given[0], resume=True))


def test_another_table_gives_the_folds_and_its_digest_is_a_setting(data, given, tmp_path, capsys):
    _, rows = given
    table = tmp_path / "split.csv"
    write(table, [{"image_name": f"{row['image_name']}.jpg", "where": row["where"]} for row in reversed(rows)])
    asked = settings(data, tmp_path / "out", folds_from=f"{table}:where", shards=8)
    manifest = build.build(asked)
    folds = {"bcn": 0, "ddi": 1, "ham": 2, "ph2": 3}  # alphabetically
    assert fold_by_name(tmp_path / "out") == {row["image_name"]: folds[row["where"]] for row in rows}
    assert "where: value -> fold: bcn -> 0, ddi -> 1, ham -> 2, ph2 -> 3\n" in capsys.readouterr().out
    assert manifest.settings["folds_from"] == "split.csv:where"  # without the place of the file
    table.write_text(table.read_text() + "ISIC_elsewhere,ham\n")
    with pytest.raises(build.BuildError, match=r"differences:\n  folds_file: '[0-9a-f]{64}' then"):
        build.build(replaced(asked, resume=True))


def test_numbers_are_taken_modulo_a_number_of_folds_that_is_given(data, given, tmp_path):
    _, rows = given
    manifest = build.build(settings(data, tmp_path / "out", csv=given[0], folds_from="part", folds=3))
    expected = {row["image_name"]: int(row["part"]) % 3 for row in rows if row["part"] not in ("-1", "")}
    assert fold_by_name(tmp_path / "out") == expected
    assert (manifest.settings["folds"], manifest.settings["shards"]) == (3, 30)
    assert "--folds=3" in origin.command(manifest)


def test_shards_of_a_foreign_writer_take_the_folds_of_a_table(data, finished, given, tmp_path):
    _, rows = given
    for at, changes in enumerate(({"csv": given[0], "folds_from": "where"}, {"folds_from": f"{given[0]}:where"})):
        build.build(foreign_settings(finished / "*.tfrec", tmp_path / str(at), **changes))
        assert fold_by_name(tmp_path / str(at)) == {
            row["image_name"]: sorted(WORDS).index(row["where"]) for row in rows
        }
    with pytest.raises(build.BuildError, match="--folds_from fold: these images come without a table; expected FILE"):
        build.build(foreign_settings(finished / "*.tfrec", tmp_path / "out", folds_from="fold"))


def test_duplicates_in_two_folds_are_refused_unless_dropped_or_kept(data, given, tmp_path):
    _, rows = given
    benign = [row for row in rows if row["target"] == "0"]
    lonely = [row for row in benign if sum(row["patient_id"] == each["patient_id"] for each in rows) == 1]
    both = ((a, b) for a in benign for b in lonely if a["where"] != b["where"] and a["image_name"] < b["image_name"])
    first, second = next((a["image_name"], b["image_name"]) for a, b in both)
    pair = [{"image_name_1": first, "image_name_2": second}]
    asked = settings(
        data, tmp_path / "out", csv=given[0], folds_from="where", duplicates=write(tmp_path / "p.csv", pair)
    )
    message = "1 group of images joined by duplicates is in several folds, .*--on_duplicates drop leaves one"
    with pytest.raises(build.BuildError, match=message):
        build.build(asked)
    assert not (tmp_path / "out").exists()
    build.build(replaced(asked, on_duplicates="keep"))
    folds = fold_by_name(tmp_path / "out")
    assert folds[first] != folds[second]
    build.build(replaced(asked, on_duplicates="drop", overwrite=True))
    assert fold_by_name(tmp_path / "out") == {name: fold for name, fold in folds.items() if name != second}


def test_of_duplicates_the_one_with_a_fold_stays(data, given, tmp_path):
    _, rows = given
    outside = min(row["image_name"] for row in rows if row["part"] == "-1")
    inside = max(row["image_name"] for row in rows if row["part"] == "0")
    pairs = write(tmp_path / "pairs.csv", [{"image_name_1": outside, "image_name_2": inside}])
    asked = settings(data, tmp_path / "out", csv=given[0], folds_from="part", duplicates=pairs, on_duplicates="drop")
    build.build(asked)
    assert fold_by_name(tmp_path / "out")[inside] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folds_from": "fold"}, "table.csv: no column fold; found image_name, patient_id, .*, part, where; a"),
        ({"folds_from": "TABLE:fold"}, "table.csv: no column fold; found image_name, patient_id"),
        ({"folds_from": "age_approx"}, "groups? of images of one patient or lesion (is|are) in several folds"),
        ({"folds_from": "part", "shards": 30}, "30 shards for 7 folds; expected a multiple of the number of folds"),
        ({"folds_from": "part", "folds": 9}, "no image in fold 7, 8 of 9; each fold needs one, so pass fewer --folds"),
        ({"folds_from": "split.csv:"}, "--folds_from 'split.csv:'; expected a column of the table, or FILE.csv:COLUMN"),
        ({"folds_from": "gs://bucket/split.csv"}, "expected a column of the table, or FILE.csv:COLUMN for one of"),
        ({"folds_from": " "}, "--folds_from ' '; expected a column"),
        ({"folds_from": "part", "split": "test"}, "no training images here, and others have no folds; leave it out"),
    ],
)
def test_an_impossible_split_is_named_and_nothing_written(data, given, tmp_path, changes, message):
    changes = {
        key: value.replace("TABLE", given[0]) if key == "folds_from" else value for key, value in changes.items()
    }
    with pytest.raises(build.USERS_ERRORS, match=message):
        build.build(settings(data, tmp_path / "out", csv=given[0], **changes))
    assert not (tmp_path / "out").exists()


def test_folders_named_by_class_have_no_column_but_take_another_table(tmp_path):
    names = [f"{kind}{at}" for kind in ("nevus", "melanoma") for at in range(4)]
    for at, name in enumerate(names):
        (tmp_path / "set" / name[:-1]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name[:-1] / f"{name}.jpg").write_bytes(flat_jpeg(200, 100 + 10 * at, 90))
    asked = BuildSettings.of(32, images=str(tmp_path / "set"), out=str(tmp_path / "out"), folds_from="part")
    with pytest.raises(build.BuildError, match="these images come without a table"):
        build.build(asked)
    rows = [{"image_name": name, "part": at % 2} for at, name in enumerate(names)]
    table = write(tmp_path / "split.csv", rows[1:])
    with pytest.raises(build.BuildError, match="1 of 8 images has no row there: nevus0; expected one for each"):
        build.build(replaced(asked, folds_from=f"{table}:part"))
    build.build(replaced(asked, folds_from=f"{write(tmp_path / 'split.csv', rows)}:part"))
    assert fold_by_name(tmp_path / "out") == {row["image_name"]: row["part"] for row in rows}


def test_a_test_set_beside_is_not_touched(data, given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(data)
    build.build(BuildSettings.of(32, out="plain"))
    build.build(BuildSettings.of(32, out="by_part", folds_from=f"{given[0]}:part"))
    plain, by_part = (
        {name: data for name, data in contents(out).items() if name.startswith("test")} for out in ("plain", "by_part")
    )
    assert plain
    assert plain == by_part

"""Inputs as people have them, through the whole build."""

import csv
import json
import os
import shutil

import h5py
import numpy as np
import pytest

from tests.support.builds import contents, quarantined, records_of, settings
from tests.support.foreign import shard, values
from tests.support.images import jpeg, textured
from tfrecord_tools import build
from tfrecord_tools.builder import inputs
from tfrecord_tools.builder.report import Warnings
from tfrecord_tools.builder.settings import BuildSettings
from tfrecord_tools.metadata import table
from tfrecord_tools.records.manifest import Manifest


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def images(folder, count, start=0):
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(start, start + count):
        (folder / f"ISIC_{n}.jpg").write_bytes(jpeg(textured(n, 48)))


def rows_of_export(count, **columns):
    """Rows of an Archive export: a patient for each image, every other a melanoma."""
    diagnoses = ("melanoma", "nevus")
    return [
        {"isic_id": f"ISIC_{n}", "patient_id": f"IP_{n}", "diagnosis": diagnoses[n % 2], "image_type": "dermoscopic"}
        | {column: values[n % len(values)] for column, values in columns.items()}
        for n in range(count)
    ]


def given(tmp_path, rows, **changes):
    csv = write_csv(tmp_path / "train.csv", rows)
    where = {"csv": csv, "images": str(tmp_path / "images"), "out": str(tmp_path / "out"), "shards": 5}
    return BuildSettings.of(32, **{**where, **changes})


def input_of(folder):
    return json.loads((folder / "manifest.json").read_text())["inputs"]["train"]


# -------------------------------------------------------------------------------------------- folders


def test_images_in_several_and_deeper_folders_make_the_same_shards(data, finished, tmp_path):
    for n, path in enumerate(sorted((data / "jpeg/train").iterdir())):
        folder = tmp_path / ("part [1], old" if n % 2 else "part 2/train/train")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / f"{path.stem}{('.jpg', '.JPG', '.Jpeg')[n % 3]}")
    both = f"{tmp_path}/part [1], old,{tmp_path}/part 2"
    build.build(settings(data, tmp_path / "out", images=both))
    assert contents(tmp_path / "out") == contents(finished)
    build.build(settings(data, tmp_path / "again", images=str(tmp_path)))
    assert contents(tmp_path / "again") == contents(finished)


def test_images_in_an_hdf5_file_make_the_same_records(data, finished, tmp_path):
    with h5py.File(tmp_path / "train-image.hdf5", "w") as file:
        for path in (data / "jpeg/train").iterdir():
            file[path.stem] = np.void(path.read_bytes())
    build.build(settings(data, tmp_path / "out", images=str(tmp_path / "train-image.hdf5"), workers=2))
    assert contents(tmp_path / "out") == contents(finished)


def test_a_name_of_two_images_writes_nothing(data, tmp_path):
    shutil.copytree(data / "jpeg/train", tmp_path / "images")
    first, second, *_ = sorted((tmp_path / "images").iterdir())
    (tmp_path / "images/old").mkdir()
    shutil.copy(second, tmp_path / "images/old" / first.name)
    with pytest.raises(build.BuildError, match=rf"image {first.stem}: different bytes under this name: .* and "):
        build.build(settings(data, tmp_path / "out", images=str(tmp_path / "images")))
    assert not (tmp_path / "out").exists()


def test_identical_files_of_two_patients_are_in_one_fold_in_every_format(tmp_path, capsys):
    images(tmp_path / "images", 16)
    for n in range(16, 20):
        textured(100 + n // 2, 48).save(tmp_path / f"images/ISIC_{n}.ppm")
    build.build(given(tmp_path, rows_of_export(20)))
    found = records_of(tmp_path / "out")
    assert len(found) == 20
    assert found["ISIC_16"].fold == found["ISIC_17"].fold
    assert found["ISIC_18"].fold == found["ISIC_19"].fold
    assert len({record.fold for record in found.values()}) == 5
    assert "4 images have the same bytes as another, in 2 sets of up to 2" in capsys.readouterr().out


def test_a_link_to_a_folder_with_the_images_is_named(tmp_path, capsys):
    images(tmp_path / "images", 10)
    images(tmp_path / "more", 10, start=10)
    (tmp_path / "images/link").symlink_to(tmp_path / "more")
    build.build(given(tmp_path, rows_of_export(20)))
    assert len(records_of(tmp_path / "out")) == 10
    note = f"note: {tmp_path}/images/link: a link to a folder, which is not followed; name the folder in --images\n"
    assert note in capsys.readouterr().out


def test_tables_and_other_builds_may_have_commas_in_their_names(data, finished, tmp_path):
    (tmp_path / "a,b").mkdir()
    shutil.copy(data / "train.csv", tmp_path / "a,b/train, all.csv")
    shutil.copytree(finished, tmp_path / "a,b/old, fold 1")
    build.build(settings(data, tmp_path / "out", csv=str(tmp_path / "a,b/train, all.csv")))
    assert records_of(tmp_path / "out") == records_of(finished)
    with pytest.raises(build.BuildError, match="nothing is left to build"):
        build.build(settings(data, tmp_path / "out2", against=str(tmp_path / "a,b/old, fold 1")))


def test_folders_by_class_are_built_without_a_rows_of_export(tmp_path, capsys):
    for n in range(20):
        folder = tmp_path / "set" / ("test" if n >= 15 else "train") / ("malignant" if n % 2 else "benign")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"melanoma_{n}.jpg").write_bytes(jpeg(textured(n, 48)))
    shutil.copy(tmp_path / "set/test/benign/melanoma_16.jpg", tmp_path / "set/train/benign/copy.jpg")
    manifest = build.build(BuildSettings.of(32, images=str(tmp_path / "set"), out=str(tmp_path / "out"), shards=5))
    found = records_of(tmp_path / "out")
    assert {name: (r.target, r.fold < 0, r.source) for name, r in found.items()} == {
        f"melanoma_{n}": (-1 if n >= 15 else n % 2, n >= 15, "class_folders") for n in range(20)
    }
    said = capsys.readouterr().out
    assert f"warning: {tmp_path / 'set'}: no image names a patient: folded by image" in said
    assert "malignant are taken for melanomas" in said
    assert "test set: 1 of 16 training images" in said  # the copy of a test image
    assert "test become test data without targets; build them alone" in said
    rule = "1 = melanoma, by the folder, malignant among them"
    assert f"folders named by class; target: {rule}" in said
    assert manifest.inputs["train"]["form"] == "class_folders"
    assert manifest.inputs["train"]["target_rule"] == rule
    assert "target_rule" not in manifest.inputs["test"]
    alone = BuildSettings.of(32, images=str(tmp_path / "set/test"), out=str(tmp_path / "test"), folds=2, shards=2)
    build.build(alone)
    assert {n: r.target for n, r in records_of(tmp_path / "test").items()} == {
        f"melanoma_{n}": n % 2 for n in range(15, 20)
    }


@pytest.mark.parametrize("test", ["test", "Test_set/part 1"])
def test_a_test_folder_needs_no_classes(tmp_path, test):
    for n in range(20):
        folder = tmp_path / "set" / (test if n >= 15 else ("malignant" if n % 2 else "benign"))
        images(folder, 1, start=n)
    build.build(BuildSettings.of(32, images=str(tmp_path / "set"), out=str(tmp_path / "out"), shards=5))
    found = {name: (r.target, r.fold < 0) for name, r in records_of(tmp_path / "out").items()}
    assert found == {f"ISIC_{n}": (-1 if n >= 15 else n % 2, n >= 15) for n in range(20)}


def test_images_without_classes_are_built_as_test_data_on_request(tmp_path):
    images(tmp_path / "set", 5)
    folder, out = str(tmp_path / "set"), str(tmp_path / "out")
    with pytest.raises(build.BuildError, match="is in none; .*--split test"):
        build.build(BuildSettings.of(32, images=folder, out=out, shards=5))
    build.build(BuildSettings.of(32, images=folder, out=out, shards=5, split="test"))
    assert {name: r.target for name, r in records_of(tmp_path / "out").items()} == {f"ISIC_{n}": -1 for n in range(5)}


def test_file_names_that_are_no_text_are_built_and_quarantined(tmp_path):
    for n in range(10):
        folder = tmp_path / "set" / ("melanoma" if n % 2 else "nevus")
        folder.mkdir(parents=True, exist_ok=True)
        data = jpeg(textured(n, 48))
        with open(os.fsencode(folder) + b"/caf\xe9\xe8 %d.jpg" % n, "wb") as file:
            file.write(data if n else data[:-100])
    build.build(BuildSettings.of(32, images=str(tmp_path / "set"), out=str(tmp_path / "out"), shards=5))
    assert set(records_of(tmp_path / "out")) == {f"caf-{n}" for n in range(1, 10)}
    assert list(quarantined(tmp_path / "out")) == ["caf-0"]


# ----------------------------------------------------------------------------------------- identifiers


@pytest.mark.parametrize("word", ["nan", "-1", "Unknown", "N/A", "<NA>"])
def test_words_for_missing_are_no_patient_and_no_lesion(tmp_path, capsys, word):
    images(tmp_path / "images", 20)
    rows = rows_of_export(20, patient_id=["IP_1", "IP_2", "IP_3", "IP_4", word], lesion_id=[word])
    build.build(given(tmp_path, rows))
    found = records_of(tmp_path / "out")
    assert {r.patient for r in found.values()} == {"IP_1", "IP_2", "IP_3", "IP_4", ""}
    assert {r.lesion for r in found.values()} == {""}
    unnamed = [r for r in found.values() if not r.patient]
    assert len({r.group for r in unnamed}) == len(unnamed) == 4
    assert {r.patient_id for r in unnamed} == {-1}
    assert "4 of 20 images name no patient: folded by image" in capsys.readouterr().out


@pytest.mark.parametrize("word", [b"nan", b"None", b"-1", b"", -1])
def test_words_for_missing_in_tfrecords_are_no_patient(tmp_path, word):
    folder = tmp_path / "old [v1]" / "a[b]"
    folder.mkdir(parents=True)
    records = [
        values(f"ISIC_{n}.jpg", patient_id=f"IP_{n}".encode() if n % 2 else word, image=jpeg(textured(n, 48)), target=0)
        | {"diagnosis": 1, "anatom_site_general_challenge": -1, "sex": -1}
        for n in range(12)
    ]
    for pattern in ("old [v1]/*/train*.tfrec", "old [v1]/a[b]/train00-12.tfrec", "old */a?b]/train[0-9]*.tfrec"):
        shard(folder, *records)
        out = tmp_path / "out"
        build.build(
            BuildSettings.of(32, from_tfrecords=str(tmp_path / pattern), out=str(out), shards=5, overwrite=True)
        )
        found = records_of(out)
        assert {name: r.patient for name, r in found.items()} == {
            f"ISIC_{n}": f"IP_{n}" if n % 2 else "" for n in range(12)
        }


def test_records_of_another_modality_in_their_table_are_left_out(tmp_path):
    records = [values(f"ISIC_{n}", image=jpeg(textured(n, 48)), target=(n + 1) % 2) for n in range(20)]
    shard(tmp_path, *records)
    kinds = ["dermoscopic", "dermoscopic", "RCM: mosaic", "RCM: tile"]
    csv = write_csv(tmp_path / "a.csv", rows_of_export(20, image_type=kinds))
    pattern = str(tmp_path / "*.tfrec")
    build.build(BuildSettings.of(32, csv, from_tfrecords=pattern, out=str(tmp_path / "out"), shards=5))
    assert set(records_of(tmp_path / "out")) == {f"ISIC_{n}" for n in range(20) if n % 4 < 2}


@pytest.mark.parametrize(("column", "kind"), [("patient_id", "patient"), ("lesion_id", "lesion")])
def test_a_patient_with_an_absurd_share_of_the_images_is_warned_of(tmp_path, capsys, column, kind):
    images(tmp_path / "images", 24)
    rows = [row | {column: "TBD" if n % 2 else f"P_{n}"} for n, row in enumerate(rows_of_export(24))]
    build.build(given(tmp_path, rows))
    text = f"{kind} 'TBD' has 12 of 24 images, the median {kind} 1; if it stands for a missing {kind}, empty its cells"
    assert f"warning: {tmp_path / 'train.csv'}: {text}" in capsys.readouterr().out
    assert f"train.csv: {text}" in input_of(tmp_path / "out")["warnings"]


def test_the_patients_of_isic_2020_are_not_warned_of(real_data):
    for path in ("isic2020_csv/train.csv", "isic2020_512/train.csv"):
        warnings = Warnings()
        inputs._warn_of_patients(warnings, path, table.read_table(real_data / path, labelled=True))
        assert warnings == []


# ------------------------------------------------------------------------------------- identical images


@pytest.fixture
def copies(tmp_path):
    """20 images of 20 patients; 3 and 4 have the bytes of 0, and 7 those of 6."""
    images(tmp_path / "images", 20)
    for copy, of in ((3, 0), (4, 0), (7, 6)):
        shutil.copy(tmp_path / f"images/ISIC_{of}.jpg", tmp_path / f"images/ISIC_{copy}.jpg")
    return tmp_path


def test_identical_images_lie_in_one_fold_and_are_reported(copies, capsys):
    build.build(given(copies, rows_of_export(20)))
    found = records_of(copies / "out")
    for one, other in ((3, 0), (4, 0), (7, 6)):
        assert found[f"ISIC_{one}"].group == found[f"ISIC_{other}"].group
        assert found[f"ISIC_{one}"].fold == found[f"ISIC_{other}"].fold
    said = capsys.readouterr().out
    assert "train.csv: 5 images have the same bytes as another, in 2 sets of up to 3: each set is in one fold\n" in said
    target = "one image under several names disagrees in target: ISIC_0: 1, ISIC_3: 0, ISIC_4: 1, and 1 other image"
    assert f"warning: train.csv: {target}\n" in said
    described = input_of(copies / "out")
    assert described["identical"] == {"images": 5, "sets": 2}
    assert f"train.csv: {target}" in described["warnings"]


def test_identical_images_are_dropped_or_only_warned_of_if_asked(copies, capsys):
    build.build(given(copies, rows_of_export(20), on_duplicates="drop"))
    assert {f"ISIC_{n}" for n in range(20)} - records_of(copies / "out").keys() == {"ISIC_3", "ISIC_4", "ISIC_7"}
    assert "one of each set is kept" in capsys.readouterr().out
    build.build(given(copies, rows_of_export(20), on_duplicates="keep", out=str(copies / "kept")))
    groups = {name: r.group for name, r in records_of(copies / "kept").items()}
    assert len(set(groups.values())) == 20
    said = capsys.readouterr().out
    assert "folds may share a set" in said
    assert "disagrees in target: ISIC_0: 1" in said
    assert Manifest.read(copies / "kept").settings["on_duplicates"] == "keep"


def test_a_build_with_identical_images_resumes(copies):
    build.build(given(copies, rows_of_export(20)))
    before = contents(copies / "out")
    next((copies / "out").glob("*.tfrec")).unlink()
    build.build(given(copies, rows_of_export(20), resume=True))
    assert contents(copies / "out") == before


# ---------------------------------------------------------------------------------------------- folds


@pytest.mark.parametrize(
    ("melanomas", "message"),
    [
        (3, "no melanoma in folds 3, 4, so no model can be evaluated there; pass fewer --folds"),
        (4, "no melanoma in fold 4, so no model can be evaluated there"),
        (0, "no melanoma at all, so no model can be trained"),
        (20, "no image of another class at all, so no model can be trained"),
        (18, "no image of another class in folds "),
    ],
)
def test_folds_of_one_class_are_warned_of(tmp_path, capsys, melanomas, message):
    images(tmp_path / "images", 20)
    rows = [row | {"diagnosis": "melanoma" if n < melanomas else "nevus"} for n, row in enumerate(rows_of_export(20))]
    build.build(given(tmp_path, rows))
    said = [line for line in capsys.readouterr().out.splitlines() if "so no model can" in line]
    assert len(said) == 1
    assert said[0].startswith(f"warning: train.csv: {message}")


# ------------------------------------------------------------------------------------------- modalities


def test_other_modalities_are_left_out_and_counted(tmp_path, capsys):
    images(tmp_path / "images", 24)
    kinds = ["dermoscopic", "RCM: mosaic", "clinical: overview", "dermoscopic", "TBP tile: close-up", ""]
    # What is left out may have no diagnosis; what has no type is not left out.
    rows = [
        row | {"image_type": kinds[n % 6], "diagnosis": row["diagnosis"] if n % 6 in (0, 3, 5) else ""}
        for n, row in enumerate(rows_of_export(24))
    ]
    build.build(given(tmp_path, rows))
    assert set(records_of(tmp_path / "out")) == {f"ISIC_{n}" for n in range(24) if n % 6 in (0, 3, 5)}
    left = "left out, as image_type is not dermoscopic: 12 of 24 images: 4 RCM: mosaic, 4 clinical: overview, 4 TBP"
    assert left in capsys.readouterr().out
    assert input_of(tmp_path / "out")["left_out"] == {
        "RCM: mosaic": 4,
        "TBP tile: close-up": 4,
        "clinical: overview": 4,
    }


@pytest.mark.parametrize(
    ("modality", "stays"),
    [
        ("RCM", {1}),
        ("rcm: mosaic", {1}),
        ("clinical,RCM", {1, 2}),
        ("dermoscopic, clinical", {0, 2}),
        ("all", {0, 1, 2}),
    ],
)
def test_other_modalities_are_built_if_asked(tmp_path, modality, stays):
    images(tmp_path / "images", 30)
    kinds = ["dermoscopic", "RCM: mosaic", "clinical: close-up"]
    build.build(given(tmp_path, rows_of_export(30, image_type=kinds), modality=modality))
    assert set(records_of(tmp_path / "out")) == {f"ISIC_{n}" for n in range(30) if n % 3 in stays}
    assert Manifest.read(tmp_path / "out").settings["modality"] == modality


def test_a_table_without_the_wanted_modality_names_those_that_it_has(tmp_path):
    images(tmp_path / "images", 12)
    rows = rows_of_export(12, image_type=["RCM: mosaic", "RCM: tile", "RCM: tile"])
    with pytest.raises(build.BuildError, match=r"all 12 images is another than dermoscopic \(8 RCM: tile, 4 RCM: mos"):
        build.build(given(tmp_path, rows))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("modality", ["", "RCM"])
def test_a_modality_needs_a_word_and_a_rows_of_export(data, tmp_path, modality):
    changes = {"csv": None} if modality else {}
    with pytest.raises(build.BuildError, match=f"--modality {modality!r}; expected words of image_type, in the table"):
        build.build(settings(data, tmp_path / "out", modality=modality, **changes))

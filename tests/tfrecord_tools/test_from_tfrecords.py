"""Foreign TFRecords through the whole build."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from tests.support.builds import contents, records_of, replaced, settings
from tests.support.foreign import KAGGLE_CODES, foreign_settings, patients, shard
from tests.support.images import flat_jpeg
from tfrecord_tools import build, schema, show, verify
from tfrecord_tools.foreign import reader
from tfrecord_tools.imaging import channel_order, convert
from tfrecord_tools.records import shards


def test_foreign_shards_are_folded_again_and_converted(tmp_path):
    records = patients(20)
    path = shard(tmp_path, *records)
    manifest = build.build(foreign_settings(path, tmp_path / "out", codes=KAGGLE_CODES))
    assert manifest.inputs["train"]["name"] == path.name
    assert {result.fold for result in manifest.shards} == {0, 1, 2, 3, 4}
    found = records_of(tmp_path / "out")
    assert len(found) == 20
    for each in records:
        record = found[each["image_name"].decode()]
        assert record.image == convert.convert(each["image"], 32, 95).jpeg
        assert (record.patient, record.target) == (f"code:{each['patient_id']}", each["target"])
        assert (record.sex, record.source) == (1, "kaggle")


def test_our_own_shards_converted_again_hold_all_but_the_image_unchanged(data, tmp_path):
    build.build(settings(data, tmp_path / "big", size=64, source="mine"))
    manifest = build.build(foreign_settings(tmp_path / "big" / "*.tfrec", tmp_path / "small"))
    big, small = records_of(tmp_path / "big"), records_of(tmp_path / "small")
    assert {name: dataclasses.replace(record, image=b"") for name, record in big.items()} == {
        name: dataclasses.replace(record, image=b"") for name, record in small.items()
    }
    assert manifest.inputs["train"]["sources"] == ["mine"]


def test_folding_again_costs_no_quality(data, tmp_path):
    build.build(settings(data, tmp_path / "old", quality=80, subsampling="4:4:4"))
    manifest = build.build(foreign_settings(tmp_path / "old" / "*.tfrec", tmp_path / "new", seed=5))
    assert manifest.settings["kept"] == "quality any, subsampling any"
    old, new = records_of(tmp_path / "old"), records_of(tmp_path / "new")
    assert {name: record.image for name, record in old.items()} == {name: record.image for name, record in new.items()}


@pytest.mark.parametrize("asked", [{"quality": 70}, {"subsampling": "4:2:2"}, {"swap_rb": True}])
def test_images_are_encoded_again_if_something_else_is_asked(tmp_path, asked):
    record = patients(6)[0]
    path = shard(tmp_path, *[{**each, "image": convert.convert(each["image"], 32, 95).jpeg} for each in patients(6)])
    build.build(foreign_settings(path, tmp_path / "out", **asked))
    first, found = next(reader.read(path)), records_of(tmp_path / "out")
    assert isinstance(first, reader.ForeignRecord)
    options = {"quality": 95, **asked}
    assert found[record["image_name"].decode()].image == convert.convert_sizes(first.image, (32,), **options).jpegs[0]


def test_what_a_build_of_ours_kept_in_one_fold_stays_so_when_it_is_folded_again(data, tmp_path):
    first, second = sorted(path.stem for path in (data / "jpeg" / "train").iterdir())[:2]
    (tmp_path / "pairs.csv").write_text(f"image_name_1,image_name_2\n{first},{second}\n")
    build.build(settings(data, tmp_path / "old", duplicates=str(tmp_path / "pairs.csv")))
    build.build(foreign_settings(tmp_path / "old" / "*.tfrec", tmp_path / "new", folds=23, shards=23, seed=3))
    found = records_of(tmp_path / "new")
    assert found[first].patient != found[second].patient
    assert found[first].fold == found[second].fold


def test_a_table_gives_the_data_set_and_the_record_the_file_that_its_image_came_from(data, tmp_path):
    build.build(settings(data, tmp_path / "big", size=64, source="mine"))
    given = foreign_settings(tmp_path / "big" / "*.tfrec", tmp_path / "small", csv=str(data / "train.csv"))
    build.build(given)
    for record in records_of(tmp_path / "small").values():
        file = data / "jpeg" / "train" / f"{record.image_name}.jpg"
        assert (record.source, record.sha256.hex()) == ("isic2020", shards.file_sha256(file))
        assert (record.width, record.height) == Image.open(file).size


def test_each_record_keeps_its_data_set_and_a_code_its_dialect(tmp_path, capsys):
    merged = [{**each, "source": n % 2 + 1} for n, each in enumerate(patients(12))]
    for each in merged:
        del each["diagnosis"]
    path, codes = shard(tmp_path, *merged), "sex=,anatom_site_general_challenge="
    manifest = build.build(foreign_settings(path, tmp_path / "out", codes=codes))
    found = records_of(tmp_path / "out")
    assert {name: record.source for name, record in found.items()} == {
        f"ISIC_{n}": f"deotte-{n % 2 + 1}" for n in range(12)
    }
    assert manifest.inputs["train"]["sources"] == ["deotte-1", "deotte-2"]
    assert manifest.inputs["train"]["form"] == "deotte"
    assert verify.verify([tmp_path / "out"], near_duplicates=False).problems == []
    page = show.make_page(tmp_path / "out")
    assert "deotte-1, deotte-2" in page  # how it was made
    assert page.count("deotte-1") > 1  # and how many of each
    build.build(foreign_settings(path, tmp_path / "named", codes=codes, source="merged"))
    assert {record.source for record in records_of(tmp_path / "named").values()} == {"merged"}


def test_shards_elsewhere_are_found_and_read_in_parts(tmp_path):
    """ram:// stands for gs://; worker processes would not see it."""
    import tensorflow as tf

    records = patients(6)
    here = shard(tmp_path, *records)
    there = f"ram://foreign/{here.name}"
    tf.io.gfile.makedirs("ram://foreign")
    tf.io.gfile.copy(str(here), there, overwrite=True)
    assert reader.find("ram://foreign/*.tfrec") == [there]
    found = reader.read_shards([there])
    for place, record in reversed(list(zip(found.places, records, strict=True))):
        others = {field.name: "" for field in dataclasses.fields(shards.Source)}
        source = shards.Source(**{**others, "path": place.path, "part": place.part})
        assert source.read() == record["image"]
    with pytest.raises(reader.ForeignError, match=r"no file matches 'ram://foreign/\*.none'"):
        reader.find("ram://foreign/*.none")


def test_two_workers_and_a_resumed_build_make_the_same_bytes(tmp_path):
    path = shard(tmp_path, *patients(20))
    build.build(foreign_settings(path, tmp_path / "one"))
    build.build(foreign_settings(path, tmp_path / "two", workers=2, resume=True))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    next((tmp_path / "two").glob("train*.tfrec")).unlink()
    build.build(foreign_settings(path, tmp_path / "two", resume=True))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.parametrize("given", [None, "mine"])
def test_a_source_that_cannot_be_used_is_a_note_unless_another_is_given(tmp_path, capsys, given):
    path = shard(tmp_path, *patients(10, source=0.5))
    build.build(foreign_settings(path, tmp_path / "out", source=given))
    assert {record.source for record in records_of(tmp_path / "out").values()} == {given or "deotte"}
    note = f"note: {path}: the source of 10 of 10 records is taken as missing, as it cannot be used, first key 'source'"
    assert (note in capsys.readouterr().out) == (given is None)


def test_swapped_channels_are_warned_of_and_swapped_back(tmp_path, capsys):
    right = patients(10)
    wrong = [{**each, "image": flat_jpeg(40, 60, 180 + n, size=(96, 80))} for n, each in enumerate(right)]
    path = shard(tmp_path, *wrong)
    build.build(foreign_settings(path, tmp_path / "kept"))
    said = capsys.readouterr().out
    assert f"warning: {path}: 1 of 1 file, first {path.name}: red and blue look swapped" in said
    assert "skin is redder than blue" in said
    assert "give --swap_rb" in said
    build.build(foreign_settings(path, tmp_path / "swapped", swap_rb=True))
    assert "red and blue" not in capsys.readouterr().out
    kept, swapped = records_of(tmp_path / "kept"), records_of(tmp_path / "swapped")
    for name, record in swapped.items():
        before, after = (np.asarray(Image.open(io.BytesIO(each.image)), float) for each in (kept[name], record))
        assert np.abs(before[..., ::-1] - after).mean() < 2  # levels; each is encoded once
        assert after[..., 0].mean() > after[..., 2].mean()


def test_records_without_patients_are_warned_of(tmp_path, capsys):
    path = shard(tmp_path, *[{**each, "patient_id": -1 if n < 3 else n} for n, each in enumerate(patients(10))])
    build.build(foreign_settings(path, tmp_path / "out"))
    assert "3 of 10 images name no patient: folded by image, so two folds may share" in capsys.readouterr().out


def test_patients_that_are_numbers_of_the_writers_table_are_warned_of(tmp_path, capsys):
    path = shard(tmp_path, *patients(10))
    build.build(foreign_settings(path, tmp_path / "first"))
    are = f"warning: {path}: 10 patients are numbers of this writer's table (code:0), comparable with no other file"
    assert f"{are}; give --csv\n" in capsys.readouterr().out
    (tmp_path / "named").mkdir()
    named = [{**each, "image_name": b"B_" + each["image_name"]} for each in patients(20)]
    build.build(foreign_settings(shard(tmp_path / "named", *named), tmp_path / "out", against=str(tmp_path / "first")))
    said = capsys.readouterr().out
    assert f": patients shared with {tmp_path / 'first'} are not recognized, so training and test may" in said
    assert f"--against {tmp_path / 'first'}: its patients are numbers of its writer's table (code:" in said


def test_equal_codes_of_two_writers_are_no_leak_but_noted_and_those_of_the_same_files_are_compared(tmp_path):
    path = shard(tmp_path, *patients(10))
    (tmp_path / "other").mkdir()
    image = flat_jpeg(10, 200, 30, size=(96, 80))
    renamed = [
        {**each, "image_name": b"B_" + each["image_name"], "image": image + bytes([n])}
        for n, each in enumerate(patients(10))
    ]
    other = shard(tmp_path / "other", *renamed)
    for name, given, seed in (("a", path, 0), ("b", other, 0), ("a2", path, 1)):
        build.build(foreign_settings(given, tmp_path / name, seed=seed))
    found = verify.verify([tmp_path / "a", tmp_path / "b"], near_duplicates=False)
    assert found.problems == []
    uncompared = [note for note in found.notes if "not compared with those of other input files" in note]
    assert [note.partition(":")[0] for note in uncompared] == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert "(code:" in uncompared[0]
    again = verify.verify([tmp_path / "a", tmp_path / "a2"], near_duplicates=False)
    for notes in (again.notes, verify.verify([tmp_path / "a"], near_duplicates=False).notes):
        assert not any("not compared" in note or "--against" in note for note in notes)
    assert any("leak: patient code:" in problem for problem in again.problems)


def test_swapping_what_looks_right_is_warned_of(tmp_path, capsys):
    build.build(foreign_settings(shard(tmp_path, *patients(10)), tmp_path / "out", swap_rb=True))
    assert "red and blue look right" in capsys.readouterr().out


def test_codes_that_nothing_states_are_missing_with_one_line(tmp_path, capsys):
    """Whatever their order: the records of Kaggle's order too."""
    path = shard(tmp_path, *patients(10))
    manifest = build.build(foreign_settings(path, tmp_path / "out"))
    said = capsys.readouterr().out
    warned = "sex, anatom_site_general_challenge and diagnosis are missing, because nothing states the words of their"
    assert said.count(f"warning: {path}: {warned} codes; give the table of the images with --csv, or the words") == 1
    believed = "target: 0 other, 1 melanoma in 3 of 10 records (the name of its key)"
    assert f"note: {path}: believed of its values: {believed}\n" in said
    found = manifest.inputs["train"]
    assert found["meanings"] == [believed]
    assert [text for text in found["warnings"] if text.startswith(f"{path.name}: {warned}")]
    for record in records_of(tmp_path / "out").values():
        assert (record.sex, record.anatom_site_general_challenge, record.diagnosis) == (-1, -1, -1)
    assert sum(record.target for record in records_of(tmp_path / "out").values()) == 3
    manifest = build.build(foreign_settings(path, tmp_path / "stated", codes=KAGGLE_CODES))
    assert manifest.inputs["train"]["meanings"][0] == "sex: 0 male, 1 female (--codes)"
    assert not [text for text in manifest.inputs["train"]["warnings"] if "nothing states" in text]
    with pytest.raises(build.BuildError, match="--resume of another build"):
        build.build(foreign_settings(path, tmp_path / "out", codes=KAGGLE_CODES, resume=True))


def test_stated_codes_that_contradict_each_other_are_refused(tmp_path):
    path = shard(tmp_path, *[{**each, "diagnosis": 3 - each["diagnosis"]} for each in patients(10)])
    with pytest.raises(build.BuildError, match=r"cannot be trusted:\s+10 of 10 records") as error:
        build.build(foreign_settings(path, tmp_path / "out", codes=KAGGLE_CODES))
    assert "--csv" in str(error.value)
    assert not (tmp_path / "out").exists()
    build.build(foreign_settings(path, tmp_path / "out", codes="diagnosis=unknown|melanoma|nevus"))
    assert {r.diagnosis for r in records_of(tmp_path / "out").values() if r.target} == {2}
    build.build(foreign_settings(path, tmp_path / "none", codes="diagnosis="))
    assert {r.diagnosis for r in records_of(tmp_path / "none").values()} == {schema.MISSING}


def test_many_shards_give_one_line_of_each_warning(tmp_path, capsys):
    wrong = [{**each, "image": flat_jpeg(40, 60, 180 + n, size=(96, 80))} for n, each in enumerate(patients(12))]
    right = patients(14)[12:]
    for number, record in enumerate([*wrong, *right]):
        shard(tmp_path, record, name=f"train{number:02d}-1.tfrec")
    manifest = build.build(foreign_settings(tmp_path / "*.tfrec", tmp_path / "out"))
    warned = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    for kind in ("red and blue", "nothing states", "numbers of this writer's table", "no melanoma in fold"):
        assert len([line for line in warned if kind in line]) == 1
    assert not any("train05" in line for line in warned)
    text = "12 of 14 files, first train00-1.tfrec: red and blue look swapped: mean R "
    assert warned[0].startswith(f"warning: {tmp_path / '*.tfrec'}: {text}")
    assert "more blue than red in 100% of 12 images" in warned[0]
    assert manifest.inputs["train"]["warnings"][0].startswith(f"*.tfrec: {text}")


def test_a_record_that_occurs_twice_is_built_once_and_a_name_of_two_images_not_at_all(tmp_path, capsys):
    records = patients(12)
    again = {**records[5], "image": records[6]["image"]}
    shard(tmp_path, *records, name="a-12.tfrec")
    shard(tmp_path, records[3], again, name="b-2.tfrec")
    manifest = build.build(foreign_settings(tmp_path / "*.tfrec", tmp_path / "out", codes=KAGGLE_CODES))
    assert f"{tmp_path / '*.tfrec'}: 1 record left out, as the same record occurs before" in capsys.readouterr().out
    assert set(records_of(tmp_path / "out")) == {f"ISIC_{n}" for n in range(12) if n != 5}
    assert [(each.image_name, each.file, each.reason) for each in manifest.quarantined] == [
        ("ISIC_5", "a-12.tfrec: record 5", "its name is also that of b-2.tfrec: record 1, with other image"),
        ("ISIC_5", "b-2.tfrec: record 1", "its name is also that of a-12.tfrec: record 5, with other image"),
    ]


def encoded(data, form, **options):
    out = io.BytesIO()
    Image.open(io.BytesIO(data)).save(out, form, **options)
    return out.getvalue()


@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("TIFF", {}), ("BMP", {}), ("WEBP", {"lossless": True})])
def test_images_in_other_formats_are_converted(tmp_path, form, options):
    """The reference is their own pixels, cropped and resampled by Pillow."""
    records = patients(8)
    for record in records[::2]:
        record["image"] = encoded(record["image"], form, **options)
    build.build(foreign_settings(shard(tmp_path, *records), tmp_path / "out", codes=KAGGLE_CODES))
    found = records_of(tmp_path / "out")
    assert len(found) == 8
    for each in records:
        record = found[each["image_name"].decode()]
        given = Image.open(io.BytesIO(each["image"])).convert("RGB").crop((8, 0, 88, 80))
        expected = np.asarray(given.resize((32, 32), Image.Resampling.LANCZOS), float)
        assert np.abs(np.asarray(Image.open(io.BytesIO(record.image)), float) - expected).mean() < 2  # levels
        assert (record.width, record.height) == (96, 80)


def test_raw_pixels_and_swapped_pngs_are_noticed(tmp_path, capsys):
    records = patients(8)
    for record in records:
        blue = Image.open(io.BytesIO(record["image"])).convert("RGB")
        out = io.BytesIO()
        Image.merge("RGB", blue.split()[::-1]).save(out, "PNG")
        record["image"] = out.getvalue()
    records[5]["image"] = bytes(96 * 80 * 3)
    manifest = build.build(foreign_settings(shard(tmp_path, *records), tmp_path / "out"))
    assert [each.file for each in manifest.quarantined] == ["train00-8.tfrec: record 5"]
    assert "red and blue look swapped" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------- a made-up writer

# Its tables and codes are in an order of their own: that of the first appearance in a shuffled table.
SEXES, SITES = ("female", "male"), ("lower extremity", "", "torso", "oral/genital", "head/neck")
CLASSES = ("bcc", "nv", "mel", "bkl")
COLUMNS = "image=jpg,image_name=file,patient_id=who,sex=gender,age_approx=years,target=class"
COLUMNS += ",anatom_site_general_challenge=loc,diagnosis=class"


def written(folder, count=40):
    """Shards of the made-up writer, and the table that they were written from."""
    rng = np.random.default_rng(3)
    colors = rng.integers(20, 120, (count, 2)).tolist()
    records, rows = [], []
    for number, (green, blue) in enumerate(colors):
        sex, site, kind = number % 2, int(rng.integers(len(SITES))), int(rng.integers(len(CLASSES)))
        who = number // 4 * 2 + sex
        records.append(
            {
                "jpg": flat_jpeg(200, green, blue, size=(96, 80)),
                "file": b"lesion_%d.jpg" % number,
                "who": -1 if who == 4 else who,
                "gender": sex,
                "years": float("nan") if number % 7 == 0 else 5.0 * (number % 17),
                "loc": b"%d" % site,
                "class": [float(kind == each) for each in range(len(CLASSES))],
            }
        )
        age = "" if number % 7 == 0 else 5 * (number % 17)
        rows.append(f"lesion_{number},P{who},{SEXES[sex]},{age},{SITES[site]},{CLASSES[kind]},{int(kind == 2)}")
    header = "image_name,patient_id,sex,age_approx,anatom_site_general_challenge,diagnosis,target"
    (folder / "truth.csv").write_text("\n".join([header, *rows]) + "\n")
    half = count // 2
    shard(folder, *records[:half], name="part-0.tfrecord")
    shard(folder, *records[half:], name="part-1.tfrecord")
    return [dict(zip(header.split(","), row.split(","), strict=True)) for row in rows]


def as_words(record):
    """A record in the words of the table."""
    age = "" if record.age_approx < 0 else str(record.age_approx)
    site = "" if record.anatom_site_general_challenge < 0 else schema.SITE[record.anatom_site_general_challenge]
    sex = "" if record.sex < 0 else schema.SEX[record.sex]
    kind = "" if record.diagnosis < 0 else schema.DIAGNOSIS[record.diagnosis]
    return {"sex": sex, "age_approx": age, "anatom_site_general_challenge": site, "diagnosis": kind}


FULL_NAMES = {"bcc": "basal cell carcinoma", "nv": "nevus", "mel": "melanoma", "bkl": "benign keratosis"}


def test_a_writer_with_codes_of_its_own_is_read_as_its_table_says_or_not_at_all(tmp_path):
    truth = {row["image_name"]: row for row in written(tmp_path)}
    given = foreign_settings(tmp_path / "*.tfrecord", tmp_path / "out", columns=COLUMNS)
    with pytest.raises(reader.ForeignError, match="no usable record .*one of 4 classes, and words for 2; expected a"):
        build.build(given)
    build.build(replaced(given, codes="target=other|other|melanoma|other"))
    for name, record in records_of(tmp_path / "out").items():
        nothing = {"sex": "", "anatom_site_general_challenge": "", "diagnosis": ""}
        assert as_words(record) == {"age_approx": truth[name]["age_approx"], **nothing}
        assert str(record.target) == truth[name]["target"]
    stated = f"sex={'|'.join(SEXES)},anatom_site_general_challenge={'|'.join(SITES)}"
    stated += f",diagnosis={'|'.join(CLASSES)},target={'|'.join(CLASSES)}"
    build.build(replaced(given, codes=stated, overwrite=True))
    check_against(truth, records_of(tmp_path / "out"))
    patients_of = {(record.patient, truth[name]["patient_id"]) for name, record in records_of(tmp_path / "out").items()}
    assert ("", "P4") in patients_of  # the patient -1
    assert len(patients_of) == len({theirs for _, theirs in patients_of}) == len({ours for ours, _ in patients_of})


def test_a_writer_with_keys_of_its_own_is_read_with_its_table(tmp_path):
    truth = {row["image_name"]: row for row in written(tmp_path)}
    text = (tmp_path / "truth.csv").read_text()
    for word, name in FULL_NAMES.items():
        text = text.replace(f",{word},", f",{name},")
    (tmp_path / "truth.csv").write_text(text)
    csv = str(tmp_path / "truth.csv")
    given = foreign_settings(tmp_path / "*.tfrecord", tmp_path / "out", columns=COLUMNS, csv=csv)
    manifest = build.build(given)
    found = records_of(tmp_path / "out")
    check_against(truth, found)
    assert all(record.patient == truth[name]["patient_id"] for name, record in found.items())
    everything, proven = manifest.inputs["train"]["meanings"]
    assert everything == "everything except the images: the table"
    assert proven.startswith("the table proves the codes of these records: --codes 'sex=female|male,anatom_site")
    assert "=lower extremity||torso|oral/genital|head/neck,diagnosis=basal cell carcinoma|nevus|melanoma|" in proven


def check_against(truth, found):
    assert set(found) == set(truth)
    for name, record in found.items():
        row = truth[name]
        expected = {key: row[key] for key in ("sex", "age_approx", "anatom_site_general_challenge")}
        assert as_words(record) == {**expected, "diagnosis": FULL_NAMES.get(row["diagnosis"], row["diagnosis"])}
        assert str(record.target) == row["target"]


# ------------------------------------------------------------------------------------------------ other cases


def test_a_test_set_that_has_targets_is_reported(tmp_path, capsys):
    path = shard(tmp_path, *patients(10), name="test00-10.tfrec")
    manifest = build.build(foreign_settings(path, tmp_path / "train"))
    assert {result.split for result in manifest.shards} == {"train"}
    said = f"note: {path}: has targets, so it becomes training data; --split test leaves them out"
    assert said in capsys.readouterr().out
    manifest = build.build(foreign_settings(path, tmp_path / "test", split="test"))
    assert {result.split for result in manifest.shards} == {"test"}
    assert f"note: {path}: --split test leaves out its targets" in capsys.readouterr().out


def test_records_without_labels_become_test_shards(tmp_path):
    unlabelled = [{k: v for k, v in each.items() if k not in ("target", "diagnosis")} for each in patients(10)]
    path = shard(tmp_path, *unlabelled)
    manifest = build.build(foreign_settings(path, tmp_path / "out"))
    assert {(result.split, result.fold) for result in manifest.shards} == {("test", -1)}
    with pytest.raises(build.BuildError, match="--split train, but the records have no target"):
        build.build(foreign_settings(path, tmp_path / "other", split="train"))


def test_an_image_that_cannot_be_used_is_quarantined_with_its_place(tmp_path):
    records = patients(10)
    records[3]["image"] = records[3]["image"][:-200]
    path = shard(tmp_path, *records)
    build.build(foreign_settings(path, tmp_path / "out"))
    listed = (tmp_path / "out" / "quarantine.csv").read_text()
    assert f"ISIC_3,{path.name}: record 3," in listed
    assert "truncated" in listed


def test_a_shard_that_changes_while_it_is_read_stops_the_build(tmp_path):
    path = shard(tmp_path, *patients(2))
    place = reader.read_shards([path]).places[0]
    source = shards.Source("ISIC_0", path.name, str(path), "", "", "g", 0, 1, 2, 3, 0, "kaggle", place.part)
    assert source.read().startswith(b"\xff\xd8")
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(shards.ShardError, match="changed while it was read"):
        source.read()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": "x"}, "--from_tfrecords and --images together"),
        ({"from_tfrecords": "nowhere/*.tfrec"}, "no file matches 'nowhere/\\*.tfrec'"),
        ({"from_tfrecords": ""}, "--from_tfrecords ''; expected a path"),
        (
            {"from_tfrecords": "tests/"},
            "'tests/' is a folder; expected a file or a pattern in quotes, e.g. 'tests/\\*.tfr",
        ),
        ({"from_tfrecords": None, "codes": "sex="}, "--dialect, --codes and --swap_rb without --from_tfrecords"),
        ({"codes": "color=red"}, "--codes 'color=red': expected KEY=WORD"),
        ({"columns": "color=red"}, "--columns 'color=red': expected OURS=THEIRS"),
    ],
)
def test_settings_that_do_not_fit_are_named(tmp_path, changes, message):
    path = shard(tmp_path, *patients(6))
    with pytest.raises(build.USERS_ERRORS, match=message):
        build.build(foreign_settings(path, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_a_cmyk_image_is_not_swapped():
    cmyk = io.BytesIO()
    Image.new("CMYK", (64, 64)).save(cmyk, "JPEG", icc_profile=b"profile")
    with pytest.raises(convert.ImageRejectedError, match="of a CMYK image cannot be swapped"):
        convert.convert_sizes(cmyk.getvalue(), (32,), 95, swap_rb=True)


def test_the_real_foreign_shards_with_their_table(real_data, tmp_path, capsys):
    pattern, csv = real_data / "foreign_tfrecords" / "*.tfrec", real_data / "isic2020_csv" / "train.csv"
    build.build(foreign_settings(pattern, tmp_path / "alone", folds=3))
    warned = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert [
        text
        for line in warned
        for text in ("2 of 2 files, first test00-50.tfrec: red and blue", "sex, ana", "68 pat")
        if text in line
    ]
    assert {record.sex for record in records_of(tmp_path / "alone").values()} == {-1}
    build.build(foreign_settings(pattern, tmp_path / "out", size=128, csv=str(csv), swap_rb=True, folds=3))
    assert "warning" not in capsys.readouterr().out
    found = records_of(tmp_path / "out")
    assert len(found) == 82
    assert all(record.patient.startswith("IP_") for record in found.values())
    assert not channel_order.channels_look_swapped(record.image for record in found.values()).swapped

import hashlib
from pathlib import Path

import pandas as pd
import pytest

from tests.support.foreign import KAGGLE_CODES, shard, values
from tests.support.images import SKIN, flat_jpeg
from tfrecord_tools import schema
from tfrecord_tools.foreign import codes, dialects, reader, trust
from tfrecord_tools.metadata import table
from tfrecord_tools.records import tfrecord

SITE = "anatom_site_general_challenge"
KAGGLE = codes.parse_codes(KAGGLE_CODES)
CODES = "sex=female|male,anatom_site_general_challenge=torso|lower extremity|palms/soles|upper extremity"


def rows(path: Path, **arguments) -> list[dict[str, str | int]]:
    """Of the records that can be used; all must be."""
    found = list(reader.read(path, **{"codes": KAGGLE, **arguments}))
    assert not [each for each in found if isinstance(each, reader.Unusable)]
    return [each.row for each in found if isinstance(each, reader.ForeignRecord)]


ROW = {
    "image_name": "ISIC_1",
    "patient": "code:7",
    "lesion": "",
    "sex": 1,
    "age_approx": 45,
    SITE: 3,
    "diagnosis": 2,
    "target": 1,
}


def test_a_kaggle_record_becomes_a_row_of_the_table(tmp_path):
    (record,) = reader.read(shard(tmp_path, values()), codes=KAGGLE)
    assert isinstance(record, reader.ForeignRecord)
    assert record.row == ROW
    assert record.image == SKIN
    assert record.dialect == "kaggle"


def test_the_rows_have_the_columns_of_a_csv(tmp_path):
    header = "image_name,patient_id,sex,age_approx,anatom_site_general_challenge,target"
    (tmp_path / "train.csv").write_text(header + "\nISIC_1,IP_1,male,45,torso,0\n", encoding="utf-8")
    frame = table.read_table(tmp_path / "train.csv", labelled=True)
    assert list(reader.read_shards([shard(tmp_path, values())]).frame.columns) == list(frame.columns)


def test_a_record_without_labels_and_with_the_other_site_key_is_read(tmp_path):
    test = values(diagnosis=..., target=..., anatom_site_general_challenge=..., anatom_site_general=0)
    found = reader.read_shards([shard(tmp_path, test, name="test00-1.tfrec")], codes=KAGGLE)
    assert found.frame.to_dict("records") == [{**ROW, SITE: 0, "diagnosis": -1, "target": -1}]
    assert not found.labelled


@pytest.mark.parametrize(
    ("changes", "row"),
    [
        ({"age_approx": 45.0}, {}),
        ({"age_approx": float("nan")}, {"age_approx": -1}),
        ({"age_approx": b"45.0"}, {}),
        (
            {"sex": -1, "age_approx": -1, SITE: -1, "patient_id": -1},
            {"sex": -1, "age_approx": -1, SITE: -1, "patient": ""},
        ),
        ({"sex": b"female", SITE: b"anterior torso", "diagnosis": b"mel"}, {}),
        ({"sex": b"", SITE: [], "diagnosis": b"unknown"}, {"sex": -1, SITE: -1, "diagnosis": 0}),
        ({"patient_id": b"IP_1", "lesion_id": b"IL_1"}, {"patient": "IP_1", "lesion": "IL_1"}),
        ({"target": 1.0}, {}),
        ({"target": b"1"}, {}),
        ({"target": b"melanoma"}, {}),
        ({"target": [0, 1]}, {}),
        ({"target": [0.0, 1.0]}, {}),
        ({"target": [1, 0], "diagnosis": [0, 1, 0]}, {"target": 0, "diagnosis": 1}),
        ({"sex": [0.0, 1.0], SITE: b"3"}, {}),
        ({"sex": b"nan", SITE: b"unknown", "age_approx": b"nan"}, {"sex": -1, SITE: -1, "age_approx": -1}),
        ({"sex": b"-1", SITE: float("nan"), "diagnosis": b"NaN"}, {"sex": -1, SITE: -1, "diagnosis": -1}),
        ({"patient_id": b"nan", "lesion_id": b"-1"}, {"patient": ""}),
        ({"patient_id": b"unknown", "lesion_id": b" "}, {"patient": ""}),
        ({"patient_id": float("nan"), "lesion_id": -1.0}, {"patient": ""}),
        ({"patient_id": 7.0}, {}),
        ({"image_name": b"ISIC_1.PNG"}, {}),
        ({"image_name": b"train/ISIC_1.jpg"}, {}),
        ({"image_name": b"C:\\data\\train\\ISIC_1.jpg"}, {}),
        ({"image_name": b"../../ISIC_1"}, {}),
    ],
)
def test_codes_numbers_and_words_are_read(tmp_path, changes, row):
    assert rows(shard(tmp_path, values(**changes))) == [{**ROW, **row}]


# ------------------------------------------------------------------------------------------------- dialects


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "kaggle"),
        ({"diagnosis": ..., "target": ...}, "kaggle"),
        ({"diagnosis": ..., "source": 2}, "deotte"),
    ],
)
def test_a_dialect_is_recognized_by_the_keys(changes, name):
    assert dialects.recognize(values(**changes)).name == name


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (2, "deotte-2"),
        (2.0, "deotte-2"),
        (b"ham10000", "ham10000"),
        (-1, "deotte"),
        (-1.0, "deotte"),
        (float("nan"), "deotte"),
        (b"nan", "deotte"),
        ([], "deotte"),
    ],
)
def test_a_source_is_a_word_or_a_code(tmp_path, source, name):
    found = reader.read_shards([shard(tmp_path, values(diagnosis=..., source=source))])
    assert (found.sources, found.ignored) == ((name,), "")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (0.5, "0.5 is not text"),
        (float("inf"), "inf is not text"),
        (b"\xff", r"b'\xff' is not text"),
        ([0, 1], "2 values; expected one"),
    ],
)
def test_a_source_that_cannot_be_used_is_missing_and_said_once(tmp_path, source, reason):
    given = [values(name, diagnosis=..., source=source) for name in ("ISIC_1", "ISIC_2")]
    found = reader.read_shards([shard(tmp_path, *given, values("ISIC_3", diagnosis=..., source=1))])
    assert (found.sources, found.unusable) == (("deotte", "deotte", "deotte-1"), ())
    assert found.ignored == (
        f"the source of 2 of 3 records is taken as missing, as it cannot be used, first key 'source': {reason}; "
        "name the data set with --source"
    )


def test_our_own_shards_are_read_with_patients_and_lesions(tmp_path):
    own = schema.Record(
        image=SKIN,
        image_name="ISIC_1",
        patient_id=schema.stable_id("IP_1"),
        sex=1,
        age_approx=45,
        anatom_site_general_challenge=3,
        patient="IP_1",
        lesion="IL_1",
        width=64,
        height=48,
        fold=0,
        group=5,
        source="isic2020",
        sha256=bytes(32),
        diagnosis=2,
        target=1,
    )
    path = tmp_path / "train00-1.tfrec"
    with path.open("wb") as file:
        tfrecord.write_record(file, schema.encode(own))
    assert rows(path) == [{**ROW, "patient": "IP_1", "lesion": "IL_1"}]
    assert reader.read_shards([path]).dialect == "tfrecord_tools"


def test_unknown_keys_list_the_dialects(tmp_path):
    path = shard(tmp_path, {"image_raw": SKIN, "label": 1})
    with pytest.raises(reader.ForeignError) as caught:
        rows(path)
    assert "record 0: unknown keys image_raw, label; expected one of\n  kaggle: " in str(caught.value)
    assert "missing image, image_name, patient_id, sex, age_approx" in str(caught.value)


def test_any_keys_are_read_by_a_column_map(tmp_path):
    path = shard(tmp_path, {"image_raw": SKIN, "id": b"a1", "who": b"P1", "label": 1})
    columns = {"image": "image_raw", "image_name": "id", "patient_id": "who", "target": "label"}
    missing = {"sex": -1, "age_approx": -1, SITE: -1, "diagnosis": -1}
    assert rows(path, columns=columns) == [{**ROW, **missing, "image_name": "a1", "patient": "P1"}]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": "image", "patient_id": ""}, "column map image=image: expected OURS=KEY with OURS one of image"),
        ({"image": "image"}, "column map image=image: expected OURS=KEY"),
        ({"image": "image_raw"}, "the column map has no patient_id, so folds could share a patient"),
        ({"image": "image_raw", "patient_id": ""}, "dialect columns: missing key(s) image_name; found id, image_raw"),
    ],
)
def test_a_column_map_that_does_not_fit_is_an_error(tmp_path, columns, message):
    with pytest.raises(reader.ForeignError) as caught:
        rows(shard(tmp_path, {"image_raw": SKIN, "id": b"a1"}), columns=columns)
    assert message in str(caught.value)


def test_a_dialect_that_does_not_fit_is_an_error(tmp_path):
    path = shard(tmp_path, values())
    with pytest.raises(reader.ForeignError, match=r"dialect deotte: missing key\(s\) source"):
        rows(path, dialect="deotte")
    with pytest.raises(reader.ForeignError, match="no dialect 'tfds'; expected one of tfrecord_tools, deotte, kaggle"):
        rows(path, dialect="tfds")


# ---------------------------------------------------------------------------------------------------- codes


def test_codes_in_another_order_are_translated(tmp_path):
    stated = codes.parse_codes(CODES + ",diagnosis=")
    assert rows(shard(tmp_path, values(sex=0, anatom_site_general_challenge=2)), codes=stated) == [
        {**ROW, SITE: 4, "diagnosis": -1}
    ]
    (bad,) = reader.read(shard(tmp_path, values(anatom_site_general_challenge=4)), codes=stated)
    assert isinstance(bad, reader.Unusable)
    assert "4 is not allowed; expected 0 to 3" in bad.reason


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sex", "--codes 'sex': expected KEY=WORD|WORD with KEY one of sex, anatom_site_general_challenge, diagnosis"),
        ("color=0|1", "--codes 'color=0|1': expected KEY"),
        ("sex=,sex=male", "--codes: sex occurs twice"),
        ("sex=woman|man", "--codes sex: 'woman' is not allowed; expected one of male, female"),
        ("target=benign|malignant", "--codes target: 'malignant' is not allowed; expected melanoma, other, or a diag"),
        ("target=0|1", "--codes target: '0' is not allowed; expected melanoma, other"),
    ],
)
def test_bad_codes_are_named(text, message):
    with pytest.raises(reader.ForeignError) as caught:
        codes.parse_codes(text)
    assert message in str(caught.value)


def test_codes_are_missing_unless_their_words_are_given(tmp_path):
    """The same records, with nothing stated, with one key stated and with all."""
    path = shard(tmp_path, values(), values("ISIC_2", sex=b"female", diagnosis=[0, 1, 0], target=0))
    missing = {"sex": -1, SITE: -1, "diagnosis": -1}
    assert rows(path, codes={}) == [
        {**ROW, **missing},
        {**ROW, **missing, "image_name": "ISIC_2", "sex": 1, "target": 0},  # a word needs none
    ]
    (one, _) = rows(path, codes=codes.parse_codes("sex=female|male"))
    assert one == {**ROW, **missing, "sex": 0}
    assert [row[SITE] for row in rows(path)] == [3, 3]


def test_what_is_believed_is_listed_and_what_is_not(tmp_path):
    path = shard(tmp_path, values(), values("ISIC_2", anatom_site_general_challenge=b"torso", patient_id=8))
    found = reader.read_shards([path], codes=codes.parse_codes("sex=female|male|"))
    believed, unknown = trust.meanings(found.frame, found.codes, codes.parse_codes("sex=female|male|"), found.dialect)
    assert believed == [
        "sex: 0 female, 1 male, 2 missing (--codes)",
        f"{SITE}: words",
        "target: 0 other, 1 melanoma in 2 of 2 records (the name of its key)",
    ]
    assert unknown == [SITE, "diagnosis"]
    assert trust.unexplained(unknown).startswith(f"{SITE} and diagnosis are missing, because nothing states the words")
    found = reader.read_shards([path], codes=KAGGLE)
    believed, unknown = trust.meanings(found.frame, found.codes, KAGGLE, found.dialect)
    assert believed[-1] == "target: 0 other, 1 melanoma in 2 of 2 records (the name of its key; 2 diagnoses agree)"
    assert unknown == []


@pytest.mark.parametrize("label", [2, 2.0, b"2", [0, 0, 1], [0.0, 0.0, 1.0]])
def test_several_classes_need_their_words(tmp_path, label):
    columns = {"patient_id": "", "target": "label"}
    records = [{"image": SKIN, "image_name": b"a%d" % n, "label": each} for n, each in enumerate([label, label, label])]
    path = shard(tmp_path, *records)
    with pytest.raises(reader.ForeignError, match="key 'label': .*words? for|--codes target=WORD"):
        reader.read_shards([path], columns=columns)
    stated = codes.parse_codes("target=NV|BCC|MEL")
    assert [row["target"] for row in rows(path, columns=columns, codes=stated)] == [1, 1, 1]
    other = codes.parse_codes("target=melanoma|other|nevus")
    assert [row["target"] for row in rows(path, columns=columns, codes=other)] == [0, 0, 0]


def test_words_that_do_not_fit_the_number_of_classes_are_refused(tmp_path):
    path = shard(tmp_path, *({**values(f"ISIC_{n}"), "target": [0, 0, 1]} for n in range(3)), values("ISIC_4"))
    for stated in ("target=other|melanoma", "target=NV|MEL|BCC|AK", "sex="):
        (doubt,) = reader.read_shards([path], codes=codes.parse_codes(stated)).doubts
        assert doubt.startswith("3 of 4 records have a code of target without a word, first train00-4.tfrec: record 0")


@pytest.mark.parametrize("label", [[0, 0], [1, 1], [0, 2], [0.3, 0.7], [b"0", b"1"], 0.7, -2, b"malignant"])
def test_a_label_that_names_no_class_is_unusable(tmp_path, label):
    (bad,) = reader.read(shard(tmp_path, values(target=label)))
    assert isinstance(bad, reader.Unusable)
    assert bad.reason.startswith("key 'target': ")


def test_a_diagnosis_gives_the_target_of_records_without_one(tmp_path):
    columns = {"image": "jpg", "image_name": "id", "patient_id": "", "diagnosis": "dx"}
    words = [b"mel", b"nv", b"bcc", b"unknown"]
    records = [{"jpg": SKIN, "id": b"a%d" % n, "dx": word} for n, word in enumerate(words)]
    found = reader.read_shards([shard(tmp_path, *records)], columns=columns)
    assert found.frame["target"].tolist() == [1, 0, 0]
    assert [each.image_name for each in found.unusable] == ["a3"]
    assert "'unknown' does not determine whether it is a melanoma" in found.unusable[0].reason
    coded = [{**each, "dx": number} for number, each in enumerate(records[:3])]
    stated = codes.parse_codes("diagnosis=mel|nv|bcc")
    assert [row["target"] for row in rows(shard(tmp_path, *coded), columns=columns, codes=stated)] == [1, 0, 0]
    assert [row["target"] for row in rows(shard(tmp_path, *coded), columns=columns, codes={})] == [-1, -1, -1]


def test_a_malignancy_that_is_no_melanoma_disproves_the_target(tmp_path):
    path = shard(tmp_path, values(diagnosis=b"bcc"), values("ISIC_2", diagnosis=b"mel"))
    (doubt,) = reader.read_shards([path]).doubts
    assert doubt.startswith("1 of 2 records has a diagnosis that contradicts its target: ISIC_1 has target 1 and")


def test_a_malignant_nevus_puts_the_codes_in_doubt(tmp_path):
    path = shard(tmp_path, values(), values("ISIC_2", diagnosis=1), values("ISIC_3", diagnosis=0, target=0))
    assert reader.read_shards([path]).doubts == ()  # what is not believed contradicts nothing
    (doubt,) = reader.read_shards([path], codes=KAGGLE).doubts
    assert doubt.startswith("1 of 3 records has a diagnosis that contradicts its target: ISIC_2 has target 1 and")
    assert doubt.endswith("diagnosis 'nevus'")


def test_a_patient_of_two_sexes_puts_the_codes_in_doubt(tmp_path):
    path = shard(tmp_path, values(), values("ISIC_2", sex=0), values("ISIC_3", patient_id=8))
    (doubt,) = reader.read_shards([path], codes=KAGGLE).doubts
    assert doubt == "1 of 2 patients has two sexes, among them the one with code 7"


# ---------------------------------------------------------------------------------------------------- table


def joined(path, table, **arguments):
    found = reader.read_shards([path], images_only=True, **arguments)
    return trust.with_table(found.frame, found.codes, pd.DataFrame(table), arguments.get("codes", {}))


def table_rows(*numbers, **changes):
    return [{**ROW, "image_name": f"ISIC_{n}", "patient": f"IP_{n}", **changes} for n in numbers]


def test_a_table_replaces_the_rows(tmp_path):
    given = table_rows(0, 1, 2, sex=0, diagnosis=0)
    chosen = joined(shard(tmp_path, values("ISIC_2"), values("ISIC_1")), given)
    assert chosen.to_dict("records") == [given[2], given[1]]


def test_a_table_that_lacks_an_image_or_contradicts_is_an_error(tmp_path):
    path = shard(tmp_path, values("ISIC_2"), values("ISIC_1"))
    with pytest.raises(reader.ForeignError, match="lacks 1 of the 2 images of the TFRecords, first 'ISIC_2'"):
        joined(path, [ROW])
    with pytest.raises(reader.ForeignError, match="has none of the 2 images .* like 'ISIC_2', those .* like 'x'"):
        joined(path, [{**ROW, "image_name": "x"}])
    with pytest.raises(reader.ForeignError, match="1 of 2 records has another target .* first 'ISIC_2': 0 in the"):
        joined(path, [ROW, *table_rows(2, target=0)])


def test_a_table_that_contradicts_stated_words_is_an_error(tmp_path):
    path = shard(tmp_path, values("ISIC_2"), values("ISIC_1", sex=-1))
    stated = codes.parse_codes("sex=female|male")
    with pytest.raises(reader.ForeignError) as caught:
        joined(path, table_rows(1, 2), codes=stated)
    assert str(caught.value) == (
        "--codes sex: the table contradicts it in 1 of 1 records, first 'ISIC_2': male by --codes, female in the "
        "table; leave out --codes"
    )
    assert len(joined(path, table_rows(1, 2, sex=0), codes=stated)) == 2


def test_labels_of_several_classes_are_left_to_the_table(tmp_path):
    labels = [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
    path = shard(tmp_path, *(values(f"ISIC_{n}", target=label) for n, label in enumerate(labels)))
    given = [*table_rows(0, target=1), *table_rows(1, 2, target=0, diagnosis=1)]
    assert joined(path, given)["target"].tolist() == [1, 0, 0]


def coded(number):
    """A record whose codes have an order of their own, and one for the empty cell; and its row."""
    site = (3, -1, 0)[number % 3]
    record = values(f"ISIC_{number}", sex=number % 2, anatom_site_general_challenge=number % 3)
    return record, table_rows(number, sex=1 - number % 2, **{SITE: site})[0]


def test_a_table_of_some_images_proves_the_codes(tmp_path):
    records, given = zip(*map(coded, range(60)), strict=True)
    records[59][SITE], given[59][SITE] = 4, -1  # a word that the table does not show
    path = shard(tmp_path, *records)
    with pytest.raises(reader.ForeignError) as caught:
        joined(path, given[:30])
    message, text = str(caught.value).split("; the table proves the codes of these records: --codes ")
    assert message.startswith("the table lacks 30 of the 60 images of the TFRecords, first 'ISIC_30'")
    # The diagnosis is one word in all 30 records, which proves nothing.
    assert text == f"'sex=female|male,{SITE}=torso||head/neck||'"
    expected = [(row["sex"], row[SITE]) for row in given]
    assert [(row["sex"], row[SITE]) for row in rows(path, codes=codes.parse_codes(text.strip("'")))] == expected


def test_a_table_of_few_images_proves_no_code(tmp_path):
    records, given = zip(*map(coded, range(60)), strict=True)
    with pytest.raises(reader.ForeignError, match="pass one with all of them$"):
        joined(shard(tmp_path, *records), given[:10])


def test_one_disproved_key_is_the_end_of_all(tmp_path):
    records, given = zip(*map(coded, range(60)), strict=True)
    other = [*given[:30], {**given[30], SITE: 1}]  # code 0 is the torso elsewhere
    with pytest.raises(reader.ForeignError) as caught:
        joined(shard(tmp_path, *records), other)
    assert f"the table disproves the codes: {SITE} 0 is torso and upper extremity, so no code" in str(caught.value)
    assert "sex=" not in str(caught.value)


# --------------------------------------------------------------------------------------------------- shards


def test_an_image_lies_at_its_place(tmp_path):
    other = flat_jpeg(130, 150, 200)
    path = shard(tmp_path, values(), values("ISIC_2", image=other))
    places = reader.read_shards([path]).places
    data = path.read_bytes()
    assert [data[p.part.offset : p.part.offset + p.part.length] for p in places] == [SKIN, other]
    assert places[1].part.sha256 == hashlib.sha256(other).digest()


def test_the_order_of_the_files_does_not_matter(tmp_path):
    paths = [shard(tmp_path, values(f"ISIC_{n}"), name=f"train0{n}-1.tfrec") for n in (1, 2)]
    assert reader.read_shards(paths).places == reader.read_shards(paths[::-1]).places


def test_a_record_that_occurs_again_is_taken_once(tmp_path):
    paths = [shard(tmp_path, values(), values(f"ISIC_{n}"), name=f"train0{n}-2.tfrec") for n in (2, 3)]
    found = reader.read_shards(paths)
    assert found.frame["image_name"].tolist() == ["ISIC_1", "ISIC_2", "ISIC_3"]
    assert (found.repeated, found.unusable) == (1, ())
    assert found.places[0].path == str(paths[0])


@pytest.mark.parametrize(
    ("changes", "what"),
    [({"image": flat_jpeg(1, 2, 3)}, "image"), ({"target": 0}, "metadata"), ({"sex": 0}, "metadata")],
)
def test_different_records_of_one_name_are_all_unusable(tmp_path, changes, what):
    one = shard(tmp_path, values(), values("ISIC_2"), name="train01-2.tfrec")
    two = shard(tmp_path, values(), values(**changes), name="train02-2.tfrec")
    found = reader.read_shards([one, two])
    assert found.frame["image_name"].tolist() == ["ISIC_2"]
    assert [(each.image_name, each.file) for each in found.unusable] == [
        ("ISIC_1", "train01-2.tfrec: record 0"),
        ("ISIC_1", "train02-2.tfrec: record 1"),
    ]
    assert [each.reason for each in found.unusable] == [
        f"its name is also that of train02-2.tfrec: record 1, with other {what}",
        f"its name is also that of train01-2.tfrec: record 0, with other {what}",
    ]


def test_images_of_one_name_in_two_folders_are_unusable(tmp_path):
    other = flat_jpeg(1, 2, 3)
    both = values("train/ISIC_1.jpg"), values("test/ISIC_1.jpg", image=other), values("train/ISIC_2.jpg")
    found = reader.read_shards([shard(tmp_path, *both, values("old/ISIC_2.jpg"), name="train00-4.tfrec")])
    assert found.frame["image_name"].tolist() == ["ISIC_2"]
    assert found.repeated == 1
    reason = "its name is also that of train00-4.tfrec: record {}, with other image"
    assert [(each.image_name, each.reason) for each in found.unusable] == [
        ("ISIC_1", reason.format(1)),
        ("ISIC_1", reason.format(0)),
    ]


def test_metadata_that_a_table_gives_may_differ_in_a_repeated_record(tmp_path):
    path = shard(tmp_path, values(), values(sex=0, target=0))
    assert reader.read_shards([path], images_only=True).repeated == 1


@pytest.mark.parametrize("folder", ["shards [v1]", "a,b", "[old", "{x} (1)"])
def test_brackets_and_commas_in_a_path_are_taken_for_themselves(tmp_path, folder):
    (tmp_path / folder).mkdir()
    path = shard(tmp_path / folder, values(), name="train[0],1.tfrec")
    for pattern in ("train[0],1.tfrec", "*.tfrec", "train[0],?.tfrec", "train?0[]],[0-9].tfrec"):
        assert reader.find(str(path.parent / pattern)) == [str(path)]


def test_brackets_are_a_pattern_where_no_path_has_them(tmp_path):
    paths = [shard(tmp_path, values(), name=f"train0{n}.tfrec") for n in range(3)]
    assert reader.find(str(tmp_path / "train0[12].tfrec")) == [str(path) for path in paths[1:]]
    itself = shard(tmp_path, values(), name="train0[12].tfrec")
    assert reader.find(str(itself)) == [str(itself)]


def test_labelled_and_unlabelled_records_are_not_mixed(tmp_path):
    path = shard(tmp_path, values(), values("ISIC_2", target=...))
    with pytest.raises(reader.ForeignError, match="1 of 2 records has a target, 'ISIC_2' has none; build those"):
        reader.read_shards([path])
    with pytest.raises(reader.ForeignError, match="no usable record"):
        reader.read_shards([shard(tmp_path, name="train00-0.tfrec")])


def swapped(found):
    return [path for path, channels in found.channels.items() if channels.swapped]


def test_swapped_shards_are_distinguished_from_right_ones(tmp_path):
    right = shard(tmp_path, values(), name="train00-1.tfrec")
    wrong = shard(tmp_path, values("ISIC_2", image=flat_jpeg(130, 150, 200)), name="train01-1.tfrec")
    assert swapped(reader.read_shards([right, wrong])) == [str(wrong)]


# ---------------------------------------------------------------------------------------------- the real ones


@pytest.fixture(scope="module")
def real(real_data):
    return reader.read_shards(reader.find(str(real_data / "foreign_tfrecords" / "*.tfrec")))


def test_the_real_foreign_shards_parse_and_are_seen_to_be_swapped(real):
    assert (real.dialect, real.labelled, len(real.frame), real.frame["target"].sum()) == ("kaggle", True, 82, 3)
    assert [Path(path).name for path in swapped(real)] == ["test00-50.tfrec", "train30-32.tfrec"]


def test_the_real_foreign_codes_are_those_of_no_one_table(real_data, real):
    """Each shard set was coded in the order of a table of its own: women are 0 there, and 1 in Kaggle's order."""
    truth = table.read_table(real_data / "isic2020_csv" / "train.csv", labelled=True)
    chosen = trust.with_table(real.frame, real.codes, truth, {})
    assert (chosen["target"] == real.frame["target"]).all()
    assert (chosen["age_approx"] == real.frame["age_approx"]).all()
    assert (chosen["sex"] == 1 - real.codes["sex"]).all()
    assert (real.frame[["sex", SITE, "diagnosis"]] == -1).all(axis=None)
    assert trust.by_table(real.codes, chosen).startswith(f"the table disproves the codes: {SITE} ")
    kaggle = reader.read_shards(reader.find(str(real_data / "foreign_tfrecords" / "*.tfrec")), codes=KAGGLE)
    assert kaggle.doubts[0].startswith("3 of 81 records have a diagnosis that contradicts their target")


def test_with_their_order_the_real_codes_mean_what_the_table_says(real_data):
    shards, truth = (real_data / "foreign_tfrecords" / "test00-50.tfrec", real_data / "isic2020_csv" / "train.csv")
    found = reader.read_shards([shards], images_only=True)
    chosen = trust.with_table(found.frame, found.codes, table.read_table(truth, labelled=True), {})
    text = trust.by_table(found.codes, chosen)
    assert text == f"the table proves the codes of these records: --codes '{CODES},diagnosis=unknown|melanoma|nevus'"
    stated = codes.parse_codes(CODES + ",diagnosis=unknown|melanoma|nevus")
    found = reader.read_shards([shards], codes=stated)
    assert found.doubts == ()
    assert chosen.drop(columns="patient").equals(found.frame.drop(columns="patient"))

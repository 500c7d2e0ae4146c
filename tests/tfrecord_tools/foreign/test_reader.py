import hashlib
from pathlib import Path

import pandas as pd
import pytest

from tests.support.foreign import shard, values
from tests.support.images import SKIN, flat_jpeg
from tfrecord_tools import schema
from tfrecord_tools.foreign import dialects, reader
from tfrecord_tools.metadata import table
from tfrecord_tools.records import tfrecord

SITE = "anatom_site_general_challenge"
CODES = "sex=female|male,anatom_site_general_challenge=torso|lower extremity|palms/soles|upper extremity"


def rows(path: Path, **arguments) -> list[dict[str, str | int]]:
    """Of the records that can be used; all must be."""
    found = list(reader.read(path, **arguments))
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
    (record,) = reader.read(shard(tmp_path, values()))
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
    found = reader.read_shards([shard(tmp_path, test, name="test00-1.tfrec")])
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
def test_a_dialect_is_recognised_by_the_keys(changes, name):
    assert dialects.recognise(values(**changes)).name == name


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
    codes = dialects.parse_codes(CODES + ",diagnosis=")
    assert rows(shard(tmp_path, values(sex=0, anatom_site_general_challenge=2)), codes=codes) == [
        {**ROW, SITE: 4, "diagnosis": -1}
    ]
    (bad,) = reader.read(shard(tmp_path, values(anatom_site_general_challenge=4)), codes=codes)
    assert isinstance(bad, reader.Unusable)
    assert "4 is not allowed; expected 0 to 3" in bad.reason


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sex", "--codes 'sex': expected KEY=WORD|WORD with KEY one of sex, anatom_site_general_challenge, diagnosis"),
        ("target=0|1", "--codes 'target=0|1': expected KEY"),
        ("sex=woman|man", "--codes sex: 'woman' is not allowed; expected one of male, female"),
    ],
)
def test_bad_codes_are_named(text, message):
    with pytest.raises(reader.ForeignError) as caught:
        dialects.parse_codes(text)
    assert message in str(caught.value)


def test_a_malignant_nevus_puts_the_codes_in_doubt(tmp_path):
    path = shard(tmp_path, values(), values("ISIC_2", diagnosis=1), values("ISIC_3", diagnosis=0, target=0))
    (doubt,) = reader.read_shards([path]).doubts
    assert doubt.startswith("1 of 3 records has a diagnosis that contradicts its target: ISIC_2 has target 1 and")
    assert doubt.endswith("diagnosis 'nevus'")


def test_a_patient_of_two_sexes_puts_the_codes_in_doubt(tmp_path):
    path = shard(tmp_path, values(), values("ISIC_2", sex=0), values("ISIC_3", patient_id=8))
    (doubt,) = reader.read_shards([path]).doubts
    assert doubt == "1 of 2 patients has two sexes, among them the one with code 7"


def test_codes_of_merged_data_are_in_doubt_unless_given(tmp_path):
    path = shard(tmp_path, values(diagnosis=..., source=2))
    (doubt,) = reader.read_shards([path]).doubts
    assert doubt.startswith("the codes of sex and anatom_site_general_challenge follow the order of a merged table")
    (doubt,) = reader.read_shards([path], codes=dialects.parse_codes("sex=male|female")).doubts
    assert doubt.startswith("the codes of anatom_site_general_challenge follow")
    both = dialects.parse_codes("sex=male|female,anatom_site_general_challenge=")
    assert reader.read_shards([path], codes=both).doubts == ()


def test_a_table_replaces_the_rows(tmp_path):
    frame = reader.read_shards([shard(tmp_path, values("ISIC_2"), values("ISIC_1"))]).frame
    rows = [{**ROW, "image_name": f"ISIC_{n}", "patient": f"IP_{n}", "sex": 0, "target": 1} for n in (0, 1, 2)]
    chosen = reader.with_table(frame, pd.DataFrame(rows))
    assert chosen.to_dict("records") == [rows[2], rows[1]]


def test_a_table_that_lacks_an_image_or_contradicts_is_an_error(tmp_path):
    frame = reader.read_shards([shard(tmp_path, values("ISIC_2"), values("ISIC_1"))]).frame
    with pytest.raises(reader.ForeignError, match="lacks 1 of the 2 images of the TFRecords, first 'ISIC_2'"):
        reader.with_table(frame, pd.DataFrame([ROW]))
    with pytest.raises(reader.ForeignError, match="has none of the 2 images .* like 'ISIC_2', those .* like 'x'"):
        reader.with_table(frame, pd.DataFrame([{**ROW, "image_name": "x"}]))
    rows = pd.DataFrame([ROW, {**ROW, "image_name": "ISIC_2", "target": 0}])
    with pytest.raises(reader.ForeignError, match="1 of 2 records has another target .* first 'ISIC_2': 0 in the"):
        reader.with_table(frame, rows)


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


def test_an_image_in_two_shards_is_an_error(tmp_path):
    paths = [shard(tmp_path, values(), name=f"train0{n}-1.tfrec") for n in (1, 2)]
    with pytest.raises(
        reader.ForeignError, match=r"train02-1\.tfrec: image_name 'ISIC_1' is also in .*train01-1\.tfrec"
    ):
        reader.read_shards(paths)


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


def test_the_real_foreign_codes_are_in_doubt_and_rightly_so(real_data, real):
    """Each shard set was coded in the order of a table of its own: women are 0 there, and 1 in Kaggle's order."""
    assert real.doubts[0].startswith("4 of 82 records have a diagnosis that contradicts their target")
    truth = reader.with_table(real.frame, table.read_table(real_data / "isic2020_csv" / "train.csv", labelled=True))
    assert (truth["target"] == real.frame["target"]).all()
    assert (truth["age_approx"] == real.frame["age_approx"]).all()
    assert (truth["sex"] != real.frame["sex"]).all()


def test_with_their_order_the_real_codes_mean_what_the_table_says(real_data):
    codes = dialects.parse_codes(CODES + ",diagnosis=unknown|melanoma|nevus")
    found = reader.read_shards([real_data / "foreign_tfrecords" / "test00-50.tfrec"], codes=codes)
    truth = reader.with_table(found.frame, table.read_table(real_data / "isic2020_csv" / "train.csv", labelled=True))
    assert found.doubts == ()
    assert truth.drop(columns="patient").equals(found.frame.drop(columns="patient"))

import contextlib
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrecord_tools import schema
from tfrecord_tools.metadata import formats, table

HEADER = "image_name,patient_id,sex,age_approx,anatom_site_general_challenge,diagnosis,benign_malignant,target"
GOOD = "ISIC_1,IP_1,male,45.0,torso,nevus,benign,0"


def write(folder: Path, *lines: str, header: str = HEADER) -> Path:
    path = folder / "train.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def test_reads_codes_and_missing_values(tmp_path):
    frame = table.read_table(write(tmp_path, GOOD, "ISIC_2,IP_2,,,,melanoma,malignant,1"), labelled=True)
    assert frame.to_dict("records") == [
        {
            "image_name": "ISIC_1",
            "patient": "IP_1",
            "lesion": "",
            "sex": 0,
            "age_approx": 45,
            "anatom_site_general_challenge": 3,
            "diagnosis": 1,
            "target": 0,
        },
        {
            "image_name": "ISIC_2",
            "patient": "IP_2",
            "lesion": "",
            "sex": -1,
            "age_approx": -1,
            "anatom_site_general_challenge": -1,
            "diagnosis": 2,
            "target": 1,
        },
    ]


def test_a_test_table_needs_no_labels_and_other_columns_are_ignored(tmp_path):
    header = "extra,image_name,patient_id,sex,age_approx,anatom_site_general_challenge"
    path = write(tmp_path, "x,ISIC_1,,female,30,", header=header)
    frame = table.read_table(path, labelled=False)
    assert table.Table(path).split == "test"
    assert frame["target"].tolist() == [-1]
    assert frame["patient"].tolist() == [""]


def test_a_column_is_read_by_image_name_whatever_it_holds(tmp_path):
    path = write(tmp_path, "7,x,a.jpg", ",y,b", "-1,z,c", header="part,other,image_name")
    assert table.read_column(path, "part") == {"a": "7", "b": "", "c": "-1"}
    with pytest.raises(table.TableError, match="train.csv: no column fold; found part, other, image_name"):
        table.read_column(path, "fold")
    path = write(tmp_path, "7,a", "7,a.jpg", "8,a.jpg", header="part,image_name")
    with pytest.raises(table.TableError, match="line 4: column part: a has '8' and '7'"):
        table.read_column(path, "part")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ISIC_2,IP_1,male,45.0,torso,nevus,benign,2", "line 3: column target: '2' is not allowed; expected 0 or 1"),
        ("ISIC_2,IP_1,male,45.0,torso,nevus,benign,", "line 3: column target: '' is not allowed"),
        (
            "ISIC_2,IP_1,Male,45.0,torso,nevus,benign,0",
            "column sex: 'Male' is not allowed; expected one of male, female",
        ),
        ("ISIC_2,IP_1,male,130,torso,nevus,benign,0", "column age_approx: '130' is not allowed; expected whole years"),
        ("ISIC_2,IP_1,male,old,torso,nevus,benign,0", "column age_approx: 'old' is not allowed"),
        ("ISIC_2,IP_1,male,-5,torso,nevus,benign,0", "column age_approx: '-5' is not allowed"),
        ("ISIC_2,IP_1,male,45,moon,nevus,benign,0", "column anatom_site_general_challenge: 'moon' is not allowed"),
        ("ISIC_2,IP_1,male,45,torso,wart,benign,0", "column diagnosis: 'wart' is not allowed; expected one of unknown"),
        ("ISIC_2,IP_1,male,45,torso,nevus,malignant,0", "'malignant' is not allowed; expected 'benign' for the diagno"),
        ("ISIC_2,IP_1,male,45,torso,unknown,malignant,0", "'malignant' contradicts target 0; expected 'benign'"),
        (
            "ISIC_2,IP_1,male,45,torso,nevus,,1",
            "column target: '1' contradicts the diagnosis 'nevus'; expected 0, because",
        ),
        (
            "ISIC_2,IP_1,male,45,torso,melanoma,,0",
            "column target: '0' contradicts the diagnosis 'melanoma'; expected 1",
        ),
        (
            "ISIC_2,IP_1,male,45,torso,basal cell carcinoma,malignant,1",
            "expected 0, because only a melanoma has target 1",
        ),
        ("ISIC_2,,male,45,torso,nevus,benign,0", "line 3: column patient_id: empty"),
        ("ISIC_2,IP\0,male,45,torso,nevus,benign,0", r"column patient_id: 'IP\x00' has a control character"),
        ('ISIC_2,"IP\nX",male,45,torso,nevus,benign,0', r"line 3: column patient_id: 'IP\nX' has a control character"),
        ("../ISIC_2,IP_1,male,45,torso,nevus,benign,0", "column image_name: '../ISIC_2' is not allowed"),
        ("a/b,IP_1,male,45,torso,nevus,benign,0", "column image_name: 'a/b' is not allowed"),
        ("ISIC_1,IP_1,male,45,torso,nevus,benign,0", "line 3: column image_name: 'ISIC_1' is also in line 2"),
        ("ISIC_2,IP_1,male", "line 3: 3 cells; the header has 8"),
    ],
)
def test_an_error_names_file_line_column_value_and_what_is_allowed(tmp_path, line, message):
    with pytest.raises(table.TableError) as caught:
        table.read_table(write(tmp_path, GOOD, line), labelled=True)
    assert str(caught.value).startswith(f"{tmp_path / 'train.csv'}: 1 problem")
    assert message in str(caught.value)


def test_lines_are_counted_as_an_editor_does(tmp_path):
    path = write(tmp_path, GOOD, "", "ISIC_2,IP_1,male,45,torso,nevus,benign,7")
    with pytest.raises(table.TableError, match="line 4: column target: '7'"):
        table.read_table(path, labelled=True)


def test_each_kind_of_problem_is_listed_once_with_its_number(tmp_path):
    lines = [f"ISIC_{index},IP_1,male,45,torso,nevus,benign,{5 + index % 3}" for index in range(25)]
    lines += [f"ISIC_{index},IP_1,M,45,torso,nevus,benign,0" for index in range(30, 33)]
    lines += ["ISIC_0,IP_1,male,45,torso,nevus,benign,0", "ISIC_1,IP_1,male,45,torso,nevus,benign,0"]
    lines += ["ISIC_40,IP_1", "ISIC_41,IP_1,male", "ISIC_42,IP_1,male,200,torso,nevus,benign,0"]
    with pytest.raises(table.TableError) as caught:
        table.read_table(write(tmp_path, *lines), labelled=True)
    assert str(caught.value).split("\n") == [
        f"{tmp_path / 'train.csv'}: 33 problems",
        "  line 32: 2 cells; the header has 8 (and 1 more row: line 33)",
        "  line 2: column target: '5' is not allowed; expected 0 or 1 (and 24 more rows: line 3, ..., values '6', '7')",
        "  line 27: column sex: 'M' is not allowed; expected one of male, female, or nothing (and 2 more rows: "
        "line 28, ...)",
        "  line 30: column image_name: 'ISIC_0' is also in line 2; expected once (and 1 more row: line 31, values "
        "'ISIC_1')",
        "  line 34: column age_approx: '200' is not allowed; expected whole years from 0 to 120, or nothing",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "train.csv: empty"),
        (HEADER, "train.csv: no rows"),
        ("image_name;sex\nISIC_1;male", "line 1: unknown header image_name, sex; expected one of"),
        ("image_name,sex\nISIC_1,male", "line 1: unknown header image_name, sex; expected one of"),
        ("image_name,sex\nISIC_1,male", "(missing patient_id, age_approx, anatom_site_general_challenge)"),
        (HEADER.replace("patient_id,", "") + "\n" + GOOD.replace("IP_1,", ""), "(missing patient_id)"),
        (HEADER.replace("target", "label") + "\n" + GOOD, "line 1: missing column(s) target"),
        (HEADER + ",sex\n" + GOOD + ",male", "line 1: column(s) 'sex' occur twice"),
        (f'{HEADER}\n{GOOD}\n\n"ISIC_2,IP_1\nISIC_3', "line 4: not CSV: unexpected end of data; is a quotation mark"),
        (f'{HEADER}\nISIC_1,"IP_1,male\nISIC_2,"IP_2",', "line 2: not CSV: ',' expected after '\"'; is a quotation"),
    ],
)
def test_a_file_in_another_form_is_refused(tmp_path, text, message):
    path = tmp_path / "train.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(table.TableError) as caught:
        table.read_table(path, labelled=True)
    assert message in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(table.TableError, match=r"nowhere\.csv: cannot be read: No such file"):
        table.read_table(tmp_path / "nowhere.csv", labelled=True)


def test_a_url_is_read(tmp_path):
    assert len(table.read_table(f"file://{write(tmp_path, GOOD)}", labelled=True)) == 1


def test_another_forms_name_and_words_can_be_asked_for(tmp_path):
    path = write(tmp_path, GOOD)
    with pytest.raises(table.TableError, match=r"train\.csv: line 1: missing column\(s\) image_id, lesion_id, dx"):
        table.read_table(path, labelled=True, form="ham10000")
    with pytest.raises(table.TableError, match="unknown form 'ham'"):
        table.Table(path, form="ham")


# ------------------------------------------------------------------------------------------- other sources

TRUTH = "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK"
META = "image,age_approx,anatom_site_general,lesion_id,sex"


def file(folder: Path, name: str, *lines: str) -> Path:
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def two_files(folder: Path, truth: list[str], meta: list[str]) -> list[Path]:
    return [file(folder, "truth.csv", TRUTH, *truth), file(folder, "meta.csv", META, *meta)]


def row(**changes):
    values = {
        "image_name": "ISIC_1",
        "patient": "",
        "lesion": "",
        "sex": -1,
        "age_approx": -1,
        "anatom_site_general_challenge": -1,
        "diagnosis": -1,
        "target": -1,
    }
    return {**values, **changes}


def test_isic_2019_is_joined_from_its_two_files(tmp_path):
    truth = ["ISIC_1,0.0,0.0,1.0,0.0,0.0,0.0,0.0,0.0,0.0", "ISIC_2,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0"]
    paths = two_files(tmp_path, truth, ["ISIC_2,,,,", "ISIC_1,55,anterior torso,BCN_1,female"])
    assert table.read_table(paths, labelled=True).to_dict("records") == [
        row(lesion="BCN_1", sex=1, age_approx=55, anatom_site_general_challenge=3, diagnosis=9, target=0),
        row(image_name="ISIC_2", diagnosis=2, target=1),
    ]
    assert (table.Table(paths).form.source, table.Table(paths).form.external) == ("isic2019", True)


@pytest.mark.parametrize(
    ("truth", "meta", "message"),
    [
        (
            "ISIC_1,1.0,1.0,0,0,0,0,0,0,0",
            "ISIC_1,,,,",
            "line 2 (meta.csv: line 2): column MEL/NV/BCC/AK/BKL/DF/VASC/SCC",
        ),
        ("ISIC_1,1.0,1.0,0,0,0,0,0,0,0", "ISIC_1,,,,", "expected one 1.0 and otherwise 0.0 in MEL, NV"),
        ("ISIC_1,0.5,0,0,0,0,0,0,0,1", "ISIC_1,,,,", "'0.5/0/0/0/0/0/0/0/1' is not allowed"),
        ("ISIC_1,1,0,0,0,0,0,0,0,0", "ISIC_1,,moon,,", "column anatom_site_general: 'moon' is not allowed"),
        ("ISIC_1,1,0,0,0,0,0,0,0,0", "ISIC_2,,,,", "line 2: column image: 'ISIC_1' is not in meta.csv"),
        ("ISIC_1,1,0,0,0,0,0,0,0,0", "ISIC_2,,,,", "meta.csv line 2: column image: 'ISIC_2' is not in truth.csv"),
        (
            "ISIC_1,1,0,0,0,0,0,0,0,0",
            "ISIC_1,,,,\nISIC_1,,,,",
            "meta.csv line 3: column image: 'ISIC_1' is also in line 2",
        ),
        ("ISIC_1,1,0,0,0,0,0,0,0,0", "ISIC_1,,,", "meta.csv: line 2: 4 cells; the header has 5"),
    ],
)
def test_an_error_in_joined_files_names_the_file(tmp_path, truth, meta, message):
    with pytest.raises(table.TableError) as caught:
        table.read_table(two_files(tmp_path, [truth], meta.split("\n")), labelled=True)
    assert message in str(caught.value)


def test_files_that_share_no_column_or_several_are_not_joined(tmp_path):
    one, other = file(tmp_path, "a.csv", "image,sex", "x,male"), file(tmp_path, "b.csv", "name,age", "x,5")
    with pytest.raises(table.TableError, match=r"a\.csv \+ .*b\.csv: columns in both: none; expected only"):
        table.read_table([one, other], labelled=False)
    with pytest.raises(table.TableError, match="columns in both: image, sex; expected only"):
        table.read_table([one, one], labelled=False)


def test_one_half_of_isic_2019_is_reported_what_is_missing(tmp_path):
    truth, meta = two_files(tmp_path, ["ISIC_1,1,0,0,0,0,0,0,0,0"], ["ISIC_1,,,,"])
    with pytest.raises(table.TableError, match=r"isic2019: .*both files together.*\(missing age_approx, anatom_site"):
        table.read_table(truth, labelled=True)
    with pytest.raises(table.TableError, match=r"isic2019: .*\(missing MEL, NV, BCC, AK, BKL, DF, VASC, SCC\)"):
        table.Table(meta)


def test_a_test_set_has_no_labels_to_ask_for(tmp_path):
    path = file(tmp_path, "meta.csv", META.replace("lesion_id,", ""), "ISIC_1,,,")
    assert table.Table(path).split == "test"
    with pytest.raises(table.TableError, match=r"meta\.csv: line 1: missing column\(s\) diagnosis"):
        table.read_table(path, labelled=True)


def test_ham10000_is_read(tmp_path):
    header = "lesion_id,image_id,dx,dx_type,age,sex,localization"
    path = file(tmp_path, "ham.csv", header, "HAM_1,ISIC_1,bkl,histo,80.0,unknown,scalp", "HAM_1,ISIC_2,mel,,,male,")
    assert table.Table(path).split == "train"
    assert table.read_table(path, labelled=True).to_dict("records") == [
        row(lesion="HAM_1", age_approx=80, anatom_site_general_challenge=0, diagnosis=13, target=0),
        row(image_name="ISIC_2", lesion="HAM_1", sex=0, diagnosis=2, target=1),
    ]


def test_an_unknown_word_of_ham10000_is_an_error(tmp_path):
    header = "lesion_id,image_id,dx,dx_type,age,sex,localization"
    path = file(tmp_path, "ham.csv", header, "HAM_1,ISIC_1,wart,histo,80.0,male,scalp")
    with pytest.raises(table.TableError, match="line 2: column dx: 'wart' is not allowed; expected one of akiec, bcc"):
        table.read_table(path, labelled=True)


def archive(folder: Path, header: str, *lines: str) -> Path:
    return file(folder, "metadata.csv", header, *lines)


def test_an_archive_export_with_diagnosis_and_verdict_is_read(tmp_path):
    header = "isic_id,attribution,age_approx,anatom_site_general,benign_malignant,diagnosis,patient_id,sex"
    lines = [
        "ISIC_1,Anonymous,60,posterior torso,malignant,basal cell carcinoma,IP_1,male",
        "ISIC_2,Anonymous,60,,malignant,melanoma,IP_1,male",
        "ISIC_3,Anonymous,,,benign,,,",
    ]
    frame = table.read_table(archive(tmp_path, header, *lines), labelled=True)
    assert frame.to_dict("records") == [
        row(patient="IP_1", sex=0, age_approx=60, anatom_site_general_challenge=3, diagnosis=9, target=0),
        row(image_name="ISIC_2", patient="IP_1", sex=0, age_approx=60, diagnosis=2, target=1),
        row(image_name="ISIC_3", target=0),
    ]


@pytest.mark.parametrize(
    ("levels", "diagnosis", "target"),
    [
        ('Benign,Benign melanocytic proliferations,"Nevus","Nevus, Atypical, Dysplastic, or Clark",', "nevus", 0),
        ("Malignant,Malignant melanocytic proliferations (Melanoma),Melanoma in situ,,", "melanoma", 1),
        ("Malignant,Malignant adnexal epithelial proliferations - Follicular,Basal cell carcinoma,,", None, 0),
        ("Indeterminate,Indeterminate epidermal proliferations,Solar or actinic keratosis,,", "actinic keratosis", 0),
        ("Malignant,Merkel cell proliferation,Merkel cell carcinoma,,", "other malignant", 0),
        ("Benign,Cysts,Milium,,", "other benign", 0),
    ],
)
def test_the_archives_hierarchy_of_diagnoses_is_read(tmp_path, levels, diagnosis, target):
    header = "isic_id,diagnosis_1,diagnosis_2,diagnosis_3,diagnosis_4,diagnosis_5"
    frame = table.read_table(archive(tmp_path, header, f"ISIC_1,{levels}"), labelled=True)
    assert schema.DIAGNOSIS[frame["diagnosis"][0]] == (diagnosis or "basal cell carcinoma")
    assert frame["target"][0] == target


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "ISIC_1,malignant,",
            "column diagnosis: '' and column benign_malignant 'malignant' do not determine whether it is",
        ),
        ("ISIC_1,indeterminate,", "do not determine whether it is a melanoma; give a diagnosis, leave the row out"),
        ("ISIC_1,,unknown", "column diagnosis: 'unknown'"),
        ("ISIC_1,malignant,nevus", "column benign_malignant: 'malignant' is not allowed; expected 'benign' for the"),
        ("ISIC_1,benign,melanoma", "column benign_malignant: 'benign' is not allowed; expected 'malignant' for"),
        ("ISIC_1,benign,Malignant", "column benign_malignant: 'benign' is not allowed; expected 'malignant' for"),
        ("ISIC_1,bad,nevus", "column benign_malignant: 'bad' is not allowed; expected one of benign, malignant"),
        ("ISIC_1,benign,wart", "column diagnosis: 'wart' is not allowed; expected one of unknown, other"),
    ],
)
def test_an_archive_row_whose_label_cannot_be_trusted_is_an_error(tmp_path, line, message):
    path = archive(tmp_path, "isic_id,benign_malignant,diagnosis", line)
    with pytest.raises(table.TableError) as caught:
        table.read_table(path, labelled=True)
    assert message in str(caught.value)


def test_a_level_that_tells_too_little_is_an_error_that_names_the_way_out(tmp_path):
    path = archive(tmp_path, "isic_id,diagnosis_1", "ISIC_1,Malignant")
    with pytest.raises(
        table.TableError, match="'Malignant' does not determine whether it is a melanoma; .* --split test"
    ):
        table.read_table(path, labelled=True)
    assert table.read_table(path, labelled=False)["target"].tolist() == [-1]
    with pytest.raises(table.TableError, match="missing column.* For images without a target pass --split test"):
        table.read_table(archive(tmp_path, "isic_id,sex", "ISIC_1,male"), labelled=True)


def test_rows_whose_target_is_undecided_are_kept_apart(tmp_path):
    lines = ["ISIC_1,malignant,", "ISIC_2,benign,nevus", "ISIC_3,,adnexal tumor", "ISIC_4,benign,adnexal tumor"]
    rows = table.Table(archive(tmp_path, "isic_id,benign_malignant,diagnosis", *lines)).read(labelled=True)
    assert rows.frame[["image_name", "target"]].values.tolist() == [["ISIC_2", 0], ["ISIC_4", 0]]
    assert list(rows.undecided) == ["ISIC_1", "ISIC_3"]
    assert str(rows.undecided["ISIC_3"]).startswith("line 4: column diagnosis: 'adnexal tumor' and column benign_mali")


def test_a_table_without_any_decided_target_is_an_error(tmp_path):
    path = archive(tmp_path, "isic_id,diagnosis_1,sex", "ISIC_1,Malignant,", "ISIC_2,,male", "ISIC_3,Malignant,")
    message = r"3 problems\n  line 2: column diagnosis_1: 'Malignant' does not determine .* \(and 2 more rows: line 3"
    with pytest.raises(table.TableError, match=message):
        table.Table(path).read(labelled=True)


def test_an_archive_table_with_a_target_is_not_taken_for_melanomas(tmp_path):
    """ISIC 2024's target is 1 for any malignancy."""
    with pytest.raises(table.TableError, match=r"isic_archive: .*\(must not have target\)"):
        table.Table(archive(tmp_path, "isic_id,target,patient_id", "ISIC_1,1,IP_1"))


# ---------------------------------------------------------------------------------------------- column map


def test_any_table_is_read_by_a_column_map(tmp_path):
    path = file(tmp_path, "clinic.csv", "file,patient,gender,where,truth", "a-1.JPG,P7,Female,Lateral torso,1")
    columns = formats.parse_columns(
        "image_name=file,patient_id=patient,sex=gender,anatom_site_general_challenge=where,target=truth"
    )
    assert table.Table(path, columns=columns).split == "train"
    assert table.read_table(path, labelled=True, columns=columns).to_dict("records") == [
        row(image_name="a-1", patient="P7", sex=1, anatom_site_general_challenge=3, target=1)
    ]
    assert not table.Table(path, columns=columns).form.external


def test_without_a_target_the_diagnosis_tells(tmp_path):
    path = file(tmp_path, "clinic.csv", "file,patient,dx", "a,P1,mel", "b,P2,NV", "c,P3,squamous cell carcinoma")
    columns = {"image_name": "file", "patient_id": "patient", "diagnosis": "dx"}
    assert table.read_table(path, labelled=True, columns=columns)["target"].tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image_name": "file"}, "--columns has no patient_id, so folds could share a patient"),
        ({"patient_id": "patient"}, "--columns has no image_name"),
        ({"image_name": "name", "patient_id": ""}, "image_name=name: no such column; found file, patient, truth"),
        ({"image_name": "file", "patient_id": "patient", "target": "truth"}, "line 3: column patient: empty"),
    ],
)
def test_a_column_map_that_does_not_fit_is_an_error(tmp_path, columns, message):
    path = file(tmp_path, "clinic.csv", "file,patient,truth", "a,P1,1", "b,,0")
    with pytest.raises(table.TableError) as caught:
        table.read_table(path, labelled=True, columns=columns)
    assert message in str(caught.value)


def test_no_patients_can_be_stated(tmp_path):
    path = file(tmp_path, "clinic.csv", ",file,truth", "0,a,1", "1,b,0")  # pandas writes its index without a name
    columns = {"image_name": "file", "patient_id": "", "target": "truth"}
    assert table.read_table(path, labelled=True, columns=columns)["patient"].tolist() == ["", ""]


@given(st.text(alphabet=st.sampled_from('image_name,patient_id"\n\r;isic_id,target 01\x00é'), max_size=200))
@settings(max_examples=150, deadline=None)
def test_noise_is_a_table_or_a_table_error(text):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "noise.csv"
        path.write_text(text, encoding="utf-8")
        with contextlib.suppress(table.TableError):
            opened = table.Table(path)
            opened.read(labelled=opened.split == "train")


# ------------------------------------------------------------------------------------------ the real tables


@pytest.fixture(scope="module")
def ham(real_data):
    return table.read_table(real_data / "ham10000_256" / "HAM10000_metadata.csv", labelled=True)


@pytest.fixture(scope="module")
def isic2019(real_data):
    names = ("ISIC_2019_Training_GroundTruth.csv", "ISIC_2019_Training_Metadata.csv")
    return table.read_table([real_data / "isic2019_csv" / name for name in names], labelled=True)


@pytest.fixture(scope="module")
def train(real_data):
    return table.read_table(real_data / "isic2020_csv" / "train.csv", labelled=True)


def counts(frame) -> dict[str, int]:
    return {schema.DIAGNOSIS[code]: count for code, count in frame["diagnosis"].value_counts().items()}


def test_the_real_isic_2020_tables_are_accepted(real_data, train):
    test = table.read_table(real_data / "isic2020_csv" / "test.csv", labelled=False)
    # Counts as published on Kaggle's data page.
    assert (len(train), train["patient"].nunique(), train["target"].sum()) == (33126, 2056, 584)
    assert (len(test), test["patient"].nunique()) == (10982, 690)
    # What `words.target_of` does to other sources is what ISIC 2020 did: malignant there means melanoma.
    assert ((train["diagnosis"] == schema.DIAGNOSIS.index("melanoma")) == (train["target"] == 1)).all()


def test_the_isic_sites_2020_tables_say_the_same_as_kaggles(real_data, train):
    folder = real_data / "isic2020_csv"
    site = table.read_table(folder / "ISIC_2020_Training_GroundTruth_v2.csv", labelled=True)
    assert site["lesion"].nunique() == 32701
    assert site.drop(columns="lesion").equals(train.drop(columns="lesion"))
    ours, theirs = (
        table.read_table(folder / name, labelled=False).sort_values("image_name", ignore_index=True)
        for name in ("test.csv", "ISIC_2020_Test_Metadata.csv")
    )
    assert theirs.equals(ours)


def test_further_columns_of_deottes_table_are_ignored(real_data, train):
    assert table.read_table(real_data / "isic2020_csv" / "train_cdeotte.csv", labelled=True).equals(train)


def test_the_real_ham10000_is_accepted(ham):
    # Tschandl et al. 2018, table 1 (of the public training set).
    published = {"nevus": 6705, "melanoma": 1113, "benign keratosis": 1099, "basal cell carcinoma": 514}
    published |= {"actinic keratosis or intraepithelial carcinoma": 327, "vascular lesion": 142, "dermatofibroma": 115}
    assert counts(ham) == published
    assert (len(ham), ham["lesion"].nunique(), ham["target"].sum()) == (10015, 7470, 1113)


def test_the_real_isic_2019_is_accepted(isic2019):
    # https://challenge.isic-archive.com/data/#2019
    published = {"nevus": 12875, "melanoma": 4522, "basal cell carcinoma": 3323, "benign keratosis": 2624}
    published |= {"actinic keratosis": 867, "squamous cell carcinoma": 628, "vascular lesion": 253}
    assert counts(isic2019) == {**published, "dermatofibroma": 239}
    assert (len(isic2019), isic2019["lesion"].replace("", None).nunique()) == (25331, 11847)
    assert isic2019["target"].sum() == 4522


def test_ham10000_and_isic_2019_describe_the_same_images_alike(ham, isic2019):
    """ISIC 2019 holds all of HAM10000: two published descriptions of one image through two of our mappings."""
    both = ham.merge(isic2019, on="image_name", suffixes=("", "_2019"))
    assert len(both) == 10015
    assert (both["lesion"] == both["lesion_2019"]).all()
    known = both[both["sex"] != -1]  # ISIC 2019 knows 10 more
    assert (known["sex"] == known["sex_2019"]).all()
    assert (both["target"] == both["target_2019"]).all()
    site = "anatom_site_general_challenge"
    stated = both[both[f"{site}_2019"] != -1]  # ISIC 2019 leaves out HAM10000's trunk and genital
    assert len(stated) == 8329
    assert (stated[site] == stated[f"{site}_2019"]).all()
    same = both["diagnosis"] == both["diagnosis_2019"]
    assert set(both["diagnosis"][~same].map(lambda code: schema.DIAGNOSIS[code])) == {
        "actinic keratosis or intraepithelial carcinoma"
    }


def test_the_labels_of_the_archive_images_are_accepted(real_data):
    frame = table.read_table(real_data / "isic_archive_fullres" / "labels.csv", labelled=True)
    assert counts(frame) == {"nevus": 95, "melanoma": 36}
    assert frame["target"].sum() == 36


def test_a_table_of_very_many_columns_is_refused_at_once(tmp_path):
    columns = [f"c{i}" for i in range(200_000)]  # an hour where each is compared with all others
    (tmp_path / "t.csv").write_text("\n".join([",".join(columns)] * 2))
    with pytest.raises(table.TableError, match="unknown header c0, c1"):
        table.read_table(tmp_path / "t.csv", labelled=True)
    (tmp_path / "t.csv").write_text("\n".join([",".join(columns * 2)] * 2))
    with pytest.raises(
        table.TableError, match=r"column\(s\) 'c0', 'c1', .* and 199990 more occur twice; expected once$"
    ):
        table.read_table(tmp_path / "t.csv", labelled=True)


@pytest.mark.parametrize("header", ["isic_id,malignant", "image,benign", "filename,Malignant"])
def test_a_header_of_two_words_is_no_row_of_a_table_without_one(header, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(f"{header}\nISIC_0000001,1\nISIC_0000002,0\n")
    with pytest.raises(table.TableError, match="line 1"):
        assert table.Table(path).split

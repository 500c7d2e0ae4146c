import os
from pathlib import Path

import pytest

from tfrecord_tools import table

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
    assert not table.is_labelled(path)
    assert frame["target"].tolist() == [-1]
    assert frame["patient"].tolist() == [""]


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
        ("ISIC_2,IP_1,male,nan,torso,nevus,benign,0", "column age_approx: 'nan' is not allowed"),
        ("ISIC_2,IP_1,male,-5,torso,nevus,benign,0", "column age_approx: '-5' is not allowed"),
        ("ISIC_2,IP_1,male,45,moon,nevus,benign,0", "column anatom_site_general_challenge: 'moon' is not allowed"),
        ("ISIC_2,IP_1,male,45,torso,wart,benign,0", "column diagnosis: 'wart' is not allowed; expected one of unknown"),
        ("ISIC_2,IP_1,male,45,torso,nevus,malignant,0", "'malignant' contradicts target 0; expected 'benign'"),
        ("ISIC_2,,male,45,torso,nevus,benign,0", "line 3: column patient_id: empty"),
        ("../ISIC_2,IP_1,male,45,torso,nevus,benign,0", "column image_name: '../ISIC_2' is not allowed"),
        ("a/b,IP_1,male,45,torso,nevus,benign,0", "column image_name: 'a/b' is not allowed"),
        ("ISIC_1,IP_1,male,45,torso,nevus,benign,0", "line 3: column image_name: 'ISIC_1' stands in line 2 too"),
        ("ISIC_2,IP_1,male", "line 3: 3 cells; the header has 8"),
    ],
)
def test_an_error_names_file_line_column_value_and_what_is_allowed(tmp_path, line, message):
    with pytest.raises(table.TableError) as caught:
        table.read_table(write(tmp_path, GOOD, line), labelled=True)
    assert str(caught.value).startswith("train.csv: 1 problem(s)")
    assert message in str(caught.value)


def test_lines_are_counted_as_an_editor_does(tmp_path):
    path = write(tmp_path, GOOD, "", "ISIC_2,IP_1,male,45,torso,nevus,benign,7")
    with pytest.raises(table.TableError, match="line 4: column target: '7'"):
        table.read_table(path, labelled=True)


def test_ten_errors_are_listed_and_the_rest_counted(tmp_path):
    lines = [f"ISIC_{index},IP_1,male,45,torso,nevus,benign,5" for index in range(25)]
    with pytest.raises(table.TableError) as caught:
        table.read_table(write(tmp_path, *lines), labelled=True)
    assert str(caught.value).count("column target") == 10
    assert str(caught.value).endswith("... and 15 more")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "train.csv: empty"),
        (HEADER, "train.csv: no rows"),
        ("image_name,sex\nISIC_1,male", "line 1: missing column(s) patient_id, age_approx"),
        (HEADER.replace("target", "label") + "\n" + GOOD, "line 1: missing column(s) target"),
        (HEADER + ",sex\n" + GOOD + ",male", "line 1: column(s) sex stand twice"),
        (HEADER + '\n"ISIC_1', "not a UTF-8 CSV file"),
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


def test_the_real_tables_are_accepted():
    if "MELANOMA_DATA" not in os.environ:
        pytest.skip("MELANOMA_DATA is not set: no real train.csv")
    folder = Path(os.environ["MELANOMA_DATA"]) / "isic2020_csv"
    train, test = (table.read_table(folder / f"{name}.csv", name == "train") for name in ("train", "test"))
    # Counts as published on Kaggle's data page.
    assert (len(train), train["patient"].nunique(), train["target"].sum()) == (33126, 2056, 584)
    assert (len(test), test["patient"].nunique()) == (10982, 690)

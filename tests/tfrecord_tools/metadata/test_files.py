"""Tables as spreadsheets, pandas and other programs leave them."""

import codecs

import pandas as pd
import pytest

from tests.support.tables import rows_of, write_tables
from tfrecord_tools.metadata import csv_rows, table

HEADER = "image_name,patient_id,sex,age_approx,anatom_site_general_challenge,diagnosis,benign_malignant,target"
TEXT = (
    f"{HEADER}\n"
    "ISIC_1,Péter,male,45.0,torso,nevus,benign,0\n"
    'ISIC_2,"Kovács, Éva",female,50.0,head/neck,melanoma,malignant,1\n'
)


def rows(path) -> list[dict]:
    return rows_of(table.read_table(path, labelled=True))


@pytest.fixture(name="plain")
def fixture_plain(tmp_path):
    return rows(write_tables(tmp_path, TEXT))


@pytest.mark.parametrize(
    "data",
    [
        codecs.BOM_UTF8 + TEXT.encode(),
        TEXT.encode("utf-16"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        TEXT.encode("cp1252"),
        TEXT.replace("\n", "\r\n").encode(),
        TEXT.replace("\n", "\r\n").encode("cp1252"),
    ],
    ids=["utf-8 with mark", "utf-16", "utf-16-be", "latin-1", "crlf", "latin-1 crlf"],
)
def test_the_usual_encodings_and_line_ends_are_read(tmp_path, plain, data):
    path = tmp_path / "train.csv"
    path.write_bytes(data)
    assert rows(path) == plain
    assert [row["patient"] for row in plain] == ["Péter", "Kovács, Éva"]


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_other_separators_are_read(tmp_path, plain, separator):
    frame = pd.read_csv(write_tables(tmp_path, TEXT)[0])
    frame.to_csv(tmp_path / "train.csv", sep=separator, index=False)
    assert rows(tmp_path / "train.csv") == plain


def test_decimal_commas_are_read(tmp_path, plain):
    frame = pd.read_csv(write_tables(tmp_path, TEXT)[0]).astype({"target": float})
    frame.to_csv(tmp_path / "train.csv", sep=";", decimal=",", index=False)
    assert "45,0" in (tmp_path / "train.csv").read_text()
    assert rows(tmp_path / "train.csv") == plain


def test_a_table_that_went_through_pandas_several_times_is_read(tmp_path, plain):
    path = write_tables(tmp_path, TEXT)[0]
    for _ in range(3):
        pd.read_csv(path).astype({"target": float}).to_csv(path)
    header = path.read_text().partition("\n")[0]
    assert header.startswith(",Unnamed: 0.1,Unnamed: 0,image_name") or header.startswith(",Unnamed: 0")
    assert rows(path) == plain


def test_two_tables_that_went_through_pandas_are_joined(tmp_path):
    paths = write_tables(
        tmp_path,
        "image_id,melanoma,seborrheic_keratosis\nISIC_1,1.0,0.0\nISIC_2,0.0,0.0\n",
        "image_id,age_approximate,sex\nISIC_1,55,female\nISIC_2,30,male\n",
    )
    for path in paths:
        for _ in range(2):
            pd.read_csv(path).to_csv(path)
    assert [row["target"] for row in rows(paths)] == [1, 0]


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [f"{line},,," for line in lines] + [",,,,,,,,,,"] * 3,
        lambda lines: [lines[0], *(f"{line},,," for line in lines[1:])],
        lambda lines: [f"{lines[0]},,", *lines[1:]],
        lambda lines: ["", ",,,", *lines, " , ,"],
        lambda lines: [f"Table 1 of the study{',' * 7}", *lines],
        lambda lines: [f",{line}" for line in lines],
        lambda lines: [f"{line},{note}" for line, note in zip(lines, ("", "seen twice", ""), strict=True)],
    ],
    ids=["columns and rows", "cells", "header", "blank", "title", "index", "notes"],
)
def test_what_spreadsheets_leave_is_passed_over(tmp_path, plain, change):
    assert rows(write_tables(tmp_path, "\n".join(change(TEXT.splitlines())))) == plain


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["ISIC_3,IP_1,male"], "line 4: 3 cells; the header has 8"),
        (["ISIC_3,IP_1,male,45,torso,nevus,benign,0,more"], "line 4: 9 cells; the header has 8"),
        (["ISIC_3,IP_1,male,45,torso,nevus,benign,2.0"], "column target: '2.0' is not allowed; expected 0 or 1"),
        (["ISIC_3,IP_1,male,45,torso,nevus,benign,0.5"], "column target: '0.5' is not allowed; expected 0 or 1"),
        (["ISIC_3,IP_1,male,45,torso,nevus,benign,"], "column target: '' is not allowed; expected 0 or 1"),
    ],
)
def test_what_is_no_habit_of_a_program_is_still_an_error(tmp_path, lines, message):
    with pytest.raises(table.TableError) as caught:
        rows(write_tables(tmp_path, TEXT + "\n".join(lines)))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK\x03\x04\x14\x00", "an Excel workbook; expected CSV, so save the sheet as 'CSV UTF-8'"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "an Excel workbook"),
        (b"\xff\xfea", "not UTF-16 text, as its first bytes say"),
        (b"image\0\xff,sex\n", "line 1: not UTF-8 text: invalid start byte; save the table as UTF-8"),
        (b"image,sex\nISIC_1,\x81\n", "line 2: not UTF-8 text: invalid start byte"),
    ],
)
def test_what_is_no_text_is_named(tmp_path, data, message):
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(csv_rows.CsvError, match=message):
        csv_rows.read(tmp_path / "a.csv")


def test_lines_are_counted_as_an_editor_does(tmp_path):
    (tmp_path / "a.csv").write_text('a,b\n\n,\n"x\ny",1\nz,2\n')
    assert csv_rows.read(tmp_path / "a.csv") == [(1, ["a", "b"]), (4, ["x\ny", "1"]), (6, ["z", "2"])]


def test_a_separator_within_quotation_marks_does_not_count(tmp_path):
    (tmp_path / "a.csv").write_text('"a;b;c",d\n1,2\n')
    assert csv_rows.read(tmp_path / "a.csv") == [(1, ["a;b;c", "d"]), (2, ["1", "2"])]

"""Cells of CSV files, and numbers in messages."""

from __future__ import annotations

import csv
import io

import pytest

from tfrecord_tools.core import text

FORMULAS = ["=1+1", "=HYPERLINK(1)", "+1-2", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "-", "+", "-1_000", "- 5", "-ISIC_1"]
APOSTROPHES = ["'=1", "''=1", "'-5", "'", "''", "'tis", "'+", "'\t"]
PLAIN = ["", "ISIC_1", "a=b", "x-1", "1", "-1", "+2", "-0.5", "-1.5e-07", "+3E10", "7.", "007", "NA"]


@pytest.mark.parametrize("value", FORMULAS)
def test_what_a_spreadsheet_would_run_begins_with_an_apostrophe(value):
    assert text.cell(value) == f"'{value}"


@pytest.mark.parametrize("value", [*PLAIN, 5, -5, -0.25, None, True])
def test_numbers_and_other_texts_stay(value):
    assert text.cell(value) is value


@pytest.mark.parametrize("value", [*FORMULAS, *APOSTROPHES, *PLAIN])
def test_each_text_reads_back_through_a_csv(value):
    out = io.StringIO()
    csv.writer(out).writerow([text.cell(value), "end"])
    (row,) = csv.reader(io.StringIO(out.getvalue(), newline=""))
    assert text.from_cell(row[0]) == value
    assert row[0][:1] not in ("=", "@", "\t", "\r")


def test_no_two_texts_become_one_cell():
    values = [*FORMULAS, *APOSTROPHES, *PLAIN]
    assert len({text.cell(value) for value in values}) == len(values)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("isic2020", "isic2020"),
        ("Köln, 3 µm", "Köln, 3 µm"),
        ("a\nb\x1b[31mc", "a\\nb\\x1b[31mc"),
        ("\u202egnp", "\\u202egnp"),
        ("x" * 20, "x" * 20),
        ("x" * 21, "x" * 17 + "..."),
    ],
)
def test_texts_of_strangers_stay_on_their_line(given, expected):
    assert text.shown(given, 20) == expected

"""docs/data.md promises messages; they must be those of the code."""

import re

import pytest

from tests.support.process import REPOSITORY

TABLES = (REPOSITORY / "docs" / "data.md").read_text(encoding="utf-8").partition("<!-- bad input -->")[2]
ROWS = [line for line in TABLES.partition("\n## ")[0].splitlines() if line.startswith("| ") and "---" not in line]


def source() -> str:
    """All of tfrecord_tools, with strings that go on in the next line joined."""
    modules = sorted((REPOSITORY / "tfrecord_tools").glob("*.py"))
    text = "\n".join(path.read_text(encoding="utf-8") for path in modules)
    return re.sub(r'"\n\s*f?"', "", text).replace('\\"', '"')


SOURCE = source()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip())
def test_every_message_of_the_table_of_bad_input_is_one_of_the_code(row):
    for message in re.findall("`([^`]+)`", row.split("|")[3]):
        for part in re.split("…|[:;,] |expected ", message):  # clauses may come from several places
            words = part.strip(" :;,")
            assert words in SOURCE, f"{words!r} of {message!r}"

"""Messages and links of the data pages: messages are those of the code, and links have a target."""

import re

import pytest

from tests.support.process import REPOSITORY

PAGES = sorted((REPOSITORY / "docs" / "data").glob("*.md"))
TABLES = (REPOSITORY / "docs" / "data" / "errors.md").read_text(encoding="utf-8").partition("<!-- bad input -->")[2]
ROWS = [line for line in TABLES.splitlines() if line.startswith("| ") and "---" not in line]


def source() -> str:
    """All of both packages, with strings that continue on the next line joined."""
    modules = [
        path for package in ("tfrecord_tools", "melanoma_tf") for path in sorted((REPOSITORY / package).rglob("*.py"))
    ]
    text = "\n".join(path.read_text(encoding="utf-8") for path in modules)
    return re.sub(r'"\n\s*f?"', "", text).replace('\\"', '"')


SOURCE = source()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip())
def test_every_message_of_the_table_of_bad_input_is_one_of_the_code(row):
    for message in re.findall("`([^`]+)`", row.split("|")[3]):
        for part in re.split("…|[:;,] |expected ", message):  # clauses may come from several places
            words = part.strip(" :;,")
            assert words in SOURCE, f"{words!r} of {message!r}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_between_the_pages_have_a_target(page):
    for target, _, anchor in re.findall(r"\]\(([^)#:]+\.md)(#([^)]+))?\)", page.read_text(encoding="utf-8")):
        titles = re.findall(r"^#+ (.*)$", (page.parent / target).read_text(encoding="utf-8"), re.MULTILINE)
        assert not anchor or anchor in {re.sub("[^a-z0-9-]", "", title.lower().replace(" ", "-")) for title in titles}

"""Filters: which are offered, and that a browser without scripts obeys them."""

from __future__ import annotations

import pytest

from tests.support import browser
from tfrecord_tools.html import filters, page
from tfrecord_tools.html.page import tag

HOSTILE = "</style><script>alert(1)</script>\"'\\"
FIGURES = [("torso", "one"), ("torso", HOSTILE), (HOSTILE, "one"), (None, None)]


def make():
    choices = {"site": [site for site, _ in FIGURES], "source": [source for _, source in FIGURES]}
    figures = (tag("figure", str(k), **filters.marks(site=a, source=b)) for k, (a, b) in enumerate(FIGURES))
    body = [filters.controls(choices), tag("div", figures, class_="sheet"), tag("figure", "elsewhere")]
    return page.document("filters", body, filters.style(choices))


def test_only_a_filter_with_a_choice_is_offered():
    assert filters.controls({"site": ["torso", "torso", None], "source": []}) is None
    assert filters.style({"site": ["torso"]}) == ""
    assert str(filters.controls({"site": ["torso", "head"], "source": ["one"]})).count("<select") == 1


def test_names_of_strangers_stay_text():
    assert make().count("<script") == 0
    assert make().count("</style>") == 1
    assert filters.marks(site=None, source=float("nan")) == {}


@pytest.mark.integration
def test_a_browser_shows_what_is_chosen(tmp_path):
    program = browser.find()
    if program is None:
        pytest.skip("there is no Chromium")
    (tmp_path / "page.html").write_text(make(), encoding="utf-8")
    with browser.page(program) as tab:
        tab.open(tmp_path / "page.html", 800)
        shown = "[...document.querySelectorAll('figure')].filter(f => f.offsetParent).map(f => f.innerText)"
        assert tab.evaluate(shown) == ["0", "1", "2", "3", "elsewhere"]
        choose = """[...document.querySelectorAll('select')].forEach((select, i) => {
          select.selectedIndex = [...select.options].findIndex(option => option.text == %s[i]);
        })"""
        for wanted, expected in (
            (["torso", "all"], ["0", "1"]),
            (["torso", "one"], ["0"]),
            (["all", "one"], ["0", "2"]),
        ):
            tab.evaluate(choose % wanted)
            assert tab.evaluate(shown) == [*expected, "elsewhere"]
        assert tab.complaints() == []

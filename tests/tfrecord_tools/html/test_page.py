"""How a page prints, in a browser."""

from __future__ import annotations

import pytest

from tests.support import browser
from tfrecord_tools.html import charts, page
from tfrecord_tools.html.charts import Axis, Series

pytestmark = pytest.mark.integration


def test_a_dark_screen_prints_dark_on_white_and_cuts_no_chart(tmp_path):
    program = browser.find()
    if program is None:
        pytest.skip("there is no Chromium")
    chart = charts.lines("chart", [Series("line", [0, 1], [0, 1])], Axis("x"), Axis("y"), "a line")
    text = page.document("print", page.tag("div", page.card("Card", chart), class_="cards"), charts.STYLE)
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    style = "getComputedStyle(document.querySelector('%s'))['%s']"
    with browser.page(program) as tab:
        tab.open(tmp_path / "page.html", 800, dark=True)
        assert tab.evaluate(style % ("body", "background-color")) != "rgb(255, 255, 255)"
        dark = {"name": "prefers-color-scheme", "value": "dark"}
        tab.call("Emulation.setEmulatedMedia", media="print", features=[dark])
        for name in ("body", ".card"):
            assert tab.evaluate(style % (name, "background-color")) == "rgb(255, 255, 255)"
            assert tab.evaluate(style % (name, "color")) == "rgb(0, 0, 0)"
        assert tab.evaluate(style % ("html", "color-scheme")) == "light"
        for name in (".card", "figure"):
            assert tab.evaluate(style % (name, "break-inside")) == "avoid"

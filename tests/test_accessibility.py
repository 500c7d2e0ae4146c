"""The pages against axe-core, in a browser, light and dark, on a wide and a narrow screen."""

from __future__ import annotations

import importlib.util
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from melanoma_tf.evaluation import analysis, predictions
from melanoma_tf.evaluation.report import gallery, page
from tests.support import browser
from tests.support.evaluation import example
from tfrecord_tools import show

pytestmark = pytest.mark.integration

RUN = """axe.run({resultTypes: ["violations"]}).then(found => JSON.stringify(
  found.violations.map(each => [each.id, each.help, each.nodes.map(node => node.html.slice(0, 200))])))"""
OPEN = "document.querySelectorAll('details').forEach(each => each.open = true)"


@pytest.fixture(scope="module")
def axe():
    """axe-core's script, which the package axe-playwright-python has."""
    found = importlib.util.find_spec("axe_playwright_python")
    if found is None or found.origin is None:
        pytest.skip("axe-playwright-python is not installed: pip install -e '.[dev]'")
    return (Path(found.origin).parent / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def window():
    program = browser.find()
    if program is None:
        pytest.skip("there is no Chromium")
    with browser.page(program) as tab:
        yield tab


@pytest.fixture(scope="module")
def pages(finished, tmp_path_factory):
    """A report with a gallery and a warning, and the page of a build."""
    folder = tmp_path_factory.mktemp("pages")
    table = predictions.check(example(), "a.csv")
    results = analysis.analyze(table, analysis.Options(replicates=100, prevalence=0.02))
    results["warnings"].append("for instance")
    jpeg = io.BytesIO()
    Image.new("RGB", (32, 32), "brown").save(jpeg, "JPEG")
    images = {name: jpeg.getvalue() for name in table["image_name"]}
    sheets = gallery.section(table, gallery.most_confident(table), images)
    (folder / "report.html").write_text(page.make("Report", analysis.to_json(results), sheets), encoding="utf-8")
    (folder / "show.html").write_text(show.make_page(finished, samples=4), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", ["report", "show"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_no_violation(axe, window, pages, name, width, dark):
    window.open(pages / f"{name}.html", width, dark)
    window.evaluate(OPEN)
    window.evaluate(f"{axe};0")
    assert json.loads(window.evaluate(RUN)) == []

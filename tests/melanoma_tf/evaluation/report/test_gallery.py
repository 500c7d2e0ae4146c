"""The gallery of most confident errors, with and without overlays."""

from __future__ import annotations

import base64
import html.parser
import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from melanoma_tf.evaluation import predictions
from melanoma_tf.evaluation.report import gallery, overlay
from tests.support.images import flat_jpeg

HOSTILE = "<script>alert(1)</script>\"' onerror=alert(1)"


class _Page(html.parser.HTMLParser):
    """Tags with their attributes, and texts by the tag that they are in."""

    def __init__(self, text):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def text(self, tag):
        return [text for name, text in self.texts if name == tag]


def example(**columns):
    """Six images, a to f; the predictions of c and f are alike."""
    table = {"image_name": list("abcdef"), "target": [1, 1, 1, 0, 0, 0], "logit": [3.0, -2.0, 1.0, 2.0, -1.0, 1.0]}
    return predictions.check(pd.DataFrame({**table, **columns}), "a.csv")


IMAGES = {name: flat_jpeg(200, 40 * i, 100, size=(300, 300)) for i, name in enumerate("abcdef")}


def test_the_most_confident_errors_are_the_lowest_melanomas_and_the_highest_others():
    assert gallery.most_confident(example(), 2) == {gallery.MISSED: ["b", "c"], gallery.ALARMS: ["d", "f"]}
    assert gallery.most_confident(example()) == {gallery.MISSED: ["b", "c", "a"], gallery.ALARMS: ["d", "f", "e"]}


def test_captions_have_the_probability_and_the_rank():
    table = example(diagnosis=["melanoma", None, None, "nevus", None, None], source="here")
    page = _Page(gallery.section(table, {"All": list("adcfb")}, IMAGES))
    lines = page.text("span")
    # 1 / (1 + exp(-3)) and so on
    assert lines[:4] == ["probability 0.953 before calibration", "highest of 6 predictions", "melanoma", "here"]
    assert lines[4:8] == ["probability 0.881 before calibration", "rank 2 of 6 predictions", "nevus", "here"]
    assert [line for line in lines if "of 6" in line][2:] == ["rank 3 of 6 predictions"] * 2 + [
        "rank 6 of 6 predictions"
    ]
    assert page.text("b") == list("adcfb")
    assert not page.text("p")  # nothing about overlays
    assert "100" not in "".join(lines)


def test_scores_that_are_no_probabilities_have_none():
    table = example(logit=[3.0, -2.0, 1.0, 2.0, -1.0, 1.0]).assign(probability=np.nan)
    assert _Page(gallery.section(table, {"All": ["a"]}, IMAGES)).text("span") == ["highest of 6 predictions"]


def test_images_that_are_not_at_hand_are_left_out():
    page = _Page(gallery.section(example(), {"Some": ["a", "b"]}, {"b": IMAGES["b"]}))
    assert page.text("b") == ["b"]


def test_thumbnails_are_small_and_of_the_right_image():
    page = _Page(gallery.section(example(), {"Some": ["e"]}, IMAGES))
    (shown,) = page.all("img")
    image = Image.open(io.BytesIO(base64.b64decode(shown["src"].removeprefix("data:image/jpeg;base64,"))))
    assert image.size == (160, 160)
    whole = np.asarray(Image.open(io.BytesIO(IMAGES["e"]))).mean(axis=(0, 1))
    np.testing.assert_allclose(np.asarray(image).mean(axis=(0, 1)), whole, atol=2)


@pytest.mark.parametrize("explained", [False, True])
def test_texts_of_others_stay_texts(explained):
    table = example(
        image_name=[HOSTILE, *"bcdef"], diagnosis=HOSTILE, source=HOSTILE, anatom_site_general_challenge=HOSTILE
    )
    drawn = {HOSTILE: [overlay.Overlay(_png(), HOSTILE)]} if explained else None
    text = gallery.section(table, {HOSTILE: [HOSTILE]}, {HOSTILE: IMAGES["a"]}, drawn)
    page = _Page(text)
    assert "<script" not in text
    assert not page.all("script")
    assert all(set(attributes) == {"src", "width", "height", "alt"} for attributes in page.all("img"))
    assert page.text("h3") == page.text("b") == [HOSTILE]
    assert page.text("span").count(HOSTILE) == (4 if explained else 3)
    assert all(HOSTILE in attributes["alt"] for attributes in page.all("img"))


def _png(color="green"):
    out = io.BytesIO()
    Image.new("RGB", (300, 300), color).save(out, "PNG")
    return out.getvalue()


def test_overlays_stand_beside_their_image_with_words_and_a_legend():
    drawn = {"a": [overlay.Overlay(_png("lime"), "one"), overlay.Overlay(_png("blue"), "two")]}
    page = _Page(gallery.section(example(), {"Some": ["a", "b"]}, IMAGES, drawn, 100))
    alts = [attributes["alt"] for attributes in page.all("img")]
    assert alts[1:3] == ["Grad-CAM of a: one", "Grad-CAM of a: two"]
    assert alts[0].startswith("a, probability")
    assert len(alts) == 4  # b alone
    assert [line for line in page.text("span") if line in ("one", "two")] == ["one", "two"]
    shown = [Image.open(io.BytesIO(base64.b64decode(each["src"].partition(",")[2]))) for each in page.all("img")]
    assert [image.size for image in shown] == [(100, 100)] * 4
    np.testing.assert_allclose(np.asarray(shown[1]).mean(axis=(0, 1)), [0, 255, 0], atol=3)
    np.testing.assert_allclose(np.asarray(shown[2]).mean(axis=(0, 1)), [0, 0, 255], atol=3)
    assert "scale" in [attributes.get("class") for attributes in page.all("span")]
    assert "Grad-CAM of the model that held it out" in " ".join(page.text("p"))

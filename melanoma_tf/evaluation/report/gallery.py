"""The images that a model is most confidently wrong about."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from PIL import Image

from tfrecord_tools.html import page
from tfrecord_tools.html.page import Html, join, tag

_SHOWN = 12  # of each kind
_SIDE = 160  # pixels of a thumbnail
MISSED, ALARMS = "Melanomas with the lowest predictions", "Others with the highest predictions"


def most_confident(table: pd.DataFrame, shown: int = _SHOWN) -> dict[str, list[str]]:
    """Returns the names of the melanomas that are least and of the others that are most like melanoma.

    Args:
      table: a checked table of predictions.
      shown: images of each kind.
    """
    by_score = table.sort_values("logit", kind="stable")
    missed = by_score[by_score["target"] == 1].head(shown)
    alarms = by_score[by_score["target"] == 0].tail(shown).iloc[::-1]
    return {MISSED: missed["image_name"].tolist(), ALARMS: alarms["image_name"].tolist()}


def section(table: pd.DataFrame, errors: Mapping[str, Sequence[str]], images: Mapping[str, bytes]) -> Html:
    """Returns a sheet of images for each kind of error.

    Args:
      table: a checked table of predictions.
      errors: see `most_confident`.
      images: JPEG bytes by name; an image without is left out.
    """
    rows = dict(zip(table["image_name"], table.to_dict("records"), strict=True))
    percentile = dict(zip(table["image_name"], table["logit"].rank(pct=True), strict=True))
    found = []
    for title, names in errors.items():
        figures = [_figure(name, images[name], rows[name], percentile[name]) for name in names if name in images]
        found.append([tag("h3", title), tag("div", figures, class_="sheet")])
    return join(found)


def _figure(name: str, jpeg: bytes, row: Mapping[Any, Any], percentile: float) -> Html:
    with Image.open(io.BytesIO(jpeg)) as image:
        image.thumbnail((_SIDE, _SIDE))
        small = io.BytesIO()
        image.convert("RGB").save(small, "JPEG", quality=85)
    known = [row.get(key) for key in ("diagnosis", "anatom_site_general_challenge", "source")]
    lines = [f"above {percentile:.1%} of all images", *(str(text) for text in known if isinstance(text, str))]
    caption = tag("figcaption", tag("b", name), (tag("span", line) for line in lines))
    return tag("figure", page.image(small.getvalue(), _SIDE, f"{name}, {lines[0]}"), caption)

"""A sheet of images before and after augmentation."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from keras import ops
from PIL import Image, ImageDraw, ImageFont

MARGIN, GAP, SPACE = 12, 12, 2  # pixels: around the sheet, beside the original, between augmented images
HEADING, LABEL = 20, 14  # pixels, of text
INK, SOFT = "#1c2127", "#56606c"


class Row(NamedTuple):
    """A row of the sheet: its label, the `policy.Augment` that it shows and the index of its image."""

    label: str
    layer: Any
    image: int


def render(images: Any, heading: str, rows: list[Row], draws: int, seed: int) -> Image.Image:
    """Renders the sheet.

    Args:
      images: u8[N,S,S,3].
      heading: text above the sheet.
      rows: what to draw, from top to bottom.
      draws: augmented images per row.
      seed: random seed.
    """
    size = images.shape[1]
    columns = [MARGIN + (size + GAP if i else 0) + max(i - 1, 0) * (size + SPACE) for i in range(draws + 1)]
    width = columns[-1] + size + MARGIN
    big, small = (ImageFont.load_default(pixels) for pixels in (HEADING, LABEL))
    lines = _wrapped(heading, lambda text: big.getlength(text) <= width - 2 * MARGIN)
    first = MARGIN + len(lines) * (HEADING + 6) + LABEL + 16
    step = LABEL + 8 + size + GAP
    sheet = Image.new("RGB", (width, first + len(rows) * step), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN), "\n".join(lines), fill=INK, font=big, spacing=6)
    for column, text in zip(columns, ("original", "augmented"), strict=False):
        pen.text((column, first - LABEL - 12), text, fill=SOFT, font=small)
    for number, row in enumerate(rows):
        # Every other image of the batch is the next image, for mixup and cutmix to mix in.
        batch = np.repeat(images[row.image : row.image + 1], 2 * draws, axis=0)
        batch[1::2] = images[(row.image + 1) % len(images)]
        seeds = np.arange(2 * draws, dtype=np.uint32) + np.uint32(1000 * seed + 100 * row.image)
        augmented = (ops.convert_to_numpy(row.layer(batch, seeds, training=True))[::2] * 255).round().astype(np.uint8)
        top = first + number * step
        pen.text((MARGIN, top), row.label, fill=INK, font=small)
        for column, image in zip(columns, [images[row.image], *augmented], strict=True):
            sheet.paste(Image.fromarray(image), (column, top + LABEL + 8))
    return sheet


def _wrapped(text: str, fits: Callable[[str], bool]) -> list[str]:
    """Splits a text at spaces and after bars and commas into lines that fit, as far as its words do."""
    lines = [""]
    for word in re.findall(r"[^\s|,]*[\s|,]*", text):
        if lines[-1] and not fits((lines[-1] + word).rstrip()):
            lines.append("")
        lines[-1] += word
    return [line.rstrip() for line in lines]

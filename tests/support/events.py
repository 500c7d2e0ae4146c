"""Event files of TensorBoard, by TensorFlow's own reader."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image


def read_events(folder: Path) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """Returns the scalars and images of all event files of a folder: (step, value) by tag, in the order written."""
    scalars: dict[str, list[tuple[int, float]]] = {}
    images: dict[str, list[tuple[int, Any]]] = {}
    for path in sorted(folder.glob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime_ns):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    scalars.setdefault(value.tag, []).append((event.step, value.simple_value))
                elif value.HasField("image"):
                    pixels = np.asarray(Image.open(io.BytesIO(value.image.encoded_image_string)))
                    images.setdefault(value.tag, []).append((event.step, pixels))
    return scalars, images

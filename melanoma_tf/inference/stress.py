"""Logits of a fold's held-out images under corruptions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from melanoma_tf.data import pipeline
from melanoma_tf.inference.corruption import Corruption, Images

CLEAN = "clean"
_HELD = 512  # images in memory at a time; 226 MB at 384 px, and as much corrupted
_BLOCK = 64  # images corrupted at a time: more need memory as float32, fewer time for each operation


def logits(
    model: keras.Model,
    shards: Sequence[pipeline.Shard],
    chosen: Collection[str],
    corruptions: Mapping[str, Corruption],
    *,
    batch_size: int,
    image_size: int,
    progress: Callable[[int], None] = lambda images: None,
) -> pd.DataFrame:
    """Scores images as they are and under each corruption.

    An image is corrupted in the same way in every run: what is drawn depends on its name only.

    Args:
      model: see `predictor.predictor`.
      shards: shards with the images.
      chosen: names of the images to score.
      corruptions: by name.
      batch_size: images at a time over all devices.
      image_size: S in pixels.
      progress: called with the number of images scored after each pass.

    Returns:
      image_name, CLEAN and a column of logits for each corruption.

    Raises:
      pipeline.DataError: a shard is damaged.
    """
    parts = []
    with pipeline.name_damaged_shard(shards):
        for names, images in _held(shards, chosen, batch_size, image_size):
            seeds = pipeline.name_seeds(names)
            blocks = [slice(first, first + _BLOCK) for first in range(0, len(images), _BLOCK)]
            part = {"image_name": names, CLEAN: _predict(model, images, batch_size)}
            progress(len(names))
            for name, corruption in corruptions.items():
                corrupted = np.concatenate([corruption(images[block], seeds[block]) for block in blocks])
                part[name] = _predict(model, corrupted, batch_size)
                progress(len(names))
            parts.append(pd.DataFrame(part))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["image_name", CLEAN, *corruptions])


def _held(
    shards: Sequence[pipeline.Shard], chosen: Collection[str], batch_size: int, image_size: int
) -> Iterator[tuple[list[str], Images]]:
    """Yields the names and pixels of the chosen images, some hundred at a time."""
    everything = pipeline.read_metadata(shards)["image_name"].tolist()
    wanted = set(chosen)
    names: list[str] = []
    images: list[Images] = []
    for index, batch in enumerate(pipeline.eval_batches(shards, batch_size=batch_size, image_size=image_size)):
        present = everything[index * batch_size : (index + 1) * batch_size]  # the last batch is padded
        kept = [row for row, name in enumerate(present) if name in wanted]
        images.append(np.asarray(batch["image"])[kept])  # a copy: the batch's memory is used again
        names += [present[row] for row in kept]
        if len(names) >= _HELD:
            yield names, np.concatenate(images)
            names, images = [], []
    if names:
        yield names, np.concatenate(images)


def _predict(model: keras.Model, images: Images, batch_size: int) -> NDArray[np.float64]:
    """Logits f64[N] of images, the last batch padded with black ones."""
    padded = np.pad(images, ((0, -len(images) % batch_size), (0, 0), (0, 0), (0, 0)))
    found = model.predict({"image": padded}, batch_size=batch_size, verbose=0)
    return np.asarray(found, np.float64)[: len(images), 0]

"""Logits of a fold's held-out images under corruptions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from melanoma_tf.data import pipeline
from melanoma_tf.data.metadata import Metadata
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
    metadata: Metadata = pipeline.IMAGE_ONLY,
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
      metadata: what the model is given beside the image.
      progress: called with the number of images scored after each pass.

    Returns:
      image_name, CLEAN and a column of logits for each corruption.

    Raises:
      pipeline.DataError: a shard is damaged.
    """
    parts = []
    with pipeline.name_damaged_shard(shards):
        batches = pipeline.eval_batches(
            shards, batch_size=batch_size, image_size=image_size, metadata=metadata, seeds="seed" in model.input
        )
        for names, images, others in _held(batches, pipeline.read_metadata(shards)["image_name"].tolist(), chosen):
            seeds = pipeline.name_seeds(names)
            blocks = [slice(first, first + _BLOCK) for first in range(0, len(images), _BLOCK)]
            part = {"image_name": names, CLEAN: _predict(model, images, others, batch_size)}
            progress(len(names))
            for name, corruption in corruptions.items():
                corrupted = np.concatenate([corruption(images[block], seeds[block]) for block in blocks])
                part[name] = _predict(model, corrupted, others, batch_size)
                progress(len(names))
            parts.append(pd.DataFrame(part))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["image_name", CLEAN, *corruptions])


def _held(
    batches: Iterable[dict[str, Any]], everything: Sequence[str], chosen: Collection[str]
) -> Iterator[tuple[list[str], Images, dict[str, NDArray[Any]]]]:
    """Yields the names, pixels and other inputs of the chosen images, some hundred at a time.

    Args:
      batches: see `pipeline.eval_batches`; the last one is padded.
      everything: names of their images.
      chosen: names to yield.
    """
    wanted, first = set(chosen), 0
    names: list[str] = []
    parts: list[dict[str, NDArray[Any]]] = []

    def together() -> tuple[list[str], Images, dict[str, NDArray[Any]]]:
        inputs = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        return names, inputs.pop("image"), inputs

    for batch in batches:
        present = everything[first : first + len(batch["image"])]
        first += len(batch["image"])
        kept = [row for row, name in enumerate(present) if name in wanted]
        parts.append({key: np.asarray(values)[kept] for key, values in batch.items()})  # copies: its memory is reused
        names += [present[row] for row in kept]
        if len(names) >= _HELD:
            yield together()
            names, parts = [], []
    if names:
        yield together()


def _predict(
    model: keras.Model, images: Images, others: dict[str, NDArray[Any]], batch_size: int
) -> NDArray[np.float64]:
    """Logits f64[N] of images, the last batch padded with black ones."""
    padded = {
        key: np.pad(values, [(0, -len(images) % batch_size), *[(0, 0)] * (values.ndim - 1)])
        for key, values in {"image": images, **others}.items()
    }
    found = model.predict(padded, batch_size=batch_size, verbose=0)
    return np.asarray(found, np.float64)[: len(images), 0]

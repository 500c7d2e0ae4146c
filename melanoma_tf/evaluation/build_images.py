"""What a build of tfrecord_tools knows of the images that were predicted: metadata, pixels, thumbnails."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import pandas as pd
import simplejpeg
from numpy.typing import NDArray

from melanoma_tf.evaluation import floor, metrics, skin_tone
from melanoma_tf.evaluation.predictions import PredictionsError
from tfrecord_tools import schema
from tfrecord_tools.core import paths
from tfrecord_tools.records import tfrecord
from tfrecord_tools.records.manifest import Manifest

_SIDE = 16  # pixels of the thumbnail that the floor sees
_NEGATIVES = 10  # for each positive that the floor is fitted to; more change no AUC


def records(folder: str, *, test: bool = False) -> Iterator[schema.Record]:
    """Yields the labelled records of a build, or those of its test set.

    Raises:
      PredictionsError: there is no such build.
    """
    place = paths.path(folder)
    try:
        manifest = Manifest.read(place)
    except (OSError, ValueError, RuntimeError) as error:
        raise PredictionsError(f"--data {folder}: {error}") from error
    for shard in manifest.shards:
        if test and shard.split != "test":
            continue
        for data in tfrecord.read_records(place / shard.name):
            try:
                record = schema.decode(data)
            except schema.SchemaError as error:
                raise PredictionsError(f"{place / shard.name}: {error}; {_check(folder)}") from error
            if test or record.target != schema.MISSING:
                yield record


def read(folder: str, names: Collection[str]) -> dict[str, bytes]:
    """Returns the JPEG bytes of some images."""
    wanted = frozenset(names)
    return {record.image_name: record.image for record in records(folder) if record.image_name in wanted}


def predicted(folder: str) -> pd.DataFrame:
    """Returns the metadata of the images that `predict` predicts: those of the test set, or all if there is none.

    Args:
      folder: the build.

    Returns:
      image_name, patient_id, source and the metadata of each record, in words.

    Raises:
      PredictionsError: there is no such build, or it has no record.
    """
    rows = [_row(record) for record in records(folder, test=True)] or [_row(record) for record in records(folder)]
    if not rows:
        raise PredictionsError(f"--data {folder} has no record; expected the build that was predicted")
    return pd.DataFrame(rows).drop(columns=["fold", "target"])


def _check(folder: str) -> str:
    return f"the build is damaged, see python -m tfrecord_tools.verify {folder}"


class Build:
    """What one reading of a build finds of predicted images.

    Attributes:
      folder: the build.
      metadata: image_name, patient_id, source, fold, target and the metadata of each labelled record, in words.
    """

    def __init__(self, folder: str, table: pd.DataFrame, wanted: Collection[str] = ()) -> None:
        """Reads the build.

        Args:
          folder: the build.
          table: a checked table of predictions.
          wanted: names of images whose JPEG bytes are kept.

        Raises:
          PredictionsError: there is no such build.
        """
        self.folder = folder
        self._row_of = {name: row for row, name in enumerate(table["image_name"])}
        self._pixels = np.full((len(table), _SIDE, _SIDE, 3), np.nan, np.float32)
        self._jpegs: dict[str, bytes] = {}
        self._angles: dict[str, float] = {}
        rows, kept = [], frozenset(wanted)
        for record in records(folder):
            rows.append(_row(record))
            if (row := self._row_of.get(record.image_name)) is not None:
                try:
                    self._pixels[row] = thumbnail(record.image)
                    self._angles[record.image_name] = skin_tone.of_jpeg(record.image)
                except ValueError as error:
                    raise PredictionsError(f"image {record.image_name!r}: {error}; {_check(folder)}") from error
            if record.image_name in kept:
                self._jpegs[record.image_name] = record.image
        self.metadata = pd.DataFrame(rows)

    def images(self, names: Collection[str]) -> dict[str, bytes]:
        """Returns the JPEG bytes of some images; reads the build again for those that were not `wanted`."""
        if absent := set(names) - set(self._jpegs):
            self._jpegs |= read(self.folder, absent)
        return {name: self._jpegs[name] for name in names if name in self._jpegs}

    def skin_tones(self, table: pd.DataFrame) -> pd.Series:
        """Returns the estimated skin tone of each image of a table, see `skin_tone`; unknown where it is not here."""
        return skin_tone.classify(table["image_name"].map(self._angles)).set_axis(table.index)

    def has(self, table: pd.DataFrame) -> NDArray[np.bool_]:
        """Returns for each image of a table whether it is here, [N]."""
        rows = [self._row_of[name] for name in table["image_name"]]
        return ~np.isnan(self._pixels[rows, 0, 0, 0])

    def pixel_floor(self, table: pd.DataFrame) -> dict[str, float]:
        """AUC of a thumbnail of 16 x 16 pixels, in which no structure of a lesion is seen, and of its border alone.

        Args:
          table: a checked table with folds, of the same images as at first, or some of them; those that are not here
            are left out.

        Returns:
          AUC by what was seen; empty where there are no two folds.
        """
        table = table[self.has(table)]
        if table["fold"].nunique() < 2:
            return {}
        pixels = self._pixels[[self._row_of[name] for name in table["image_name"]]]
        y, folds = table["target"].to_numpy(), np.unique(table["fold"], return_inverse=True)[1] % 5
        inside = np.zeros((_SIDE, _SIDE), bool)
        inside[1:-1, 1:-1] = True
        kept = _some_negatives(y)
        found = {}
        for name, seen in (("thumbnail of 16 x 16 pixels", slice(None)), ("its border, one pixel wide", ~inside)):
            columns = pixels[:, seen].reshape(len(table), -1)
            try:
                found[name] = metrics.auc(y[kept], floor.out_of_fold(columns[kept], y[kept], folds[kept]))
            except metrics.UndefinedMetricError:  # a fold beside which there is one class
                return {}
        return found


def _row(record: schema.Record) -> dict[str, str | int | None]:
    return {
        "image_name": record.image_name,
        "patient_id": record.patient or None,
        "source": record.source,
        "fold": record.fold,
        "target": record.target,
        "sex": schema.word(schema.SEX, record.sex),
        "age_approx": None if record.age_approx == schema.MISSING else record.age_approx,
        "anatom_site_general_challenge": schema.word(schema.SITE, record.anatom_site_general_challenge),
        "diagnosis": schema.word(schema.DIAGNOSIS, record.diagnosis),
        "width": record.width,
        "height": record.height,
    }


def thumbnail(jpeg: bytes) -> NDArray[np.float32]:
    """Returns the mean color of each of 16 x 16 cells of an image, f32[16,16,3] in 0 to 255."""
    # A fast, reduced decode: means of cells need no more.
    image = simplejpeg.decode_jpeg(jpeg, min_height=4 * _SIDE, min_width=4 * _SIDE).astype(np.float32)
    for axis in (0, 1):
        edges = np.linspace(0, image.shape[axis], _SIDE + 1).astype(int)
        counts = np.diff(edges).reshape([-1 if a == axis else 1 for a in range(3)])
        image = np.add.reduceat(image, edges[:-1], axis=axis) / counts
    return image


def _some_negatives(y: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices of all positives and of ten negatives for each, drawn."""
    positive, negative = np.flatnonzero(y == 1), np.flatnonzero(y == 0)
    drawn = np.random.default_rng(0).permutation(negative)[: _NEGATIVES * len(positive)]
    return np.sort(np.concatenate([positive, drawn]))

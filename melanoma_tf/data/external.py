"""Further builds beside the main one, none of whose records may be in training and evaluation at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import tensorflow as tf

from melanoma_tf.data import pipeline
from melanoma_tf.data.dataset import DataError, DataSet, Shard, open_data
from tfrecord_tools import schema
from tfrecord_tools.core.text import counted


def add_external(dataset: DataSet, folders: Sequence[str], *, held_out: bool) -> DataSet:
    """Adds the labelled records of further builds to a data set.

    Args:
      dataset: the main build.
      folders: further builds.
      held_out: whether their folds are held out and evaluated too; otherwise they train every fold.

    Raises:
      DataError: a build cannot be opened, has no labels or (held_out) another number of folds, or shares an image,
        source file, patient or lesion with another fold or the test set.
    """
    added: list[Shard] = []
    for folder in folders:
        build = open_data(folder)
        if not build.train:
            raise DataError(f"{folder} has no labelled records; external data needs labels")
        if held_out and build.folds != dataset.folds:
            raise DataError(f"{folder} has {build.folds} folds, expected {dataset.folds} as in {dataset.path}")
        added += build.train if held_out else [dataclasses.replace(shard, fold=-1) for shard in build.train]
    _check_leaks(dataset, added)
    return dataclasses.replace(dataset, train=(*dataset.train, *added))


def _check_leaks(dataset: DataSet, external: Sequence[Shard]) -> None:
    if leaks := _leaks(dataset, external):
        number = counted(len(leaks), "external image")
        raise DataError(
            f"{number} would be both training and evaluation data, the first: {leaks[0]}. Build the external data with "
            "tfrecord_tools.build --against the other build; tfrecord_tools.verify --pairs finds files under another "
            "name and build --duplicates leaves them out"
        )


def check_sources(dataset: DataSet) -> None:
    """Checks a data set whose folds are its sources, which the folds of the builds do not keep apart.

    Raises:
      DataError: two folds share an image, source file, patient or lesion.
    """
    if leaks := _leaks(dataclasses.replace(dataset, train=(), test=()), dataset.train):
        raise DataError(
            f"--hold_out_source: {counted(len(leaks), 'image')} would be both training and evaluation data, the first: "
            f"{leaks[0]}. Build one of the sources with tfrecord_tools.build --against the other"
        )


def _leaks(dataset: DataSet, added: Sequence[Shard]) -> list[str]:
    """Records of `added` of which an identity is in two folds, or in training and the test set."""
    first_seen: dict[tuple[str, bytes], tuple[str, Shard]] = {}
    leaks = []
    for shard in (*dataset.train, *dataset.test, *added):
        home = "the test set" if shard in dataset.test else "training" if shard.fold < 0 else f"fold {shard.fold}"
        for identities in _identities(shard):
            for key, value in identities.items():
                if value and (other := first_seen.setdefault((key, value), (home, shard)))[0] != home:
                    if shard not in added:
                        continue  # a leak within one build is reported by tfrecord_tools.verify
                    shown = value.hex() if key == "sha256" else value.decode()
                    name = identities["image_name"].decode()
                    leaks.append(f"{shard.path}: {name}: {key} {shown} is in {other[0]} of {other[1].path} too")
                    break
    return leaks


def _identities(shard: Shard) -> Iterator[dict[str, bytes]]:
    """Yields the identifiers of each record that must not be in two folds; b"" where unknown."""

    def keys(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        return schema.parse(serialized, ("image_name", "sha256", "patient", "lesion"))

    yield from pipeline.read_records([shard]).map(keys).as_numpy_iterator()

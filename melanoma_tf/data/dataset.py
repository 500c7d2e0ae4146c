"""Builds of `tfrecord_tools` as a data set of folds; known before TensorFlow starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from tfrecord_tools.core import paths
from tfrecord_tools.core.text import counted
from tfrecord_tools.records.manifest import MANIFEST, Manifest
from tfrecord_tools.records.shards import ShardError


class DataError(ValueError):
    """A data set is missing, damaged or unsuitable."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """One TFRecord file of a build.

    Attributes:
      path: file or URL.
      fold: fold of all its records; -1 if it is never held out.
      records: number of records that are read.
      positives: number of positive ones among them; -1 without labels.
      size: side of its square images, pixels.
      sha256: of the file, in hex, as its manifest says; "" if unknown.
      kept: places of the records that are read, ascending; None for all.
      repeat: how many times the epoch reads them before this one, so that each time is augmented differently.
    """

    path: str
    fold: int
    records: int
    positives: int
    size: int
    sha256: str = ""
    kept: tuple[int, ...] | None = None
    repeat: int = 0


@dataclasses.dataclass(frozen=True)
class DataSet:
    """One or more finished builds of `tfrecord_tools`.

    Attributes:
      path: folder or URL of the main build.
      size: side of its square images, pixels.
      folds: number of folds.
      train: labelled shards.
      test: unlabelled shards.
      sources: of each fold, if the folds are the sources of the records.
      test_names: image names of the test table in its order, images without a record included. Of builds that do not
        hold them, only the names of the unusable images.
    """

    path: str
    size: int
    folds: int
    train: tuple[Shard, ...]
    test: tuple[Shard, ...]
    test_names: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    def fold(self, fold: int) -> tuple[Shard, ...]:
        """Returns the shards to hold out for a fold."""
        return tuple(shard for shard in self.train if shard.fold == fold)

    def others(self, fold: int) -> tuple[Shard, ...]:
        """Returns the shards to train on when `fold` is held out."""
        return tuple(shard for shard in self.train if shard.fold != fold)


def open_data(path: str) -> DataSet:
    """Opens a build.

    Args:
      path: its folder, or a URL that TensorFlow can read, such as gs://.

    Raises:
      DataError: no manifest, an unfinished build, another schema version, or a shard that is missing or truncated.
    """
    try:
        manifest = Manifest.read(paths.path(path))
    except ShardError as error:
        raise DataError(str(error)) from error
    size, folds = (manifest.settings.get(key) for key in ("size", "folds"))
    if not (isinstance(size, int) and isinstance(folds, int)):
        raise DataError(f"{path}/{MANIFEST}: settings: size {size!r}, folds {folds!r}; expected whole numbers")
    if not manifest.complete:
        raise DataError(f"{path} is an unfinished build; finish it with tfrecord_tools.build --resume")
    shards: dict[str, list[Shard]] = {"train": [], "test": []}
    for entry in manifest.shards:
        file = paths.path(path) / entry.name
        if not file.is_file() or file.stat().st_size != entry.bytes:
            raise DataError(f"{file} is missing or not {entry.bytes} bytes long; run tfrecord_tools.verify {path}")
        positives = -1 if entry.positives is None else entry.positives
        shards[entry.split].append(Shard(str(file), entry.fold, entry.records, positives, size, entry.sha256))
    names = _test_names(f"{path}/{MANIFEST}", manifest)
    return DataSet(path, size, folds, tuple(shards["train"]), tuple(shards["test"]), names)


def _test_names(file: str, manifest: Manifest) -> tuple[str, ...]:
    names = manifest.inputs.get("test", {}).get("names")
    if names is None:
        unusable = (image for entry in manifest.shards if entry.split == "test" for image in entry.quarantined)
        names = [image.image_name for image in unusable]
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names) and len({*names}) == len(names)):
        raise DataError(f"{file}: inputs: test: names: expected a list of different texts")
    return tuple(names)


def stopping_fold(dataset: DataSet, fold: int) -> int:
    """The fold that ends the training of another with config.patience, and is not trained on."""
    return (fold + 1) % dataset.folds


def check_folds(dataset: DataSet, folds: Sequence[int], batch_size: int, patience: int = 0) -> None:
    """Checks that each fold has images of both classes to train on and to hold out, and at least one batch.

    Args:
      dataset: builds to train on and to hold out.
      folds: folds to hold out in turn.
      batch_size: images per step.
      patience: config.patience; above 0 the stopping fold of each is held out too.

    Raises:
      DataError: a fold cannot be trained or evaluated; the message names every one of them.
    """
    if not dataset.train:
        raise DataError(f"{dataset.path} has no labelled records; pass a build of a table with targets")
    if patience and dataset.folds < 3:
        raise DataError(
            f"config.patience={patience} takes another fold out of training to stop on; expected a build of at least 3 "
            f"folds, got {dataset.folds}"
        )
    problems = [problem for fold in folds for problem in _fold_problems(dataset, fold, batch_size, patience)]
    if problems:
        raise DataError("; ".join(problems))


def _fold_problems(dataset: DataSet, fold: int, batch_size: int, patience: int) -> Iterator[str]:
    held_out, training = dataset.fold(fold), dataset.others(fold)
    if not held_out:
        yield f"{dataset.path} has no fold {fold}; expected 0 to {dataset.folds - 1}"
        return
    parts = {"held-out": held_out}
    if patience:
        parts["stopping"] = dataset.fold(stopping_fold(dataset, fold))
        training = tuple(shard for shard in training if shard not in parts["stopping"])
    if count(training) < batch_size:
        yield (
            f"fold {fold} has {counted(count(training), 'training image')}, fewer than one batch of {batch_size}; "
            "lower --config.batch_size"
        )
    for name, shards in {"training": training, **parts}.items():
        found, total = sum(shard.positives for shard in shards), count(shards)
        if not 0 < found < total:
            yield (
                f"the {name} images of fold {fold} are of one class: {found} of {total} are malignant; expected both: "
                "build again with fewer --folds, or name other folds with --fold"
            )


def balanced(share: float, batch_size: int, hosts: int = 1) -> tuple[int, int]:
    """Numbers of positive and of other images in a batch.

    Args:
      share: of positives, rounded to whole images.
      batch_size: images per step.
      hosts: number of hosts, each of which reads as many positives.

    Raises:
      DataError: a batch would be of one class, or its positives cannot be shared.
    """
    positives = round(share * batch_size)
    if not 0 < positives < batch_size or positives % hosts:
        wanted = "at least 1 and fewer than all" if hosts == 1 else f"a multiple of {hosts} hosts and fewer than all"
        raise DataError(
            f"config.positive_share={share:g} of a batch of {batch_size} is {positives} images; expected {wanted}"
        )
    return positives, batch_size - positives


def count(shards: Sequence[Shard]) -> int:
    """Returns the number of records in `shards`."""
    return sum(shard.records for shard in shards)

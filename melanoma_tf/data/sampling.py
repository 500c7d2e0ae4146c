"""Which records an epoch reads, and how often: a function of (seed, epoch), so that a run resumes exactly."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from melanoma_tf.data import pipeline
from melanoma_tf.data.dataset import DataError, DataSet, Shard, balanced, count
from melanoma_tf.data.targets import Targets


def select(shard: Shard, kept: NDArray[np.bool_], targets: NDArray[np.int64]) -> Shard:
    """A part of a shard.

    Args:
      shard: shard to read from.
      kept: bool[N], for each record that the shard gives, whether it stays.
      targets: int[N], 1 for a positive record.
    """
    places = np.arange(len(kept)) if shard.kept is None else np.array(shard.kept, np.int64)
    left = tuple(int(place) for place in places[kept])
    return dataclasses.replace(shard, kept=left, records=len(left), positives=int((targets[kept] == 1).sum()))


def relabelled(shards: Sequence[Shard], targets: Targets) -> tuple[Shard, ...]:
    """Shards with the number of positives that a rule finds in them."""
    if targets.is_melanoma:
        return tuple(shards)
    tables = (pipeline.read_metadata([shard]) for shard in shards)
    found = [int((targets.of_table(table) == 1).sum()) for table in tables]
    return tuple(dataclasses.replace(shard, positives=number) for shard, number in zip(shards, found, strict=True))


def by_source(dataset: DataSet, sources: Sequence[str] = ()) -> DataSet:
    """A data set whose folds are its sources, for leaving out one at a time; shards that only train stay as they are.

    Args:
      dataset: builds to train on and to hold out.
      sources: of each fold; none: those of the records, in alphabetical order.

    Raises:
      DataError: there is only one source.
    """
    held_out = [shard for shard in dataset.train if shard.fold >= 0]
    tables = [pipeline.read_metadata([shard]) for shard in held_out]
    known = tuple(sources) or tuple(sorted({name for table in tables for name in table["source"]}))
    if len(known) < 2:
        raise DataError(f"--hold_out_source: all records come from {', '.join(known)}; expected several sources")
    parts = [shard for shard in dataset.train if shard.fold < 0]
    for shard, table in zip(held_out, tables, strict=True):
        for fold, source in enumerate(known):
            part = select(shard, (table["source"] == source).to_numpy(), table["target"].to_numpy())
            if part.records:
                parts.append(dataclasses.replace(part, fold=fold))
    return dataclasses.replace(dataset, train=tuple(parts), folds=len(known), sources=known)


def soft_labelled(shards: Sequence[Shard], soft: Mapping[str, float]) -> tuple[Shard, ...]:
    """The unlabelled records that have a soft label, to train every fold on."""
    parts = []
    for shard in shards:
        table = pipeline.read_metadata([shard])
        part = select(shard, table["image_name"].isin(soft).to_numpy(), table["target"].to_numpy())
        if part.records:
            parts.append(dataclasses.replace(part, fold=-1, positives=0))
    return tuple(parts)


class Sampler:
    """The records of each epoch.

    Attributes:
      steps: batches of an epoch.
      prior: share of positives among the images of an epoch.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        targets: Targets,
        *,
        batch_size: int,
        seed: int,
        oversample: int = 1,
        positive_share: float = 0.0,
        hosts: int = 1,
    ) -> None:
        """Reads the labels where the sampling depends on them.

        Args:
          shards: shards to train on.
          targets: what is positive.
          batch_size: images per step.
          seed: seed of the run.
          oversample: how often an epoch reads each positive record.
          positive_share: of each batch, see `dataset.balanced`; 0 for whatever the order gives.
          hosts: number of hosts, which share each batch.

        Raises:
          DataError: a batch would be of one class, or there is none.
        """
        self._shards, self._seed = tuple(shards), seed
        images, positives = count(shards), sum(shard.positives for shard in shards)
        self._positive: list[Shard] = []
        self._other: list[Shard] = []
        self._numbers = balanced(positive_share, batch_size, hosts) if positive_share else None
        self.steps, self.prior = images // batch_size, positives / images
        if oversample == 1 and not positive_share:
            return
        for shard in shards:
            labels = targets.of_table(pipeline.read_metadata([shard]))
            for parts, wanted in ((self._positive, labels == 1), (self._other, labels != 1)):
                part = select(shard, wanted, labels)
                parts += [part] if part.records else []
        if self._numbers:
            self.prior = self._numbers[0] / batch_size
        else:
            self._shards += tuple(_again(self._positive, oversample))[len(self._positive) :]
            images += (oversample - 1) * positives
            self.steps, self.prior = images // batch_size, oversample * positives / images

    def epoch(self, epoch: int) -> tuple[Sequence[Shard], pipeline.Balance | None]:
        """The shards of an epoch, and the positives that its batches are balanced with."""
        if not self._numbers:
            return self._shards, None
        rng = np.random.default_rng([self._seed, epoch, 4])
        positive, other = (
            _drawn(shards, self.steps * number, rng.permutation)
            for shards, number in zip((self._positive, self._other), self._numbers, strict=True)
        )
        return other, pipeline.Balance(positive, self._numbers[0])


def _drawn(shards: Sequence[Shard], number: int, permutation: Callable[[int], NDArray[np.int64]]) -> list[Shard]:
    """Shards with `number` records in all: each as often as all others, and some, drawn by chance, once more."""
    available = count(shards)
    passes, rest = divmod(number, available)
    drawn = np.zeros(available, bool)
    drawn[permutation(available)[:rest]] = True
    ends = np.cumsum([shard.records for shard in shards])
    parts = zip(shards, np.split(drawn, ends[:-1]), strict=True)
    once_more = [select(shard, kept, np.zeros(len(kept), np.int64)) for shard, kept in parts if kept.any()]
    return [*_again(shards, passes), *(dataclasses.replace(part, repeat=passes) for part in once_more)]


def _again(shards: Sequence[Shard], passes: int) -> list[Shard]:
    """Shards as often as asked, each time counted."""
    return [dataclasses.replace(shard, repeat=repeat) for repeat in range(passes) for shard in shards]

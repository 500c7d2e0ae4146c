"""Shards to tf.data: what a model sees, in an order that is a pure function of (seed, epoch, step).

Records are shuffled as encoded bytes, decoded once, and leave the host as u8; augmentation is the device's work.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf

from melanoma_tf.data import decoder
from melanoma_tf.devices.multihost import ALONE, Hosts
from tfrecord_tools import schema
from tfrecord_tools.records import tfrecord

_BATCHERS = 2  # batches decoded at the same time, so that no core waits for the last image of one
PREFETCHED = 4  # batches ready for the device; at 384 px and 64 a batch 28 MB each
_GLOBAL_SEED = 0
READERS = 8  # shards read at the same time; more only costs memory on a disk, fewer starves a network file system
_READ_AHEAD = 16  # encoded records of each reader


class DataError(ValueError):
    """The data set cannot be used; the message names the file."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """One TFRecord file of a build.

    fold: -1 if it is never held out. positives: -1 where there are no labels. size: pixels of its square images.
    """

    path: str
    fold: int
    records: int
    positives: int
    size: int


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A finished build of `tfrecord_tools`, or several. size: pixels of the square images."""

    path: str
    size: int
    folds: int
    train: tuple[Shard, ...]
    test: tuple[Shard, ...]

    def fold(self, fold: int) -> tuple[Shard, ...]:
        """The held-out shards of a fold."""
        return tuple(shard for shard in self.train if shard.fold == fold)

    def others(self, fold: int) -> tuple[Shard, ...]:
        """The shards that train the model which is judged on `fold`."""
        return tuple(shard for shard in self.train if shard.fold != fold)


def open_data(path: str) -> DataSet:
    """Reads the manifest of a build. path: a folder, or any that TensorFlow's file systems know, such as gs://.

    Raises:
      DataError: no manifest, an unfinished build, another schema version, or a missing or resized shard.
    """
    file = os.path.join(path, "manifest.json")
    try:
        if not tf.io.gfile.exists(file):
            raise DataError(f"{path} holds no manifest.json; --data wants the folder that tfrecord_tools.build wrote")
        with tf.io.gfile.GFile(file) as opened:
            manifest = json.loads(opened.read())
    except tf.errors.OpError as error:
        raise DataError(f"{file} cannot be read: {error.message}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{file} is damaged: {error}; see tfrecord_tools.verify {path}") from error
    if not isinstance(manifest, dict) or "schema_version" not in manifest:
        raise DataError(f"{file} is not of tfrecord_tools.build; --data wants the folder that it wrote")
    if manifest["schema_version"] != schema.SCHEMA_VERSION:
        raise DataError(
            f"{file} has schema version {manifest['schema_version']}, this code reads {schema.SCHEMA_VERSION}"
        )
    if not manifest["complete"]:
        raise DataError(f"{path} is an unfinished build; finish it with tfrecord_tools.build --resume")
    settings = manifest["settings"]
    shards: dict[str, list[Shard]] = {"train": [], "test": []}
    for entry in manifest["shards"]:
        shard_path = os.path.join(path, entry["name"])
        if not tf.io.gfile.exists(shard_path) or tf.io.gfile.stat(shard_path).length != entry["bytes"]:
            raise DataError(
                f"{shard_path} is missing or not of {entry['bytes']} bytes; see tfrecord_tools.verify {path}"
            )
        positives = -1 if entry["positives"] is None else entry["positives"]
        shard = Shard(shard_path, entry["fold"], entry["records"], positives, settings["size"])
        shards[entry["split"]].append(shard)
    return DataSet(path, settings["size"], settings["folds"], tuple(shards["train"]), tuple(shards["test"]))


def add_external(dataset: DataSet, folders: Sequence[str], *, held_out: bool) -> DataSet:
    """`dataset` with the labelled records of further builds, each of which only trains, whatever fold is held out.

    held_out: they are held out and judged on too, fold by fold as they were built.

    Raises:
      DataError: as `open_data`; no labelled records; other folds (held_out); or a image, source file, patient or lesion
        that a model would train on and be judged by.
    """
    added: list[Shard] = []
    for folder in folders:
        build = open_data(folder)
        if not build.train:
            raise DataError(f"{folder} has no labelled records; external data trains, so it needs them")
        if held_out and build.folds != dataset.folds:
            raise DataError(f"{folder} has {build.folds} folds, {dataset.path} {dataset.folds}; build it with as many")
        added += build.train if held_out else [dataclasses.replace(shard, fold=-1) for shard in build.train]
    _check_apart(dataset, added)
    return dataclasses.replace(dataset, train=(*dataset.train, *added))


def _check_apart(dataset: DataSet, external: Sequence[Shard]) -> None:
    met: dict[tuple[str, bytes], tuple[str, Shard]] = {}
    leaks = []
    for shard in (*dataset.train, *dataset.test, *external):
        home = "the test set" if shard in dataset.test else "training" if shard.fold < 0 else f"fold {shard.fold}"
        for identities in _identities(shard):
            for key, value in identities.items():
                if value and (there := met.setdefault((key, value), (home, shard)))[0] != home:
                    if shard not in external:
                        continue  # of a build itself; tfrecord_tools.verify tells
                    shown = value.hex() if key == "sha256" else value.decode()
                    name = identities["image_name"].decode()
                    leaks.append(f"{shard.path}: {name}: {key} {shown} is in {there[0]} of {there[1].path} too")
                    break
    if leaks:
        raise DataError(
            f"{len(leaks)} external images would be trained on and judged by, the first: {leaks[0]}. Build the "
            "external data with tfrecord_tools.build --against the other build; files under another name are found by "
            "tfrecord_tools.verify --pairs and left out by build --duplicates"
        )


def _identities(shard: Shard) -> Iterator[dict[str, bytes]]:
    """Of each record, what must not be in two folds; b"" where it is not known."""

    def keys(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        return schema.parse(serialized, ("image_name", "sha256", "patient", "lesion"))

    yield from _read([shard.path]).map(keys).as_numpy_iterator()


def count(shards: Sequence[Shard]) -> int:
    """Number of records in `shards`."""
    return sum(shard.records for shard in shards)


def streams(hosts: Hosts) -> int:
    """How many streams an epoch is read in, on which the order within it depends: READERS, if the hosts divide it."""
    return math.lcm(READERS, hosts.count)


def train_batches(
    shards: Sequence[Shard],
    *,
    batch_size: int,
    image_size: int,
    seed: int,
    epoch: int,
    skip_steps: int,
    buffer: int,
    hosts: Hosts = ALONE,
) -> tf.data.Dataset:
    """One epoch of ({"image": u8[B,S,S,3], "seed": u32[B]}, target f32[B]), without its first `skip_steps` batches.

    All batches are full: the rest of an epoch that does not fill one is left out, others in each epoch. Up to READERS
    hosts that divide READERS make the same batches together that one host makes alone.

    Args:
      batch_size: of all hosts together; B is this host's share.
      buffer: records (encoded) among which the next one is drawn; shards are shuffled already when they are written.
    """
    _fix_global_seed()
    parts = _streams(shards, streams(hosts), hosts, seed=seed, epoch=epoch, buffer=buffer)
    turns = tf.data.Dataset.range(len(parts)).repeat()
    records = tf.data.Dataset.choose_from_datasets(parts, turns, stop_on_empty_dataset=False)
    records = records.with_options(_options())
    epoch_seed = int(np.random.default_rng([seed, epoch, 2]).integers(2**31))

    def examples(serialized: tf.Tensor) -> Any:
        record = schema.parse(serialized, ("image", "image_name", "target"))
        features = {
            "image": decoder.of_size(image_size).graph(record["image"]),
            "seed": _seed(record["image_name"], epoch_seed),
        }
        return features, tf.cast(record["target"], tf.float32)

    # Skipping encoded records costs a read, not a decode.
    share = batch_size // hosts.count
    batches = records.skip(skip_steps * share).batch(share, drop_remainder=True)
    return _decoded(batches, examples, count(shards) // batch_size - skip_steps)


def _streams(
    shards: Sequence[Shard], number: int, hosts: Hosts, *, seed: int, epoch: int, buffer: int
) -> list[tf.data.Dataset]:
    """One epoch's records in `number` equally long streams, each shuffled; those of them that this host reads.

    The epoch takes one record of each stream in turn. A stream is a row of shards, at whose ends one may be shared with
    its neighbour.
    """
    shuffled = [shards[i] for i in np.random.default_rng([seed, epoch]).permutation(len(shards))]
    starts = np.cumsum([0, *(shard.records for shard in shuffled)])
    total, begin, found = int(starts[-1]), 0, []
    for stream in range(number):
        end = begin + total // number + (stream < total % number)
        if stream % hosts.count == hosts.index:
            first, after = np.clip(np.subtract.outer((begin, end), starts[:-1]), 0, np.diff(starts))
            within = np.flatnonzero(after > first)
            paths = np.array([shuffled[i].path for i in within], dtype=object)
            shuffle_seed = int(np.random.default_rng([seed, epoch, 1, stream]).integers(2**31))
            found.append(
                tf.data.Dataset.from_tensor_slices((paths, first[within], (after - first)[within]))
                .flat_map(lambda path, skip, take: tf.data.TFRecordDataset(path).skip(skip).take(take))
                .shuffle(-(-buffer // number), seed=shuffle_seed, reshuffle_each_iteration=False)
                .prefetch(_READ_AHEAD)
            )
        begin = end
    return found


def eval_batches(shards: Sequence[Shard], *, batch_size: int, image_size: int, hosts: Hosts = ALONE) -> tf.data.Dataset:
    """Every record once, in the order of `read_table`: {"image": u8[B,S,S,3]}.

    The last batch is filled up with black images, so that all batches have one shape (TPUs, replicas) and nothing is
    dropped; cut the predictions to `count(shards)`. batch_size: of all hosts together; B is this host's share, the
    rows host * B to (host + 1) * B of each batch.
    """
    share = batch_size // hosts.count
    filling = b""  # no record is empty

    def examples(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        records = tf.boolean_mask(serialized, tf.not_equal(serialized, filling))
        images = decoder.of_size(image_size).graph(schema.parse(records, ["image"])["image"])
        missing = share - tf.shape(records)[0]
        images = tf.cond(missing > 0, lambda: tf.pad(images, [[0, missing], [0, 0], [0, 0], [0, 0]]), lambda: images)
        return {"image": tf.ensure_shape(images, [share, image_size, image_size, 3])}

    records = _read([shard.path for shard in shards])
    records = records.concatenate(tf.data.Dataset.from_tensors(filling).repeat(-count(shards) % batch_size))
    batches = records.batch(share).shard(hosts.count, hosts.index)
    return _decoded(batches, examples, -(-count(shards) // batch_size))


def read_table(shards: Sequence[Shard]) -> pd.DataFrame:
    """image_name, patient_id, source, fold, target of every record, in the order of `eval_batches`."""

    def row(serialized: tf.Tensor) -> tuple[tf.Tensor, ...]:
        keys = ("image_name", "patient", "source", "fold", "target")
        record = schema.parse(serialized, keys)
        return tuple(record[key] for key in keys)

    rows = [
        (name.decode(), patient.decode(), source.decode(), int(fold), int(target))
        for name, patient, source, fold, target in _read([s.path for s in shards]).map(row).as_numpy_iterator()
    ]
    return pd.DataFrame(rows, columns=["image_name", "patient_id", "source", "fold", "target"])


@contextlib.contextmanager
def naming_the_shard(shards: Sequence[Shard]) -> Iterator[None]:
    """Turns what tf.data raises inside on a damaged record into a DataError that names it: TensorFlow does not."""
    try:
        yield
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
        for shard in shards:
            damage = _damage(shard.path)
            if damage:
                raise DataError(f"{damage}; rebuild it with tfrecord_tools.build --resume") from error
        raise  # not the shards' fault


def _damage(path: str) -> str:
    """The first record of a shard that cannot be read, and why; "" if all can."""
    index = 0
    try:
        for index, record in enumerate(tfrecord.read_records(path)):  # noqa: B007  the error names it
            tf.io.decode_jpeg(schema.parse(record)["image"], channels=3)
    except tfrecord.CorruptRecordError as corrupt:
        return str(corrupt)
    except tf.errors.InvalidArgumentError as error:
        return f"{path}: record {index}: {error.message}"
    return ""


def _read(paths: Sequence[str]) -> tf.data.Dataset:
    files = tf.data.Dataset.from_tensor_slices(list(paths))
    records = files.interleave(
        tf.data.TFRecordDataset, cycle_length=READERS, num_parallel_calls=min(READERS, len(paths)), deterministic=True
    )
    return records.with_options(_options())


def _options() -> tf.data.Options:
    options = tf.data.Options()
    # At the end of each epoch its iterator waits for the tuner's thread, which sleeps for up to a minute.
    options.autotune.enabled = False
    return options


def _fix_global_seed() -> None:
    """Makes tf.data's orders depend on their own seeds only: it mixes the process's global seed into them.

    Only where it differs: setting it throws away every compiled function, which costs seconds at the next step.
    """
    if tf.compat.v1.get_seed(0)[0] != _GLOBAL_SEED:
        tf.random.set_seed(_GLOBAL_SEED)


def _decoded(batches: tf.data.Dataset, examples: Callable[[tf.Tensor], Any], steps: int) -> tf.data.Dataset:
    """`examples` of so many batches of serialized records."""
    decoded = batches.take(steps).map(examples, num_parallel_calls=_BATCHERS, deterministic=True)
    # Keras asks how many steps there are; tf.data cannot know it of files it has not read.
    return decoded.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(PREFETCHED)


def _seed(image_name: tf.Tensor, epoch_seed: int) -> tf.Tensor:
    """The example's own seed in this epoch: it depends on its name, not on its place in a batch."""
    name_hash = tf.strings.to_hash_bucket_fast(image_name, 2**32)
    return tf.cast(tf.bitwise.bitwise_xor(name_hash, tf.constant(epoch_seed, tf.int64)), tf.uint32)

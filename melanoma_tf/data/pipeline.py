"""Input pipeline from shards to batches, in an order that is a pure function of (seed, epoch, step).

Records are shuffled while encoded, decoded once and transferred as u8; augmentation runs on the device.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import tensorflow as tf

from melanoma_tf.data import decoder
from melanoma_tf.data.dataset import DataError, DataSet, Shard, count, open_data
from melanoma_tf.devices.multihost import ALONE, Hosts
from tfrecord_tools import schema
from tfrecord_tools.core.text import counted
from tfrecord_tools.records import tfrecord

_BATCHERS = 2  # batches decoded in parallel, so that no core waits for the last image of one
PREFETCHED = 4  # batches ready for the device; 28 MB each at 384 px and 64 images
_GLOBAL_SEED = 0
READERS = 8  # shards read in parallel; more cost memory, fewer starve on a network file system
_READ_AHEAD = 16  # encoded records per reader


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
    """Checks that no identity of an external record is in two folds, or in training and the test set."""
    first_seen: dict[tuple[str, bytes], tuple[str, Shard]] = {}
    leaks = []
    for shard in (*dataset.train, *dataset.test, *external):
        home = "the test set" if shard in dataset.test else "training" if shard.fold < 0 else f"fold {shard.fold}"
        for identities in _identities(shard):
            for key, value in identities.items():
                if value and (other := first_seen.setdefault((key, value), (home, shard)))[0] != home:
                    if shard not in external:
                        continue  # a leak within one build is reported by tfrecord_tools.verify
                    shown = value.hex() if key == "sha256" else value.decode()
                    name = identities["image_name"].decode()
                    leaks.append(f"{shard.path}: {name}: {key} {shown} is in {other[0]} of {other[1].path} too")
                    break
    if leaks:
        number = counted(len(leaks), "external image")
        raise DataError(
            f"{number} would be both training and evaluation data, the first: {leaks[0]}. Build the external data with "
            "tfrecord_tools.build --against the other build; tfrecord_tools.verify --pairs finds files under another "
            "name and build --duplicates leaves them out"
        )


def _identities(shard: Shard) -> Iterator[dict[str, bytes]]:
    """Yields the identifiers of each record that must not be in two folds; b"" where unknown."""

    def keys(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        return schema.parse(serialized, ("image_name", "sha256", "patient", "lesion"))

    yield from _read([shard.path]).map(keys).as_numpy_iterator()


def streams(hosts: Hosts) -> int:
    """Returns the number of parallel streams of an epoch, on which its order depends: READERS if hosts divide it."""
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
    """Returns one epoch of full training batches.

    An incomplete last batch is dropped; it holds other records in each epoch. The union of all hosts' batches is the
    same for every host count that divides READERS.

    Args:
      shards: shards to read.
      batch_size: images per step over all hosts; B is this host's share.
      image_size: S in pixels.
      seed: seed of the run.
      epoch: from 0.
      skip_steps: batches to skip at the start of the epoch.
      buffer: size of the shuffle buffer in encoded records; builds are shuffled when they are written.
      hosts: this host and how many there are.

    Returns:
      Batches of ({"image": u8[B,S,S,3], "seed": u32[B]}, target f32[B]).
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

    # Records are skipped before they are decoded.
    share = batch_size // hosts.count
    batches = records.skip(skip_steps * share).batch(share, drop_remainder=True)
    return _decoded(batches, examples, count(shards) // batch_size - skip_steps)


def _streams(
    shards: Sequence[Shard], number: int, hosts: Hosts, *, seed: int, epoch: int, buffer: int
) -> list[tf.data.Dataset]:
    """Returns this host's share of `number` shuffled streams of equal length.

    An epoch takes one record of each stream in turn. A stream is a sequence of shards; neighbors may share the shard
    at their boundary.
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
    """Returns every record once, in the order of `read_metadata`.

    The last batch is padded with black images, because TPUs and replicas need equal shapes; cut the predictions to
    `count(shards)`.

    Args:
      shards: shards to read.
      batch_size: images per step over all hosts. B is this host's share, rows host * B to (host + 1) * B.
      image_size: S in pixels.
      hosts: this host and how many there are.

    Returns:
      Batches of {"image": u8[B,S,S,3]}.
    """
    share = batch_size // hosts.count
    padding = b""  # no record is empty

    def examples(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        records = tf.boolean_mask(serialized, tf.not_equal(serialized, padding))
        images = decoder.of_size(image_size).graph(schema.parse(records, ["image"])["image"])
        missing = share - tf.shape(records)[0]
        images = tf.cond(missing > 0, lambda: tf.pad(images, [[0, missing], [0, 0], [0, 0], [0, 0]]), lambda: images)
        return {"image": tf.ensure_shape(images, [share, image_size, image_size, 3])}

    records = _read([shard.path for shard in shards])
    records = records.concatenate(tf.data.Dataset.from_tensors(padding).repeat(-count(shards) % batch_size))
    batches = records.batch(share).shard(hosts.count, hosts.index)
    return _decoded(batches, examples, -(-count(shards) // batch_size))


def read_metadata(shards: Sequence[Shard]) -> pd.DataFrame:
    """Returns what is known of every record, in the order of `eval_batches`.

    Args:
      shards: shards to read.

    Returns:
      image_name, patient_id, source, fold and target; sex, age_approx and anatom_site_general_challenge as words and
      years, None where missing; width and height of the source image.
    """
    texts, numbers = ("image_name", "patient", "source"), ("fold", "target", "width", "height")
    codes = {"sex": schema.SEX, "anatom_site_general_challenge": schema.SITE}
    keys = (*texts, *numbers, "age_approx", *codes)

    def row(serialized: tf.Tensor) -> tuple[tf.Tensor, ...]:
        record = schema.parse(serialized, keys)
        return tuple(record[key] for key in keys)

    rows = _read([s.path for s in shards]).map(row).as_numpy_iterator()
    table = pd.DataFrame(
        [[v.decode() if isinstance(v, bytes) else int(v) for v in each] for each in rows], columns=keys
    )
    for key, vocabulary in codes.items():
        table[key] = [schema.word(vocabulary, code) for code in table[key]]
    ages = table["age_approx"].astype("Int64")
    table["age_approx"] = ages.where(ages != schema.MISSING)
    return table.rename(columns={"patient": "patient_id"})


@contextlib.contextmanager
def name_damaged_shard(shards: Sequence[Shard]) -> Iterator[None]:
    """Raises a DataError that names the damaged record, where TensorFlow's own error does not."""
    try:
        yield
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
        for shard in shards:
            damage = find_damage(shard.path)
            if damage:
                raise DataError(f"{damage}; rebuild it with tfrecord_tools.build --resume") from error
        raise  # all shards are intact


def find_damage(path: str) -> str:
    """Returns the first unreadable record of a shard with the reason; "" if all are readable."""
    index = 0
    try:
        for index, record in enumerate(tfrecord.read_records(path)):  # noqa: B007  used in the message
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
    # Autotuning delays the end of each epoch: the iterator waits for its thread, which sleeps for up to a minute.
    options.autotune.enabled = False
    return options


def _fix_global_seed() -> None:
    """Fixes the process's global seed, which tf.data mixes into the seeds of its ops.

    Setting it discards every compiled function, which costs seconds, so it is set only where it differs.
    """
    if tf.compat.v1.get_seed(0)[0] != _GLOBAL_SEED:
        tf.random.set_seed(_GLOBAL_SEED)


def _decoded(batches: tf.data.Dataset, examples: Callable[[tf.Tensor], Any], steps: int) -> tf.data.Dataset:
    """Returns `steps` batches of serialized records, decoded by `examples`."""
    decoded = batches.take(steps).map(examples, num_parallel_calls=_BATCHERS, deterministic=True)
    # Keras needs the number of steps, which tf.data cannot know before it reads the files.
    return decoded.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(PREFETCHED)


def name_seeds(names: Sequence[str]) -> npt.NDArray[np.uint32]:
    """Returns a seed u32[N] for each image, a function of its name alone."""
    return np.asarray(_seed(tf.constant(list(names), tf.string), 0))


def _seed(image_name: tf.Tensor, epoch_seed: int) -> tf.Tensor:
    """Returns each example's seed in this epoch, a function of its name and not of its place in a batch."""
    name_hash = tf.strings.to_hash_bucket_fast(image_name, 2**32)
    return tf.cast(tf.bitwise.bitwise_xor(name_hash, tf.constant(epoch_seed, tf.int64)), tf.uint32)

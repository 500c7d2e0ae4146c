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
from melanoma_tf.data.dataset import DataError, Shard, count
from melanoma_tf.data.metadata import Metadata, count_images, parse
from melanoma_tf.data.targets import Targets
from melanoma_tf.devices.multihost import ALONE, Hosts
from tfrecord_tools import schema
from tfrecord_tools.records import tfrecord

_BATCHERS = 2  # batches decoded in parallel, so that no core waits for the last image of one
PREFETCHED = 4  # batches ready for the device; 28 MB each at 384 px and 64 images
_GLOBAL_SEED = 0
READERS = 8  # shards read in parallel; more cost memory, fewer starve on a network file system
_READ_AHEAD = 16  # encoded records per reader
DEFAULT_TARGETS, IMAGE_ONLY = Targets(), Metadata()


def streams(hosts: Hosts) -> int:
    """Returns the number of parallel streams of an epoch, on which its order depends: READERS if hosts divide it."""
    return math.lcm(READERS, hosts.count)


@dataclasses.dataclass(frozen=True)
class Balance:
    """Positives in each batch.

    Attributes:
      shards: records of the positive class, as often as an epoch needs them.
      number: of them in each batch over all hosts; the rest of a batch are other records.
    """

    shards: Sequence[Shard]
    number: int


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
    balance: Balance | None = None,
    targets: Targets = DEFAULT_TARGETS,
    metadata: Metadata = IMAGE_ONLY,
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
      balance: positives that each batch has beside records of `shards`; None for batches of `shards` alone.
      targets: what is learned.
      metadata: what the model is given beside the image.

    Returns:
      Batches of ({"image": u8[B,S,S,3], "seed": u32[B], "metadata": f32[B,M] if M > 0}, f32[B] or f32[B,1+K]), see
      `Targets.graph`.
    """
    _fix_global_seed()
    share, total = batch_size // hosts.count, count(shards) + (count(balance.shards) if balance else 0)
    records = _records(shards, balance, batch_size, hosts, seed=seed, epoch=epoch, buffer=buffer)
    epoch_seed = int(np.random.default_rng([seed, epoch, 2]).integers(2**31))

    def examples(serialized: tf.Tensor, repeat: tf.Tensor) -> Any:
        record = schema.parse(serialized, _keys("image", "image_name", *targets.keys, *metadata.keys))
        features = {
            "image": decoder.of_size(image_size).graph(record["image"]),
            "seed": tf.bitwise.bitwise_xor(_seed(record["image_name"], epoch_seed), _spread(repeat)),
        }
        if metadata.width:
            features["metadata"] = metadata.graph(record)
        return features, targets.graph(record)

    # Records are skipped before they are decoded.
    batches = records.skip(skip_steps * share).batch(share, drop_remainder=True)
    return _decoded(batches, examples, total // batch_size - skip_steps)


def _records(
    shards: Sequence[Shard], balance: Balance | None, batch_size: int, hosts: Hosts, **order: int
) -> tf.data.Dataset:
    """This host's encoded records in the order of an epoch. order: seed, epoch and buffer of `_streams`."""
    records = _shuffled(shards, hosts, 1, **order)
    if balance:
        positives = _shuffled(balance.shards, hosts, 3, **order)
        # Spread evenly over the batch, so that replicas get equal shares too.
        places = np.diff(np.arange(batch_size + 1) * balance.number // batch_size)
        turns = tf.data.Dataset.from_tensor_slices(places[: batch_size // hosts.count])
        records = _in_turn([records, positives], turns)
    return records.with_options(_options())


def _keys(*names: str) -> tuple[str, ...]:
    """Each name once."""
    return tuple(dict.fromkeys(names))


def _shuffled(
    shards: Sequence[Shard], hosts: Hosts, purpose: int, *, seed: int, epoch: int, buffer: int
) -> tf.data.Dataset:
    """This host's encoded records in the order of an epoch. purpose: tells apart orders of the same shards."""
    parts = _streams(shards, streams(hosts), hosts, purpose, seed=seed, epoch=epoch, buffer=buffer)
    return _in_turn(parts, tf.data.Dataset.range(len(parts)))


def _in_turn(parts: list[tf.data.Dataset], turns: tf.data.Dataset) -> tf.data.Dataset:
    return tf.data.Dataset.choose_from_datasets(parts, turns.repeat(), stop_on_empty_dataset=False)


def _streams(
    shards: Sequence[Shard], number: int, hosts: Hosts, purpose: int, *, seed: int, epoch: int, buffer: int
) -> list[tf.data.Dataset]:
    """Returns this host's share of `number` shuffled streams of equal length, of records and their shards' `repeat`.

    An epoch takes one record of each stream in turn. A stream is a sequence of shards; neighbors may share the shard
    at their boundary.
    """
    shuffled = [shards[i] for i in np.random.default_rng([seed, epoch]).permutation(len(shards))]
    starts = np.cumsum([0, *(shard.records for shard in shuffled)])
    total, begin, found = int(starts[-1]), 0, []
    elements, read = _reader(shuffled)
    repeats = np.array([shard.repeat for shard in shuffled], np.int64)
    for stream in range(number):
        end = begin + total // number + (stream < total % number)
        if stream % hosts.count == hosts.index:
            first, after = np.clip(np.subtract.outer((begin, end), starts[:-1]), 0, np.diff(starts))
            within = np.flatnonzero(after > first)
            shuffle_seed = int(np.random.default_rng([seed, epoch, purpose, stream]).integers(2**31))
            part = (repeats[within], first[within], (after - first)[within], *(each[within] for each in elements))
            found.append(
                tf.data.Dataset.from_tensor_slices(part)
                .flat_map(
                    lambda repeat, skip, take, *each: tf.data.Dataset.zip(
                        read(*each).skip(skip).take(take), tf.data.Dataset.from_tensors(repeat).repeat()
                    )
                )
                .shuffle(-(-buffer // number), seed=shuffle_seed, reshuffle_each_iteration=False)
                .prefetch(_READ_AHEAD)
            )
        begin = end
    return found


def _reader(shards: Sequence[Shard]) -> tuple[tuple[npt.NDArray[Any], ...], Callable[..., tf.data.Dataset]]:
    """What names the records of each shard, arrays [N], and the function from an element of them to the records."""
    paths = np.array([shard.path for shard in shards], dtype=object)
    if all(shard.kept is None for shard in shards):
        return (paths,), tf.data.TFRecordDataset
    kept = [np.arange(shard.records) if shard.kept is None else np.array(shard.kept, np.int64) for shard in shards]
    masks = [np.isin(np.arange(places.max(initial=-1) + 1), places) for places in kept]
    ends = np.cumsum([len(mask) for mask in masks])
    together = tf.constant(np.concatenate(masks))

    def read(path: tf.Tensor, begin: tf.Tensor, end: tf.Tensor) -> tf.data.Dataset:
        mask = tf.data.Dataset.from_tensor_slices(together[begin:end])
        pairs = tf.data.Dataset.zip(tf.data.TFRecordDataset(path), mask)
        return pairs.filter(lambda _, kept: kept).map(lambda record, _: record)

    return (paths, ends - [len(mask) for mask in masks], ends), read


def eval_batches(
    shards: Sequence[Shard],
    *,
    batch_size: int,
    image_size: int,
    hosts: Hosts = ALONE,
    metadata: Metadata = IMAGE_ONLY,
    seeds: bool = False,
) -> tf.data.Dataset:
    """Returns every record once, in the order of `read_metadata`.

    The last batch is padded with black images, because TPUs and replicas need equal shapes; cut the predictions to
    `count(shards)`.

    Args:
      shards: shards to read.
      batch_size: images per step over all hosts. B is this host's share, rows host * B to (host + 1) * B.
      image_size: S in pixels.
      hosts: this host and how many there are.
      metadata: what the model is given beside the image.
      seeds: whether to give each image a seed too, a function of its name.

    Returns:
      Batches of {"image": u8[B,S,S,3], "metadata": f32[B,M] if M > 0, "seed": u32[B] if asked for}.
    """
    share = batch_size // hosts.count
    padding = b""  # no record is empty

    def examples(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        records = tf.boolean_mask(serialized, tf.not_equal(serialized, padding))
        parsed = schema.parse(records, _keys("image", "image_name", *metadata.keys))
        found = {"image": decoder.of_size(image_size).graph(parsed["image"])}
        if metadata.width:
            found["metadata"] = metadata.graph(parsed)
        if seeds:
            found["seed"] = _seed(parsed["image_name"], 0)
        missing = share - tf.shape(records)[0]

        def padded(values: tf.Tensor) -> tf.Tensor:
            return tf.pad(values, [[0, missing], *([0, 0] for _ in values.shape[1:])])

        shapes = {"image": (image_size, image_size, 3), "seed": (), "metadata": (metadata.width,)}
        found = {
            key: tf.cond(missing > 0, lambda values=values: padded(values), lambda values=values: values)
            for key, values in found.items()
        }
        return {key: tf.ensure_shape(values, [share, *shapes[key]]) for key, values in found.items()}

    records = read_records(shards)
    records = records.concatenate(tf.data.Dataset.from_tensors(padding).repeat(-count(shards) % batch_size))
    batches = records.batch(share).shard(hosts.count, hosts.index)
    return _decoded(batches, examples, -(-count(shards) // batch_size))


def read_metadata(shards: Sequence[Shard]) -> pd.DataFrame:
    """Returns what is known of every record, in the order of `eval_batches`.

    Args:
      shards: shards to read.

    Returns:
      image_name, patient_id, source, fold and target; sex, age_approx, anatom_site_general_challenge and diagnosis as
      words and years, None where missing; width and height of the source image.
    """
    texts, numbers = ("image_name", "patient", "source"), ("fold", "target", "width", "height")
    codes = {"sex": schema.SEX, "anatom_site_general_challenge": schema.SITE, "diagnosis": schema.DIAGNOSIS}
    keys = (*texts, *numbers, "age_approx", *codes)

    def row(serialized: tf.Tensor) -> tuple[tf.Tensor, ...]:
        record = schema.parse(serialized, keys)
        return tuple(record[key] for key in keys)

    rows = read_records(shards).map(row).as_numpy_iterator()
    table = pd.DataFrame(
        [[v.decode() if isinstance(v, bytes) else int(v) for v in each] for each in rows], columns=keys
    )
    for key, vocabulary in codes.items():
        table[key] = [schema.word(vocabulary, code) for code in table[key]]
    ages = table["age_approx"].astype("Int64")
    table["age_approx"] = ages.where(ages != schema.MISSING)
    return table.rename(columns={"patient": "patient_id"})


def metadata_of(fields: str, shards: Sequence[Shard]) -> Metadata:
    """What the model is given beside the image.

    Args:
      fields: config.metadata.
      shards: all records of the data set, which say how many images each patient has.
    """
    names = parse(fields)
    return Metadata(names, count_images([read_metadata(shards)]) if "images_per_patient" in names else {})


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


def read_records(shards: Sequence[Shard]) -> tf.data.Dataset:
    """Returns the serialized records of shards, READERS of them in turn."""
    elements, read = _reader(shards)
    files = tf.data.Dataset.from_tensor_slices(elements)
    records = files.interleave(
        read, cycle_length=READERS, num_parallel_calls=min(READERS, len(shards)), deterministic=True
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


def _decoded(batches: tf.data.Dataset, examples: Callable[..., Any], steps: int) -> tf.data.Dataset:
    """Returns `steps` batches of serialized records, decoded by `examples`."""
    decoded = batches.take(steps).map(examples, num_parallel_calls=_BATCHERS, deterministic=True)
    # Keras needs the number of steps, which tf.data cannot know before it reads the files.
    return decoded.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(PREFETCHED)


def name_seeds(names: Sequence[str]) -> npt.NDArray[np.uint32]:
    """Returns a seed u32[N] for each image, a function of its name alone."""
    return np.asarray(_seed(tf.constant(list(names), tf.string), 0))


def _spread(repeat: tf.Tensor) -> tf.Tensor:
    """Returns what tells apart the seeds of repeats, u32; 0 of the first time. Factor: 2^32 / golden ratio."""
    return tf.cast(tf.bitwise.bitwise_and(repeat * 0x9E3779B9, 2**32 - 1), tf.uint32)


def _seed(image_name: tf.Tensor, epoch_seed: int) -> tf.Tensor:
    """Returns each example's seed in this epoch, a function of its name and not of its place in a batch."""
    name_hash = tf.strings.to_hash_bucket_fast(image_name, 2**32)
    return tf.cast(tf.bitwise.bitwise_xor(name_hash, tf.constant(epoch_seed, tf.int64)), tf.uint32)

"""Speed of the host's input pipeline relative to decoding alone, on the same records.

    python benchmarks/input.py --data tfrecords/384 --repeat 5

Measures images/s of four pipelines, which take turns; batches stay on the host:

    limit              simplejpeg decodes the same JPEGs in as many threads and drops each image
    into batches       the same, into the memory of batches, as training needs them
    this project       train_batches
    plain tf.data      the usual pipeline: shuffled files, parallel map, shuffle, batch, prefetch, autotuned

Each makes --images images after one batch of warm-up; medians. Then the memory of the process after one and after
several epochs of this project's pipeline.
"""

from __future__ import annotations

import functools
import itertools
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import simplejpeg
import tensorflow as tf
from absl import app, flags

from melanoma_tf.data import pipeline
from melanoma_tf.data.dataset import DataSet, open_data
from tfrecord_tools import schema
from tfrecord_tools.records import tfrecord

FLAGS = flags.FLAGS
SHARE = 16  # images per task of a thread
flags.DEFINE_string("data", None, "Output folder of tfrecord_tools.build.", required=True)
flags.DEFINE_integer("batch_size", 64, "Images per batch.", 1)
flags.DEFINE_integer("images", 4096, "Images measured per turn.", 1)
flags.DEFINE_integer("repeat", 5, "Turns.", 1)


def limit(dataset: DataSet, batches: int = 0) -> Iterator[int]:
    """Yields the number of images decoded into `batches` reused batches; 0: each image is dropped."""
    jpegs = [
        schema.parse(record)["image"].numpy() for shard in dataset.train for record in tfrecord.read_records(shard.path)
    ]
    room = np.empty((batches * FLAGS.batch_size, dataset.size, dataset.size, 3), np.uint8)
    room[:] = 1  # touches the memory

    def decode(start: int) -> int:
        few = jpegs[start : start + SHARE]
        for i, jpeg in enumerate(few, start):
            simplejpeg.decode_jpeg(jpeg, "RGB", buffer=room[i % len(room)] if batches else None)
        return len(few)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        while True:
            yield from threads.map(decode, range(0, len(jpegs), SHARE))


def ours(dataset: DataSet) -> Iterator[int]:
    """Yields the number of images of each batch, epoch after epoch."""
    for epoch in itertools.count():
        for features, _ in pipeline.train_batches(
            dataset.train,
            batch_size=FLAGS.batch_size,
            image_size=dataset.size,
            seed=0,
            epoch=epoch,
            skip_steps=0,
            buffer=2048,
        ):
            yield features["image"].shape[0]


def plain(dataset: DataSet) -> Iterator[int]:
    """Yields the number of images of each batch of the usual pipeline."""

    def example(serialized: tf.Tensor) -> Any:
        keys = {"image": tf.io.FixedLenFeature([], tf.string), "target": tf.io.FixedLenFeature([], tf.int64)}
        parsed = tf.io.parse_single_example(serialized, keys)
        image = tf.ensure_shape(tf.io.decode_jpeg(parsed["image"], 3), [dataset.size, dataset.size, 3])
        return image, parsed["target"]

    files = tf.data.Dataset.from_tensor_slices([shard.path for shard in dataset.train]).shuffle(len(dataset.train))
    records = files.interleave(tf.data.TFRecordDataset, num_parallel_calls=tf.data.AUTOTUNE)
    examples = records.map(example, num_parallel_calls=tf.data.AUTOTUNE).repeat().shuffle(2048)
    for images, _ in examples.batch(FLAGS.batch_size).prefetch(tf.data.AUTOTUNE):
        yield images.shape[0]


def rate(batches: Iterator[int]) -> float:
    """Returns images/s over the next --images images."""
    started, seen = time.perf_counter(), 0
    while seen < FLAGS.images:
        seen += next(batches)
    return seen / (time.perf_counter() - started)


def resident_mb() -> float:
    """Returns the resident memory of this process."""
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]) / 1024


def main(argv: list[str]) -> None:
    del argv
    dataset = open_data(FLAGS.data)
    ways: dict[str, Callable[[DataSet], Iterator[int]]] = {
        "limit: simplejpeg decodes, nothing else": limit,
        "the same, into batches": functools.partial(limit, batches=pipeline.PREFETCHED + 2),
        "this project": ours,
        "plain tf.data": plain,
    }
    print(
        f"{pipeline.count(dataset.train)} records of {dataset.size} px, batch {FLAGS.batch_size}, "
        f"n={FLAGS.repeat} x {FLAGS.images} images; {platform.machine()}, {os.cpu_count()} cores, "
        f"tensorflow {tf.__version__}, simplejpeg {simplejpeg.__version__}\n"
    )
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(FLAGS.repeat):
        order = list(ways.items())
        for name, make in order if turn % 2 == 0 else order[::-1]:
            images = make(dataset)
            next(images)
            rates[name].append(rate(images))
            images.close()  # type: ignore[attr-defined]
            time.sleep(2)  # until prefetching stops
    most = statistics.median(rates["limit: simplejpeg decodes, nothing else"])
    print("| pipeline | images/s, median (min to max) | of the limit |\n|---|---|---|")
    for name, found in rates.items():
        median = statistics.median(found)
        print(f"| {name} | {median:.0f} ({min(found):.0f} to {max(found):.0f}) | {median / most:.0%} |")
    images = ours(dataset)
    for epochs in (1, 4):
        for _ in range(epochs * pipeline.count(dataset.train) // FLAGS.batch_size):
            next(images)
        print(f"memory of the process after {epochs} more epoch(s): {resident_mb():.0f} MB")


if __name__ == "__main__":
    app.run(main)

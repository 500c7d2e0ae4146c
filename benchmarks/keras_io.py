"""The transfer-learning recipe of keras.io in plain Keras, a baseline of benchmarks/learning.py, which starts it.

    python benchmarks/keras_io.py --data RECORDS --out RUN --fold 0             # RUN/fold0/: weights, oof.csv
    python benchmarks/keras_io.py --data OTHERS --out RUN --predict FILE.csv    # mean logit of the folds' models
    python benchmarks/keras_io.py --data RECORDS --out RUN --features FILE.npz  # pooled features of the frozen base

As https://keras.io/guides/transfer_learning/ has it: the base frozen and in inference mode, global average pooling,
dropout 0.2, one logit, binary cross-entropy, Adam at 1e-3; then the whole model at a low rate. Augmentation, and batch
norm that stays frozen, are those of
https://keras.io/examples/vision/image_classification_efficientnet_fine_tuning/. The guide freezes it by
`base(x, training=False)`, which `fit` of Keras 3 overrides inside a functional model
(https://github.com/keras-team/keras/issues/20285); --live_batch_norm trains as that does.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from absl import app, flags

from melanoma_tf.devices import select

FLAGS = flags.FLAGS
flags.DEFINE_string("data", None, "Output folder of tfrecord_tools.build.", required=True)
flags.DEFINE_string("out", None, "Output folder of the run.", required=True)
flags.DEFINE_integer("fold", None, "Train without this fold and predict it.")
flags.DEFINE_string("predict", None, "Predict all records with the finished folds' models, to this CSV.")
flags.DEFINE_string("features", None, "Write the features of all records to this .npz, and what is known to a CSV.")
flags.DEFINE_integer("size", 128, "Side of the images in pixels; records of another size are resampled.")
flags.DEFINE_integer("head_epochs", 4, "Epochs of the head alone.")
flags.DEFINE_integer("epochs", 6, "Epochs of both phases together.")
flags.DEFINE_float("learning_rate", 1e-5, "Of the second phase, the whole model.")
flags.DEFINE_bool("live_batch_norm", False, "Train the layers of batch norm too in the second phase.")

MODEL, BATCH, HEAD_RATE, DROPOUT = "efficientnet-lite0", 32, 1e-3, 0.2


def main(argv: list[str]) -> None:
    """Trains a fold, predicts, or extracts features."""
    del argv
    select.start("cpu")  # before Keras is imported
    if FLAGS.fold is not None:
        train(FLAGS.fold, Path(FLAGS.out) / f"fold{FLAGS.fold}")
    if FLAGS.predict:
        predict(Path(FLAGS.out), Path(FLAGS.predict))
    if FLAGS.features:
        extract(Path(FLAGS.features))


def build(size: int) -> tuple[Any, Any]:
    """Returns the classifier, u8[B,S,S,3] -> logit [B,1], and its base with ImageNet weights."""
    import keras
    from keras import layers

    from melanoma_tf.models import backbones, efficientnet_lite, pretrained, registry

    loaded = backbones.build_classifier(MODEL, size, dropout=0.0, drop_connect=0.0)
    pretrained.load(loaded, MODEL, "imagenet")
    base = efficientnet_lite.EfficientNetLite0(input_shape=(size, size, 3))
    for layer in base.layers:
        if layer.weights:
            layer.set_weights(loaded.get_layer(layer.name).get_weights())
    scale = registry.backbone(MODEL)
    image = keras.Input((size, size, 3))
    x = layers.RandomRotation(0.15)(image)
    x = layers.RandomTranslation(0.1, 0.1)(x)
    x = layers.RandomFlip()(x)
    x = layers.RandomContrast(0.1)(x)
    x = layers.Rescaling([s / 255 for s in scale.scale], list(scale.offset))(x)
    x = base(x, training=False)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dropout(DROPOUT)(x)
    return keras.Model(image, layers.Dense(1)(x)), base


def train(fold: int, folder: Path) -> None:
    """Trains both phases from the start and writes the fold's weights, history and, last, its predictions."""
    import keras

    from melanoma_tf.core import files
    from melanoma_tf.data import dataset, pipeline

    keras.utils.set_random_seed(fold)
    data = dataset.open_data(FLAGS.data)
    images = dataset.count(data.others(fold))
    batches = training_batches([shard.path for shard in data.others(fold)], images)
    model, base = build(FLAGS.size)
    history = []
    for trainable, rate, epochs in (
        (False, HEAD_RATE, FLAGS.head_epochs),
        (True, FLAGS.learning_rate, FLAGS.epochs - FLAGS.head_epochs),
    ):
        base.trainable = trainable
        for layer in base.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = trainable and FLAGS.live_batch_norm
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(rate), loss, metrics=[keras.metrics.AUC(from_logits=True)])
        started = time.perf_counter()
        model.fit(batches, epochs=epochs, shuffle=False, verbose=2)
        seen, seconds = epochs * images, time.perf_counter() - started
        history.append({"learning_rate": rate, "epochs": epochs, "images": seen, "images_per_s": seen / seconds})
    folder.mkdir(parents=True, exist_ok=True)
    with files.replacing(folder / "model.weights.h5") as temporary:
        model.save_weights(temporary)
    files.write_csv(folder / "history.csv", pd.DataFrame(history))
    table = pipeline.read_metadata(data.fold(fold))[["image_name", "target", "fold"]]
    files.write_csv(folder / "oof.csv", table.assign(logit=outputs(model, data.fold(fold))[:, 0]))


def training_batches(paths: list[str], images: int) -> Any:
    """Returns shuffled batches of (u8[B,S,S,3], target [B])."""
    import tensorflow as tf

    from melanoma_tf.data import decoder
    from tfrecord_tools import schema

    def parse(serialized: Any) -> Any:
        record = schema.parse(serialized, ("image", "target"))
        return decoder.of_size(FLAGS.size).graph(record["image"]), record["target"]

    records = tf.data.TFRecordDataset(paths, num_parallel_reads=4).cache().shuffle(images).batch(BATCH)
    steps = tf.data.experimental.assert_cardinality(-(-images // BATCH))
    return records.map(parse, num_parallel_calls=2).apply(steps).prefetch(4)


def outputs(model: Any, shards: Any) -> Any:
    """Returns what a model makes of every record, in the order of `pipeline.read_metadata`."""
    from melanoma_tf.data import dataset, pipeline

    batches = pipeline.eval_batches(shards, batch_size=BATCH, image_size=FLAGS.size).map(lambda x: x["image"])
    return model.predict(batches, verbose=0)[: dataset.count(shards)]


def predict(run: Path, csv: Path) -> None:
    """Writes image_name and the mean logit of the finished folds' models."""
    from melanoma_tf.core import files
    from melanoma_tf.data import dataset, pipeline

    shards, logits = dataset.open_data(FLAGS.data).train, []
    model, _ = build(FLAGS.size)
    for oof in sorted(run.glob("fold*/oof.csv")):
        model.load_weights(oof.with_name("model.weights.h5"))
        logits.append(outputs(model, shards)[:, 0])
    files.write_csv(csv, pipeline.read_metadata(shards)[["image_name"]].assign(logit=np.mean(logits, axis=0)))


def extract(npz: Path) -> None:
    """Writes the pooled features [N,1280] of all records, and their metadata to a CSV of the same name."""
    import keras

    from melanoma_tf.core import files
    from melanoma_tf.data import dataset, pipeline

    shards = dataset.open_data(FLAGS.data).train
    model, _ = build(FLAGS.size)
    features = outputs(keras.Model(model.input, model.get_layer("pool").output), shards)
    npz.parent.mkdir(parents=True, exist_ok=True)
    files.write_csv(npz.with_suffix(".csv"), pipeline.read_metadata(shards))
    with files.replacing(npz) as temporary:
        np.savez(temporary, features=features)


if __name__ == "__main__":
    app.run(main)

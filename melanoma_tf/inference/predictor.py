"""From images to logits: the classifier under test-time augmentation, over whole shards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from melanoma_tf.augment import geometry
from melanoma_tf.data import pipeline
from melanoma_tf.devices import collectives
from melanoma_tf.devices.multihost import ALONE, Hosts

SYMMETRIES = 8  # flips and quarter turns of a square


@keras.saving.register_keras_serializable("melanoma_tf")
class Views(keras.layers.Layer):
    """u8[B,S,S,3] -> f32[8B,S,S,3] in [0,1]: each image's eight symmetries in a row, or (symmetric=False) itself."""

    def __init__(self, symmetric: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.symmetric = symmetric

    def call(self, images: Any) -> Any:
        if self.symmetric:
            images = ops.repeat(images, SYMMETRIES, axis=0)
            symmetry = ops.bitwise_and(ops.arange(ops.shape(images)[0], dtype="int32"), SYMMETRIES - 1)
            images = geometry.dihedral(images, symmetry)
        return ops.cast(images, "float32") * (1.0 / 255.0)

    def compute_output_shape(self, shape: Any) -> Any:
        return (None, *shape[1:])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "symmetric": self.symmetric}


@keras.saving.register_keras_serializable("melanoma_tf")
class Gather(keras.layers.Layer):
    """[N,...] to the same, whole on every host."""

    def call(self, values: Any) -> Any:
        return collectives.replicate(values)


def predictor(classifier: keras.Model, *, tta: bool) -> keras.Model:
    """A model of {"image": u8[B,S,S,3]} that gives the classifier's logit f32[B,1]; tta: mean of 8 views."""
    image = keras.Input(classifier.input.shape[1:], dtype="uint8", name="image")
    logits = classifier(Views(tta, dtype="float32", name="views")(image))
    if tta:
        logits = ops.mean(ops.reshape(logits, (-1, SYMMETRIES)), axis=1, keepdims=True)
    return keras.Model({"image": image}, Gather(dtype="float32", name="gather")(logits))


def batch_size(training: int, tta: bool, replicas: int) -> int:
    """Images at a time that fill about as much memory as a training batch: eight views count as eight images."""
    return -(-training // (SYMMETRIES if tta else 1) // replicas) * replicas


def predict_logits(
    model: keras.Model, shards: Sequence[pipeline.Shard], *, batch_size: int, image_size: int, hosts: Hosts = ALONE
) -> NDArray[Any]:
    """f32[N] logits of every record, in the order of `data.read_table`. hosts: all take part.

    Raises:
      data.DataError: a shard is damaged; the message names it and the record.
    """
    batches = pipeline.eval_batches(shards, batch_size=batch_size, image_size=image_size, hosts=hosts)
    with pipeline.naming_the_shard(shards):
        return np.asarray(model.predict(batches, verbose=0))[: pipeline.count(shards), 0]


def sigmoid(logits: NDArray[Any]) -> NDArray[Any]:
    """Probabilities from logits, float64, without overflow."""
    return 1.0 / (1.0 + np.exp(-np.clip(logits.astype(np.float64), -700, 700)))

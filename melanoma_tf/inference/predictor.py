"""Logits of whole shards, with test-time augmentation."""

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

SYMMETRIES = 8  # of a square: flips and quarter turns


@keras.saving.register_keras_serializable("melanoma_tf")
class Views(keras.layers.Layer):
    """Scales images to [0,1], repeated in their eight symmetries if `symmetric`: u8[B,S,S,3] -> f32[B or 8B,S,S,3].

    The eight views of an image are consecutive.
    """

    def __init__(self, symmetric: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.symmetric = symmetric

    def call(self, images: Any) -> Any:
        """Returns the views of each image."""
        if self.symmetric:
            images = ops.repeat(images, SYMMETRIES, axis=0)
            symmetry = ops.bitwise_and(ops.arange(ops.shape(images)[0], dtype="int32"), SYMMETRIES - 1)
            images = geometry.dihedral(images, symmetry)
        return ops.cast(images, "float32") * (1.0 / 255.0)

    def compute_output_shape(self, shape: Any) -> Any:
        """Returns the shape for an unknown number of views."""
        return (None, *shape[1:])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "symmetric": self.symmetric}


@keras.saving.register_keras_serializable("melanoma_tf")
class AllGather(keras.layers.Layer):
    """All-gathers a batch-sharded tensor onto every host."""

    def call(self, values: Any) -> Any:
        """Returns the same tensor, replicated."""
        return collectives.replicate(values)


def predictor(classifier: keras.Model, *, tta: bool) -> keras.Model:
    """Returns a model from {"image": u8[B,S,S,3]} to the classifier's logits f32[B,1].

    Args:
      classifier: f32[B,S,S,3] in [0,1] -> f32[B,1].
      tta: whether to average the logits of the eight symmetries of each image.
    """
    image = keras.Input(classifier.input.shape[1:], dtype="uint8", name="image")
    logits = classifier(Views(tta, dtype="float32", name="views")(image))
    if tta:
        logits = ops.mean(ops.reshape(logits, (-1, SYMMETRIES)), axis=1, keepdims=True)
    return keras.Model({"image": image}, AllGather(dtype="float32", name="all_gather")(logits))


def batch_size(train_batch_size: int, tta: bool, replicas: int) -> int:
    """Returns a global batch size that needs about as much memory as training; each view counts as an image."""
    return -(-train_batch_size // (SYMMETRIES if tta else 1) // replicas) * replicas


def predict_logits(
    model: keras.Model, shards: Sequence[pipeline.Shard], *, batch_size: int, image_size: int, hosts: Hosts = ALONE
) -> NDArray[Any]:
    """Returns the logits of every record, in the order of `pipeline.read_metadata`.

    Args:
      model: see `predictor`.
      shards: shards to read.
      batch_size: images at a time over all hosts.
      image_size: S in pixels.
      hosts: this host and how many there are; all of them have to call this function.

    Returns:
      f32[N].

    Raises:
      pipeline.DataError: a shard is damaged.
    """
    batches = pipeline.eval_batches(shards, batch_size=batch_size, image_size=image_size, hosts=hosts)
    with pipeline.name_damaged_shard(shards):
        return np.asarray(model.predict(batches, verbose=0))[: pipeline.count(shards), 0]


def sigmoid(logits: NDArray[Any]) -> NDArray[Any]:
    """Returns probabilities in float64; logits beyond ±700 saturate instead of overflowing."""
    return 1.0 / (1.0 + np.exp(-np.clip(logits.astype(np.float64), -700, 700)))

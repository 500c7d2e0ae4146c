"""Logits of whole shards, with test-time augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import ml_collections
import numpy as np
from keras import ops
from numpy.typing import NDArray

from melanoma_tf.augment import geometry, policies
from melanoma_tf.augment.policy import Augment
from melanoma_tf.augment.warp import affine
from melanoma_tf.data import pipeline, targets
from melanoma_tf.data.metadata import Metadata
from melanoma_tf.devices import collectives
from melanoma_tf.devices.multihost import ALONE, Hosts
from melanoma_tf.devices.profile import DeviceProfile

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


@keras.saving.register_keras_serializable("melanoma_tf")
class RandomViews(keras.layers.Layer):
    """Views of images as training draws them: u8[B,S,S,3], u32[B] -> f32[count B,S,S,3] in [0,1].

    The views of an image are consecutive; what is drawn depends on its seed only. Operations that mix images of a batch
    are left out.

    Args:
      policy: see `augment.policy.parse`.
      count: views of each image.
      method: of resampling, see `affine.affine`.
    """

    def __init__(self, policy: str, count: int, method: affine.Method, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.policy, self.count, self.method = policy, count, method
        parts = [call.text for call in policies.parse(policy) if call.name not in policies.MIXES]
        self.augment = Augment("|".join(parts), method, "float32", dtype="float32")
        self.supports_jit = self.augment.supports_jit

    def call(self, images: Any, seeds: Any) -> Any:
        """Returns the views."""
        number = ops.tile(ops.cast(ops.arange(self.count), "uint32"), (ops.shape(seeds)[0],))
        # An odd factor (2^32 divided by the golden ratio) tells apart the views of all images.
        seeds = ops.repeat(seeds, self.count, axis=0) + number * np.uint32(2654435769)
        return self.augment(ops.repeat(images, self.count, axis=0), seeds, training=True)

    def compute_output_shape(self, images_shape: Any, seeds_shape: Any = None) -> Any:
        """Returns the shape for an unknown number of views."""
        return (None, *images_shape[1:])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "policy": self.policy, "count": self.count, "method": self.method}


def predictor(classifier: keras.Model, *, tta: bool, random: RandomViews | None = None) -> keras.Model:
    """Returns a model from {"image": u8[B,S,S,3]} to the classifier's logits f32[B,C].

    Args:
      classifier: f32[B,S,S,3] in [0,1] -> f32[B,C]; with metadata, which is then an input here too.
      tta: whether to average the logits of the eight symmetries of each image.
      random: views to average instead; the model then takes {"seed": u32[B]} too.
    """
    image, *others = classifier.inputs
    inputs = {"image": keras.Input(image.shape[1:], dtype="uint8", name="image")}
    if random:
        inputs["seed"] = keras.Input((), dtype="uint32", name="seed")
        views, count = random(inputs["image"], inputs["seed"]), random.count
    else:
        views, count = Views(tta, dtype="float32", name="views")(inputs["image"]), SYMMETRIES if tta else 1
    given: list[Any] = [views]
    for each in others:
        inputs[each.name] = keras.Input(each.shape[1:], dtype=each.dtype, name=each.name)
        given.append(ops.repeat(inputs[each.name], count, axis=0))
    logits = classifier(given if others else views)
    if count > 1:
        logits = ops.mean(ops.reshape(logits, (-1, count, logits.shape[1])), axis=1)
    return keras.Model(inputs, AllGather(dtype="float32", name="all_gather")(logits))


def of_config(classifier: keras.Model, config: ml_collections.ConfigDict, profile: DeviceProfile) -> keras.Model:
    """The `predictor` with the views of a config. profile: devices to predict on."""
    random = None
    if config.tta_random:
        random = RandomViews(config.augment, config.tta_random, profile.warp_method(config.tpu), name="views")
    return predictor(classifier, tta=config.tta, random=random)


def batch_size(config: ml_collections.ConfigDict, replicas: int) -> int:
    """Returns a global batch size that needs about as much memory as training; each view counts as an image."""
    views = config.tta_random or (SYMMETRIES if config.tta else 1)
    return max(1, -(-config.batch_size // views // replicas)) * replicas


def predict_outputs(
    model: keras.Model,
    shards: Sequence[pipeline.Shard],
    *,
    batch_size: int,
    image_size: int,
    hosts: Hosts = ALONE,
    metadata: Metadata = pipeline.IMAGE_ONLY,
) -> NDArray[Any]:
    """Returns the logits of every record, in the order of `pipeline.read_metadata`.

    Args:
      model: see `predictor`.
      shards: shards to read.
      batch_size: images at a time over all hosts.
      image_size: S in pixels.
      hosts: this host and how many there are; all of them have to call this function.
      metadata: what the model is given beside the image.

    Returns:
      f32[N,C]: the logit of the target, then those of the diagnoses, if the model gives them.

    Raises:
      pipeline.DataError: a shard is damaged.
    """
    seeds = "seed" in model.input
    batches = pipeline.eval_batches(
        shards, batch_size=batch_size, image_size=image_size, hosts=hosts, metadata=metadata, seeds=seeds
    )
    with pipeline.name_damaged_shard(shards):
        return np.asarray(model.predict(batches, verbose=0))[: pipeline.count(shards)]


def columns(outputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Columns of a table of predictions: logit and probability, and the probability of each diagnosis.

    Args:
      outputs: f32[N,1] or f32[N,1+K], see `predict_outputs`.
    """
    found = {"logit": outputs[:, 0], "probability": sigmoid(outputs[:, 0])}
    if outputs.shape[1] > 1:
        shares = np.exp(outputs[:, 1:] - np.logaddexp.reduce(outputs[:, 1:], axis=1, keepdims=True))
        found |= {f"prediction_{name}": shares[:, code] for code, name in enumerate(targets.CLASSES)}
    return found


def sigmoid(logits: NDArray[Any]) -> NDArray[Any]:
    """Returns probabilities in float64; logits beyond ±700 saturate instead of overflowing."""
    return 1.0 / (1.0 + np.exp(-np.clip(logits.astype(np.float64), -700, 700)))
